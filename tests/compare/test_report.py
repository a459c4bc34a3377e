"""Tables and figures of comparisons, from the rows of results.csv alone; and what log files tell."""

from __future__ import annotations

import csv
import io
import itertools
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import REPO
from PIL import Image
from training import comparison_options, write_options

from mipkd_plugin import config
from mipkd_plugin.compare import Comparison, Trial, read_comparison
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare.logs import progress, read_history
from mipkd_plugin.compare.figure import curves
from mipkd_plugin.compare.measures import gain, methods_of, milestones
from mipkd_plugin.compare.report import latex_table, markdown_table, write_report
from mipkd_plugin.compare.results import COLUMNS, ResultsError, Row, read_rows, refuse_other_protocol, write_rows
from mipkd_plugin.compare.times import MethodTime, read_times

Make = Callable[..., dict[str, Any]]


def losses_of(method: str) -> str:
    return '[]' if method.startswith('none') else '[{"type": "FitNetLoss", "taps": 3}]'


def row(method: str, seed: int, psnr: float, ssim: float = 0.9, seconds: float = 10, **changes: Any) -> Row:
    values = {'method': method, 'seed': seed, 'testset': 'Set5', 'psnr': psnr, 'ssim': ssim, 'iterations': 4000,
              'seconds': seconds, 'parameters': 6867, 'training_parameters': 0 if method == 'none' else 1234567,
              'curve': f'2000:{psnr - 1:.4f} 4000:{psnr:.4f}', 'curve_seconds': f'{seconds / 2} {seconds}',
              'commit': 'abc1234', 'hardware': 'CPU', 'protocol_hash': '0123456789ab',
              'losses': losses_of(method)}
    return Row(**{**values, **changes})


ROWS = [row('none', 0, 30.00, 0.9000, 10), row('none', 1, 30.02, 0.9010, 20), row('none', 2, 30.07, 0.9020, 10),
        row('best', 0, 30.30, 0.9100, 20), row('best', 1, 30.36, 0.9102, 40), row('best', 2, 30.30, 0.9104, 20),
        row('second', 0, 30.10, 0.9051, 30), row('second', 1, 30.11, 0.9051, 60), row('second', 2, 30.12, 0.9051, 120)]


def taken(method: str, distilling: float, until: float = 1.0, **changes: Any) -> MethodTime:
    values = {'method': method, 'distilling': distilling, 'until': until, 'time': until * distilling + 1 - until,
              'memory': None, 'hardware': 'CPU', 'commit': 'abc1234', 'protocol_hash': '0123456789ab',
              'losses': losses_of(method)}
    return MethodTime(**{**values, **changes})


TIMES = {found.method: found for found in (taken('none', 1), taken('best', 2), taken('second', 12.0, 0.5))}


def cells(table: str, number: int = 0) -> dict[str, list[str]]:
    """First cell of each line → the others, of one of the Markdown tables of a report."""
    lines = [line for line in table.splitlines() if not line or line[0] == '|']
    tables = [list(group) for found, group in itertools.groupby(lines, bool) if found]
    found = [[cell.strip() for cell in line.strip('|').split('|')] for line in tables[number]]
    return {line[0]: line[1:] for line in found}


# --------------------------------------------------------------------------------------------- the table
def test_a_table_worked_out_by_hand() -> None:
    found = cells(markdown_table(ROWS, TIMES))
    assert list(found) == ['method', '---', 'none', 'best', 'second']
    assert found['method'] == ['Set5 PSNR', 'Set5 SSIM', 'gain, Set5', 'extra parameters', 'time', 'seeds']
    # 30.00 30.02 30.07: mean 30.03, deviations -.03 -.01 .04, variance .0026 / 2 = .0013, error sqrt(.0013 / 3) = .0208
    assert found['none'] == ['30.03 ± 0.021', '0.9010 ± 0.0006', '', '0', '1.0', '3']
    # gains .30 .34 .23: mean .29, deviations .01 .05 -.06, variance .0062 / 2, error sqrt(.0031 / 3) = .0321
    assert found['best'] == ['**30.32 ± 0.020**', '**0.9102 ± 0.0001**', '+0.290 ± 0.032', '1,234,567', '2.0', '3']
    # an iteration costs 12 in the first half, 1 in the second: (12 + 1) / 2 = 6.5; gains .10 .09 .05: mean .08
    assert found['second'] == ['<u>30.11 ± 0.006</u>', '<u>0.9051 ± 0.0000</u>', '+0.080 ± 0.015', '1,234,567', '6.5',
                               '3']


def test_gains_are_taken_seed_by_seed() -> None:
    rows = [row('none', 0, 30), row('none', 1, 31), row('none', 2, 35), row('m', 1, 31.5), row('m', 0, 30.3),
            row('m', 9, 90)]
    measured = gain(rows, 'm', 'none', 'Set5')
    assert (measured.mean, measured.count) == (pytest.approx(0.4), 2)
    assert measured.error == pytest.approx(0.1)
    assert math.isnan(gain(rows, 'm', 'x', 'Set5').mean)


def test_seeds_that_are_missing() -> None:
    found = cells(markdown_table([*ROWS[:3], ROWS[3], row('alone', 7, 29, seconds=5), *ROWS[6:8]], TIMES))
    assert found['best'] == ['**30.30**', '**0.9100**', '+0.300 (one seed)', '1,234,567', '2.0', '1']
    assert found['second'][2:] == ['+0.095 ± 0.005', '1,234,567', '6.5', '2']
    assert found['alone'] == ['29.00', '0.9000', '–', '1,234,567', '–', '1']  # no control of its seed


def test_values_that_read_the_same_share_a_place() -> None:
    found = cells(markdown_table([row('none', 0, 30.001, 0.8), row('a', 0, 30.2049, 0.9), row('b', 0, 30.2011, 0.9),
                                  row('c', 0, 30.104, 0.7)], {}))
    assert [found[name][0] for name in ('none', 'a', 'b', 'c')] == ['30.00', '**30.20**', '**30.20**', '<u>30.10</u>']
    assert [found[name][1] for name in ('none', 'a', 'b', 'c')] == [
        '<u>0.8000</u>', '**0.9000**', '**0.9000**', '0.7000']


def test_one_method_is_not_the_best_of_one() -> None:
    assert cells(markdown_table([row('none', 0, 30.0)], {}))['none'][:3] == ['30.00', '0.9000', '']


def test_values_that_are_no_numbers() -> None:
    rows = [row('none', 0, 30.0), row('broken', 0, math.nan, math.nan, 0), row('perfect', 0, math.inf)]
    found = cells(markdown_table(rows, {}))
    assert found['broken'] == ['–', '–', '–', '1,234,567', '–', '1']
    assert found['perfect'][0] == '**inf**'
    curves(rows, {})


def test_several_test_sets() -> None:
    rows = [row(method, 0, psnr, testset=testset) for method, psnr in (('none', 30), ('m', 31))
            for testset in ('Kodak24', 'Set5')]
    found = cells(markdown_table(rows, {}))
    assert found['method'][:5] == ['Kodak24 PSNR', 'Kodak24 SSIM', 'Set5 PSNR', 'Set5 SSIM', 'gain, Kodak24']
    assert found['m'][4:] == ['+1.000 (one seed)', '1,234,567', '–', '1']


def test_the_caption_says_what_was_measured() -> None:
    rows = [*ROWS, row('late', 0, 30.0, commit='def5678+', hardware='NVIDIA H100', iterations=5000)]
    caption = next(line for line in markdown_table(rows, {}).splitlines() if line.startswith('Mean'))
    assert caption == (
        'Mean over the seeds ± standard error; PSNR in dB. Gain: over none, seed by seed. Extra parameters: what the '
        'method trains beside the student (6,867 parameters). Time: of the training, over that of none, by step '
        'time. 4,000, 5,000 iterations; hardware: CPU, NVIDIA H100; commits: abc1234, def5678+. One seed: there is no '
        'standard error, so it shows neither a gain nor a loss.')


def test_the_control_comes_first() -> None:
    assert methods_of([row('b', 0, 1), row('none', 0, 1), row('a', 0, 1), row('b', 1, 1)]) == ['none', 'b', 'a']
    assert methods_of([row('b', 0, 1), row('a', 0, 1)]) == ['b', 'a']


def test_latex() -> None:
    table = latex_table([row('none', 0, 30, testset='DIV2K_100%'), row('none', 1, 30.1, testset='DIV2K_100%'),
                         row('m mask_ratio=0.5', 0, 29.9, testset='DIV2K_100%'), row(r'a\b~{^}<&#$', 0, 29,
                                                                                   testset='DIV2K_100%')], TIMES)
    lines = table.splitlines()
    assert lines[0].startswith(r'% Mean over the seeds $\pm$ standard error')
    assert lines[1:4] == [r'\begin{tabular}{lcccccc}', r'\toprule',
                          r'method & DIV2K\_100\% PSNR & DIV2K\_100\% SSIM & gain, DIV2K\_100\% & extra parameters & '
                          r'time & seeds \\']
    assert lines[5] == r'none & \textbf{30.05 $\pm$ 0.050} & \textbf{0.9000 $\pm$ 0.0000} &  & 0 & 1.0 & 2 \\'
    assert lines[6] == (r'm mask\_ratio=0.5 & \underline{29.90} & \textbf{0.9000} & $-$0.100 (one seed) & 1,234,567 & '
                        r'-- & 1 \\')
    assert lines[7].startswith(r'a\textbackslash{}b\textasciitilde{}\{\textasciicircum{}\}\textless{}\&\#\$ & 29.00')
    assert lines[8:] == [r'\bottomrule', r'\end{tabular}']
    assert {line.count(' & ') for line in lines[5:8]} == {6}
    assert 'none & 30.00 & 0.9000 &  & 0 & 1.0 & 1' in latex_table([row('none', 0, 30)], TIMES)
    assert ' & -- & ' in latex_table([row('none', 0, 30), row('m', 1, 30)], {})


def test_a_bar_in_a_name_ends_no_cell() -> None:
    assert r'| a\|b |' in markdown_table([row('none', 0, 30), row('a|b', 0, 30)], {})


# --------------------------------------------------------------------------------------------- equal time, and the lead
LONG = [row('none (equal time)', seed, psnr, iterations=14800, curve=f'7400:{psnr - 1} 14800:{psnr}')
        for seed, psnr in ((0, 30.2), (1, 30.4), (2, 30.3))]


def test_the_control_of_equal_time_stands_below_the_control() -> None:
    found = cells(markdown_table([*ROWS, *LONG], TIMES))
    assert list(found) == ['method', '---', 'none', 'none (equal time)', 'best', 'second']
    assert found['method'][-3:] == ['iterations', 'time', 'seeds']
    assert [line[-3:] for name, line in found.items() if name[:3] not in ('met', '---')] == [
        ['4,000', '1.0', '3'], ['14,800', '3.7', '3'], ['4,000', '2.0', '3'], ['4,000', '6.5', '3']]
    assert ' & iterations & time & seeds ' in latex_table([*ROWS, *LONG], TIMES)


def test_times_of_other_losses_are_not_shown() -> None:
    times = {**TIMES, 'best': taken('best', 2, losses='[{"type": "LogitsKDLoss"}]')}
    assert cells(markdown_table(ROWS, times))['best'][-2] == '–'
    assert curves(ROWS, times).axes[1].get_lines()[-1].get_xdata()[-1] == 12 * 2000 + 2000
    assert len(curves(ROWS, times).axes[1].get_lines()) == 2


def test_the_lead_in_the_course_of_the_training() -> None:
    def method(name: str, *leads: tuple[float, ...], base: float = 30.0) -> list[Row]:
        texts = [' '.join(f'{1000 * at}:{base + seed + gained:.4f}' for at, gained in enumerate(one, 1))
                 for seed, one in enumerate(leads)]
        return [row(name, seed, 31, curve=text, curve_seconds='1 2 3 4 5') for seed, text in enumerate(texts)]

    rows = [*method('none', (0, 0, 0, 0, 0), (0, 0, 0, 0, 0)), *method('ahead', (2, 1, 1, 1, 0.5), (4, 1, 1, 1, 0.7)),
            *method('behind', (-1, -1, -1, -1, -1), (-1, -1, -1, -1, -1)),
            *method('met', (1, -1, 0.2, 0, -1), (1, -1, 0.2, -0.2, -1))]
    found = cells(markdown_table(rows, {}), 1)
    assert found['method'] == ['1,000', '2,000', '4,000', '5,000', 'met by none']
    assert found['ahead'] == ['+3.000 ± 1.000', '+1.000 ± 0.000', '+1.000 ± 0.000', '+0.600 ± 0.100', '–']
    assert found['behind'][-1] == '1,000'
    assert found['met'] == ['+1.000 ± 0.000', '-1.000 ± 0.000', '-0.100 ± 0.100 (not shown)', '-1.000 ± 0.000',
                            '4,000']
    assert 'Lead over none in dB, Set5, seed by seed, after so many iterations.' in markdown_table(rows, {})
    found = cells(markdown_table([*ROWS, *LONG], TIMES), 1)
    assert found['method'] == ['2,000', '4,000', 'met by none', 'over none (equal time)']
    # .10 -.04 .00: mean .02, error sqrt(.0104 / 2 / 3) = .0416
    assert found['best'][-1] == '+0.020 ± 0.042 (not shown)'
    assert 'Lead' not in markdown_table([*ROWS[:3], *LONG], {})
    assert 'Lead' not in markdown_table([row('none', 0, 30), row('m', 1, 31)], {})  # no seed in common


# --------------------------------------------------------------------------------------------- what is not shown
def pair(*gains: float) -> list[Row]:
    return [*(row('none', seed, 30) for seed in range(len(gains))),
            *(row('m', seed, 30 + gained) for seed, gained in enumerate(gains))]


@pytest.mark.parametrize(('gains', 'cell'), [
    ((0.1, 0.5, 0.3), '+0.300 ± 0.115'),  # 0.3 is above 0.23
    ((0.01, 0.5, 0.3), '+0.270 ± 0.142 (not shown)'), ((-0.01, -0.5, -0.3), '-0.270 ± 0.142 (not shown)'),
    ((-0.1, -0.5, -0.3), '-0.300 ± 0.115'), ((0, 0), '+0.000 ± 0.000 (not shown)'),
    ((0.25, 0.25), '+0.250 ± 0.000'), ((0.25, ), '+0.250 (one seed)'),
    ((0.0, 1.0), '+0.500 ± 0.500 (not shown)'), ((0.5, 1.5), '+1.000 ± 0.500')])  # just two standard errors
def test_gains_within_two_standard_errors_are_not_shown(gains: tuple[float, ...], cell: str) -> None:
    table, latex = markdown_table(pair(*gains), {}), latex_table(pair(*gains), {})
    assert cells(table)['m'][2] == cell
    assert cell.replace('±', r'$\pm$').replace('-', '$-$') in latex
    for text in (table, latex):
        assert ('Not shown: smaller than two standard errors, so these' in text) is ('not shown' in cell)
        assert ('One seed: there is no standard error, so it shows ' in text) is ('one seed' in cell)


def test_an_ablation_says_what_each_change_does() -> None:
    rows = [row('none', seed, 30) for seed in (0, 1, 2)]
    for method, values in (('best', (31.0, 31.2, 31.1)), ('best taps=1', (31.1, 31.32, 31.21)),
                           ('best taps=5', (31.0, 31.2, 31.11)), ('best encoders=shared', (30.5, )),
                           ('other', (31, 31, 31))):
        rows += [row(method, seed, value) for seed, value in enumerate(values)]
    table = markdown_table(rows, {}).split('What each change does: ')[1]
    assert table == '\n'.join([
        'PSNR in dB over best as it is, seed by seed. Not shown: smaller than two standard errors, so these seeds show '
        'neither a gain nor a loss. One seed: there is no standard error, so it shows neither a gain nor a loss.', '',
        '| change | Set5 | seeds |', '| --- | --- | --- |', '| taps=1 | +0.110 ± 0.006 | 3 |',
        '| taps=5 | +0.003 ± 0.003 (not shown) | 3 |', '| encoders=shared | -0.500 (one seed) | 1 |', ''])
    assert 'What each change does' not in markdown_table(ROWS, TIMES)


def test_the_legend_stands_where_the_marks_are() -> None:
    """The gain at the end is shown, one on the way is not: the second table has the legend, the first has none."""
    rows = [row('none', seed, 30, curve='1000:29 4000:30') for seed in (0, 1)]
    rows += [row('m', seed, 31, curve=f'1000:{29 + seed} 4000:31') for seed in (0, 1)]
    first, second = markdown_table(rows, {}).split('Lead over')
    assert 'Not shown' not in first
    assert 'Not shown' in second
    assert '+0.500 ± 0.500 (not shown) | +1.000 ± 0.000' in second


# --------------------------------------------------------------------------------------------- starts and controls
SLICE = '{"init": "teacher_slice", "losses": []}'
SLICED = '{"init": "teacher_slice", "losses": [{"type": "LogitsKDLoss"}]}'
STARTS = [*(row('none', seed, 30 + seed) for seed in (0, 1)),
          *(row('none_slice', seed, 30.5 + seed, losses=SLICE) for seed in (0, 1)),
          *(row('kd', seed, 30.2 + seed) for seed in (0, 1)),
          *(row('kd_slice', seed, 30.6 + seed, losses=SLICED) for seed in (0, 1)),
          *(row('augment', seed, 30.1 + seed, losses='[{"type": "AugmentedPixelLoss"}]') for seed in (0, 1)),
          *(row('eco', seed, 30.3 + seed, losses='{"eco": {}}') for seed in (0, 1))]
ECO_SLICE = '{"eco": {"mode": "full"}, "init": "teacher_slice"}'
AUGMENT_SLICE = '{"init": "teacher_slice", "losses": [{"type": "AugmentedPixelLoss"}]}'
AUGMENT_ECO = '{"eco": {}, "losses": [{"type": "AugmentedPixelLoss"}]}'


def test_each_row_says_its_start_and_the_control_of_its_gain() -> None:
    table = markdown_table(STARTS, {})
    found = cells(table)
    assert found['method'][:5] == ['start', 'Set5 PSNR', 'Set5 SSIM', 'gain, Set5', 'over']
    assert {name: [line[0], *line[3:5]] for name, line in found.items() if name not in ('method', '---')} == {
        'none': ['random', '', ''], 'kd': ['random', '+0.200 ± 0.000', 'none'],
        'none_slice (no teacher)': ['slice of the teacher', '+0.500 ± 0.000', 'none'],
        'kd_slice': ['slice of the teacher', '+0.100 ± 0.000', 'none_slice'],
        'augment (no teacher)': ['random', '+0.100 ± 0.000', 'none'], 'eco': ['random', '+0.300 ± 0.000', 'none']}
    assert 'Gain: over none, or what the column says, seed by seed.' in table
    assert 'No teacher: a control.' in table
    lead = cells(table, 1)
    assert lead['method'] == ['over', '2,000', '4,000', 'met by the control']
    assert lead['kd_slice'] == ['none_slice', '+0.100 ± 0.000', '+0.100 ± 0.000', '–']
    assert 'none_slice (no teacher)' in lead
    assert r'kd\_slice & slice of the teacher & ' in latex_table(STARTS, {})
    curves(STARTS, {})


def test_what_stands_beside_a_start_is_measured_against_that_start() -> None:
    """ECO learns from a teacher, alone or beside a control's loss; a control with losses is none of a start."""
    rows = [row('none', 0, 30), row('eco_slice', 0, 31, losses=ECO_SLICE), row('none_slice', 0, 30.5, losses=SLICE),
            row('augment_slice', 0, 30.7, losses=AUGMENT_SLICE), row('augment_eco', 0, 30.1, losses=AUGMENT_ECO)]
    found = cells(markdown_table(rows, {}))
    assert {name: line[3:5] for name, line in found.items() if name not in ('method', '---')} == {
        'none': ['', ''], 'eco_slice': ['+0.500 (one seed)', 'none_slice'],
        'none_slice (no teacher)': ['+0.500 (one seed)', 'none'],
        'augment_slice (no teacher)': ['+0.200 (one seed)', 'none_slice'],
        'augment_eco': ['+0.100 (one seed)', 'none']}


def test_without_the_control_of_its_start_a_gain_is_over_none() -> None:
    rows = [row for row in STARTS if row.method in ('none', 'kd_slice')]
    found = cells(markdown_table(rows, {}))
    assert found['method'][:4] == ['start', 'Set5 PSNR', 'Set5 SSIM', 'gain, Set5']
    assert found['method'][4] == 'extra parameters'
    assert found['kd_slice'][3] == '+0.600 ± 0.000'


def test_a_gain_on_a_pool_of_crops_is_over_the_control_on_that_pool() -> None:
    """Whatever order the methods have; where no control has as many crops, over the one without a pool."""
    few, sliced = '"crops": 256', '"init": "teacher_slice"'
    rows = [row('none', 0, 30), row('few_slice', 0, 31, losses=f'{{{few}, {sliced}}}'),
            row('slice', 0, 31.5, losses=f'{{{sliced}}}'), row('few', 0, 30.5, losses=f'{{{few}, "init": "random"}}'),
            row('kd_slice', 0, 32, losses=f'{{{sliced}, "losses": [{{"type": "LogitsKDLoss"}}]}}'),
            row('kd_few_slice', 0, 32, losses=f'{{{few}, {sliced}, "losses": [{{"type": "LogitsKDLoss"}}]}}'),
            row('kd_few', 0, 32, losses=f'{{{few}, "losses": [{{"type": "LogitsKDLoss"}}]}}'),
            row('kd_many', 0, 32, losses='{"crops": 512, "losses": [{"type": "LogitsKDLoss"}]}')]
    over = {name: line[4] for name, line in cells(markdown_table(rows, {})).items() if name.startswith('kd')}
    assert over == {'kd_slice': 'slice', 'kd_few_slice': 'few_slice', 'kd_few': 'few', 'kd_many': 'none'}


def test_when_all_start_from_a_slice_the_control_is_none() -> None:
    rows = [*(row('none', 0, 30, losses=SLICE), row('kd', 0, 31, losses=SLICED))]
    found = cells(markdown_table(rows, {}))
    assert list(found) == ['method', '---', 'none', 'kd']
    assert found['kd'][0] == 'slice of the teacher'
    assert found['method'][3:5] == ['gain, Set5', 'extra parameters']


@pytest.mark.parametrize(('iterations', 'found'), [
    ([], []), ([5], [5]), ([2000, 4000, 5000], [2000, 4000, 5000]),
    ([5000 * i for i in range(1, 13)], [5000, 15000, 30000, 45000, 60000])])
def test_a_few_of_many_validations(iterations: list[int], found: list[int]) -> None:
    assert milestones(iterations) == found


# --------------------------------------------------------------------------------------------- the figure
def test_time_is_counted_in_iterations_of_the_control() -> None:
    figure = curves([*ROWS, *LONG], TIMES)
    left, right = figure.axes
    assert right.get_xlabel() == 'time, in iterations of none'
    ends = [line.get_xdata().tolist() for line in right.get_lines()]
    assert ends == [[2000, 4000], [7400, 14800], [4000, 8000], [24000, 26000]]  # second: 12 until 2,000, then 1
    assert left.get_xlim() == (0, 1.04 * 4000)
    assert (left.get_lines()[1].get_color(), left.get_lines()[1].get_linestyle()) == ('black', ':')
    assert curves(ROWS, TIMES).axes[0].get_xlim()[1] > 4000


def test_curves_are_means_over_the_seeds() -> None:
    rows = [row('none', 0, 30, seconds=100), row('none', 1, 32, seconds=300), row('m', 0, 33, seconds=170),
            row('m', 1, 35, curve='4000:35', curve_seconds='90'), row('m', 0, 99, testset='Set14')]
    figure = curves(rows, {})
    left, right = figure.axes
    assert [axis.get_xlabel() for axis in (left, right)] == ['iterations', 'minutes of training']
    assert left.get_ylabel() == 'PSNR on Set5, dB'
    lines = {line.get_label(): line for line in left.get_lines()}
    assert list(lines) == ['none', 'm']
    assert np.allclose(lines['none'].get_xydata(), [[2000, 30], [4000, 31]])
    assert np.allclose(lines['m'].get_xydata(), [[4000, 34]])  # where all seeds were validated
    assert np.allclose(right.get_lines()[0].get_xydata(), [[100 / 60, 30], [200 / 60, 31]])
    assert (lines['none'].get_color(), lines['none'].get_linestyle()) == ('black', '--')
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ['none', 'm']


@pytest.mark.parametrize(('seconds', 'unit', 'end'), [
    (100, 'seconds', 100), (600, 'minutes', 10), (10_800, 'minutes', 180), (36_000, 'hours', 10)])
def test_a_fitting_unit_of_time(seconds: float, unit: str, end: float) -> None:
    axis = curves([row('none', 0, 30, seconds=seconds)], {}).axes[1]
    assert axis.get_xlabel() == f'{unit} of training'
    assert axis.get_lines()[0].get_xdata()[-1] == pytest.approx(end)


def test_thirty_methods_can_be_told_apart() -> None:
    figure = curves([row('none', 0, 30), *(row(f'm{i}', 0, 30) for i in range(30))], {})
    looks = {(str(line.get_color()), line.get_linestyle()) for line in figure.axes[0].get_lines()}
    assert len(looks) == 31


def test_the_beginning_of_the_curves_is_left_out() -> None:
    points = [(1, 10.0), (2, 29.0), (3, 30.0)]
    text = ' '.join(f'{at}:{psnr}' for at, psnr in points)
    low, high = curves([row('none', 0, 30, curve=text, curve_seconds='1 2 3')], {}).axes[0].get_ylim()
    assert 28 < low < 29
    assert 30 < high < 31


# --------------------------------------------------------------------------------------------- --report
@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """results.csv in an otherwise empty working directory."""
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_rows(Path('results.csv'), ROWS, comparison())
    return Path('results.csv')


def comparison(**changes: Any) -> Comparison:
    length = changes.get('iterations', 4000)
    trials = [Trial(method, 0, {'name': f'x_{method}_seed0', 'train': {'total_iter': length}}, losses_of(method))
              for method in ('none', 'best', 'second')]
    values = {'name': 'work', 'trials': trials, 'methods': ['none', 'second'],
              'losses': {name: losses_of(name) for name in ('none', 'best', 'second')}, 'testsets': ['Set5'],
              'metrics': ('psnr', 'ssim'), 'iterations': 4000, 'protocol_hash': '0123456789ab'}
    return Comparison(**{**values, **changes})


def test_a_report_from_results_alone(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = results.read_bytes()
    assert mipkd_main(['compare', '--report', '--results', 'results.csv']) == 0
    out = capsys.readouterr().out
    assert markdown_table(ROWS, {}) in out
    assert 'Written to .: results.csv, table.md, table.tex, figure.png' in out
    assert sorted(os.listdir()) == ['figure.png', 'results.csv', 'table.md', 'table.tex']
    assert results.read_bytes() == before
    assert Path('table.md').read_text() == markdown_table(ROWS, {})
    assert Path('table.tex').read_text() == latex_table(ROWS, {})
    with Image.open('figure.png') as image:
        assert image.size == (1440, 576)
        assert len(image.getcolors(image.width * image.height)) > 20


@pytest.mark.parametrize(('command', 'folder'), [
    (['compare'], 'tiny'), (['ablate', '--method', 'best'], 'tiny_ablate_best')])
def test_a_report_of_an_option_file(results: Path, command: list[str], folder: str,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    """Neither data nor teacher is needed, nor anything else that the file names."""
    write_options({'name': 'tiny', 'compare': {}}, Path('x.yml'))
    target = Path('experiments') / folder
    target.mkdir(parents=True)
    results.rename(target / 'results.csv')
    assert mipkd_main([*command, '-opt', 'x.yml', '--report']) == 0
    assert f'Written to {target}: ' in capsys.readouterr().out
    assert (target / 'table.md').read_text() == markdown_table(ROWS, {})


def test_into_a_readme(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of the folder counts, however results.csv is given."""
    readme = Path('README.md')
    text = 'before ±\n<!-- {} -->\nold\n<!-- /{} -->\nafter\n'
    command = ['compare', '--report', '--results', 'results.csv', '--into', 'README.md']
    readme.write_text(text.format('work', 'work'))
    for _ in range(2):
        assert mipkd_main(command) == 0
        assert readme.read_text() == f'before ±\n<!-- work -->\n{markdown_table(ROWS, {})}<!-- /work -->\nafter\n'
    for wrong in (text.format('other', 'other'), text.format('work', 'other'), text.format('work', 'work') * 2,
                  '<!-- /work -->\n<!-- work -->\n'):
        readme.write_text(wrong)
        Path('table.md').unlink(missing_ok=True)
        capsys.readouterr()
        assert mipkd_main(command) == 2
        assert '--into README.md needs a line <!-- work --> and below it' in capsys.readouterr().err
        assert readme.read_text() == wrong
        assert not Path('table.md').exists()


# --------------------------------------------------------------------------------------------- results.csv
def test_rows_are_read_as_they_were_written(results: Path) -> None:
    assert read_rows(results) == ROWS
    assert read_rows(Path('no.csv')) == []
    odd = [row('none', 0, math.inf, losses='[{"type": "X", "a": "b, \\"c\\""}]'), row('ä b=c', 3, 1.5)]
    write_rows(results, odd[::-1], comparison())
    assert read_rows(results) == odd


def test_rows_stand_in_the_order_of_the_option_file(results: Path) -> None:
    """Whatever was chosen to be trained last."""
    rows = [row(method, seed, 30, testset=testset) for method in ('zzz', 'second', 'none', 'aaa', 'best')
            for seed in (10, 9) for testset in ('Set5', 'Kodak24')]
    write_rows(results, rows, comparison(testsets=['Kodak24', 'Set5']))
    found = [(r.method, r.seed, r.testset) for r in read_rows(results)]
    assert found == [(m, s, t) for m in ('none', 'best', 'second', 'zzz', 'aaa') for s in (9, 10)
                     for t in ('Kodak24', 'Set5')]


def change_line(text: str, number: int, column: str, value: str) -> str:
    lines = list(csv.DictReader(io.StringIO(text)))
    lines[number - 2][column] = value
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


DAMAGES: list[tuple[str, Callable[[str], str], str]] = [
    ('no header', lambda text: text.partition('\n')[2], 'line 1: the columns must be method,seed,'),
    ('empty', lambda text: '', 'line 1: the columns must be method,seed,testset'),
    ('other header', lambda text: text.replace('psnr', 'PSNR', 1), 'line 1: the columns must be'),
    ('only another header', lambda text: 'a,b\n', 'line 1: the columns must be'),
    ('cut short', lambda text: text[:text.rindex(',4000,')], 'line 10: has 5 of 15 columns; restore the file'),
    ('one column more', lambda text: text.replace(',[]\n', ',[],x\n', 1), 'line 2: has 16 of 15 columns'),
    ('no number', lambda text: change_line(text, 4, 'psnr', 'high'), "line 4: psnr is 'high', not a number; restore"),
    ('no seed', lambda text: change_line(text, 4, 'seed', '1.5'), "line 4: seed is '1.5', not a number"),
    ('curve', lambda text: change_line(text, 3, 'curve', '2000:30'), "line 3: curve '2000:30' and curve_seconds"),
    ('points', lambda text: change_line(text, 3, 'curve', 'a b'), "line 3: curve 'a b' and curve_seconds"),
    ('losses', lambda text: change_line(text, 3, 'losses', '[{"a'), 'line 3: losses is \'[{"a\', not JSON'),
    ('twice', lambda text: change_line(text, 3, 'seed', '0'), "line 3: another line also holds 'none', seed 0, on "
     "'Set5'"),
    ('merge', lambda text: text + '<<<<<<< HEAD\n', 'line 11: has 1 of 15 columns'),
]


@pytest.mark.parametrize(('change', 'message'), [d[1:] for d in DAMAGES], ids=[d[0] for d in DAMAGES])
def test_a_damaged_file_is_refused_with_its_line(results: Path, change: Callable[[str], str], message: str,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    results.write_text(change(results.read_text()))
    before = results.read_bytes()
    assert mipkd_main(['compare', '--report', '--results', 'results.csv']) == 2
    assert capsys.readouterr().err.startswith(f'results.csv, {message}')
    assert os.listdir() == ['results.csv']
    assert results.read_bytes() == before


def test_a_file_that_is_no_text(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results.write_bytes(b'\xff\xfe\x00')
    assert mipkd_main(['compare', '--report', '--results', 'results.csv']) == 2
    assert capsys.readouterr().err.startswith('results.csv cannot be read: ')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'protocol_hash': 'f00d'}, "results.csv holds 'none', seed 0, from another protocol (0123456789ab, 4000 "
     'iterations; now f00d, 4000): data, networks, teacher or training have changed; restore the option file'),
    ({'iterations': 5000}, 'now 0123456789ab, 5000)'),
    ({'trials': [], 'losses': {'best': '[{"type": "A"}]'}},  # a method that is not trained now
     'holds \'best\' with other losses or settings: [{"type": "FitNetLoss", "taps": 3}], now [{"type": "A"}]; restore '
     'the option'),
])
def test_rows_of_another_protocol_are_not_mixed(results: Path, changes: dict[str, Any], message: str) -> None:
    rows = read_rows(results)
    refuse_other_protocol(results, rows, comparison())
    refuse_other_protocol(results, rows, comparison(trials=[]))  # methods that are left out now stay
    with pytest.raises(ResultsError, match=re.escape(message)):
        refuse_other_protocol(results, rows, comparison(**changes))


def test_the_commands_refuse_another_protocol(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = comparison_options(train_options())
    write_options(opt, Path('x.yml'))
    current = read_comparison(config.read_options('x.yml'))
    row_of = {'protocol_hash': current.protocol_hash, 'iterations': 12, 'testset': 'val'}
    path = Path('experiments/tiny/results.csv')
    for changes, message in (({'protocol_hash': 'f00d'}, 'from another protocol (f00d, 12 iterations; now'),
                             ({'losses': '[{"type": "X"}]'}, "holds 'logits' with other losses")):
        write_rows(path, [row('logits', 0, 30, **{**row_of, **changes})], current)
        before = path.read_bytes()
        for command in (['compare'], ['compare', '--methods', 'logits']):
            assert mipkd_main([*command, '-opt', 'x.yml']) == 2
            assert message in capsys.readouterr().err
        assert path.read_bytes() == before
        assert os.listdir('experiments/tiny') == ['results.csv']


# --------------------------------------------------------------------------------------------- log files
FIRST = '''\
2026-01-01 10:00:00,000 INFO:
                ____                _       _____  ____
Version Information:
\t# psnr: 99
2026-01-01 10:00:01,000 INFO: Network: EDSR, with parameters: 6,867
2026-01-01 10:00:01,000 INFO: EDSR(
2026-01-01 10:00:01,500 INFO: Distillation: student 6,867, teacher 20,283, losses (training only) 15,756 parameters.
2026-01-01 10:00:02,000 INFO: Start training from epoch: 0, iter: 0
2026-01-01 10:00:05,000 INFO: [tiny_..][epoch:  0, iter:     500, lr:(1.000e-03,)] [eta: 0:00:00] l_pix: 1.9e-01
2026-01-01 10:00:07,000 INFO: [tiny_..][epoch:  0, iter:   1,000, lr:(1.000e-03,)] [eta: 0:00:00] l_pix: 1.9e-01
2026-01-01 10:00:07,100 INFO: Saving models and training states.
2026-01-01 10:00:09,000 INFO: Validation Set 5: new
\t # psnr: 30.1000\tBest: 30.1000 @ 1000 iter
\t # ssim: 0.9000\tBest: 0.9000 @ 1000 iter

2026-01-01 10:00:19,000 INFO: Validation B100
\t # psnr: 28.0000\tBest: 28.0000 @ 1000 iter
\t # ssim: 0.8000\tBest: 0.8000 @ 1000 iter

2026-01-01 10:00:21,000 INFO: [tiny_..][epoch:  1, iter:   1,500, lr:(1.000e-03,)] [eta: 0:00:00] l_pix: 1.9e-01
'''
SECOND = '''\
2026-01-01 12:00:00,000 INFO: Network: EDSR, with parameters: 6,867
2026-01-01 12:00:01,000 INFO: Resuming training from epoch: 0, iter: 1000.
2026-01-01 12:00:01,000 INFO: Start training from epoch: 0, iter: 1000
2026-01-01 12:00:04,000 INFO: Read past 8 batches that were trained on before.
2026-01-01 12:00:09,000 INFO: Validation Set 5: new
\t # psnr: 30.2000\tBest: 30.2000 @ 1000 iter
\t # ssim: 0.9100\tBest: 0.9100 @ 1000 iter

2026-01-01 12:00:10,000 INFO: [tiny_..][epoch:  1, iter:   1,500, lr:(1.000e-03,)] [eta: 0:00:00] l_pix: 1.9e-01
2026-01-01 12:00:14,000 INFO: [tiny_..][epoch:  1, iter:   2,000, lr:(1.000e-03,)] [eta: 0:00:00] l_pix: 1.9e-01
2026-01-01 12:00:20,000 INFO: End of training. Time consumed: 0:00:19
2026-01-01 12:00:20,000 INFO: Save the latest model.
2026-01-01 12:00:21,000 INFO: Validation Set 5: new
\t # psnr: nan\tBest: 30.2000 @ 1000 iter
\t # ssim: -0.0100\tBest: 0.9100 @ 1000 iter

2026-01-01 12:00:22,000 INFO: Validation B100
\t # psnr: inf\tBest: inf @ 2000 iter
'''


def write_logs(folder: Path) -> None:
    for number, (name, text) in enumerate((('train_a_2.log', FIRST), ('train_a_1.log', SECOND)), 1):
        (folder / name).write_text(text, encoding='utf-8')
        os.utime(folder / name, (number, number))  # the names are of an hour when the clocks were put back
    (folder / 'test_a_3.log').write_text('2026-01-01 12:00:22,000 INFO: Validation B100\n\t # psnr: 1\n')


def test_the_logs_of_a_resumed_run(tmp_path: Path) -> None:
    write_logs(tmp_path)
    history = read_history(tmp_path, 2100)
    assert (history.parameters, history.training_parameters) == (6867, 15756)
    assert history.metrics.keys() == {(1000, 'Set 5: new'), (1000, 'B100'), (2100, 'Set 5: new'), (2100, 'B100')}
    assert history.metrics[1000, 'B100'] == {'psnr': 28.0, 'ssim': 0.8}
    assert history.metrics[1000, 'Set 5: new'] == {'psnr': 30.2, 'ssim': 0.91}  # the later of the two
    assert math.isnan(history.metrics[2100, 'Set 5: new']['psnr'])
    assert history.metrics[2100, 'Set 5: new']['ssim'] == -0.01
    assert history.metrics[2100, 'B100'] == {'psnr': math.inf}
    # 500: 3 s, 1,000: 2 s, 1,500: 1 s in the second file, 2,000: 4 s, to the end 6 s; not the validations, 1,500 once
    assert history.seconds == pytest.approx({500: 3, 1000: 2, 1500: 1, 2000: 4, 2100: 6})
    assert history.seconds_until(1000) == pytest.approx(5)
    assert history.seconds_until(2000) == pytest.approx(10)
    assert history.seconds_until(2100) == pytest.approx(16)
    assert read_history(tmp_path, 2000).seconds_until(2000) == pytest.approx(10)


def test_saving_between_two_progress_lines_loses_no_time(tmp_path: Path) -> None:
    lines = ['10:00:00,000 INFO: Start training from epoch: 0, iter: 0',
             '10:00:04,000 INFO: [x..][epoch:  0, iter:     100, lr:(1.000e-03,)] ',
             '10:00:06,000 INFO: Saving models and training states.',
             '10:00:09,000 INFO: [x..][epoch:  0, iter:     200, lr:(1.000e-03,)] ',
             '09:00:10,000 INFO: [x..][epoch:  0, iter:     300, lr:(1.000e-03,)] ']  # the clock was set back
    (tmp_path / 'train_x.log').write_text(''.join(f'2026-10-25 {line}\n' for line in lines))
    assert read_history(tmp_path, 300).seconds == pytest.approx({100: 4, 200: 5, 300: 0})


def test_no_logs(tmp_path: Path) -> None:
    assert read_history(tmp_path, 100).metrics == {}
    assert read_history(tmp_path / 'no', 100).metrics == {}
    (tmp_path / 'train_a.log').write_bytes(b'\xff\x00 damaged\n' + FIRST.encode()[:700])
    assert read_history(tmp_path, 100).parameters == 6867


def test_a_log_cut_within_a_validation(tmp_path: Path) -> None:
    (tmp_path / 'train_a.log').write_text(FIRST[:FIRST.index('\t # ssim')])
    assert read_history(tmp_path, 1000).metrics == {(1000, 'Set 5: new'): {'psnr': 30.1}}


@pytest.mark.parametrize(('line', 'iteration'), [
    ('2026-01-01 10:00:05,000 INFO: [tiny_..][epoch:  0, iter:     500, lr:(1e-03,)] [eta: 0]', 500),
    ('2026-01-01 10:00:05,000 INFO: [tiny_..][epoch: 12, iter:1,234,567, lr:(1e-03,1e-3)] [eta: 0]', 1234567),
    ('2026-01-01 10:00:05,000 INFO: Start training from epoch: 0, iter: 0', None),
    ('', None)])
def test_progress(line: str, iteration: int | None) -> None:
    assert progress(line) == iteration


def test_a_figure_that_cannot_be_drawn_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_report(ROWS, {}, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert before.keys() == {'table.md', 'table.tex', 'figure.png'}
    monkeypatch.setattr('mipkd_plugin.compare.report.curves', None)
    with pytest.raises(TypeError):
        write_report(ROWS[:3], {}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# --------------------------------------------------------------------------------------------- what is committed
@pytest.mark.parametrize('path', sorted((REPO / 'experiments').glob('*/results.csv')), ids=lambda p: p.parent.name)
def test_committed_results_make_the_committed_tables_byte_for_byte(path: Path) -> None:
    rows, times = read_rows(path), read_times(path.with_name('times.csv'))
    assert rows
    for name, table in (('table.md', markdown_table(rows, times)), ('table.tex', latex_table(rows, times))):
        assert (path.parent / name).read_bytes() == table.encode()
