"""What ``--student`` says: a size, a fraction of the teacher, or an option file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from mipkd_plugin.config.plugins import absolute_imports, load_plugins
from mipkd_plugin.config.problems import OptionError
from mipkd_plugin.config.suggestions import nearest
from mipkd_plugin.config.yaml_io import read_options
from mipkd_plugin.recipes.students_families import FAMILIES, Family, Size
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.words import counted

EXAMPLES = 'write an architecture with its size, as EDSR:64x16, a fraction of the teacher, as 1/4, or an option file'
_FRACTION = re.compile(r'(\d{1,6}(?:\.\d{1,6})?)(?:/(\d{1,6}(?:\.\d{1,6})?))?|(\.\d{1,6})')
_SIZE = re.compile(r'\d{1,5}(?:[xX×]\d{1,5})*')
_JOINED = re.compile(r'([A-Za-z]+)_?(\d{1,5}(?:[xX]\d{1,5})*)')  # EDSR16x5
_FILES = ('.yml', '.yaml')
_LONGEST = 100


@dataclass(frozen=True)
class Wanted:
    """What was asked for; one of size, fraction and network is given.

    Attributes:
        text: As it was typed, cut where it is long.
        family: The architecture; None where it is the teacher's, or that of a file.
        size: Its numbers; the last may be missing.
        fraction: Share of the teacher's work.
        network: ``network_g`` of a file.
        imports: What that file imports, as another file must name it.
        scale: ``scale`` of that file.
    """

    text: str
    family: Family | None = None
    size: Size | None = None
    fraction: float | None = None
    network: dict[str, Any] | None = None
    imports: tuple[str, ...] = ()
    scale: Any = None


def read(text: str) -> Wanted:
    """Read what ``--student`` says.

    Args:
        text: ``ARCH``, ``ARCH:64x16``, ``1/4``, ``ARCH:1/4`` or a file.

    Returns:
        What it asks for.

    Raises:
        UsageError: It is none of these, or a fraction that is not between 0 and 1.
        OptionError: The file cannot be read.
    """
    typed = text.strip()
    text = typed if len(typed) <= _LONGEST else f'{typed[:_LONGEST]}…'
    if typed.lower().endswith(_FILES) or _is_file(typed):
        return _of_file(typed, text)
    if _FRACTION.fullmatch(typed):
        return Wanted(text, fraction=_fraction(text, typed))
    name, colon, size = (part.strip() for part in typed.partition(':'))
    if not re.fullmatch(r'[A-Za-z]\w*', name):
        raise UsageError(f'--student {text}: is no size, no fraction and no file that is there; {EXAMPLES}')
    family = _family(name, text)
    if not colon:
        return Wanted(text, family, family.size)
    if _FRACTION.fullmatch(size) and ('/' in size or '.' in size):
        return Wanted(text, family, fraction=_fraction(text, size))
    if not _SIZE.fullmatch(size):
        raise UsageError(f'--student {text}: behind the colon stands no size; {_as(family)}, or a fraction of the '
                         f'teacher, as {family.name}:1/4')
    numbers = tuple(int(number) for number in re.split('[xX×]', size))
    if len(numbers) > len(family.keys):
        raise UsageError(f'--student {text}: {family.name} has {counted(len(family.keys), "number")}, not '
                         f'{len(numbers)}; {_as(family)}')
    if min(numbers) < 1:
        raise UsageError(f'--student {text}: 0 is not a size; {_as(family)}')
    return Wanted(text, family, numbers)


def _as(family: Family) -> str:
    return f'write {family.notation}, as {family.text(family.size)}'


def _family(name: str, text: str) -> Family:
    whatever_case = {known.lower(): family for known, family in FAMILIES.items()}
    if name.lower() in whatever_case:
        return whatever_case[name.lower()]
    joined = _JOINED.fullmatch(name)
    if joined and joined[1].lower() in whatever_case:
        raise UsageError(f'--student {text}: the colon is missing; write {whatever_case[joined[1].lower()].name}:'
                         f'{joined[2]}')
    near = nearest(name, FAMILIES)
    raise UsageError(
        f'--student {text}: there is no rule for the size of such a network. '
        + (f'Did you mean {near}? ' if near else '')
        + f'Architectures with a rule: {", ".join(FAMILIES)}. Any other network: an option file with its network_g')


def _fraction(text: str, size: str) -> float:
    above, _, below = size.partition('/')
    try:
        fraction = float(Fraction(above) / Fraction(below or 1))
    except ZeroDivisionError:
        fraction = 0.
    if not 0 < fraction < 1:
        raise UsageError(f'--student {text}: a fraction of the teacher lies between 0 and 1; write 1/4 for a quarter '
                         'of its multiply-accumulates')
    return fraction


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):
        return False


def _of_file(typed: str, text: str) -> Wanted:
    if not _is_file(typed):
        raise UsageError(f'--student {text}: there is no such file; {EXAMPLES}')
    try:
        opt = read_options(typed)
    except OptionError as error:
        if all(problem.where != '-opt' for problem in error.problems):
            raise
        raise UsageError(f'--student {text}: is no option file: {error.problems[0].what}; {EXAMPLES}') from error
    load_plugins(opt)
    network = opt.get('network_g')
    if not isinstance(network, dict) or not isinstance(network.get('type'), str):
        raise UsageError(f'--student {text}: has no network_g with a type; give an option file that holds '
                         'network_g: {type: EDSR, …}')
    return Wanted(text, network=dict(network), imports=tuple(absolute_imports(opt)), scale=opt.get('scale'))
