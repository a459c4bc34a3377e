"""Make table and figure of a comparison from the rows of its ``results.csv``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.figure import curves
from mipkd_plugin.compare.measures import (
    CONTROLS,
    Measured,
    gain,
    lead,
    met_at,
    methods_of,
    milestones,
    relative_time,
    select,
)
from mipkd_plugin.compare.results import Row
from mipkd_plugin.compare.times import Times
from mipkd_plugin.utils.files import write_atomically, write_text


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


def _cells(rows: Sequence[Row], style: Style, times: Times) -> list[list[str]]:
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
    lengths = [select(rows, method)[0].iterations for method in methods]
    differ = len(set(lengths)) > 1
    if differ:
        columns.append([f'{length:,}' for length in lengths])
    columns.append([_text(Measured(relative_time(rows, method, times), math.nan, 1), 1, style) for method in methods])
    columns.append([str(max(len(select(rows, method, testset)) for testset in testsets)) for method in methods])
    measures = [f'{style.plain(testset)} {metric}' for testset in testsets for metric in ('PSNR', 'SSIM')]
    header = ['method', *measures, f'gain, {style.plain(first)}', 'extra parameters',
              *(['iterations'] if differ else []), 'time', 'seeds']
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
            f'over that of {CONTROL}, by step time. {", ".join(f"{n:,}" for n in iterations)} iterations; hardware: '
            f'{", ".join(sorted({row.hardware for row in rows}))}; commits: '
            f'{", ".join(sorted({row.commit for row in rows}))}.')


def markdown_table(rows: Sequence[Row], times: Times) -> str:
    """The comparison as a Markdown table with a caption below it, and a second table of the lead over the control."""
    lead_cells = _lead_cells(rows)
    parts = [*_lines(_cells(rows, MARKDOWN, times)), '', _caption(rows), '']
    if lead_cells:
        parts += [f'Lead over {CONTROL} in dB, {rows[0].testset}, seed by seed, after so many iterations. Met by '
                  f'{CONTROL}: from this iteration on it is level or ahead.', '', *_lines(lead_cells), '']
    return '\n'.join(parts)


def _lines(cells: list[list[str]]) -> list[str]:
    """The lines of a Markdown table; the first one of ``cells`` is the header."""
    header, *rest = cells
    return [f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *rest)]


def _lead_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The lead of each method over the control in the course of the training, header first; empty if there is none."""
    testset = rows[0].testset
    leads = {method: lead(rows, method, testset) for method in methods_of(rows) if method not in CONTROLS}
    leads = {method: found for method, found in leads.items() if found}
    if not leads:
        return []
    shown = milestones(sorted(set.intersection(*map(set, leads.values()))))
    has_equal_time = any(row.method == EQUAL_TIME for row in rows)
    cells = [['method', *(f'{at:,}' for at in shown), f'met by {CONTROL}',
              *([f'over {EQUAL_TIME}'] if has_equal_time else [])]]
    for method, found in leads.items():
        met = met_at(found)
        end = [_text(gain(rows, method, EQUAL_TIME, testset), 3, MARKDOWN, sign='+')] if has_equal_time else []
        cells.append([MARKDOWN.plain(method), *(_text(found[at], 3, MARKDOWN, sign='+') for at in shown),
                      '–' if met is None else f'{met:,}', *end])
    return cells


def latex_table(rows: Sequence[Row], times: Times) -> str:
    """The comparison as a LaTeX ``tabular`` (needs the package booktabs)."""
    cells = _cells(rows, LATEX, times)
    header, *lines = [' & '.join(line) + r' \\' for line in cells]
    begin = rf'\begin{{tabular}}{{l{"c" * (len(cells[0]) - 1)}}}'
    return '\n'.join([f'% {LATEX.plain(_caption(rows))}', begin, r'\toprule', header, r'\midrule', *lines,
                      r'\bottomrule', r'\end{tabular}', ''])


def write_report(rows: Sequence[Row], times: Times, folder: Path) -> str:
    """Write ``table.md``, ``table.tex`` and ``figure.png`` beside ``results.csv``.

    Args:
        rows: Rows of ``results.csv``.
        times: Lines of ``times.csv`` by method.
        folder: Their folder.

    Returns:
        The Markdown table.
    """
    table = markdown_table(rows, times)
    write_atomically(folder / 'figure.png', lambda part: curves(rows, times).savefig(part, format='png'))
    write_text(folder / 'table.md', table)
    write_text(folder / 'table.tex', latex_table(rows, times))
    return table
