"""The table of architectures.py, its totals, and what has changed between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

LOSSES = ('FitNets', 'KRNets', 'MiPKD')
ROLES = ('student', 'teacher', 'both')
MOST_LETTERS = 100
LARGEST_ERROR = 1e-6
Results = Mapping[str, Mapping[str, Any]]


def reasons(one: Mapping[str, Any], loss: str) -> tuple[str, ...]:
    """Of one architecture and one loss: ``ok`` or what is wrong, for each role."""
    return tuple(one['results'][f'{loss}/{role}'] for role in ROLES)


def passes(one: Mapping[str, Any], loss: str) -> bool:
    """Whether a loss trains an architecture in all roles, at the trunk that a person would tap."""
    return bool(one['right']) and set(reasons(one, loss)) == {'ok'}


def cells(one: Mapping[str, Any], notes: dict[str, int]) -> Iterator[str]:
    """Of the row of one architecture. A reason is a number, explained below the table."""
    yield one['name'] + (f' ({one["note"]})' if one['note'] else '')
    yield one['source']
    yield ' '.join(f'`{path}`' for path in one['taps']) or 'none'
    yield 'yes' if one['right'] else f'no: `{one["expected"][0]}`'
    for loss in LOSSES:
        marks = ['ok' if reason == 'ok' else str(notes.setdefault(shortened(reason), len(notes) + 1))
                 for reason in reasons(one, loss)]
        yield 'ok' if set(marks) == {'ok'} else ' / '.join(marks)
    yield '–' if one['reentry'] is None else f'{one["reentry"]:.1e}' if one['reentry'] else '0.0'
    yield '–' if one.get('gradient') is None else f'{one["gradient"]:.1e}'.replace('0.0e+00', '0.0')


def shortened(reason: str) -> str:
    """The beginning of a reason."""
    return reason if len(reason) <= MOST_LETTERS else f'{reason[:MOST_LETTERS]}…'


def table(found: Results) -> Iterator[str]:
    """Lines of the Markdown table, the totals and the reasons."""
    header = ('architecture', 'source', 'taps chosen', 'as a person', *LOSSES, 're-entry error', 'of its gradient')
    notes: dict[str, int] = {}
    for row in (header, ('---', ) * len(header), *(tuple(cells(one, notes)) for one in found.values())):
        yield f'| {" | ".join(row)} |'
    yield '\nOne result a loss, or three: as student of EDSR / as teacher of EDSR / narrow from wide. Numbers:\n'
    for reason, number in notes.items():
        yield f'{number}. {reason}'
    yield from totals(found)


def totals(found: Results) -> Iterator[str]:
    """N of M, for each loss and role."""
    built = [one for one in found.values() if one['built']]
    families = {family(one) for one in built}
    yield f'\n| of {len(built)} built | student | teacher | both | all three, right trunk | of {len(families)} names |'
    yield '| --- | --- | --- | --- | --- | --- |'
    yield f'| trunk as a person | | | | {sum(one["right"] for one in built)} | |'
    for loss in LOSSES:
        each = [sum(reasons(one, loss)[n] == 'ok' for one in built) for n in range(len(ROLES))]
        good = [one for one in built if passes(one, loss)]
        yield f'| {loss} | {" | ".join(map(str, each))} | {len(good)} | {len({family(one) for one in good})} |'
    off = [key for key, one in found.items() if (one['reentry'] or 0) > LARGEST_ERROR]
    if off:
        yield f'\nAnother image from the network\'s own feature, by more than {LARGEST_ERROR}: {", ".join(off)}.'


def family(one: Mapping[str, Any]) -> str:
    """Implementations of one architecture have one name, up to case and what stands in brackets."""
    return str(one['name']).split(' ')[0].split('-')[0].lower()


def changes(before: Results, after: Results) -> Iterator[str]:
    """What has changed between two runs."""
    for key in [key for key in after if key in before]:
        old, new = before[key], after[key]
        if old['taps'] != new['taps']:
            yield f'{key}: taps {old["taps"]} → {new["taps"]}'
        for name, result in new['results'].items():
            if old['results'][name] != result:
                yield f'{key}, {name}: {shortened(old["results"][name])} → {shortened(result)}'
    yield from (f'{key}: only in one of the runs' for key in dict.fromkeys([*before, *after])
                if (key in before) != (key in after))
