"""Several teachers in a comparison: each run gets those that its losses learn from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mipkd_plugin.compare.methods import (
    has_own_teacher,
    has_settings,
    init_of,
    is_plain,
    losses_of,
    place,
)
from mipkd_plugin.config.aggregate import digest_of, has_aggregate
from mipkd_plugin.config.keys import RANDOM
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.teacher_list import check_teachers
from mipkd_plugin.config.teachers import LIST, are_named, teachers_of, used_teachers

_ENTRY = re.compile(rf'{LIST}\[(\d+)\](.*)', re.DOTALL)


def check_shared_teachers(ctx: Context, known: Mapping[str, Any]) -> None:
    """Check the list ``teachers`` of a comparison: some method learns from each of them, or starts from a slice of it.

    Args:
        ctx: Options, and where problems go.
        known: The methods by name.
    """
    check_teachers(ctx)
    if not are_named(ctx.opt) or not ctx.clean('compare.methods'):
        return
    used = {name for method in known.values() for name in used_teachers({**ctx.opt, 'train': _train(method)})}
    if any(init_of(method, ctx.section('compare').get('init')) != RANDOM for method in known.values()):
        used.add(teachers_of(ctx.opt)[0].name)  # of which it is a slice
    for number, entry in enumerate(ctx.opt[LIST]):
        if entry['name'] not in used and ctx.clean(f'{LIST}[{number}]'):
            ctx.add(f'{LIST}[{number}]', f'no method learns from {entry["name"]!r}', f'write teacher: {entry["name"]} '
                    'in a loss of compare.methods, or remove this teacher', {f'{LIST}[{number}]': REMOVE})


def with_digest(ctx: Context, method: Any) -> Any:
    """A method whose teacher is an aggregator, with a hash of that: rows of another aggregator are not its own.

    Args:
        ctx: Options; without ``files`` nothing is read.
        method: The method.

    Returns:
        The method with ``sha256`` in its block ``teacher``; the same where it has no such teacher.
    """
    if not has_own_teacher(method) or not ctx.files or not has_aggregate(method['teacher']):
        return method
    return {**method, 'teacher': {**method['teacher'], 'sha256': digest_of(method['teacher'], ctx.root)}}


def _train(method: Any) -> dict[str, Any]:
    """What the block ``train`` of a run says of teachers."""
    if is_plain(method):
        return {}
    return {'distill_opt': losses_of(method), 'eco': method.get('eco') if has_settings(method) else None}


def home_of(where: str, opt: Mapping[str, Any], run: Mapping[str, Any], method: Any, home: str) -> str | None:
    """The place in the option file of a comparison for a place in the option file of one of its runs.

    Args:
        where: YAML path in the option file of the run.
        opt: The options of the comparison.
        run: The options of the run, which has only the teachers that it needs.
        method: The method.
        home: YAML path of the method.

    Returns:
        The YAML path; None if the entry stands at the same place in both files.
    """
    found = _ENTRY.fullmatch(where)
    if found is None or not are_named(opt):  # without names a run has the whole list
        return place(where, method, home)
    name, rest = run[LIST][int(found[1])]['name'], found[2]
    own = method.get(LIST) if has_settings(method) else None
    if isinstance(own, Mapping) and rest[1:].partition('.')[0] in (own.get(name) or {}):
        return f'{home}.{LIST}.{name}{rest}'
    return f'{LIST}[{[teacher.name for teacher in teachers_of(opt)].index(name)}]{rest}'
