"""The figure of a comparison: PSNR against iterations and against time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.measures import cost, methods_of, select
from mipkd_plugin.compare.results import Row
from mipkd_plugin.compare.times import Times

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(rows: Sequence[Row], times: Times) -> Figure:
    """Plot PSNR on the first test set, mean over the seeds, against iterations and against time.

    Args:
        rows: Rows of ``results.csv``.
        times: Lines of ``times.csv`` by method. With them, the right side counts time in iterations of the control and
            leaves out methods without a line. Without any, it counts seconds, from ``rows``.

    Returns:
        The figure. The control of equal time leaves the left side where the others end.
    """
    from matplotlib.figure import Figure

    testset, methods = rows[0].testset, methods_of(rows)
    figure = Figure(figsize=(12, 4.8), dpi=120, layout='constrained')
    left, right = figure.subplots(1, 2, sharey=True)
    measured = any(cost(rows, method, times) for method in methods)
    unit, length = (f'time, in iterations of {CONTROL}', 1) if measured else _unit(max(row.seconds for row in rows))
    for method, style in zip(methods, _styles(methods)):
        at, seconds, psnr = _mean_curve(select(rows, method, testset))
        left.plot(at, psnr, marker='o', markersize=3, label=method, **style)
        found = cost(rows, method, times)
        if found is not None:
            total = select(rows, method)[0].iterations
            seconds = np.array([found.spent(iteration, total) for iteration in at])
        if found is not None or not measured:
            right.plot(seconds / length, psnr, marker='o', markersize=3, **style)
    for axis, label in ((left, 'iterations'), (right, unit)):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    left.set_ylabel(f'PSNR on {testset}, dB')
    longest = max((row.iterations for row in rows if row.method != EQUAL_TIME), default=None)
    if longest and EQUAL_TIME in methods:
        left.set_xlim(0, 1.04 * longest)
    limits = without_the_start([[psnr for _, _, psnr in row.points()] for row in rows if row.testset == testset])
    if limits is not None:
        left.set_ylim(*limits)
    figure.legend(*left.get_legend_handles_labels(), loc='outside right center', frameon=False)
    return figure


def _mean_curve(rows: Sequence[Row]) -> tuple[list[int], np.ndarray, np.ndarray]:
    """Iterations at which all seeds were validated; means of seconds and PSNR there."""
    found = [{at: (seconds, psnr) for at, seconds, psnr in row.points()} for row in rows]
    shared = sorted(set.intersection(*map(set, found))) if found else []
    seconds, psnr = (np.array([np.mean([curve[at][i] for curve in found]) for at in shared]) for i in (0, 1))
    return shared, seconds, psnr


def _unit(seconds: float) -> tuple[str, int]:
    """A label for an axis of time up to ``seconds``, and the length of its unit in seconds."""
    unit, length = next((unit for unit in (('hours', 3600), ('minutes', 60)) if seconds > 3 * unit[1]), ('seconds', 1))
    return f'{unit} of training', length


def _styles(methods: Sequence[str]) -> list[dict[str, Any]]:
    """Color and dashes of each method: all differ; the control is black and dashed, that of equal time dotted."""
    from matplotlib import colormaps

    table = colormaps['tab10' if len(methods) <= 10 else 'tab20']
    others = [{'color': table(i % table.N), 'linestyle': ('-', ':', '-.')[i // table.N % 3]}
              for i in range(len(methods))]
    controls = {CONTROL: {'color': 'black', 'linestyle': '--'}, EQUAL_TIME: {'color': 'black', 'linestyle': ':'}}
    return [controls.get(name) or others.pop(0) for name in methods]


def without_the_start(series: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Limits of an axis without the first validations, whose low values would hide the differences at the end.

    Args:
        series: Values of each curve in their order.

    Returns:
        Lowest and highest value of the axis; None if there is nothing to choose.
    """
    values = [value for values in series for value in values[len(values) // 3:] if math.isfinite(value)]
    if not values or min(values) == max(values):
        return None
    margin = 0.08 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin
