"""A student with what it costs, and the table of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mipkd_plugin.inference.cost import IN_SHORT
from mipkd_plugin.recipes.students_families import FAMILIES, LIGHT, NEAR, PARTS
from mipkd_plugin.recipes.students_work import Measured, times


@dataclass(frozen=True)
class Choice:
    """A student, and what it costs.

    Attributes:
        network: Type and arguments, as in YAML; plain BasicSR builds it if the architecture is BasicSR's.
        notation: The same for ``--student``; the type alone where the architecture has no rule.
        parameters: Number of parameters.
        macs: Multiply-accumulates for an output of 1280×720; see :data:`mipkd_plugin.inference.cost.IN_SHORT`.
        fraction: Of those of the teacher.
        milliseconds: Time for one image, on this machine.
        speedup: How many times as fast as the teacher.
        measured_on: The image and the machine, in words.
        teacher: The teacher in the same terms; None for the teacher itself.
        alternatives: Students around it.
        imports: What an option file must import for it.
    """

    network: Mapping[str, Any]
    notation: str
    parameters: int
    macs: int
    fraction: float
    milliseconds: float
    speedup: float
    measured_on: str
    teacher: Choice | None = None
    alternatives: tuple[Choice, ...] = ()
    imports: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """Teacher, student and alternatives as a table, and what its numbers mean."""
        rows = [] if self.teacher is None else [('teacher', self.teacher)]
        rows += [('student', self)] + [('or', choice) for choice in self.alternatives]
        slow = [f'{self.notation} does less work than its teacher, but is no faster on this machine: choose another '
                'architecture, or fewer blocks'] if self.teacher is not None and self.speedup < 1 else []
        return [*_table(rows), *slow]


def table(choices: Sequence[Choice]) -> list[str]:
    """Lines of ``--list``: the teacher, its students, and what the numbers mean."""
    teacher = choices[0].teacher if choices else None
    rows = [('teacher', teacher)] if teacher is not None else []
    return [*_table([*rows, *(('', choice) for choice in choices)]), *_left_out(choices)]


def compared(own: Measured, nets: Sequence[Measured], scale: int, imports: tuple[str, ...] = ()) -> list[Choice]:
    """Take the time of a teacher and its students, in turn.

    Args:
        own: The teacher.
        nets: The students.
        scale: Scale of all of them.
        imports: What an option file must import for the students.

    Returns:
        The students; each names its teacher.
    """
    taken, measured_on = times([own, *nets])

    def choice(net: Measured, milliseconds: float, teacher: Choice | None) -> Choice:
        return Choice(net.network, _notation(net.network), net.parameters, net.macs(scale), net.work / own.work,
                      milliseconds, taken[0] / milliseconds, measured_on, teacher,
                      imports=() if teacher is None else imports)

    teacher = choice(own, taken[0], None)
    return [choice(net, milliseconds, teacher) for net, milliseconds in zip(nets, taken[1:])]


def _notation(network: Mapping[str, Any]) -> str:
    family = FAMILIES.get(network['type'])
    return str(network['type']) if family is None else family.text(family.size_of(network))


def _table(rows: Sequence[tuple[str, Choice]]) -> list[str]:
    """Aligned rows under a head, and what the numbers mean."""
    if not rows:
        return []
    head = ('', '--student', 'parameters', 'GMACs', 'of teacher', 'ms', 'faster')
    body = [(name, choice.notation, f'{choice.parameters:,d}', f'{choice.macs / 1e9:,.1f}', _share(choice.fraction),
             f'{choice.milliseconds:,.1f}', f'{choice.speedup:.1f}×') for name, choice in rows]
    width = [max(len(row[column]) for row in (head, *body)) for column in range(len(head))]
    lines = ['  '.join(cell.ljust(size) if column < 2 else cell.rjust(size)
                       for column, (cell, size) in enumerate(zip(row, width))).rstrip() for row in (head, *body)]
    return [*lines, f'{IN_SHORT}.',
            f'ms: for {rows[0][1].measured_on}.']


def _left_out(choices: Sequence[Choice]) -> list[str]:
    """Which parts of the teacher no student has, and what to type for them."""
    parts = [f'1/{part}' for part in PARTS
             if not any(1 / NEAR < choice.fraction * part < NEAR for choice in choices)]
    if not choices or not parts:
        return []
    name = choices[0].network['type']
    other = next(light for light in LIGHT if light != name)
    return [f'{name} has no size near {", ".join(parts)}; {other} may have: --student {other}:{parts[-1]}']


def _share(fraction: float) -> str:
    return '1' if fraction > 0.995 else f'1/{1 / fraction:.2g}' if fraction > 0.1 else f'1/{1 / fraction:.0f}'
