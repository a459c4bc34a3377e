"""The runs that weights files come from, and their curves as SVG."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipkd_plugin.compare.figure import without_the_start
from mipkd_plugin.compare.logs import History, read_history
from mipkd_plugin.inference.pictures import without_math

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK = '#010203'  # replaced by the color of the text around the figure, light or dark
_WEIGHTS = re.compile(r'net_\w+?_(\d+|latest)\.\w+')
_MOST_POINTS = 400


@dataclass(frozen=True)
class Run:
    """The training that a weights file comes from.

    Attributes:
        label: Name of the weights file in the page.
        folder: ``experiments/<name>``; None if no log files lie where a run has them.
        history: What its log files say.
        iteration: Iteration of the weights file, if its name says so.
        problem: Why its log files cannot be read; '' if they can, or if there are none.
    """

    label: str
    folder: Path | None
    history: History
    iteration: int | None
    problem: str = ''


@dataclass(frozen=True)
class Curves:
    """A figure.

    Attributes:
        title: What it shows.
        svg: The figure as SVG, to stand in HTML.
    """

    title: str
    svg: str


def find_run(label: str, weights: Path) -> Run:
    """Find the run of a weights file: ``<run>/models/net_g_<iter>.pth`` with ``<run>/train_*.log``.

    Args:
        label: Name of the weights file in the page.
        weights: The file.

    Returns:
        The run.
    """
    folder, named = weights.resolve().parent, _WEIGHTS.fullmatch(weights.name)
    run = folder.parent if folder.name == 'models' else folder
    try:
        history = read_history(run)
    except (OSError, ValueError) as error:  # damaged, or not a log at all: the page says so, and shows the rest
        return Run(label, None, History(), _number(named, None), f'{run}/train_*.log: {error}')
    if not history.seconds and not history.metrics:
        return Run(label, None, History(), _number(named, None))
    reached = max([*history.seconds, *(iteration for iteration, _ in history.metrics)])
    return Run(label, run, history, _number(named, reached))


def _number(named: re.Match[str] | None, last: int | None) -> int | None:
    if named is None:
        return None
    return last if named[1] == 'latest' else int(named[1])


def draw_curves(runs: Sequence[Run]) -> list[Curves]:
    """Draw the validations and the terms of the loss of all runs over their iterations.

    Args:
        runs: The runs; those without log files are left out.

    Returns:
        A figure for each metric of each test set, and one for each term.
    """
    known = [run for run in runs if run.folder is not None]
    found = []
    for testset, metric in dict.fromkeys((testset, metric) for run in known for (_, testset), values in
                                         run.history.metrics.items() for metric in values):
        series = [[(at, values[metric]) for (at, name), values in sorted(run.history.metrics.items())
                   if name == testset and metric in values] for run in known]
        unit = {'psnr': 'PSNR (dB)', 'ssim': 'SSIM'}.get(metric.lower(), metric)
        found.append(Curves(f'{unit} on {testset}', _svg(known, series, f'{unit} on {testset}', metric=True)))
    for term in sorted({name for run in known for values in run.history.terms.values() for name in values}):
        series = [[(at, values[term]) for at, values in sorted(run.history.terms.items()) if term in values]
                  for run in known]
        found.append(Curves(f'{term} in training', _svg(known, series, term, metric=False)))
    return found


def _svg(runs: Sequence[Run], series: Sequence[list[tuple[int, float]]], title: str, metric: bool) -> str:
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    with rc_context({'svg.fonttype': 'none', 'text.color': _INK, 'axes.edgecolor': _INK, 'axes.labelcolor': _INK,
                     'xtick.color': _INK, 'ytick.color': _INK, 'font.family': 'sans-serif', 'font.size': 10}):
        figure = Figure(figsize=(5.6, 3.3), layout='constrained')
        axis = figure.add_subplot()
        for number, (run, points) in enumerate(zip(runs, series)):
            _plot(axis, run, _thinned(points), number, metric)
        axis.set_xlabel('iterations')
        axis.set_ylabel(without_math(title))
        axis.grid(alpha=0.25)
        if metric:
            limits = without_the_start([[value for _, value in points] for points in series])
            if limits is not None:
                axis.set_ylim(*limits)
        elif all(value > 0 for points in series for _, value in points):
            axis.set_yscale('log')
            axis.yaxis.set_major_formatter(LogFormatter())
            axis.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        if axis.lines:
            figure.legend(loc='outside upper left', frameon=False, fontsize=9)
        return _inline(figure, title)


def _plot(axis: Axes, run: Run, points: Sequence[tuple[int, float]], number: int, metric: bool) -> None:
    """One curve, with a ring at the iteration of the weights file."""
    finite = [(at, value) for at, value in points if math.isfinite(value)]
    if not finite:
        return
    style: dict[str, Any] = {'color': f'C{number % 10}', 'linestyle': ('-', '--', ':')[number // 10 % 3]}
    # a label that begins with _ is left out of the legend
    label = without_math(f' {run.label}' if run.label.startswith('_') else run.label)
    axis.plot(*zip(*finite), marker='o' if metric else None, markersize=3, linewidth=1.4, label=label, **style)
    at = -1 if run.iteration is None else run.iteration
    here = dict(finite).get(at)
    if here is not None and metric:
        axis.plot([at], [here], marker='o', markersize=9, fillstyle='none', color=style['color'])


def _thinned(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most some hundreds of points: means of neighbors, at the last iteration of each group."""
    step = -(-len(points) // _MOST_POINTS)
    groups = [points[at:at + step] for at in range(0, len(points), step)] if step > 1 else [[p] for p in points]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _inline(figure: Figure, title: str) -> str:
    """A figure as SVG without the lines that only a file of its own needs, in the color of the text around it."""
    from html import escape

    file = io.StringIO()
    figure.savefig(file, format='svg', transparent=True, metadata={'Date': None, 'Creator': None})
    text = file.getvalue()
    text = re.sub(r'<metadata>.*?</metadata>', '', text[text.index('<svg'):], flags=re.S)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>',
                  rf'<svg \1 role="img" aria-label="{escape(title)}" class="curves">', text, count=1)
    return text.replace(_INK, 'currentColor')
