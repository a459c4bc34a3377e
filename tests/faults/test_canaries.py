"""Files that would make a file ``canary`` when they are read carelessly, at every place where a file is read."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.harness import as_test
from faults.inputs.weights import Canary
from helpers import tiny_options, write_image_pairs
from training import forget_logger, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.config.remedies import REMOVE, remedied
from mipkd_plugin.utils.weight_files import WeightFileError, only_tensors

VGG = 'vgg19-dcbb9e9d.pth'
REFUSED = ('to load them could run code', 'to load it could run code')


def zipped(path: Path) -> None:
    torch.save({'params': Canary()}, path)


def legacy(path: Path) -> None:
    torch.save({'params': Canary()}, path, _use_new_zipfile_serialization=False)


def plain(path: Path) -> None:
    path.write_bytes(pickle.dumps(Canary(), protocol=2))


PICKLES = [zipped, legacy, plain]


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with images; PyTorch loads as it did before version 2.6, for whoever does not say weights_only=True."""
    monkeypatch.chdir(write_image_pairs(tmp_path))
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    yield tmp_path
    assert not (tmp_path / 'canary').exists()


def options(work: Path, fix: dict[str, Any], test: bool = False) -> str:
    opt = tiny_options(work)
    opt['logger']['use_tb_logger'] = False
    write_options(remedied(as_test(opt, work) if test else opt, fix), work / 'x.yml')
    return 'x.yml'


def refusal(capsys: pytest.CaptureFixture[str], run: Callable[[], int]) -> str:
    capsys.readouterr()
    forget_logger()
    assert run() == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


def test_the_canary_sings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without this package PyTorch would run it."""
    monkeypatch.chdir(tmp_path)
    for number, write in enumerate(PICKLES):
        write(tmp_path / f'{number}.pth')
        if write is plain:
            pickle.loads((tmp_path / f'{number}.pth').read_bytes()).close()
        else:
            torch.load(tmp_path / f'{number}.pth', weights_only=False)['params'].close()
        (tmp_path / 'canary').unlink()


@pytest.mark.parametrize('write', PICKLES)
@pytest.mark.parametrize(('where', 'fix', 'path'), [
    ('teacher.weights', {}, 'teacher.pth'),
    ('path.pretrain_network_g', {'path.pretrain_network_g': 'p.pth'}, 'p.pth'),
    ('network_g.load_path', {'network_g': {'type': 'SpyNet', 'load_path': 'p.pth'}}, 'p.pth'),
    ('network_g.spynet_path', {'network_g': {'type': 'BasicVSR', 'spynet_path': 'p.pth'}}, 'p.pth'),
    ('network_g.dict_path', {'network_g': {'type': 'DFDNet', 'num_feat': 8, 'dict_path': 'p.pth'}}, 'p.pth'),
    ('train.distill_opt', {'train.distill_opt': {'type': 'CSDLoss', 'weights': 'p.pth'}}, 'p.pth'),
    ('train.distill_opt', {'train.distill_opt': {'type': 'CSDLoss'}}, f'torch/hub/checkpoints/{VGG}'),
], ids=['teacher', 'student', 'SpyNet', 'BasicVSR', 'DFDNet', 'VGG', 'VGG in the cache of torchvision'])
def test_weights_of_a_training(work: Path, where: str, fix: dict[str, Any], path: str, write: Callable[[Path], None],
                               capsys: pytest.CaptureFixture[str]) -> None:
    file = options(work, fix)
    (work / path).parent.mkdir(parents=True, exist_ok=True)
    write(work / path)
    for run in (lambda: mipkd_main(['check', '-opt', file]), lambda: train(file)):
        message = refusal(capsys, run)
        assert where in message
        assert any(piece in message for piece in REFUSED), message


def test_weights_of_a_test(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = options(work, {}, test=True)
    zipped(work / 'teacher.pth')
    message = refusal(capsys, lambda: basicsr_main(['test', '-opt', file]))
    assert 'path.pretrain_network_g' in message


def test_vgg_of_the_perceptual_loss(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'experiments/pretrained_models').mkdir(parents=True)
    zipped(work / 'experiments/pretrained_models' / VGG)
    file = options(work, {'train.perceptual_opt': {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1}}})
    message = refusal(capsys, lambda: train(file))
    assert f'{VGG} is damaged: it holds Python objects beside tensors' in message


@pytest.mark.parametrize('name', ['models/net_g_2.pth', 'models/distill_2.pth', 'models/random_2.pth',
                                  'training_states/2.state'])
@pytest.mark.parametrize('automatic', [True, False])
def test_files_of_a_resume(work: Path, name: str, automatic: bool, capsys: pytest.CaptureFixture[str]) -> None:
    file = options(work, {'train.total_iter': 2, 'train.exact_resume': True})
    assert train(file) == 0
    fix = {} if automatic else {'path.resume_state': 'experiments/tiny/training_states/2.state'}
    options(work, {**fix, 'train.exact_resume': True})
    zipped(work / 'experiments/tiny' / name)
    message = refusal(capsys, lambda: train(file, *(['--auto_resume'] if automatic else [])))
    assert f'{"--auto_resume" if automatic else "path.resume_state"}' in message
    assert f'{name} is damaged: it holds Python objects beside tensors' in message, message
    assert 'restore the file' in message


@pytest.mark.parametrize('name', ['models/net_g_2.pth', 'training_states/2.state'])
def test_files_that_change_after_the_check(work: Path, name: str, monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    """What BasicSR itself reads: its calls of torch.load do not say weights_only."""
    file = options(work, {'train.total_iter': 2})
    assert train(file) == 0
    options(work, {})
    check = config.check_options
    monkeypatch.setattr(config, 'check_options', lambda *args, **flags: (
        check(*args, **flags), zipped(work / 'experiments/tiny' / name))[0])
    message = refusal(capsys, lambda: train(file, '--auto_resume'))
    assert 'holds Python objects beside tensors' in message


def test_a_student_that_a_resume_loads_from_elsewhere(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = options(work, {'train.total_iter': 2})
    assert train(file) == 0
    options(work, {'path.pretrain_network_g': 'p.pth', 'path.ignore_resume_networks': ['network_g']})
    zipped(work / 'p.pth')
    message = refusal(capsys, lambda: train(file, '--auto_resume'))
    assert 'path.pretrain_network_g' in message


def test_a_folder_of_memcached(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'mc.py').write_text("open('canary', 'w')\n")
    backend = {'type': 'memcached', 'server_list_cfg': 'a', 'client_cfg': 'b', 'sys_path': str(work)}
    for kind in ('PairedImageDataset', 'RealESRGANDataset'):
        file = options(work, {'datasets.train.io_backend': backend, 'datasets.train.type': kind})
        assert "'memcached' is not supported" in refusal(capsys, lambda file=file: train(file))
    assert 'mc' not in sys.modules


def test_the_guard_holds_whatever_the_caller_asks_for(work: Path) -> None:
    zipped(work / 'p.pth')
    with only_tensors():
        for flags in ({}, {'weights_only': False}, {'weights_only': None}, {'pickle_module': pickle}):
            with pytest.raises(WeightFileError, match='holds Python objects beside tensors'):
                torch.load('p.pth', **flags)
        with (work / 'p.pth').open('rb') as file, pytest.raises(WeightFileError, match='holds Python objects'):
            torch.load(file)
        torch.save({'params': {'a': torch.ones(1)}}, 'q.pth')
        assert torch.load('q.pth', lambda storage, place: storage)['params']['a'] == 1


def test_the_guard_ends_with_the_command(work: Path) -> None:
    torch.save(torch.nn.Identity(), 'module.pth')
    with only_tensors(), pytest.raises(WeightFileError):
        torch.load('module.pth')
    assert isinstance(torch.load('module.pth', weights_only=False), torch.nn.Identity)


def test_other_networks_of_a_model(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zipped(work / 'd.pth')
    file = options(work, {'model_type': 'ESRGANModel', 'path.pretrain_network_d': 'd.pth', 'teacher': REMOVE,
                          'train.distill_opt': REMOVE, 'network_d': {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3,
                                                                     'num_feat': 4}})
    assert 'path.pretrain_network_d' in refusal(capsys, lambda: train(file))
