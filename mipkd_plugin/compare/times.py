"""``times.csv``: what an iteration of each method costs, over one of the control."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.csv_file import read_csv, write_csv
from mipkd_plugin.compare.methods import same_method
from mipkd_plugin.utils.errors import MipkdError

TIMES = 'times.csv'


class TimesError(MipkdError):
    """``times.csv`` cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class MethodTime:
    """One line of ``times.csv``.

    Attributes:
        method: Name of the method.
        distilling: What an iteration costs while the run distills or blends images (ECO): its time, divided by the
            control's. The mean, if not all of these iterations cost alike.
        until: Share of the run that does so. After it an iteration costs what the control's does.
        time: What the whole run costs: its time, divided by the control's, for equally many iterations. For the control
            of equal time: how many times as many iterations it has.
        memory: Peak memory of an iteration in MB, networks and optimizer included; None without a GPU.
        hardware: ``CPU``, or the name of the GPU.
        commit: Version of the code.
        protocol_hash: Digest of everything that the runs share; its column is named ``protocol``.
        losses: The losses, as JSON.
    """

    method: str
    distilling: float
    until: float
    time: float
    memory: int | None
    hardware: str
    commit: str
    protocol_hash: str
    losses: str

    def spent(self, iteration: int, total: int) -> float:
        """Time of training up to an iteration of ``total``, in iterations of the control."""
        last = self.until * total
        return self.distilling * min(iteration, last) + max(iteration - last, 0)


Times = Mapping[str, MethodTime]
"""The lines by method."""

_COLUMN_OF = {'protocol_hash': 'protocol'}
_NAMES = [field.name for field in fields(MethodTime)]
TIME_COLUMNS = tuple(_COLUMN_OF.get(name, name) for name in _NAMES)


def read_times(path: Path) -> dict[str, MethodTime]:
    """Read ``times.csv``.

    Args:
        path: The file.

    Returns:
        The lines by method; none if the file does not exist.

    Raises:
        TimesError: The file is damaged or has other columns.
    """
    times: dict[str, MethodTime] = {}

    def take(line: Mapping[str, str]) -> None:
        found = _line(line)
        if found.method in times:
            raise ValueError(f'another line also holds {found.method!r}')
        times[found.method] = found

    read_csv(path, TIME_COLUMNS, take, TimesError, _REMEDY, _REMEDY)
    return times


_REMEDY = ('restore the file; or move it away to measure again, and with it the rows and the run folders of '
           f'{EQUAL_TIME!r}, whose length it holds')


def _line(line: Mapping[str, str]) -> MethodTime:
    values: dict[str, Any] = {name: line[column] for name, column in zip(_NAMES, TIME_COLUMNS)}
    try:
        json.loads(values['losses'])
    except ValueError as error:
        raise ValueError(f'losses is {values["losses"]!r}, not JSON') from error
    for name, low, high in (('distilling', 0.0, math.inf), ('until', 0.0, 1.0), ('time', 0.0, math.inf)):
        try:
            values[name] = float(values[name])
        except ValueError as error:
            raise ValueError(f'{name} is {values[name]!r}, not a number') from error
        if not (low <= values[name] <= high and math.isfinite(values[name])) or name != 'until' and not values[name]:
            raise ValueError(f'{name} is {values[name]:g}, and it must be {"from 0 to 1" if high == 1 else "above 0"}')
    memory = values['memory']
    if memory and not memory.isdecimal():
        raise ValueError(f'memory is {memory!r}, not a whole number')
    return MethodTime(**{**values, 'memory': int(memory) if memory else None})


def write_times(path: Path, times: Iterable[MethodTime]) -> None:
    """Write ``times.csv``, in the order of ``times``."""
    write_csv(path, TIME_COLUMNS, (dict(zip(TIME_COLUMNS, asdict(found).values())) for found in times))


def still_true(found: MethodTime | None, losses: str, protocol_hash: str | None = None) -> bool:
    """Whether a time was measured with these losses, and with this protocol if one is given."""
    return (found is not None and protocol_hash in (None, found.protocol_hash)
            and same_method(found.losses, losses))


def time_table(times: Iterable[MethodTime]) -> str:
    """The times as a Markdown table."""
    lines = ['| method | one iteration | distilling until | whole training | peak memory |', '| --- ' * 5 + '|']
    for found in times:
        memory = '' if found.memory is None else f'{found.memory:,} MB'
        whole = found.method in (CONTROL, EQUAL_TIME)
        until = '' if whole else f'{found.until:.0%}'
        lines.append(f'| {found.method} | {_ratio(found.distilling)} | {until} | {_ratio(found.time)} | {memory} |')
    caption = (f'Times: over those of {CONTROL}, of training steps alone. One iteration: of the part of the training '
               'that distills or blends images.')
    return '\n'.join([*lines, '', caption, ''])


def _ratio(value: float) -> str:
    """A ratio of times with three digits, as 1.06 or 10.8."""
    return f'{value:.{2 if value < 9.995 else 1}f}'
