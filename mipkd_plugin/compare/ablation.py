"""Ablations: one method of a comparison, and variants of it that change one option each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mipkd_plugin.compare.checks import ABLATE, CONTROL
from mipkd_plugin.compare.methods import arguments_of, losses_of, with_losses
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.sections import check_keys
from mipkd_plugin.config.suggestions import other_key, other_value


def ablated_method(opt: Mapping[str, Any], method: str | None = None) -> str | None:
    """The method to vary: ``method``, or else ``compare.ablate.method``; None if both are missing."""
    found = method or block(opt, 'compare', 'ablate').get('method')
    return None if found is None else str(found)


def variants(ctx: Context, known: Mapping[str, Any], method: str | None,
             options: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], dict[str, str]]:
    """List the methods of an ablation.

    Args:
        ctx: Options, and where problems go.
        known: Losses by method, from the comparison.
        method: The method to vary; None takes ``compare.ablate.method``.
        options: Values to try by option; an empty mapping takes ``compare.ablate.options``.

    Returns:
        Losses by name, for the control, the method and its variants; and the origin of the losses by name.
    """
    ablate, name = ctx.section('compare', 'ablate'), ablated_method(ctx.opt, method)
    check_keys(ctx, 'compare.ablate', ablate, ABLATE, strict=True)
    if name is None or not losses_of(known.get(name, [])):
        choice = [other for other in known if losses_of(known[other])]
        if name is None:
            ctx.add('--method', 'is missing: name the method to vary', f'valid here: {", ".join(choice)}')
        else:
            place = '--method' if method else 'compare.ablate.method'
            remedy, fix = other_value(place, name, choice)
            what = (f'{name} has no losses, and an ablation varies their options' if name in known else
                    f'compare.methods has no method {name!r} to vary')
            ctx.add(place, what, remedy, {} if method else fix)
        return {}, {}
    where = '--vary {}' if options else 'compare.ablate.options.{}'
    options = options or block(ablate, 'options')
    if not options:
        ctx.add('--vary', 'is missing: name an option and the values to try',
                'write --vary OPTION VALUE VALUE …, or compare.ablate: {options: {OPTION: [VALUE, …]}}')
    found, homes = {CONTROL: [], name: known[name]}, {name: f'compare.methods.{name}'}
    own = losses_of(known[name])
    entries = own if isinstance(own, list) else [own]
    for option, values in options.items():
        first = next((i for i, loss in enumerate(entries) if option in arguments_of(loss)), None)
        if first is None:
            taken = sorted({taken for loss in entries for taken in arguments_of(loss)})
            remedy, fix = other_key('compare.ablate.options', option, options, taken)
            ctx.add(where.format(option), f'no loss of {name!r} has an option {option!r}', remedy,
                    {} if where.startswith('--') else fix)
            continue
        for value in values if isinstance(values, list) else [values]:
            if _differs(entries[first], option, value):
                variant = f'{name} {option}={value}'
                found[variant] = with_losses(known[name], [{**loss, option: value} if i == first else loss
                                                           for i, loss in enumerate(entries)])
                homes[variant] = where.format(option)
    return found, homes


def _differs(loss: Mapping[str, Any], option: str, value: Any) -> bool:
    """Whether ``value`` differs from the current value of the option."""
    return bool(_as_lists(loss.get(option, arguments_of(loss)[option])) != _as_lists(value))


def _as_lists(value: Any) -> Any:
    """The same value as YAML would give it: a default may be a tuple."""
    return [_as_lists(entry) for entry in value] if isinstance(value, (list, tuple)) else value
