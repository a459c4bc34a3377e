"""Make table and figure of a comparison from the rows of its ``results.csv``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.figure import curves
from mipkd_plugin.compare.measures import (
    CONTROLS,
    NOT_SHOWN,
    ONE_SEED,
    Measured,
    control_of,
    gain,
    is_control,
    lead,
    met_at,
    methods_of,
    milestones,
    relative_time,
    select,
    start_of,
    varied,
)
from mipkd_plugin.compare.results import Row
from mipkd_plugin.compare.times import Times
from mipkd_plugin.config.keys import RANDOM, TEACHER_SLICE
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
    columns = [[style.plain(_named(rows, method)) for method in methods]]
    starts, extra = [start_of(rows, method) for method in methods], list[str]()
    if set(starts) != {RANDOM}:
        columns.append([style.plain(_STARTS[start]) for start in starts])
        extra.append('start')
    for testset in testsets:
        columns.append(_ranked([Measured.of([row.psnr for row in select(rows, method, testset)])
                                for method in methods], 2, style))
        columns.append(_ranked([Measured.of([row.ssim for row in select(rows, method, testset)])
                                for method in methods], 4, style))
    first = testsets[0]
    over = ['' if method == CONTROL else control_of(rows, method) for method in methods]
    columns.append([_gain(gain(rows, method, control, first), style) if control else ''
                    for method, control in zip(methods, over)])
    differs = set(over) - {'', CONTROL}
    if differs:
        columns.append([style.plain(control) for control in over])
    columns.append([f'{select(rows, method)[0].training_parameters:,}' for method in methods])
    lengths = [select(rows, method)[0].iterations for method in methods]
    differ = len(set(lengths)) > 1
    if differ:
        columns.append([f'{length:,}' for length in lengths])
    columns.append([_text(Measured(relative_time(rows, method, times), math.nan, 1), 1, style) for method in methods])
    columns.append([str(max(len(select(rows, method, testset)) for testset in testsets)) for method in methods])
    measures = [f'{style.plain(testset)} {metric}' for testset in testsets for metric in ('PSNR', 'SSIM')]
    header = ['method', *extra, *measures, f'gain, {style.plain(first)}', *(['over'] if differs else []),
              'extra parameters', *(['iterations'] if differ else []), 'time', 'seeds']
    return [header, *map(list, zip(*columns))]


def _text(value: Measured, digits: int, style: Style, sign: str = '') -> str:
    if math.isnan(value.mean):
        return style.plain('–')
    error = '' if math.isnan(value.error) else f'{style.plus_minus}{value.error:.{max(digits, 3)}f}'
    return style.minus(f'{value.mean:{sign}.{digits}f}') + error


_STARTS = {RANDOM: 'random', TEACHER_SLICE: 'slice of the teacher'}


def _named(rows: Sequence[Row], method: str) -> str:
    """The name of a method in the table; that of a control says that it is one."""
    return f'{method} (no teacher)' if method not in CONTROLS and is_control(rows, method) else method


def _gain(value: Measured, style: Style, one_seed: bool = True) -> str:
    """A gain, and why it shows nothing, if it does not."""
    doubt = value.doubt if one_seed or value.doubt != ONE_SEED else ''
    return _text(value, 3, style, sign='+') + (f' ({doubt})' if doubt else '')


def _legend(texts: Iterable[str]) -> str:
    """What the marks in these texts mean, for those that are there."""
    found = '\n'.join(texts)
    return ''.join(f' {said}' for mark, said in _LEGEND.items() if f'({mark})' in found)


_LEGEND = {NOT_SHOWN: 'Not shown: smaller than two standard errors, so these seeds show neither a gain nor a loss.',
           ONE_SEED: 'One seed: there is no standard error, so it shows neither a gain nor a loss.',
           'no teacher': 'No teacher: a control.'}


def _ranked(values: Sequence[Measured], digits: int, style: Style) -> list[str]:
    """Format values: the best bold, the second underlined; values that look equal share a place."""
    shown = [round(value.mean, digits) for value in values]
    places = sorted({mean for mean in shown if not math.isnan(mean)}, reverse=True)
    marks = dict(zip(places, (style.bold, style.underlined) if len(values) > 1 else ()))
    return [marks.get(mean, str)(_text(value, digits, style)) for mean, value in zip(shown, values)]


def _caption(rows: Sequence[Row], cells: Sequence[Sequence[str]]) -> str:
    """What the numbers in the cells are."""
    iterations = sorted({row.iterations for row in rows})
    control = select(rows, CONTROL) or list(rows)
    over = f'{CONTROL}, or what the column says' if 'over' in cells[0] else CONTROL
    return (f'Mean over the seeds ± standard error; PSNR in dB. Gain: over {over}, seed by seed. Extra parameters: '
            f'what the method trains beside the student ({control[0].parameters:,} parameters). Time: of the training, '
            f'over that of {CONTROL}, by step time. {", ".join(f"{n:,}" for n in iterations)} iterations; hardware: '
            f'{", ".join(sorted({row.hardware for row in rows}))}; commits: '
            f'{", ".join(sorted({row.commit for row in rows}))}.{_legend(chain(*cells))}')


def markdown_table(rows: Sequence[Row], times: Times) -> str:
    """The comparison as a Markdown table and its caption, then leads over the control, and changes of an ablation."""
    cells, lead_cells = _cells(rows, MARKDOWN, times), _lead_cells(rows)
    parts = [*_lines(cells), '', _caption(rows, cells), '']
    if lead_cells:
        over = CONTROL if f'met by {CONTROL}' in lead_cells[0] else 'the control'
        parts += [f'Lead over {over} in dB, {rows[0].testset}, seed by seed, after so many iterations. Met by '
                  f'{over}: from this iteration on it is level or ahead.{_legend(chain(*lead_cells))}', '',
                  *_lines(lead_cells), '']
    changes = _change_cells(rows)
    if changes:
        methods = ' and '.join(dict.fromkeys(varied(rows).values()))
        parts += [f'What each change does: PSNR in dB over {methods} as it is, seed by seed.{_legend(chain(*changes))}',
                  '', *_lines(changes), '']
    return '\n'.join(parts)


def _change_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The variants of an ablation against the method that they vary, header first; empty if there are none."""
    testsets, found = list(dict.fromkeys(row.testset for row in rows)), varied(rows)
    cells = [['change', *testsets, 'seeds']]
    for variant, method in found.items():
        changes = [gain(rows, variant, method, testset) for testset in testsets]
        cells.append([MARKDOWN.plain(variant.removeprefix(f'{method} ')),
                      *(_gain(change, MARKDOWN) for change in changes), str(max(c.count for c in changes))])
    return cells if found else []


def _lines(cells: list[list[str]]) -> list[str]:
    """The lines of a Markdown table; the first one of ``cells`` is the header."""
    header, *rest = cells
    return [f'| {" | ".join(line)} |' for line in (header, ['---'] * len(header), *rest)]


def _lead_cells(rows: Sequence[Row]) -> list[list[str]]:
    """The lead of each method over the control in the course of the training, header first; empty if there is none."""
    testset = rows[0].testset
    over = {method: control_of(rows, method) for method in methods_of(rows) if method not in CONTROLS}
    leads = {method: lead(rows, method, testset, control) for method, control in over.items()}
    leads = {method: found for method, found in leads.items() if found}
    if not leads:
        return []
    shown = milestones(sorted(set.intersection(*map(set, leads.values()))))
    has_equal_time = any(row.method == EQUAL_TIME for row in rows)
    differs = set(over.values()) != {CONTROL}
    cells = [['method', *(['over'] if differs else []), *(f'{at:,}' for at in shown),
              f'met by {"the control" if differs else CONTROL}',
              *([f'over {EQUAL_TIME}'] if has_equal_time else [])]]
    for method, found in leads.items():
        met = met_at(found)
        end = [_gain(gain(rows, method, EQUAL_TIME, testset), MARKDOWN, one_seed=False)] if has_equal_time else []
        cells.append([MARKDOWN.plain(_named(rows, method)), *([MARKDOWN.plain(over[method])] if differs else []),
                      *(_gain(found[at], MARKDOWN, one_seed=False) for at in shown),
                      '–' if met is None else f'{met:,}', *end])
    return cells


def gain_table(rows: Sequence[Row]) -> tuple[list[list[str]], str]:
    """The gains of all methods on all test sets, as plain text.

    Args:
        rows: Rows of ``results.csv``.

    Returns:
        The cells, header first; and what they mean. No cells if there is nothing but the control.
    """
    testsets = list(dict.fromkeys(row.testset for row in rows))
    over = {method: control_of(rows, method) for method in methods_of(rows) if method != CONTROL}
    cells = [['method', 'start', 'over', *(f'gain, {testset}' for testset in testsets), 'seeds']]
    for method, control in over.items():
        gains = [gain(rows, method, control, testset) for testset in testsets]
        cells.append([_named(rows, method), _STARTS[start_of(rows, method)], control,
                      *(_gain(found, MARKDOWN) for found in gains), str(max(found.count for found in gains))])
    said = f'PSNR in dB, mean over the seeds ± standard error, seed by seed.{_legend(chain(*cells))}'
    return (cells if over else []), said


def latex_table(rows: Sequence[Row], times: Times) -> str:
    """The comparison as a LaTeX ``tabular`` (needs the package booktabs)."""
    cells = _cells(rows, LATEX, times)
    header, *lines = [' & '.join(line) + r' \\' for line in cells]
    begin = rf'\begin{{tabular}}{{l{"c" * (len(cells[0]) - 1)}}}'
    return '\n'.join([f'% {LATEX.plain(_caption(rows, cells))}', begin, r'\toprule', header, r'\midrule', *lines,
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
