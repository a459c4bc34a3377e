"""The commands: what they refuse, what they print, and that nothing is written before the check has passed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import REPO
from training import forget_logger, launched

from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.config import plugins

Make = Callable[..., dict[str, Any]]


@pytest.fixture
def option_file(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A good option file in an otherwise empty working directory."""
    opt = train_options()
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / 'x.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    return folder / 'x.yml'


def edit(path: Path, **changes: Any) -> None:
    opt = yaml.safe_load(path.read_text())
    opt.update(changes)
    path.write_text(yaml.safe_dump(opt, sort_keys=False))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def run(*command: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': '',
                   **variables}
    return subprocess.run([sys.executable, '-m', 'mipkd_plugin', *command], cwd=cwd, env=environment,
                          capture_output=True, text=True, timeout=240, check=False)


# ---------------------------------------------------------------------------------- as a process of its own
def test_nothing_is_written_when_options_are_refused(option_file: Path) -> None:
    edit(option_file, num_gpu=2, nmae='x')
    result = run('train', '-opt', 'x.yml', '--force_yml', 'train:optim_g:lr=1e-4', cwd=option_file.parent)
    assert result.returncode == 2
    assert result.stdout == ''
    assert 'Traceback' not in result.stderr
    lines = result.stderr.splitlines()
    assert lines[0] == 'x.yml: 4 problems'
    assert 'write --force_yml train:optim_g:lr=!!float1e-4' in result.stderr
    assert 'torchrun --nproc_per_node=2 -m mipkd_plugin train -opt x.yml --launcher pytorch' in result.stderr
    line = next(n for n, text in enumerate(option_file.read_text().splitlines(), 1) if text.startswith('nmae'))
    assert f"nmae (line {line}): unknown key: nothing reads it\n   -> did you mean 'name'?" in result.stderr
    assert os.listdir(option_file.parent) == ['x.yml']


def test_the_papers_option_file_says_all_that_is_missing(tmp_path: Path) -> None:
    option = REPO / 'options/train_MiPKD_SwinIR_x4.yml'
    result = run('train', '-opt', str(option), cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith(f'{option}: 5 problems')
    for piece in (f'looked for {tmp_path}/datasets/DIV2K/HR.lmdb', f'looked for {tmp_path}/datasets/Set5/LRbicx4',
                  'mipkd prepare --hr DIR --scale 4 --out datasets/DIV2K --lmdb',
                  f'looked for {tmp_path}/experiments/pretrained_models/001_classicalSR_DIV2K_s48w8_SwinIR-M_x4.pth'):
        assert piece in result.stderr
    assert os.listdir(tmp_path) == []


def test_a_launched_run_with_a_spawned_worker_and_its_log(option_file: Path) -> None:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    torchrun = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    result = run('train', '-opt', 'x.yml', '--launcher', 'pytorch', '--local-rank=0', '--force_yml',
                 'datasets:train:num_worker_per_gpu=1', 'datasets:train:persistent_workers=true',
                 cwd=option_file.parent, **torchrun)
    assert result.returncode == 0, result.stderr
    folder = option_file.parent / 'experiments/tiny'
    assert (folder / 'models/net_g_latest.pth').is_file()
    log = next(folder.glob('train_tiny_*.log')).read_text()
    assert 'l_feat' in log
    assert 'basicsr train -opt x.yml' in (folder / 'x.yml').read_text()


# ---------------------------------------------------------------------------------- within this process
def test_train_then_resume_then_test(option_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = list(sys.argv)
    assert basicsr_main(['train', '-opt', 'x.yml', '--debug']) == 0
    assert sys.argv == argv
    assert os.listdir('experiments') == ['debug_tiny']
    assert basicsr_main(['train', '-opt', 'x.yml']) == 0
    resumed = ['train', '-opt', 'x.yml', '--auto_resume', '--force_yml', 'train:total_iter=6']
    assert basicsr_main(resumed) == 0
    assert torch.load('experiments/tiny/training_states/6.state')['iter'] == 6
    opt = yaml.safe_load(option_file.read_text())
    path = {'pretrain_network_g': 'experiments/tiny/models/net_g_6.pth', 'param_key_g': 'params_ema'}
    test = {**{k: opt[k] for k in ('scale', 'num_gpu', 'network_g')}, 'name': 'tested', 'model_type': 'SRModel',
            'datasets': {'test_1': opt['datasets']['val']}, 'path': path,
            'val': {'save_img': True, 'suffix': None, 'metrics': opt['val']['metrics']}}
    Path('test.yml').write_text(yaml.safe_dump(test))
    assert basicsr_main(['test', '-opt', 'test.yml']) == 0
    assert len(list(Path('results/tested/visualization/val').iterdir())) == 4
    other = torch.load('../teacher.pth')
    other['params']['conv_last.bias'] += 1
    torch.save(other, '../other.pth')
    capsys.readouterr()
    assert basicsr_main([*resumed, 'teacher:weights=../other.pth']) == 2
    assert 'is not the teacher that' in capsys.readouterr().err


@pytest.mark.parametrize(('arguments', 'piece'), [
    (['-opt', 'no.yml'], 'cannot read no.yml: No such file'),
    (['-opt', 'x.yml', '--force_yml', 'a=b=c'], '--force_yml a=b=c: has 2 equals signs'),
    (['-opt', 'x.yml', '--launcher', 'pytorch'], 'run: torchrun --nproc_per_node='),
    (['-opt', 'x.yml', '--force_yml', 'teacher:weights=no.pth'], 'teacher.weights (--force_yml): does not exist'),
    (['-opt', 'x.yml', '--force_yml', 'datasets:train:dataroot_gt=no'], 'mipkd prepare --hr DIR --scale 2 --out'),
])
def test_refusals(option_file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
                  arguments: list[str], piece: str) -> None:
    assert basicsr_main(['train', *arguments]) == 2
    captured = capsys.readouterr()
    assert piece in captured.err
    assert 'Traceback' not in captured.err
    assert captured.out == ''
    assert os.listdir('.') == ['x.yml']
    launched(monkeypatch, rank=1)  # the other processes of torchrun leave the talking to the first
    if 'pytorch' not in arguments:
        assert basicsr_main(['train', *arguments, '--launcher', 'pytorch']) == 2
        assert capsys.readouterr().err == ''


def test_wrong_usage_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ['train'], ['fly', '-opt', 'x.yml'], ['train', '-opt', 'x.yml', '--launcher', 'mpi']):
        with pytest.raises(SystemExit) as caught:
            basicsr_main(arguments)
        assert caught.value.code == 2
    capsys.readouterr()


@pytest.mark.parametrize(('main', 'arguments', 'pieces'), [
    (basicsr_main, ['--help'], ['train', 'test']),
    (basicsr_main, ['train', '--help'], ['--auto_resume', '--launcher', '--force_yml', '--debug']),
    (basicsr_main, ['--version'], ['mipkd-plugin 0.', 'basicsr 1.4.2']),
    (mipkd_main, ['--help'], ['check', 'taps', 'prepare', 'compare', 'ablate', 'demo']),
    (mipkd_main, ['compare', '--help'], ['--methods', '--seeds', '--jobs', '--report', '--results', '--into']),
    (mipkd_main, ['ablate', '--help'], ['--method ', '--vary', '--seeds']),
    (mipkd_main, ['prepare', '--help'], ['--hr', '--scale', '--lmdb']),
    (mipkd_main, ['show', '--help'], ['--images', '--lr', '--png', '--niqe', '--no-niqe', 'lower is', 'with --lr']),
])
def test_help(main: Callable[[list[str]], int], arguments: list[str], pieces: list[str],
              capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert all(piece in out for piece in pieces)


def test_interrupt(option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(root: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('basicsr.train.train_pipeline', interrupted)
    assert basicsr_main(['train', '-opt', 'x.yml']) == 130
    assert capsys.readouterr().err == 'interrupted\n'


def test_errors_of_others_are_not_hidden(option_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(root: str) -> None:
        raise ValueError('not ours')

    monkeypatch.setattr('basicsr.train.train_pipeline', broken)
    with pytest.raises(ValueError, match='not ours'):
        basicsr_main(['train', '-opt', 'x.yml'])


def test_plugins(option_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (option_file.parent / 'their_plugin.py').write_text(
        'from basicsr.models.sr_model import SRModel\nfrom basicsr.utils.registry import MODEL_REGISTRY\n'
        '@MODEL_REGISTRY.register()\nclass TheirModel(SRModel):\n    pass\n')
    (option_file.parent / 'bad_plugin.py').write_text('import a_package_that_is_not_there\n')
    monkeypatch.syspath_prepend(str(option_file.parent))
    found = [EntryPoint('theirs', 'their_plugin', plugins.GROUP)]
    monkeypatch.setattr(plugins, 'entry_points', lambda group: found)
    opt = yaml.safe_load(option_file.read_text())
    del opt['teacher'], opt['train']['distill_opt']
    option_file.write_text(yaml.safe_dump({**opt, 'model_type': 'TheirModel'}))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    found.append(EntryPoint('bad', 'bad_plugin', plugins.GROUP))
    assert mipkd_main(['check', '-opt', 'x.yml']) == 2
    assert "the BasicSR plug-in 'bad_plugin' cannot be imported: ModuleNotFoundError" in capsys.readouterr().err


def test_check_shows_what_the_file_describes(option_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
    out = capsys.readouterr().out
    assert out.startswith('ok: x.yml can be used by basicsr train\n')
    for piece in ('student  EDSR, 6,867 parameters', 'teacher  EDSR, 20,283 parameters', 'MiPKDLoss, ',
                  'body.2 8×8×8 <- body.4 12×8×8', 'train    train, 4 pairs of images'):
        assert piece in out
    assert mipkd_main(['check', '-opt', 'x.yml', '--test']) == 2
    assert os.listdir('.') == ['x.yml']


def test_taps_helps_where_the_check_fails(option_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forced = ['--force_yml', 'train:distill_opt:taps=[["body.7", "body.0"]]', 'teacher:weights=no.pth']
    assert mipkd_main(['check', '-opt', 'x.yml', *forced]) == 2
    assert 'mipkd taps -opt x.yml' in capsys.readouterr().err
    assert mipkd_main(['taps', '-opt', 'x.yml', *forced]) == 0
    out = capsys.readouterr().out
    assert 'student EDSR' in out
    assert 'trunk: body, 3 blocks' in out
    assert 'changed in place' in out
    assert mipkd_main(['taps', '-opt', 'x.yml', '--teacher', '--all']) == 0
    out = capsys.readouterr().out
    assert 'student' not in out
    assert 'body.4.conv1' in out
    edit(option_file, network_g={'type': 'EDRS'})
    assert mipkd_main(['taps', '-opt', 'x.yml']) == 2
    assert "there is no network 'EDRS'" in capsys.readouterr().err


def test_a_run_without_a_seed_logs_one_that_repeats_it(option_file: Path) -> None:
    opt = yaml.safe_load(option_file.read_text())
    del opt['manual_seed']
    opt['logger']['use_tb_logger'] = False
    option_file.write_text(yaml.safe_dump(opt, sort_keys=False))
    forget_logger()
    assert basicsr_main(['train', '-opt', 'x.yml']) == 0
    forget_logger()
    log = next(Path('experiments/tiny').glob('train_*.log')).read_text()
    seed, *_ = re.findall(r'manual_seed: (\d+)', log)
    edit(option_file, name='again')
    assert basicsr_main(['train', '-opt', 'x.yml', '--force_yml', f'manual_seed={seed}']) == 0
    for name in ('net_g_latest.pth', 'distill_latest.pth'):
        first, second = (torch.load(Path('experiments', run, 'models', name)) for run in ('tiny', 'again'))
        part = 'params' if name.startswith('net_g') else 'losses'
        assert all(torch.equal(first[part][key], second[part][key]) for key in first[part])
