"""Make table and figure of a comparison from the rows of its ``results.csv``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mipkd_plugin.compare.checks import CONTROL
from mipkd_plugin.compare.results import Row
from mipkd_plugin.utils.files import write_atomically, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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


@dataclass(frozen=True)
class Style:
    """The format of a table.

    Attributes:
        bold: Marks the best value.
        underlined: Marks the second-best value.
        plus_minus: Stands between mean and standard error.
        plain: Escapes special characters of a text.
        minus: Formats the minus sign of a number.
    """

    bold: Callable[[str], str]
    underlined: Callable[[str], str]
    plus_minus: str
    plain: Callable[[str], str]
    minus: Callable[[str], str] = str


MARKDOWN = Style('**{}**'.format, '<u>{}</u>'.format, ' ± ', lambda text: text.replace('|', r'\|'))
_ESCAPES = str.maketrans({**{c: f'\\{c}' for c in '_&%$#{}'}, '\\': r'\textbackslash{}', '~': r'\textasciitilde{}',
                          '^': r'\textasciicircum{}', '<': r'\textless{}', '>': r'\textgreater{}', '–': '--',
                          '±': r'$\pm$'})
LATEX = Style(r'\textbf{{{}}}'.format, r'\underline{{{}}}'.format, r' $\pm$ ', lambda text: text.translate(_ESCAPES),
              lambda number: number.replace('-', '$-$'))


def methods_of(rows: Sequence[Row]) -> list[str]:
    """All methods in the order of the rows, the control first."""
    names = dict.fromkeys(row.method for row in rows)
    return [*([CONTROL] if CONTROL in names else []), *(name for name in names if name != CONTROL)]


def select(rows: Sequence[Row], method: str, testset: str | None = None) -> list[Row]:
    """The rows of a method, on all test sets or on one."""
    return [row for row in rows if row.method == method and testset in (None, row.testset)]


def gain(rows: Sequence[Row], method: str, over: str, testset: str) -> Measured:
    """PSNR gain in dB over another method with the same seed, for the seeds that both have."""
    own, other = ({row.seed: row.psnr for row in select(rows, name, testset)} for name in (method, over))
    return Measured.of([own[seed] - other[seed] for seed in own if seed in other])


def _relative_time(rows: Sequence[Row], method: str, testset: str) -> float:
    """Training time relative to the control with the same seed, as a geometric mean."""
    own, control = ({row.seed: row.seconds for row in select(rows, name, testset)} for name in (method, CONTROL))
    ratios = [own[seed] / control[seed] for seed in own if control.get(seed)]
    return float(np.exp(np.mean(np.log(ratios)))) if ratios and min(ratios) > 0 else math.nan


def _cells(rows: Sequence[Row], style: Style) -> list[list[str]]:
    methods, testsets = methods_of(rows), list(dict.fromkeys(row.testset for row in rows))
    columns = [[style.plain(method) for method in methods]]
    for testset in testsets:
        columns.append(_ranked([Measured.of([row.psnr for row in select(rows, method, testset)])
                                for method in methods], 2, style))
        columns.append(_ranked([Measured.of([row.ssim for row in select(rows, method, testset)])
                                for method in methods], 4, style))
    first = testsets[0]
    columns.append(['' if method == CONTROL else _text(gain(rows, method, CONTROL, first), 3, style, sign='+')
                    for method in methods])
    columns.append([f'{select(rows, method)[0].training_parameters:,}' for method in methods])
    columns.append([_text(Measured(_relative_time(rows, method, first), math.nan, 1), 1, style) for method in methods])
    columns.append([str(max(len(select(rows, method, testset)) for testset in testsets)) for method in methods])
    measures = [f'{style.plain(testset)} {metric}' for testset in testsets for metric in ('PSNR', 'SSIM')]
    header = ['method', *measures, f'gain, {style.plain(first)}', 'extra parameters', 'time', 'seeds']
    return [header, *map(list, zip(*columns))]


def _text(value: Measured, digits: int, style: Style, sign: str = '') -> str:
    if math.isnan(value.mean):
        return style.plain('–')
    error = '' if math.isnan(value.error) else f'{style.plus_minus}{value.error:.{max(digits, 3)}f}'
    return style.minus(f'{value.mean:{sign}.{digits}f}') + error


def _ranked(values: Sequence[Measured], digits: int, style: Style) -> list[str]:
    """Format values: the best bold, the second underlined; values that look equal share a place."""
    shown = [round(value.mean, digits) for value in values]
    places = sorted({mean for mean in shown if not math.isnan(mean)}, reverse=True)
    marks = dict(zip(places, (style.bold, style.underlined) if len(values) > 1 else ()))
    return [marks.get(mean, str)(_text(value, digits, style)) for mean, value in zip(shown, values)]


def _caption(rows: Sequence[Row]) -> str:
    iterations = sorted({row.iterations for row in rows})
    control = select(rows, CONTROL) or list(rows)
    return (f'Mean over the seeds ± standard error; PSNR in dB. Gain: over {CONTROL}, seed by seed. Extra parameters: '
            f'what the method trains beside the student ({control[0].parameters:,} parameters). Time: of the training, '
            f'over that of {CONTROL}. {", ".join(f"{n:,}" for n in iterations)} iterations; hardware: '
            f'{", ".join(sorted({row.hardware for row in rows}))}; commits: '
            f'{", ".join(sorted({row.commit for row in rows}))}.')


def markdown_table(rows: Sequence[Row]) -> str:
    """The comparison as a Markdown table with a caption below it."""
    cells = _cells(rows, MARKDOWN)
    cells.insert(1, ['---'] * len(cells[0]))
    lines = [f'| {" | ".join(line)} |' for line in cells]
    return '\n'.join([*lines, '', _caption(rows), ''])


def latex_table(rows: Sequence[Row]) -> str:
    """The comparison as a LaTeX ``tabular`` (needs the package booktabs)."""
    cells = _cells(rows, LATEX)
    header, *lines = [' & '.join(line) + r' \\' for line in cells]
    begin = rf'\begin{{tabular}}{{l{"c" * (len(cells[0]) - 1)}}}'
    return '\n'.join([f'% {LATEX.plain(_caption(rows))}', begin, r'\toprule', header, r'\midrule', *lines,
                      r'\bottomrule', r'\end{tabular}', ''])


def curves(rows: Sequence[Row]) -> Figure:
    """Plot PSNR on the first test set, mean over the seeds, against iterations and against training time."""
    from matplotlib.figure import Figure

    testset, methods = rows[0].testset, methods_of(rows)
    figure = Figure(figsize=(12, 4.8), dpi=120, layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    unit, length = _unit(max(row.seconds for row in rows))
    for method, style in zip(methods, _styles(methods)):
        found = [{at: (seconds, psnr) for at, seconds, psnr in row.points()} for row in select(rows, method, testset)]
        shared = sorted(set.intersection(*map(set, found))) if found else []
        seconds, psnr = (np.array([np.mean([curve[at][i] for curve in found]) for at in shared]) for i in (0, 1))
        for axis, x in zip(axes, (shared, seconds / length)):
            axis.plot(x, psnr, marker='o', markersize=3, label=method, **style)
    for axis, label in zip(axes, ('iterations', f'{unit} of training')):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'PSNR on {testset}, dB')
    limits = _without_the_start([[psnr for _, _, psnr in row.points()] for row in rows if row.testset == testset])
    if limits is not None:
        axes[0].set_ylim(*limits)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', frameon=False)
    return figure


def _unit(seconds: float) -> tuple[str, int]:
    """A unit of time for an axis up to ``seconds``, and the length of the unit in seconds."""
    return next((unit for unit in (('hours', 3600), ('minutes', 60)) if seconds > 3 * unit[1]), ('seconds', 1))


def _styles(methods: Sequence[str]) -> list[dict[str, Any]]:
    """Color and dashes of each method: all differ, and the control is always black and dashed."""
    from matplotlib import colormaps

    table = colormaps['tab10' if len(methods) <= 10 else 'tab20']
    others = [{'color': table(i % table.N), 'linestyle': ('-', ':', '-.')[i // table.N % 3]}
              for i in range(len(methods))]
    return [{'color': 'black', 'linestyle': '--'} if name == CONTROL else others.pop(0) for name in methods]


def _without_the_start(series: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Limits of an axis without the first validations, whose low values would hide the differences at the end."""
    values = [value for values in series for value in values[len(values) // 3:] if math.isfinite(value)]
    if not values or min(values) == max(values):
        return None
    margin = 0.08 * (max(values) - min(values))
    return min(values) - margin, max(values) + margin


def write_report(rows: Sequence[Row], folder: Path) -> str:
    """Write ``table.md``, ``table.tex`` and ``figure.png`` beside ``results.csv``.

    Returns:
        The Markdown table.
    """
    table = markdown_table(rows)
    write_atomically(folder / 'figure.png', lambda part: curves(rows).savefig(part, format='png'))
    write_text(folder / 'table.md', table)
    write_text(folder / 'table.tex', latex_table(rows))
    return table
