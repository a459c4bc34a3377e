"""Check the list ``teachers``: blocks with names that differ, each another teacher with a cache of its own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipkd_plugin.config.keys import WORD
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import shortened
from mipkd_plugin.config.teachers import LIST, ONE, Teacher, distillation_entries, teachers_of

_EXAMPLE = 'write a list of blocks: teachers: [{name: big, weights: FILE.pth}, {name: small, weights: OTHER.pth}]'


def check_teachers(ctx: Context) -> None:
    """Check the list ``teachers`` itself: blocks, with names that differ, and no block ``teacher`` beside it."""
    if LIST not in ctx.opt:
        return
    listed = ctx.opt[LIST]
    if not isinstance(listed, list) or not listed:
        ctx.add(LIST, 'is empty' if listed in ([], None) else
                f'must be a list of teachers, not {shortened(listed)}', f'{_EXAMPLE}; or one block, teacher: …')
        return
    if ONE in ctx.opt:
        ctx.add(ONE, 'is given beside teachers: only one of the two can be there',
                'remove teacher, or give it a name and put it into the list teachers', {ONE: REMOVE})
    for number, entry in enumerate(listed):
        if not isinstance(entry, Mapping):
            ctx.add(f'{LIST}[{number}]', f'must be a block with name and weights, not {shortened(entry)}', _EXAMPLE)
    teachers, taken = teachers_of(ctx.opt), dict[str, Teacher]()
    for teacher in teachers:
        where, name = f'{teacher.place}.name', teacher.options.get('name')
        better = _free_name(teacher, {str(other.options.get('name')) for other in teachers})
        if not WORD.fits(name):
            ctx.add(where, 'is missing: losses say with it which teacher they learn from' if name is None else
                    f'must be {WORD.name}, not {shortened(name)}', fix={where: better})
        elif str(name) in taken:
            ctx.add(where, f'{name!r} is the name of {taken[str(name)].place} too', fix={where: better})
        else:
            _check_differs(ctx, teacher, taken)
            taken[str(name)] = teacher
    _check_caches(ctx, teachers)


def _check_caches(ctx: Context, teachers: list[Teacher]) -> None:
    """Refuse two teachers that keep their answers in one LMDB."""
    taken: dict[str, Teacher] = {}
    for teacher in teachers:
        cache = teacher.options.get('cache')
        if not isinstance(cache, str) or not cache.endswith('.lmdb'):
            continue
        path = str(ctx.path(cache).absolute())
        if path in taken:
            ctx.add(f'{teacher.place}.cache', f'{cache} is the cache of {taken[path].name!r} too, and holds the '
                    'answers of one teacher', fix={f'{teacher.place}.cache': f'{cache[:-5]}_{teacher.name}.lmdb'})
        taken.setdefault(path, teacher)


def _check_differs(ctx: Context, teacher: Teacher, others: Mapping[str, Teacher]) -> None:
    """Refuse a teacher that stands in the list twice, under two names."""
    def content(one: Teacher) -> dict[str, Any]:
        return {key: value for key, value in one.options.items() if key != 'name'}

    same = next((other for other in others.values() if content(other) == content(teacher)), None)
    if same is not None and 'weights' in teacher.options:
        fix = {f'{where}.teacher': same.name for where, options in distillation_entries(ctx.opt)
               if isinstance(options, Mapping) and options.get(ONE) == teacher.name}
        ctx.add(teacher.place, f'{teacher.name!r} is the same as {same.name!r}, {same.place}: it would run twice for '
                'nothing', f'remove it, and write teacher: {same.name} in its losses; or give it other weights',
                {**fix, teacher.place: REMOVE})


def _free_name(teacher: Teacher, taken: set[str]) -> str:
    """A name for a teacher: that of its file or of its network, in letters, digits and _."""
    weights, network = teacher.options.get('weights'), block(teacher.options, 'network')
    given = teacher.options.get('name')
    text = given if isinstance(given, str) and given else (
        Path(weights).stem if isinstance(weights, str) else str(network.get('type', ONE)))
    word = re.sub(r'\W+', '_', text, flags=re.ASCII).strip('_')[:24]
    word = word if WORD.fits(word) else f'{ONE}_{word}'.rstrip('_')
    return next(name for name in (word, *(f'{word}_{n}' for n in range(2, len(taken) + 3))) if name not in taken)
