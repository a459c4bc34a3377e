"""The gains of the comparisons that the shown weights come from."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from mipkd_plugin.compare.report import gain_table
from mipkd_plugin.compare.results import RESULTS, ResultsError, read_rows
from mipkd_plugin.pages.curves import Run


@dataclass(frozen=True)
class Gains:
    """The gains of one comparison.

    Attributes:
        path: Its ``results.csv``.
        cells: The table, header first.
        said: What its numbers mean; or why they cannot be shown, if there are no cells.
    """

    path: Path
    cells: Sequence[Sequence[str]]
    said: str


def find_gains(runs: Sequence[Run]) -> list[Gains]:
    """Find the comparisons of some runs: they hold the option files that the runs were started with.

    Args:
        runs: The runs.

    Returns:
        The gains of each comparison that has results.
    """
    folders = dict.fromkeys(options.parent.parent for run in runs if run.folder is not None for options in sorted(
        run.folder.parent.glob(f'*/options/{glob.escape(run.folder.name)}.yml')))
    found = []
    for folder in folders:
        try:
            rows = read_rows(folder / RESULTS)
            cells, said = gain_table(rows) if rows else ([], '')
        except ResultsError as error:
            cells, said = [], str(error)
        if said:
            found.append(Gains(folder / RESULTS, cells, said))
    return found


def gains_html(gains: Sequence[Gains]) -> str:
    """A table for each comparison; '' without any."""
    return ''.join(f'''<section aria-labelledby="gains{number}">
<h2 id="gains{number}">Gains in {escape(found.path.parent.name)}</h2>
{_table(found.cells)}<p class="soft">{escape(found.said)} From {escape(str(found.path))}.</p>
</section>''' for number, found in enumerate(gains, 1))


def _table(cells: Sequence[Sequence[str]]) -> str:
    if not cells:
        return ''
    head = ''.join(f'<th scope="col">{escape(cell)}</th>' for cell in cells[0])
    body = ''.join(f'<tr><th scope="row">{escape(line[0])}</th>'
                   + ''.join(f'<td>{escape(cell)}</td>' for cell in line[1:]) + '</tr>' for line in cells[1:])
    table = f'<thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
    return f'<div class="scroll" tabindex="0"><table>{table}</table></div>\n'
