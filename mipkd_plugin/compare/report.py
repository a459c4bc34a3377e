"""Table and figure of a comparison, from its rows alone."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mipkd_plugin.compare.results import Row
from mipkd_plugin.config import CONTROL


@dataclass(frozen=True)
class Measured:
    """Mean over the seeds and its standard error (NaN for a single seed)."""

    mean: float
    error: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Mean and standard error of some values; NaN where there are too few."""
        n = len(values)
        return cls(float(np.mean(values)) if n else math.nan,
                   float(np.std(values, ddof=1) / math.sqrt(n)) if n > 1 else math.nan, n)


@dataclass(frozen=True)
class Style:
    """How a table is written.

    Attributes:
        bold: Marks the best.
        underlined: Marks the second.
        plus_minus: Between mean and standard error.
        plain: Makes a text harmless.
    """

    bold: Callable[[str], str]
    underlined: Callable[[str], str]
    plus_minus: str
    plain: Callable[[str], str]


MARKDOWN = Style('**{}**'.format, '<u>{}</u>'.format, ' ± ', lambda text: text.replace('|', r'\|'))
LATEX = Style(r'\textbf{{{}}}'.format, r'\underline{{{}}}'.format, r' $\pm$ ',
              lambda text: ''.join('\\' + c if c in '_&%$#{}' else c for c in text))


def methods_of(rows: Sequence[Row]) -> list[str]:
    """All methods, in the order of the rows, the control first."""
    names = dict.fromkeys(row.method for row in rows)
    return [*([CONTROL] if CONTROL in names else []), *(name for name in names if name != CONTROL)]


def select(rows: Sequence[Row], method: str, testset: str | None = None) -> list[Row]:
    """The rows of a method, or those of one test set."""
    return [row for row in rows if row.method == method and testset in (None, row.testset)]


def gain(rows: Sequence[Row], method: str, over: str, testset: str) -> Measured:
    """PSNR over that of another method with the same seed: dB, over the seeds that both have."""
    own, other = ({row.seed: row.psnr for row in select(rows, name, testset)} for name in (method, over))
    return Measured.of([own[seed] - other[seed] for seed in own if seed in other])


def _relative_time(rows: Sequence[Row], method: str, testset: str) -> float:
    """Time of training over that of the control with the same seed, geometric mean."""
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
    columns.append([_ratio(_relative_time(rows, method, first)) for method in methods])
    columns.append([str(max(len(select(rows, method, testset)) for testset in testsets)) for method in methods])
    measures = [f'{style.plain(testset)} {metric}' for testset in testsets for metric in ('PSNR', 'SSIM')]
    header = ['method', *measures, f'gain, {style.plain(first)}', 'extra parameters', 'time', 'seeds']
    return [header, *map(list, zip(*columns))]


def _text(value: Measured, digits: int, style: Style, sign: str = '') -> str:
    if math.isnan(value.mean):
        return '–'
    error = '' if math.isnan(value.error) else f'{style.plus_minus}{value.error:.{max(digits, 3)}f}'
    return f'{value.mean:{sign}.{digits}f}{error}'


def _ratio(value: float) -> str:
    return '–' if math.isnan(value) else f'{value:.1f}'


def _ranked(values: Sequence[Measured], digits: int, style: Style) -> list[str]:
    """The best value bold, the second underlined; values that read the same share a place."""
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
    """The comparison as a Markdown table with a caption below."""
    cells = _cells(rows, MARKDOWN)
    cells.insert(1, ['---'] * len(cells[0]))
    lines = [f'| {" | ".join(line)} |' for line in cells]
    return '\n'.join([*lines, '', _caption(rows), ''])


def latex_table(rows: Sequence[Row]) -> str:
    """The comparison as a LaTeX ``tabular`` (needs the package booktabs)."""
    header, *lines = [' & '.join(line) + r' \\' for line in _cells(rows, LATEX)]
    width = len(_cells(rows, LATEX)[0])
    caption = LATEX.plain(_caption(rows)).replace('±', r'$\pm$')
    return '\n'.join([f'% {caption}', rf'\begin{{tabular}}{{l{"c" * (width - 1)}}}', r'\toprule', header, r'\midrule',
                      *(line.replace('–', '--') for line in lines), r'\bottomrule', r'\end{tabular}', ''])


def draw_curves(rows: Sequence[Row], path: Path) -> None:
    """Draw PSNR on the first test set, mean over the seeds, against iterations and against the time of training."""
    from matplotlib.figure import Figure

    testset = rows[0].testset
    figure = Figure(figsize=(12, 4.8), dpi=120, layout='constrained')
    axes = figure.subplots(1, 2, sharey=True)
    colors = _colors(len(methods_of(rows)))
    for method, color in zip(methods_of(rows), colors):
        curves = [{at: (seconds, psnr) for at, seconds, psnr in row.points()} for row in select(rows, method, testset)]
        shared = sorted(set.intersection(*map(set, curves))) if curves else []
        seconds, psnr = (np.array([np.mean([curve[at][i] for curve in curves]) for at in shared]) for i in (0, 1))
        dashed = {'linestyle': '--'} if method == CONTROL else {}
        for axis, x in zip(axes, (shared, seconds)):
            axis.plot(x, psnr, marker='o', markersize=3, color=color, label=method, **dashed)
    for axis, label in zip(axes, ('iterations', 'seconds of training')):
        axis.set_xlabel(label)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(f'PSNR on {testset}, dB')
    _leave_out_the_start(axes[0], rows, testset)
    figure.legend(*axes[0].get_legend_handles_labels(), loc='outside right center', frameon=False)
    temporary = path.with_name(f'{path.stem}.part{path.suffix}')
    figure.savefig(temporary)
    os.replace(temporary, path)


def _colors(count: int) -> list[tuple[float, ...]]:
    from matplotlib import colormaps

    table = colormaps['tab10' if count <= 10 else 'tab20']
    return ['black', *(table(i % table.N) for i in range(count - 1))]  # type: ignore[list-item]


def _leave_out_the_start(axis: object, rows: Sequence[Row], testset: str) -> None:
    """The first validations lie so low that the ends could not be told apart."""
    curves = [[psnr for _, _, psnr in row.points()] for row in rows if row.testset == testset]
    ends = [curve[len(curve) // 3:] for curve in curves]
    values = [value for end in ends for value in end]
    if values and max(values) > min(values):
        margin = 0.08 * (max(values) - min(values))
        axis.set_ylim(min(values) - margin, max(values) + margin)  # type: ignore[attr-defined]


def write_report(rows: Sequence[Row], folder: Path) -> str:
    """Write ``table.md``, ``table.tex`` and ``figure.png`` beside ``results.csv``.

    Returns:
        The Markdown table.
    """
    table = markdown_table(rows)
    for name, text in (('table.md', table), ('table.tex', latex_table(rows))):
        temporary = folder / f'{name}.part'
        temporary.write_text(text, encoding='utf-8')
        os.replace(temporary, folder / name)
    draw_curves(rows, folder / 'figure.png')
    return table
