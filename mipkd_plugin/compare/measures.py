"""What the rows of ``results.csv`` say: means, gains, curves and times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.methods import crops_of, init_of, is_plain, uses_teacher
from mipkd_plugin.compare.results import Row
from mipkd_plugin.compare.times import MethodTime, Times, still_true

CONTROLS = (CONTROL, EQUAL_TIME)

NOT_SHOWN, ONE_SEED = 'not shown', 'one seed'


@dataclass(frozen=True)
class Measured:
    """Mean over the seeds and its standard error (NaN for one seed)."""

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Mean and standard error of values; NaN if there are too few."""
        n = len(values)
        return cls(float(np.mean(values)) if n else math.nan,
                   float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)


    @property
    def doubt(self) -> str:
        """Why it shows nothing, if it is a gain: it is within two standard errors of 0, or has none; '' if it does."""
        if not math.isfinite(self.mean):
            return ''
        if self.count < 2:
            return ONE_SEED
        return NOT_SHOWN if abs(self.mean) < 2 * self.error or self.mean == 0 else ''


def start_of(rows: Sequence[Row], method: str) -> str:
    """What the students of a method start from: ``random`` or ``teacher_slice``."""
    return init_of(_method(rows, method))


def is_control(rows: Sequence[Row], method: str) -> bool:
    """Whether a method looks at no teacher."""
    return method in CONTROLS or not uses_teacher(select(rows, method)[0].losses)


def control_of(rows: Sequence[Row], method: str) -> str:
    """The control that a gain of a method is over: the one of the same start that has neither losses nor ECO.

    Of several it is the one with as many crops; else the first without a pool of crops, or the first.

    Args:
        rows: Rows of ``results.csv``.
        method: The method.

    Returns:
        Its name; ``none`` if there is no other, and for these controls themselves.
    """
    if _is_plain(rows, method):
        return CONTROL
    plain = {name: crops_of(_method(rows, name)) for name in methods_of(rows) if name != EQUAL_TIME
             and start_of(rows, name) == start_of(rows, method) and _is_plain(rows, name)}
    for wanted in (crops_of(_method(rows, method)), 0):
        for name, crops in plain.items():
            if crops == wanted:
                return name
    return next(iter(plain), CONTROL)


def _is_plain(rows: Sequence[Row], method: str) -> bool:
    return is_plain(_method(rows, method))


def _method(rows: Sequence[Row], name: str) -> Any:
    found = select(rows, name)
    return json.loads(found[0].losses) if found else []


def varied(rows: Sequence[Row]) -> dict[str, str]:
    """The variants of an ablation, as ``mipkd mask_ratio=0.5``, and the method that each of them varies."""
    names = methods_of(rows)
    found = ((name, *name.partition(' ')[::2]) for name in names)
    return {name: method for name, method, change in found if '=' in change and method in names}


def methods_of(rows: Sequence[Row]) -> list[str]:
    """All methods in the order of the rows, the controls first."""
    names = dict.fromkeys(row.method for row in rows)
    return [*(name for name in CONTROLS if name in names), *(name for name in names if name not in CONTROLS)]


def select(rows: Sequence[Row], method: str, testset: str | None = None) -> list[Row]:
    """The rows of a method, on all test sets or on one."""
    return [row for row in rows if row.method == method and testset in (None, row.testset)]


def gain(rows: Sequence[Row], method: str, over: str, testset: str) -> Measured:
    """PSNR gain in dB over another method with the same seed, for the seeds that both have."""
    own, other = ({row.seed: row.psnr for row in select(rows, name, testset)} for name in (method, over))
    return Measured.of([own[seed] - other[seed] for seed in own if seed in other])


def cost(rows: Sequence[Row], method: str, times: Times) -> MethodTime | None:
    """What an iteration of a method costs.

    Args:
        rows: Rows of ``results.csv``.
        method: The method.
        times: Lines of ``times.csv`` by method.

    Returns:
        The line of the method, if it was measured with the same losses; None if not. Both controls have the same line.
    """
    found, own = times.get(CONTROL if method == EQUAL_TIME else method), select(rows, method)
    return found if own and still_true(found, own[0].losses) else None


def relative_time(rows: Sequence[Row], method: str, times: Times) -> float:
    """How many times as long as the control a method trains, by the step times; NaN if they were not measured."""
    found, control = cost(rows, method, times), select(rows, CONTROL)
    if found is None or not control:
        return math.nan
    return found.time * select(rows, method)[0].iterations / control[0].iterations


def lead(rows: Sequence[Row], method: str, testset: str, over: str = CONTROL) -> dict[int, Measured]:
    """PSNR in dB over a control in the course of the training.

    Args:
        rows: Rows of ``results.csv``.
        method: The method.
        testset: The test set.
        over: The control.

    Returns:
        The lead by iteration, seed by seed, for the seeds that both have, where all of them were validated.
    """
    own, control = ({row.seed: {at: psnr for at, _, psnr in row.points()} for row in select(rows, name, testset)}
                    for name in (method, over))
    seeds = [seed for seed in own if seed in control]
    shared = set.intersection(*(own[seed].keys() & control[seed].keys() for seed in seeds)) if seeds else set()
    return {at: Measured.of([own[seed][at] - control[seed][at] for seed in seeds]) for at in sorted(shared)}


def met_at(leads: Mapping[int, Measured]) -> int | None:
    """The iteration from which on there is no lead any more; None if there is one at the end."""
    met = None
    for at, found in sorted(leads.items(), reverse=True):
        if not found.mean <= 0:
            break
        met = at
    return met


def milestones(iterations: Sequence[int]) -> list[int]:
    """The first and last of some iterations, and those nearest to a quarter, half and three quarters of the last."""
    if not iterations:
        return []
    targets = [iterations[0], *(share * iterations[-1] for share in (0.25, 0.5, 0.75, 1))]
    return sorted({min(iterations, key=lambda at: abs(at - target)) for target in targets})
