"""``mipkd compare`` and ``mipkd ablate``: equal runs, and the same results whenever they are interrupted.

Most tests train within this process and let it die at a chosen moment; the last one kills real processes.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO, tiny_options, write_image_pairs
from training import Killed, comparison_options, die_at, train, write_options

from mipkd_plugin import LogitsKDLoss, Step, config
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.utils import parent_watch
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare import equal_time, run_folders, runs
from mipkd_plugin.compare.step_times import StepTime
from mipkd_plugin.compare.times import read_times
from mipkd_plugin.utils.locks import alone, run_lock
from mipkd_plugin.compare.results import COLUMNS
from mipkd_plugin.version import __version__

RESULTS = Path('experiments/tiny/results.csv')
TIMES = ('seconds', 'curve_seconds')  # the columns that differ between two runs of the same trial
COMPARE = ['compare', '-opt', 'x.yml', '--seeds', '0']


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def twice_the_time(control: object, options: dict[str, Any]) -> StepTime:
    """In place of a measurement."""
    return StepTime(1.0 if options is control else 2.0, float(options is not control), None)


@pytest.fixture(scope='module')
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two test sets, validated at iterations 6 and 12 and after the last, which is 13; saved every three iterations."""
    opt = comparison_options(tiny_options(write_image_pairs(tmp_path_factory.mktemp('data'))))
    opt['datasets']['val_2'] = {**opt['datasets']['val'], 'name': 'again'}
    opt['train']['total_iter'] = 13
    opt['val']['val_freq'] = 6
    return opt


class Child:
    """A training that runs within this process, where ``subprocess.Popen`` would have started another."""

    started: list[str] = []

    def __init__(self, command: list[str], env: dict[str, str], **kwargs: Any) -> None:
        assert (command[:2], command[3:5]) == ([sys.executable, '-c'], ['train', '-opt'])
        assert env['OMP_NUM_THREADS'] == '1'
        path = Path(command[5])
        self.started.append(path.stem)
        try:
            self.code = train(path, *command[6:])
            logs = sorted(Path('experiments', path.stem).glob('*.log'))
            self.stdout = logs[-1].read_text().splitlines(keepends=True) if self.code == 0 else ['refused\n']
        except (ArithmeticError, OSError, RuntimeError, ValueError):
            self.code, self.stdout = 1, traceback.format_exc().splitlines(keepends=True)

    def wait(self) -> int:
        return self.code

    def terminate(self) -> None:
        pass


@pytest.fixture
def work(tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with x.yml, where trainings run within this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, 'Popen', Child)
    monkeypatch.setattr(equal_time, 'measure', twice_the_time)
    monkeypatch.setattr(run_folders, 'code_version', lambda: 'abc1234')
    monkeypatch.setattr(Child, 'started', [])
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    write_options(options, tmp_path / 'x.yml')
    return tmp_path


def rows(path: Path = RESULTS, times: bool = False) -> list[dict[str, str]]:
    """The lines of results.csv, without what no two runs share."""
    with path.open(newline='') as file:
        return [{name: value for name, value in row.items() if times or name not in TIMES}
                for row in csv.DictReader(file)]


def listing(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob('*'))


@pytest.fixture(scope='module')
def whole(options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working directory of an uninterrupted comparison of all methods, with seed 0."""
    folder = tmp_path_factory.mktemp('whole')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(runs, 'Popen', Child)
        patch.setattr(equal_time, 'measure', twice_the_time)
        patch.setattr(run_folders, 'code_version', lambda: 'abc1234')
        patch.setattr(Child, 'started', [])
        patch.setattr(torch.cuda, 'device_count', lambda: 0)
        write_options(options, folder / 'x.yml')
        assert mipkd_main(COMPARE) == 0
        assert Child.started == ['tiny_none_seed0', 'tiny_logits_seed0', 'tiny_mipkd_seed0']
    return folder


# --------------------------------------------------------------------------------------------- uninterrupted
def test_one_row_per_method_seed_and_test_set(whole: Path, options: dict[str, Any]) -> None:
    found = rows(whole / RESULTS, times=True)
    assert list(found[0]) == list(COLUMNS)
    assert [(row['method'], row['testset']) for row in found] == [
        (method, testset) for method in ('none', 'logits', 'mipkd') for testset in ('val', 'again')]
    for row in found:
        own = {**row, 'losses': [loss['type'] for loss in json.loads(row['losses'])]}
        losses = options['compare']['methods'].get(row['method'])
        assert {key: own[key] for key in ('seed', 'iterations', 'parameters', 'commit', 'hardware', 'losses')} == {
            'seed': '0', 'iterations': '13', 'parameters': '6867', 'commit': 'abc1234', 'hardware': 'CPU',
            'losses': [losses['type']] if losses else []}
        assert (int(row['training_parameters']) > 0) is (row['method'] == 'mipkd')
        curve = dict(point.split(':') for point in row['curve'].split())
        assert list(curve) == ['6', '12', '13']
        assert float(curve['13']) == pytest.approx(float(row['psnr']))
        seconds = [float(value) for value in row['curve_seconds'].split()]
        assert seconds == sorted(seconds)
        assert seconds[-1] == pytest.approx(float(row['seconds']), abs=0.051)
        log = next((whole / f'experiments/tiny_{row["method"]}_seed0').glob('*.log')).read_text()
        last = log[log.index('End of training'):]
        assert f'Validation {row["testset"]}\n\t # psnr: {float(row["psnr"]):.4f}' in last
        assert f'# ssim: {float(row["ssim"]):.4f}' in last
    assert len({row['protocol'] for row in found}) == 1
    assert len({row['psnr'] for row in found}) == 3


def test_all_methods_of_a_seed_begin_with_the_same_student_and_data(whole: Path) -> None:
    first = [re.findall(r'iter: +(1|2|3),.* l_pix: (\S+)', path.read_text())
             for path in whole.glob('experiments/tiny_*_seed0/*.log')]
    assert len(first) == 3
    assert len({dict(found)['1'] for found in first}) == 1
    assert len({dict(found)['2'] for found in first}) > 1  # from then on they differ
    logs = [path.read_text() for path in whole.glob('experiments/tiny_*_seed0/*.log')]
    assert {text.count(' l_pix: ') for text in logs} == {13}


def test_what_is_written_beside_the_rows(whole: Path) -> None:
    folder = whole / 'experiments/tiny'
    assert sorted(os.listdir(folder)) == ['figure.png', 'lock', 'options', 'results.csv', 'table.md', 'table.tex',
                                          'times.csv']
    text = (folder / 'options/tiny_mipkd_seed0.yml').read_text()
    protocol = rows(whole / RESULTS)[0]['protocol']
    assert text.startswith('# mipkd, seed 0; written by mipkd\n# basicsr train -opt experiments/tiny/options/'
                           f'tiny_mipkd_seed0.yml\n# commit abc1234\n# protocol {protocol}\n')
    assert (whole / 'experiments/tiny_mipkd_seed0/models/net_g_latest.pth').is_file()


def test_another_seed_beside_it_and_its_lines(whole: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    before = rows()
    assert mipkd_main(['compare', '-opt', 'x.yml', '--seeds', '1', '0', '--methods', 'logits']) == 0
    assert Child.started == ['tiny_none_seed1', 'tiny_logits_seed1']
    after = rows()
    assert [row for row in after if row['seed'] == '0'] == before
    assert len(after) == len(before) + 4
    assert {row['psnr'] for row in after if row['seed'] == '1'}.isdisjoint(row['psnr'] for row in before)
    out = [line for line in capsys.readouterr().out.splitlines() if line != 'Disable distributed.']  # of the trainings
    assert out[0] == '2 of 4 runs are in experiments/tiny/results.csv'
    psnr = {(row['method'], row['seed']): float(row['psnr']) for row in after}
    for number, line in enumerate(out[1:3], 3):
        method = line.split()[1]
        value = f'{psnr[method, "1"]:.3f} dB'
        assert re.fullmatch(rf'\[{number}/4\] {method} seed 1: val {value}, again {value}, \d+ s', line)
    assert out[4].startswith('| method | val PSNR | val SSIM | again PSNR')
    assert len([line for line in out if line.startswith('| ')]) == 5 + 4  # and the lead of two methods


# --------------------------------------------------------------------------------------------- again
def test_finished_runs_are_left_alone(whole: Path, work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    folders = list(Path('experiments').glob('tiny_*'))
    before, content = [listing(folder) for folder in folders], RESULTS.read_bytes()
    assert mipkd_main(COMPARE) == 0
    assert Child.started == []
    assert [listing(folder) for folder in folders] == before
    assert RESULTS.read_bytes() == content
    assert capsys.readouterr().out.startswith('3 of 3 runs are in experiments/tiny/results.csv\n\n| method |')


def test_methods_keep_their_order_whatever_is_trained_last(whole: Path, work: Path) -> None:
    for method in ('logits', 'mipkd', 'mipkd'):
        assert mipkd_main([*COMPARE, '--methods', method]) == 0
    assert rows() == rows(whole / RESULTS)


def test_rows_outlive_their_folders_and_folders_their_rows(whole: Path, work: Path) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    content = RESULTS.read_bytes()
    shutil.rmtree('experiments/tiny_none_seed0')
    assert mipkd_main(COMPARE) == 0
    assert (Child.started, RESULTS.read_bytes()) == ([], content)
    lines = content.decode().splitlines(keepends=True)
    RESULTS.write_text(''.join(line for line in lines if not line.startswith('mipkd,0,again')))
    assert mipkd_main(COMPARE) == 0
    assert (Child.started, RESULTS.read_bytes()) == ([], content)
    RESULTS.unlink()
    assert mipkd_main(COMPARE) == 0
    assert Child.started == ['tiny_none_seed0']
    assert rows() == rows(whole / RESULTS)


# --------------------------------------------------------------------------------------------- interrupted
MOMENTS = [
    [('trained', 2)],  # nothing saved yet
    [('saved', 3)],
    [('saved', 6)],  # between checkpoint and validation
    [('cut', 6)],  # while the training state was written
    [('cut', 3)],  # the only one
    [('written', 6)],  # all that belongs to it must be there
    [('validated', 1)],  # between two test sets
    [('validated', 2)],
    [('trained', 8)],
    [('saved', 12)],  # the last state, but not measured
    [('saved', -1)],
    [('validated', 5)],  # after the end, between two test sets
    [('validated', 6)],  # finished, but not in results.csv
    [('trained', 1), ('trained', 8), ('saved', 9), ('validated', 3)],
]


@pytest.mark.parametrize('moments', MOMENTS, ids=str)
def test_the_same_results_whenever_it_is_interrupted(work: Path, whole: Path, moments: list[tuple[str, int]]) -> None:
    shutil.copytree(whole / 'experiments/tiny_none_seed0', 'experiments/tiny_none_seed0')  # finished before
    for moment in moments:
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, *moment)
            with pytest.raises(Killed):
                mipkd_main([*COMPARE, '--methods', 'mipkd'])
        assert all(row['method'] == 'none' for row in rows())
    assert mipkd_main([*COMPARE, '--methods', 'mipkd']) == 0
    assert rows() == [row for row in rows(whole / RESULTS) if row['method'] != 'logits']
    fresh = [moment for moment in moments if moment in [('trained', 1), ('trained', 2), ('cut', 3)]]
    assert len(list(Path('experiments').glob('*_archived_*'))) == len(fresh)  # all others were resumed
    finished = moments[-1] == ('validated', 6)
    assert Child.started == ['tiny_mipkd_seed0'] * (len(moments) + (not finished))


def test_dying_before_results_are_written(work: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    RESULTS.unlink()

    def dying(source: str, target: str) -> None:
        if str(target).endswith('results.csv'):
            raise Killed
        replace(source, target)

    replace = os.replace
    with monkeypatch.context() as patch:
        patch.setattr(os, 'replace', dying)
        with pytest.raises(Killed):
            mipkd_main(COMPARE)
    assert not RESULTS.exists()
    assert mipkd_main(COMPARE) == 0
    assert Child.started == []
    assert rows(times=True) == rows(whole / RESULTS, times=True)


DAMAGES = [b'', b'PK\x03\x04', b'\0' * 1000, b'no training state\n', None]


@pytest.mark.parametrize('damage', DAMAGES, ids=['empty', 'begun', 'zeros', 'text', 'half'])
def test_a_damaged_training_state_is_deleted_and_the_one_before_taken(whole: Path, work: Path,
                                                                      damage: bytes | None) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    trial, = (t for t in read_comparison(config.read_options('x.yml'), ['mipkd'], [0]).trials[1:])
    states = Path('experiments/tiny_mipkd_seed0/training_states')
    newest = states / '12.state'
    content = newest.read_bytes()
    newest.write_bytes(content[:len(content) // 2] if damage is None else damage)
    (states / 'notes.state').write_text('not a number')
    assert run_folders.can_resume(trial)
    assert sorted(os.listdir(states)) == ['3.state', '6.state', '9.state', 'notes.state']
    for path in states.glob('?.state'):
        path.write_bytes(b'')
    assert not run_folders.can_resume(trial)
    assert os.listdir(states) == ['notes.state']
    shutil.rmtree(states)
    assert not run_folders.can_resume(trial)


def test_a_training_state_that_is_whole_is_not_deleted(work: Path) -> None:
    """Whatever keeps it from being read (memory, rights, an object of a plug-in) may pass."""
    trial = read_comparison(config.read_options('x.yml'), ['mipkd'], [0]).trials[1]
    state = Path('experiments/tiny_mipkd_seed0/training_states/3.state')
    state.parent.mkdir(parents=True)
    torch.save({'scheduler': Path('x')}, state)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(state, weights_only=True)
    assert run_folders.can_resume(trial)
    assert state.is_file()


def test_options_that_were_not_copied_yet_do_not_block(work: Path) -> None:
    comparison = read_comparison(config.read_options('x.yml'), ['mipkd'], [0])
    copied = Path('experiments/tiny_mipkd_seed0/tiny_mipkd_seed0.yml')
    copied.parent.mkdir(parents=True)
    copied.write_text('')
    run_folders.refuse_other_options(comparison.trials[1], comparison.protocol_hash)
    (copied.parent / 'training_states').mkdir()
    (copied.parent / 'training_states/3.state').write_bytes(b'x')
    with pytest.raises(run_folders.RunError, match='was trained with other options'):
        run_folders.refuse_other_options(comparison.trials[1], comparison.protocol_hash)


@pytest.mark.parametrize(('note', 'value', 'message'), [
    ('losses', '[{"type": "MiPKDLoss", "mask_ratio": 0.5}]', 'was trained with other defaults of the losses'),
    ('protocol', 'f00d', 'was trained with the same options but another protocol')])
def test_notes_of_a_run_that_do_not_fit(work: Path, note: str, value: str, message: str) -> None:
    comparison = read_comparison(config.read_options('x.yml'), ['mipkd'], [0])
    trial = comparison.trials[1]
    copied = run_folders.run_folder(trial) / f'{trial.name}.yml'
    copied.parent.mkdir(parents=True)
    shutil.copy(run_folders.write_options(trial, Path('experiments/tiny'), 'c0ffee', comparison.protocol_hash), copied)
    run_folders.refuse_other_options(trial, comparison.protocol_hash)
    assert (run_folders.commit_of(trial), run_folders.hardware_of(trial)) == ('c0ffee', 'CPU')
    copied.write_text(re.sub(rf'# {note} .*', f'# {note} {value}', copied.read_text()))
    with pytest.raises(run_folders.RunError, match=message):
        run_folders.refuse_other_options(trial, comparison.protocol_hash)


def test_a_run_does_not_resume_on_other_hardware(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    comparison = read_comparison(config.read_options('x.yml'), ['mipkd'], [0])
    trial = comparison.trials[1]
    folder = run_folders.run_folder(trial)
    (folder / 'training_states').mkdir(parents=True)
    torch.save({}, folder / 'training_states/3.state')
    shutil.copy(run_folders.write_options(trial, Path('experiments/tiny'), 'c0ffee', comparison.protocol_hash), folder)
    monkeypatch.setattr(run_folders, 'hardware', lambda trial: 'NVIDIA H100')
    with pytest.raises(run_folders.RunError, match='started on CPU, but this is NVIDIA H100'):
        runs.Runner(Path('experiments/tiny'), comparison.protocol_hash).train(trial, print)


def test_runs_have_one_thread_whatever_the_shell_says(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: dict[str, str] = {}
    monkeypatch.setenv('OMP_NUM_THREADS', '4')
    monkeypatch.setattr(runs, 'Popen', lambda *args, env, **kwargs: found.update(env))
    runs.Runner(Path('experiments/tiny'), '')._start(['true'])
    assert (found['OMP_NUM_THREADS'], found['MKL_NUM_THREADS']) == ('1', '1')


def test_the_commit_is_that_of_what_has_been_trained(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for moment, version in ((('trained', 2), 'first'), (('saved', 3), 'second')):
        monkeypatch.setattr(run_folders, 'code_version', lambda version=version: version)
        with pytest.MonkeyPatch.context() as patch:
            die_at(patch, *moment)
            with pytest.raises(Killed):
                mipkd_main([*COMPARE, '--methods', 'none'])
    monkeypatch.setattr(run_folders, 'code_version', lambda: 'third')
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 0
    assert {row['commit'] for row in rows()} == {'second'}  # nothing of the first start is left


# --------------------------------------------------------------------------------------------- when a run fails
def test_a_run_that_fails_does_not_stop_the_others(work: Path, options: dict[str, Any],
                                                   capsys: pytest.CaptureFixture[str],
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    class BreakingLoss(LogitsKDLoss):
        """Passes the trial step, and fails in the training."""

        def forward(self, step: Step) -> dict[str, torch.Tensor]:
            return {'l_breaking': step.student.output.sum() * (1 if step.iteration > 100 else math.inf)}

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'BreakingLoss', BreakingLoss)
    opt = copy.deepcopy(options)
    opt['compare']['methods'] = {'broken': {'type': 'BreakingLoss'}, **opt['compare']['methods']}
    write_options(opt, work / 'x.yml')
    command = [*COMPARE, '--methods', 'broken', 'logits']
    for _ in range(2):
        assert mipkd_main(command) == 1
        captured = capsys.readouterr()
        assert '/3] broken seed 0: failed\n' in captured.out
        assert '| logits | ' in captured.out
        assert 'tiny_broken_seed0 ended with code 3; the end of its output:\n' in captured.err
        assert 'the loss or its gradient is not finite, 10 steps in a row (l_pix = ' in captured.err
        assert captured.err[captured.err.index('tiny_broken_seed0 ended'):].count('\n') <= 14
        assert {row['method'] for row in rows()} == {'none', 'logits'}
    assert Child.started.count('tiny_broken_seed0') == 2
    assert len(Child.started) == 4


def test_a_run_that_diverges_does_not_enter_the_results(work: Path, options: dict[str, Any],
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    opt = copy.deepcopy(options)
    opt['train']['optim_g']['lr'] = 1e10
    write_options(opt, work / 'x.yml')
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 1
    captured = capsys.readouterr()
    assert '[1/1] none seed 0: failed\n' in captured.out
    assert 'tiny_none_seed0 ended with code 3' in captured.err
    assert not RESULTS.exists()
    assert list(Path('experiments/tiny_none_seed0/models').iterdir()) == []


def test_a_measurement_that_is_not_finite_does_not_enter_the_results(whole: Path, work: Path,
                                                                     capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    RESULTS.unlink()
    for log in Path('experiments/tiny_none_seed0').glob('*.log'):
        log.write_text(re.sub(r'# ssim: [\d.]+', '# ssim: nan', log.read_text()))
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 1
    message = capsys.readouterr().err
    assert 'tiny_none_seed0 has finished, but on val its PSNR is ' in message
    assert 'and its SSIM nan: they do not enter results.csv' in message
    assert not RESULTS.exists()


def test_a_run_that_somebody_trains_by_hand_is_left_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(run_lock(Path('experiments'), 'tiny_none_seed0')):
        assert mipkd_main([*COMPARE, '--methods', 'none']) == 1
    message = capsys.readouterr().err
    assert f'process {os.getpid()} on ' in message
    assert 'is training tiny_none_seed0; run this command again when it has finished' in message
    assert Child.started == []


def test_a_run_that_ends_without_being_measured(work: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr('test_runs.train', lambda *args: 2)
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 1
    assert 'tiny_none_seed0 ended with code 2; the end of its output:\nrefused\n' in capsys.readouterr().err

    def nothing(path: Path, *arguments: str) -> int:
        folder = Path('experiments', path.stem)
        folder.mkdir()
        (folder / 'train_x.log').write_text('')
        return 0

    monkeypatch.setattr('test_runs.train', nothing)
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 1
    assert ('tiny_none_seed0 has finished, but its log in experiments/tiny_none_seed0 has no validation at iteration '
            '13 on val, again') in capsys.readouterr().err
    assert not RESULTS.exists()


# --------------------------------------------------------------------------------------------- what does not belong
def test_runs_with_other_options_are_neither_gone_on_with_nor_overwritten(
        whole: Path, work: Path, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    opt = copy.deepcopy(options)
    opt['train']['optim_g']['lr'] = 0.002
    opt['logger']['print_freq'] = 3  # may differ
    write_options(opt, work / 'x.yml')
    before = listing(Path('experiments'))
    assert mipkd_main(COMPARE) == 2
    assert 'from another protocol (' in capsys.readouterr().err
    assert listing(Path('experiments')) == before
    RESULTS.unlink()
    before = listing(Path('experiments'))
    assert mipkd_main(COMPARE) == 2
    assert capsys.readouterr().err == (
        'experiments/tiny_none_seed0 was trained with other options: train.optim_g.lr was 0.001, now it is 0.002; '
        'restore them, give the comparison another name, or move the folder away\n')
    assert listing(Path('experiments')) == before


def test_runs_with_another_teacher_under_the_same_name(whole: Path, work: Path, options: dict[str, Any],
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """Moving results.csv away, as the message says, must not bring the old runs into a new table."""
    shutil.copytree(whole / 'experiments', 'experiments')
    weights = Path(options['teacher']['weights'])
    content = weights.read_bytes()
    try:
        state = torch.load(weights)
        state['params']['conv_last.bias'] += 1
        torch.save(state, weights)
        assert mipkd_main(COMPARE) == 2
        assert 'results.csv holds' in capsys.readouterr().err
        RESULTS.unlink()
        assert mipkd_main(COMPARE) == 2
        assert 'tiny_none_seed0 was trained with the same options but another protocol (' in capsys.readouterr().err
    finally:
        weights.write_bytes(content)
    path = Path('experiments/tiny_none_seed0/tiny_none_seed0.yml')
    path.write_text(re.sub(r'# protocol .*\n', '', path.read_text()))  # of an older version of this package
    assert mipkd_main(COMPARE) == 0
    RESULTS.unlink()
    path.write_text('a: [1\n')
    assert mipkd_main(COMPARE) == 2
    assert f'{path}, the options that the run started with, cannot be read: ' in capsys.readouterr().err


def test_a_second_mipkd_in_the_same_folder_is_refused(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with alone(Path('experiments/tiny/lock')):
        assert mipkd_main(COMPARE) == 2
    assert capsys.readouterr().err == ('another mipkd is working in experiments/tiny; wait for it, or stop it\n')
    assert Child.started == []
    with alone(Path('experiments/.locks/tiny_none_seed0')):  # an ablation of the same comparison trains the control
        assert mipkd_main([*COMPARE, '--methods', 'logits']) == 1
    assert 'another mipkd is training tiny_none_seed0' in capsys.readouterr().err
    assert Child.started == ['tiny_logits_seed0']
    assert mipkd_main([*COMPARE, '--methods', 'logits']) == 0


def test_rows_that_another_mipkd_has_just_written_are_kept(whole: Path, work: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """It may end between our first look at results.csv and the lock."""
    def late(path: Path) -> Any:
        shutil.copytree(whole / 'experiments/tiny', 'experiments/tiny')
        return alone(path)

    monkeypatch.setattr('mipkd_plugin.compare.session.alone', late)
    assert mipkd_main([*COMPARE, '--methods', 'logits']) == 0
    assert Child.started == []
    assert rows() == rows(whole / RESULTS)


# --------------------------------------------------------------------------------------------- ablate
def test_an_ablation_shares_the_runs_of_the_comparison(whole: Path, work: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    command = ['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'mask_ratio', '0.8', '0.25', '--seeds', '0']
    readme = Path('README.md')
    readme.write_text('<!-- tiny_ablate_mipkd -->\n<!-- /tiny_ablate_mipkd -->\n')
    assert mipkd_main([*command, '--into', 'README.md']) == 0
    assert Child.started == ['tiny_mipkd-mask_ratio-0.25_seed0']  # 0.8 is the default
    found = rows(Path('experiments/tiny_ablate_mipkd/results.csv'))
    assert list(dict.fromkeys(row['method'] for row in found)) == ['none', 'mipkd', 'mipkd mask_ratio=0.25']
    assert found[:4] == [row for row in rows(whole / RESULTS) if row['method'] != 'logits']
    loss, = json.loads(found[-1]['losses'])
    wanted = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4, 'mask_ratio': 0.25}
    assert {**loss, **wanted} == loss
    assert rows() == rows(whole / RESULTS)
    assert '| mipkd mask_ratio=0.25 | ' in readme.read_text()
    capsys.readouterr()
    assert mipkd_main(['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--report']) == 0
    assert '| mipkd mask_ratio=0.25 | ' in capsys.readouterr().out


# --------------------------------------------------------------------------------------------- equal time
LONG = 'none (equal time)'
TIMES_CSV = Path('experiments/tiny/times.csv')


def ask_for_equal_time(options: dict[str, Any], **methods: Any) -> None:
    opt = copy.deepcopy(options)
    opt['compare'].update(equal_time=True, methods={**opt['compare']['methods'], **methods})
    write_options(opt, Path('x.yml'))


def forbid_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(*args: object) -> None:
        raise AssertionError('measured again')

    monkeypatch.setattr(equal_time, 'measure', measure)


def test_the_control_of_equal_time(whole: Path, work: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    ask_for_equal_time(options)
    forbid_measuring(monkeypatch)
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    assert "; 2 of 'none (equal time)', as long as the costliest method takes: --times" in capsys.readouterr().out
    assert mipkd_main(COMPARE) == 0
    assert Child.started == ['tiny_none-equal-time_seed0']
    found = rows()
    assert list(dict.fromkeys(row['method'] for row in found)) == ['none', LONG, 'logits', 'mipkd']
    assert [row for row in found if row['method'] != LONG] == rows(whole / RESULTS)
    own = found[2]
    assert (own['iterations'], own['losses'], own['protocol']) == ('26', '[]', found[0]['protocol'])
    assert [point.split(':')[0] for point in own['curve'].split()] == ['12', '24', '26']
    opt = yaml.safe_load(Path('experiments/tiny/options/tiny_none-equal-time_seed0.yml').read_text())
    assert (opt['train']['scheduler']['milestones'], opt['logger']['save_checkpoint_freq']) == ([6], 6)
    assert read_times(TIMES_CSV)[LONG].time == 2
    out = capsys.readouterr().out
    assert re.search(r'\| none \(equal time\) \| .+ \| 26 \| 2.0 \| 1 \|', out)
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    assert "runs     6 of 13 iterations; 2 of 'none (equal time)', of 26\n" in capsys.readouterr().out
    content = RESULTS.read_bytes(), TIMES_CSV.read_bytes()
    assert mipkd_main(COMPARE) == 0
    assert ((RESULTS.read_bytes(), TIMES_CSV.read_bytes()), len(Child.started)) == (content, 1)


def test_its_length_stays_once_it_has_begun(work: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    ask_for_equal_time(options)
    command = [*COMPARE, '--methods', LONG]
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, 'saved', 18)
        with pytest.raises(Killed):
            mipkd_main(command)
    assert Child.started == ['tiny_none_seed0', 'tiny_none-equal-time_seed0']
    assert read_times(TIMES_CSV).keys() == {'none', LONG, 'logits', 'mipkd'}  # also those that are not trained
    before = TIMES_CSV.read_text()
    ask_for_equal_time(options, late={'type': 'LogitsKDLoss', 'loss_weight': 2})
    monkeypatch.setattr(equal_time, 'measure', lambda *args: StepTime(3.0, 1.0, None))
    capsys.readouterr()
    assert mipkd_main(['compare', '-opt', 'x.yml', '--times']) == 0
    assert Child.started[2:] == []
    message = ("'none (equal time)' keeps its length of 2 times that of none, with which it was started; 'late' takes "
               '3 times as long. To train it anew, move its line in times.csv, its rows in results.csv and its run')
    assert message in capsys.readouterr().err
    assert TIMES_CSV.read_text().startswith(before)  # the new line comes last
    assert mipkd_main(command) == 0
    assert Child.started[2:] == ['tiny_none-equal-time_seed0']
    assert message in capsys.readouterr().out
    assert {row['iterations'] for row in rows() if row['method'] == LONG} == {'26'}
    log = sorted(Path('experiments/tiny_none-equal-time_seed0').glob('*.log'))[-1].read_text()
    assert 'Resuming training from epoch: 2, iter: 18' in log  # an epoch is twice as long, so that the data last
    TIMES_CSV.unlink()  # the rows still know
    assert mipkd_main(command) == 0
    assert (len(Child.started), read_times(TIMES_CSV)[LONG].time) == (3, 2)


def test_a_longer_method_before_it_has_begun(work: Path, options: dict[str, Any],
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    ask_for_equal_time(options)
    assert mipkd_main(['compare', '-opt', 'x.yml', '--times']) == 0
    ask_for_equal_time(options, late={'type': 'LogitsKDLoss', 'loss_weight': 2})
    monkeypatch.setattr(equal_time, 'measure', lambda *args: StepTime(3.0, 0.5, None))
    assert mipkd_main(['compare', '-opt', 'x.yml', '--times']) == 0
    assert read_times(TIMES_CSV)[LONG].time == 2
    monkeypatch.setattr(equal_time, 'measure', lambda *args: StepTime(3.0, 0.6, None))
    ask_for_equal_time(options, late={'type': 'LogitsKDLoss', 'loss_weight': 3})  # measured again: other losses
    assert mipkd_main(['compare', '-opt', 'x.yml', '--times']) == 0
    found = read_times(TIMES_CSV)
    assert (found['late'].time, found['mipkd'].time) == (2.2, 2)
    assert found[LONG].time == 2.2


def test_times_alone(work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main([*COMPARE, '--times']) == 0
    assert Child.started == []
    assert sorted(os.listdir('experiments/tiny')) == ['lock', 'times.csv']
    out = capsys.readouterr().out
    assert '| mipkd | 2.00 | 100% | 2.00 |  |\n' in out
    assert 'Written to experiments/tiny/times.csv' in out
    forbid_measuring(monkeypatch)
    assert mipkd_main([*COMPARE, '--times']) == 0
    assert capsys.readouterr().out == out
    assert mipkd_main([*COMPARE, '--methods', 'none']) == 0  # nothing to compare with
    monkeypatch.setattr(equal_time, 'measure', twice_the_time)
    assert mipkd_main(['ablate', '-opt', 'x.yml', '--method', 'mipkd', '--vary', 'mask_ratio', '0.5', '--times']) == 0
    found = read_times(Path('experiments/tiny_ablate_mipkd/times.csv'))
    assert found.keys() == {'none', 'mipkd', 'mipkd mask_ratio=0.5'}


def test_times_of_other_hardware_are_kept_and_named(whole: Path, work: Path, monkeypatch: pytest.MonkeyPatch,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    content = TIMES_CSV.read_bytes()
    monkeypatch.setattr(equal_time, 'hardware', lambda trial: 'NVIDIA H100')
    forbid_measuring(monkeypatch)
    assert mipkd_main(COMPARE) == 0
    assert ('experiments/tiny/times.csv is of CPU, and this is NVIDIA H100: move it away to measure here\n'
            in capsys.readouterr().out)
    assert TIMES_CSV.read_bytes() == content


def test_another_method_whose_time_to_match(work: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    def measure(control: object, opt: dict[str, Any]) -> StepTime:
        return StepTime(4.0, 1.0, None) if 'mipkd' in opt['name'] else twice_the_time(control, opt)

    monkeypatch.setattr(equal_time, 'measure', measure)
    for setting, factor in (('logits', 2), (True, 4), ('logits', 2)):
        opt = copy.deepcopy(options)
        opt['compare']['equal_time'] = setting
        write_options(opt, Path('x.yml'))
        assert mipkd_main(['compare', '-opt', 'x.yml', '--times', '--methods', 'logits']) == 0
        assert read_times(TIMES_CSV)[LONG].time == factor  # as long as there is no run of it
        assert ('mipkd' in read_times(TIMES_CSV)) is (capsys.readouterr().out.count('| mipkd |') == 1)


def test_a_method_that_cannot_be_measured(work: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    def measure(control: object, opt: dict[str, Any]) -> StepTime:
        if 'mipkd' in opt['name']:
            raise RuntimeError('out of memory')
        return twice_the_time(control, opt)

    ask_for_equal_time(options)
    monkeypatch.setattr(equal_time, 'measure', measure)
    assert mipkd_main([*COMPARE, '--times']) == 1
    assert capsys.readouterr().err == (
        "the step time of 'mipkd' cannot be measured (RuntimeError: out of memory); it does not count for the length "
        "of 'none (equal time)'\n")
    assert read_times(TIMES_CSV).keys() == {'none', LONG, 'logits'}
    monkeypatch.setattr(equal_time, 'measure', twice_the_time)
    assert mipkd_main([*COMPARE, '--times']) == 0
    assert read_times(TIMES_CSV).keys() == {'none', LONG, 'logits', 'mipkd'}


def test_damaged_times_are_refused_and_nothing_is_written(whole: Path, work: Path, monkeypatch: pytest.MonkeyPatch,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(whole / 'experiments', 'experiments')
    TIMES_CSV.write_text(TIMES_CSV.read_text().replace('mipkd,2.0', 'mipkd,fast'))
    forbid_measuring(monkeypatch)
    before = listing(Path('experiments'))
    for command in (COMPARE, [*COMPARE, '--times'], ['compare', '-opt', 'x.yml', '--report']):
        assert mipkd_main(command) == 2
        assert capsys.readouterr().err == (
            "experiments/tiny/times.csv, line 4: distilling is 'fast', not a number; restore the file; or move it away "
            "to measure again, and with it the rows and the run folders of 'none (equal time)', whose length it "
            'holds\n')
    assert listing(Path('experiments')) == before


# --------------------------------------------------------------------------------------------- small parts
def test_the_version_of_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        identity = ['-c', 'user.name=x', '-c', 'user.email=x@example.com']
        return subprocess.run(['git', '-C', str(tmp_path), *identity, *arguments], check=True, capture_output=True,
                              text=True).stdout.strip()

    file = tmp_path / 'package/compare/run_folders.py'
    file.parent.mkdir(parents=True)
    file.write_text('')
    (tmp_path / 'theirs.txt').write_text('')
    monkeypatch.setattr(run_folders, '__file__', str(file))
    assert run_folders.code_version() == __version__
    git('init', '-q')
    git('add', 'theirs.txt')
    git('commit', '-qm', 'theirs')
    assert run_folders.code_version() == __version__  # installed within a repository of somebody else
    git('add', '.')
    git('commit', '-qm', 'ours')
    assert run_folders.code_version() == git('rev-parse', '--short', 'HEAD')
    (tmp_path / 'theirs.txt').write_text('changed')
    assert run_folders.code_version() == git('rev-parse', '--short', 'HEAD')  # not what computes
    file.write_text('changed')
    assert run_folders.code_version() == git('rev-parse', '--short', 'HEAD') + '+'


@pytest.mark.parametrize(('before', 'now', 'found'), [
    ({'a': 1, 'b': {'c': [1, 2]}}, {'b': {'c': [1, 2]}, 'a': 1}, None),
    ({'a': None}, {}, None),
    ({'a': {'b': 1}}, {'a': {'b': 2}}, ('a.b', 1, 2)),
    ({'a': 1}, {'a': 1, 'b': {'c': 2}}, ('b', None, {'c': 2})),
    ({'a': [{'b': 1}]}, {'a': [{'b': 2}]}, ('a', [{'b': 1}], [{'b': 2}]))])
def test_the_first_difference(before: Any, now: Any, found: Any) -> None:
    assert run_folders.difference(before, now) == found


# --------------------------------------------------------------------------------------------- as processes
CHILD = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location('parent_watch', sys.argv[1])
parent_watch = importlib.util.module_from_spec(spec)
spec.loader.exec_module(parent_watch)
time.sleep(float(sys.argv[2]))
parent_watch.watch_parent()
print('holds', flush=True)
time.sleep(200)
"""
PARENT = """
import os, signal, subprocess, sys, time
reading, writing = os.pipe()
for delay in ('0', '1'):
    subprocess.Popen([sys.executable, 'child.py', sys.argv[1], delay], pass_fds=[reading],
                     env={**os.environ, 'MIPKD_PARENT_WATCH': str(reading)})
time.sleep(0.5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_children_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    assert parent_watch.environment(7) == {'MIPKD_PARENT_WATCH': '7'}
    (tmp_path / 'child.py').write_text(CHILD)
    (tmp_path / 'parent.py').write_text(PARENT)
    parent = subprocess.run([sys.executable, 'parent.py', parent_watch.__file__], cwd=tmp_path, capture_output=True,
                            text=True, timeout=100, check=False)  # returns when the children have closed their output
    assert parent.returncode == -signal.SIGKILL
    assert parent.stdout.startswith('holds\n')  # the other one was not even at work yet
    assert parent.stderr == ''


def mipkd(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start ``mipkd`` as its console script does."""
    code = 'import sys; del sys.path[0]; from mipkd_plugin.cli import mipkd_main; sys.exit(mipkd_main())'
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': '',
                   'GIT_DIR': '/dev/null'}  # the commit does not change in the middle of the test
    return subprocess.Popen([sys.executable, '-c', code, *arguments], cwd=folder, env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            # a shell in the background has its children ignore it, and so would these
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def wait_for(condition: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'waited in vain'
        time.sleep(0.005)


def processes(folder: Path) -> list[int]:
    """All processes whose working directory this is."""
    found = []
    for process in Path('/proc').glob('[0-9]*'):
        try:
            if os.readlink(process / 'cwd') == str(folder) and 'State:\tZ' not in (process / 'status').read_text():
                found.append(int(process.name))
        except OSError:
            pass
    return found


def trainings(folder: Path) -> set[str]:
    """Names of the runs that have a process."""
    found = set()
    for pid in processes(folder):
        with suppress(OSError):
            found.update(re.findall(r'options/(\w+)\.yml', Path(f'/proc/{pid}/cmdline').read_text()))
    return found


def has_trained(run: Path, iteration: int) -> bool:
    return any(f'iter:{iteration:8,d}' in path.read_text() for path in run.glob('*.log'))


def test_ctrl_c_and_kill(work: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes with data workers: killed, interrupted, and then run to the end, two at a time."""
    opt = copy.deepcopy(options)
    opt['datasets']['train']['num_worker_per_gpu'] = 1
    opt['train']['total_iter'] = 40  # ten epochs
    opt['val']['val_freq'] = 20
    opt['logger']['save_checkpoint_freq'] = 5
    command = [*COMPARE, '--methods', 'mipkd']
    cut = work / 'cut'
    (cut / 'mipkd_plugin').mkdir(parents=True)
    (cut / 'mipkd_plugin/__init__.py').write_text('raise ImportError')  # not ours, and not taken for it
    for folder in (work, cut):
        write_options(opt, folder / 'x.yml')
    monkeypatch.setattr(run_folders, 'code_version', lambda: __version__)
    assert mipkd_main(command) == 0
    monkeypatch.undo()
    run, results = cut / 'experiments/tiny_none_seed0', cut / RESULTS
    try:
        process = mipkd(cut, *command)
        wait_for(lambda: has_trained(run, 12))
        process.kill()
        process.communicate(timeout=120)
        wait_for(lambda: processes(cut) == [], 60)
        assert not has_trained(run, 40)

        process = mipkd(cut, *command)
        wait_for(lambda: has_trained(run, 27))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (130, 'interrupted\n')
        assert out == 'stopping; run the same command again to continue from the last checkpoints\n'
        wait_for(lambda: processes(cut) == [], 60)
        assert not has_trained(run, 40)
        assert not results.exists()

        process = mipkd(cut, *command, '--jobs', '2')
        wait_for(lambda: trainings(cut) == {'tiny_none_seed0', 'tiny_mipkd_seed0'})
        out, err = process.communicate(timeout=120)
    finally:
        for pid in processes(cut):
            os.kill(pid, signal.SIGKILL)
    assert (process.returncode, err) == (0, '')
    first, second = (line.split(':')[0] for line in out.splitlines()[:2])
    assert (first[:6], second[:6]) == ('[1/2] ', '[2/2] ')
    assert {first[6:], second[6:]} == {'mipkd seed 0', 'none seed 0'}
    assert rows(results) == rows(work / RESULTS)
    assert len(rows(results)) == 4
    resumed = [re.findall(r'Resuming training from epoch: \d+, iter: (\d+)', path.read_text())
               for path in sorted(run.glob('*.log'))]
    assert [bool(found) for found in resumed] == [False, True, True]
    assert 12 <= int(resumed[1][0]) < 27 <= int(resumed[2][0]) < 40  # each stop has saved, also that of the orphan
