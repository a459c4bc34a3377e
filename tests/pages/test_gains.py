"""The gains in a page of ``mipkd show``: found from the runs, marked as in the tables, and escaped."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mipkd_plugin.compare.logs import History
from mipkd_plugin.compare.report import gain_table
from mipkd_plugin.compare.results import Row, write_rows
from mipkd_plugin.compare.trials import Comparison
from mipkd_plugin.pages.curves import Run
from mipkd_plugin.pages.gains import find_gains, gains_html

BASE = Row('none', 0, 'Set5', 30.0, 0.9, 100, 1.0, 5, 0, '100:30.0', '1.0', 'abc', 'CPU', 'p', '[]')
LOSSES = '[{"type": "LogitsKDLoss"}]'
ROWS = [replace(BASE, seed=seed, method=method, psnr=30 + gain, losses='[]' if method == 'none' else LOSSES)
        for method, gains in (('none', (0, 0)), ('a<b', (0.5, 1.0)), ('weak', (-0.5, 1.0)))
        for seed, gain in enumerate(gains)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run of a comparison that has results."""
    folder = tmp_path / 'experiments' / 'cmp_a_seed0'
    options = tmp_path / 'experiments' / 'cmp' / 'options'
    for path in (folder, options):
        path.mkdir(parents=True)
    (options / 'cmp_a_seed0.yml').write_text('')
    comparison = Comparison('cmp', [], [], {}, ['Set5'], ('psnr', 'ssim'), 100, 'p')
    write_rows(options.parent / 'results.csv', ROWS, comparison)
    return Run('a', folder, History(), 100)


def test_gains_are_found_marked_and_escaped(run: Run) -> None:
    found, = find_gains([run, run, Run('other', None, History(), None)])
    assert found.path.parts[-2:] == ('cmp', 'results.csv')
    assert [list(line) for line in found.cells] == [
        ['method', 'start', 'over', 'gain, Set5', 'seeds'], ['a<b', 'random', 'none', '+0.750 ± 0.250', '2'],
        ['weak', 'random', 'none', '+0.250 ± 0.750 (not shown)', '2']]
    text = gains_html([found])
    assert '<th scope="row">a&lt;b</th>' in text
    assert '<td>+0.250 ± 0.750 (not shown)</td>' in text
    assert 'Not shown: smaller than two standard errors, so these seeds show neither a gain nor a loss.' in text
    assert 'Gains in cmp' in text


def test_a_damaged_file_is_said_and_a_missing_one_is_not(run: Run) -> None:
    results = run.folder.parent / 'cmp' / 'results.csv'
    results.write_text('x\n')
    text = gains_html(find_gains([run]))
    assert 'results.csv' in text
    assert '<table>' not in text
    results.unlink()
    assert gains_html(find_gains([run])) == ''
    assert gains_html(find_gains([Run('a', run.folder.parent, History(), 1)])) == ''


def test_the_control_alone_has_no_gains() -> None:
    assert gain_table(ROWS[:2])[0] == []
