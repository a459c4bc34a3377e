"""Ablations: one method of a comparison, and that method with one option changed at a time."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.compare.checks import ABLATE, CONTROL
from mipkd_plugin.config.components import lookup
from mipkd_plugin.config.problems import Context, block, suggestion
from mipkd_plugin.config.sections import check_keys


def ablated_method(opt: Mapping[str, Any], method: str | None = None) -> str | None:
    """The method to vary: the given one, or ``compare.ablate.method``; None if there is neither."""
    found = method or block(opt, 'compare', 'ablate').get('method')
    return None if found is None else str(found)


def variants(ctx: Context, known: Mapping[str, Any], method: str | None,
             options: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """The methods of an ablation.

    Args:
        ctx: Options, and where problems go.
        known: Name → losses, of the comparison.
        method: Which to vary; None: ``compare.ablate.method``.
        options: Option → values to try; empty: ``compare.ablate.options``.

    Returns:
        Name → losses: the control, the method and its variants; name → where its losses come from.
    """
    ablate, name = ctx.section('compare', 'ablate'), ablated_method(ctx.opt, method)
    check_keys(ctx, 'compare.ablate', ablate, ABLATE, strict=True)
    if name is None or name not in known or name == CONTROL:
        choice = [other for other in known if other != CONTROL]
        if name is None:
            ctx.add('--method', 'is missing: there is no method to vary', f'valid here: {", ".join(choice)}')
        else:
            ctx.add('--method' if method else 'compare.ablate.method',
                    f'{name!r} is no method of compare.methods that could be varied', suggestion(name, choice))
        return {}, {}
    where = '--vary {}' if options else 'compare.ablate.options.{}'
    options = options or block(ablate, 'options')
    if not options:
        ctx.add('--vary', 'is missing: there is no option to change',
                'write --vary OPTION VALUE VALUE …, or compare.ablate: {options: {OPTION: [VALUE, …]}}')
    found, homes = {CONTROL: [], name: known[name]}, {name: f'compare.methods.{name}'}
    entries = known[name] if isinstance(known[name], list) else [known[name]]
    for option, values in options.items():
        first = next((i for i, loss in enumerate(entries) if option in arguments_of(loss)), None)
        if first is None:
            ctx.add(where.format(option), f'no loss of {name!r} has an option {option!r}',
                    suggestion(option, sorted({taken for loss in entries for taken in arguments_of(loss)})))
            continue
        for value in values if isinstance(values, list) else [values]:
            if _differs(entries[first], option, value):
                variant = f'{name} {option}={value}'
                found[variant] = [{**loss, option: value} if i == first else loss for i, loss in enumerate(entries)]
                homes[variant] = where.format(option)
    return found, homes


def arguments_of(loss: Any) -> dict[str, Any]:
    """Option → default of a loss's class."""
    cls = lookup(LOSS_REGISTRY, loss.get('type')) if isinstance(loss, Mapping) else None
    return {} if cls is None else {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def _differs(loss: Mapping[str, Any], option: str, value: Any) -> bool:
    """Whether an option has another value already."""
    return bool(loss.get(option, arguments_of(loss)[option]) != value)
