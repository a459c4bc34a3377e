"""What can be used, but is perhaps not what is wanted, is said by the check, by ``mipkd taps`` and in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers import TEACHERS, tiny_options, write_image_pairs
from training import train, write_options

from faults import stand_ins  # noqa: F401  (registers them)
from faults.inputs.any_network import FITNET, WIDE, teacher
from mipkd_plugin.cli import mipkd_main

DOUBT = ' of the student Around is in doubt: the signal also goes around its blocks; taps: 2 took '
UNSHUFFLED = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 2, 'num_feat': 8, 'num_block': 2,
              'num_grow_ch': 4}


def written(folder: Path, **changes: Any) -> Path:
    write_image_pairs(folder)
    opt = tiny_options(folder, **changes)
    teacher(opt['teacher']['network'])(folder)
    return write_options(opt, folder / 'options.yml')


def with_loss(folder: Path, network_g: dict[str, Any], of_teacher: dict[str, Any], loss: dict[str, Any]) -> Path:
    base = tiny_options(folder)
    return written(folder, network_g=network_g, teacher={**base['teacher'], 'network': of_teacher},
                   train={**base['train'], 'distill_opt': loss})


@pytest.mark.parametrize(('network_g', 'of_teacher', 'loss', 'note'), [
    ({'type': 'Around'}, TEACHERS['EDSR'], {'type': 'FitNetLoss', 'taps': 2}, DOUBT),
    ({'type': 'Odd'}, {'type': 'Drops', **WIDE}, FITNET, 'the teacher Drops is random: two runs over the same images '),
    ({'type': 'Odd'}, {'type': 'Drops', **WIDE}, {**FITNET, 'type': 'MiPKDLoss', 'latent_channels': 4},
     'the teacher Drops is random: two runs over the same images differ by up to '),
    ({'type': 'Drops', 'always': False}, TEACHERS['EDSR'], {**FITNET, 'type': 'MiPKDLoss', 'latent_channels': 4},
     'the student Drops draws random numbers in training'),
    ({'type': 'OverBatch'}, TEACHERS['EDSR'], FITNET, 'the student OverBatch depends on the batch: '),
    ({'type': 'Beside'}, TEACHERS['EDSR'], {'type': 'FitNetLoss', 'taps': [['extra', 'body.0']]},
     "tap 'extra' of the student Beside: the image does not depend on its feature"),
], ids=['doubtful trunk', 'random teacher', 'random teacher re-entered', 'dropout', 'mixed batch', 'beside'])
def test_a_doubt_is_one_line_of_the_check_and_of_the_log(
        network_g: dict[str, Any], of_teacher: dict[str, Any], loss: dict[str, Any], note: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_loss(tmp_path, network_g, of_teacher, loss)
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith('  note ')]
    assert len(notes) == 1
    assert note in notes[0]
    assert train(path) == 0
    log, = (tmp_path / 'experiments' / 'tiny').glob('train_*.log')
    said = [line for line in log.read_text().splitlines() if line.startswith('\tnote: ')]
    assert [line.removeprefix('\tnote: ') for line in said] == [notes[0].removeprefix('  note     ')]


def test_a_training_without_doubts_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert mipkd_main(['check', '-opt', str(written(tmp_path))]) == 0
    assert 'note' not in capsys.readouterr().out


def test_taps_says_what_is_in_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = with_loss(tmp_path, {'type': 'Around'}, TEACHERS['EDSR'], {'type': 'FitNetLoss', 'taps': 2})
    assert mipkd_main(['taps', '-opt', str(path)]) == 0
    printed = capsys.readouterr().out
    assert 'in doubt: the signal also goes around its blocks\nnote: if these are not the blocks of the student, give ' \
           'pairs of your own: taps: [[student module, teacher module], …]\n' in printed
    assert printed.count('note: ') == 1


@pytest.mark.parametrize('is_student', [True, False])
def test_a_view_that_is_chosen_is_printed(is_student: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    nets = ({'type': 'Odd'}, UNSHUFFLED)
    path = with_loss(tmp_path, *(nets if is_student else nets[::-1]), {'type': 'FitNetLoss', 'taps': 1})
    pair = ('body.2 unshuffled 2', 'body.1') if is_student else ('body.1', 'body.2 unshuffled 2')
    assert mipkd_main(['taps', '-opt', str(path)]) == 0
    assert f'taps: 1 means [{pair[0]}, {pair[1]}]: equal work' in capsys.readouterr().out
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    printed = capsys.readouterr().out
    assert f'{pair[0]} {32 if is_student else 8}×4×4 <- {pair[1]} ' in printed
    assert 'note' not in printed
    assert train(path) == 0
    log, = (tmp_path / 'experiments' / 'tiny').glob('train_*.log')
    assert f'\tFitNetLoss: {pair[0]} <- {pair[1]}\n' in log.read_text()


@pytest.mark.parametrize(('role', 'network', 'says'), [
    ('student', {'type': 'ReturnsMore', 'kind': 'list'}, 'ReturnsMore returns a list of 2: 0: '),
    ('student', {'type': 'UnnamedWindows', 'split': 5}, 'UnnamedWindows fails on a patch of 3×8×8: RuntimeError: '),
    ('teacher', {'type': 'UnnamedWindows', 'split': 5}, 'UnnamedWindows fails on a patch of 3×8×8: RuntimeError: ')],
    ids=['list', 'student fails', 'teacher fails'])
def test_taps_names_a_network_that_it_cannot_run(role: str, network: dict[str, Any], says: str, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    nets = (network, TEACHERS['EDSR']) if role == 'student' else (TEACHERS['EDSR'], network)
    path = with_loss(tmp_path, *nets, {'type': 'FitNetLoss', 'taps': 2})
    assert mipkd_main(['taps', '-opt', str(path)]) == 2
    printed = capsys.readouterr().err
    assert f'{role}: {says}' in printed
    assert f'-> mipkd check -opt {path} says what to write' in printed
    assert mipkd_main(['check', '-opt', str(path)]) == 2
    assert '\n   -> write ' in capsys.readouterr().err
