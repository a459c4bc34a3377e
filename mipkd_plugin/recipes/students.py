"""The student of a teacher: chosen by its size, by a fraction of the teacher's work, or from an option file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY

from mipkd_plugin.config.problems import OptionError
from mipkd_plugin.config.registered import missing_package
from mipkd_plugin.recipes.students_choice import Choice, compared, table
from mipkd_plugin.recipes.students_families import FAMILIES, LIGHT, NEAR, PARTS, Family, Size
from mipkd_plugin.recipes.students_notation import Wanted, read
from mipkd_plugin.recipes.students_search import OutOfReachError, Search
from mipkd_plugin.recipes.students_work import Measured, Teacher, channels_of, image_word, measured
from mipkd_plugin.utils.errors import UsageError

__all__ = ['PARTS', 'Choice', 'choose', 'students', 'table']


def choose(text: str, teacher: Teacher) -> Choice:
    """Choose a student.

    Args:
        text: What ``--student`` says: ``EDSR:64x16``, ``1/4``, ``EDSR:1/4``, ``EDSR`` or an option file.
        teacher: The teacher.

    Returns:
        The student, with alternatives around it.

    Raises:
        UsageError: It is not a student, the architecture does not come in this size, it is larger than its teacher or
            has another scale or other channels.
        OptionError: An option file cannot be read, or its ``network_g`` cannot be built.
    """
    wanted = read(text)
    text = wanted.text
    own, channels = _teacher_of(teacher)
    if wanted.network is not None:
        student = _from_file(wanted, teacher.scale, channels)
        _check_smaller(student, own, text)
        return compared(own, [student], teacher.scale, wanted.imports)[0]
    family = wanted.family or _own_family(teacher)
    if family.color_only and channels != 3:
        gray = [name for name, other in FAMILIES.items() if not other.color_only]
        raise UsageError(f'--student {text}: {family.name} takes color images only, and the teacher '
                         f'{image_word(channels)}; choose one of {", ".join(gray)}')
    search = Search(family, teacher.network, teacher.scale, channels)
    if wanted.fraction is not None:
        size = _nearest(search, own, wanted.fraction, text, teacher)
    else:
        size = family.completed(wanted.size or family.size, search.like)
        problem = family.problem(size, search.base)
        if problem:
            raise UsageError(f'--student {text}: {problem}')
    student = _sized(search, size, text)
    _check_smaller(student, own, text, family)
    around = [_sized(search, other, text) for other in search.around(size, student.work, own.work)]
    found = compared(own, [student, *around], teacher.scale)
    return replace(found[0], alternatives=tuple(sorted(found[1:], key=lambda choice: -choice.macs)))


def students(teacher: Teacher, family: str | None = None) -> list[Choice]:
    """Students of a teacher from 1/2 to 1/32 of its work.

    Args:
        teacher: The teacher.
        family: Architecture of the students; by default the teacher's.

    Returns:
        The students; sizes that do not exist are left out.

    Raises:
        UsageError: The architecture has no rule for its size.
    """
    own, channels = _teacher_of(teacher)
    search = Search(FAMILIES[family] if family else _own_family(teacher), teacher.network, teacher.scale, channels)
    sizes: dict[Size, None] = {}
    for part in PARTS:
        try:
            sizes[search.nearest(own.work / part)] = None
        except OutOfReachError:
            continue
    return compared(own, [_sized(search, size, '--list') for size in sizes], teacher.scale)


def _teacher_of(teacher: Teacher) -> tuple[Measured, int]:
    channels = channels_of(teacher.network)
    return measured(teacher.network, teacher.scale, channels, teacher.build()), channels


def _own_family(teacher: Teacher) -> Family:
    name = str(teacher.network.get('type'))
    if name in FAMILIES:
        return FAMILIES[name]
    lighter = ', '.join(f'--student {light}:1/8' for light in LIGHT)
    raise UsageError(f'there is no rule for smaller networks of the type {name}. Choose a student of another '
                     f'architecture with its share of the work of the teacher, as {lighter}; or an option file with '
                     'the network_g of your student')


def _nearest(search: Search, own: Measured, fraction: float, text: str, teacher: Teacher) -> Size:
    try:
        return search.nearest(own.work * fraction)
    except OutOfReachError as error:
        least, most = error.least / own.work, min(error.most / own.work, 1.)
        name = search.family.name
        if least > 1 / NEAR:
            what, range_ = f'no {name} to choose here has clearly less work than the teacher', ''
        else:
            what = (f'the smallest {name} to choose here has 1/{1 / least:.3g} of the work of the teacher'
                    if least > fraction else
                    f'{name} comes no larger here than 1/{1 / most:.3g} of the work of the teacher')
            range_ = f'write a fraction between 1/{1 / least:.3g} and 1/{1 / most:.3g}, or '
        raise UsageError(f'--student {text}: {what}; {range_}choose another architecture'
                         + _others(search, own.work * fraction, fraction, teacher)) from error


def _others(search: Search, work: float, fraction: float, teacher: Teacher) -> str:
    """An architecture that has a student of this work, to type."""
    for name in LIGHT:
        family = FAMILIES[name]
        if (name == search.family.name or missing_package(ARCH_REGISTRY, name)
                or family.color_only and search.channels != 3):
            continue
        try:
            Search(family, teacher.network, search.scale, search.channels).nearest(work)
        except (OutOfReachError, OptionError):
            continue
        part = f'1/{1 / fraction:.3g}' if 1 / fraction == round(1 / fraction) else f'{fraction:g}'
        return f', as --student {name}:{part}'
    return ', or an option file with a network_g'


def _sized(search: Search, size: Size, text: str) -> Measured:
    try:
        return measured(search.family.network(size, search.base), search.scale, search.channels)
    except OptionError as error:
        problem = error.problems[0]
        raise UsageError(f'--student {text}: {problem.what}; {problem.remedy}') from error
    except UsageError as error:
        raise UsageError(f'--student {text}: {error}') from error


def _from_file(wanted: Wanted, scale: int, channels: int) -> Measured:
    network: dict[str, Any] = wanted.network or {}
    if wanted.scale is not None and wanted.scale != scale:
        raise UsageError(f'--student {wanted.text}: scale is {wanted.scale}, and the teacher enlarges by {scale}; '
                         'choose a student of that scale')
    family = FAMILIES.get(network['type'])
    width = network.get(family.keys[0]) if family is not None else None
    misfit = family.misfit(width, network) if family is not None and isinstance(width, int) else ''
    if misfit:
        raise UsageError(f'--student {wanted.text}: network_g: {misfit}')
    try:
        return measured(network, scale, channels)
    except UsageError as error:
        raise UsageError(f'--student {wanted.text}: {error}') from error


def _check_smaller(student: Measured, own: Measured, text: str, family: Family | None = None) -> None:
    """Refuse a student that is larger than its teacher; one of the same size may learn from it."""
    parts = [f'{name}: {mine:,.0f}, and the teacher {its:,.0f}' for name, mine, its in (
        ('parameters', student.parameters, own.parameters),
        ('multiply-accumulates for each pixel', student.work, own.work)) if mine > its * 1.0001]
    if parts:
        smaller = f'{family.name}:1/4' if family is not None else '1/4'
        raise UsageError(f'--student {text}: the student is larger than its teacher ({"; ".join(parts)}); choose a '
                         f'smaller one, as --student {smaller}')
