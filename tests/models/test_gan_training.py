"""GAN and real-world trainings through the front door: check, train, resume, validate, and open the student's file."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.models.base_model import BaseModel
from gan_options import GANS, KINDS, STUDENT, options, write_images
from training import train, train_until, two_ranks, write_options

from mipkd_plugin import compat
from mipkd_plugin.cli import basicsr_main, mipkd_main
from basicsr.archs import build_network

LOSSES = [{'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}, {'type': 'LogitsKDLoss'}]
ALL_LOSSES = [*LOSSES, {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 4, 'meta_every': 1},
              {'type': 'FitNetLoss', 'taps': 2}]


def weights(run: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(run / 'models' / name, weights_only=True)
    return found


@pytest.mark.parametrize('kind', KINDS)
def test_a_training_that_was_stopped_ends_alike(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``exact_resume`` bit for bit: networks, losses, and the pool of pairs, which is full after iteration 2."""
    monkeypatch.chdir(write_images(tmp_path))
    opt = options(tmp_path, kind, ALL_LOSSES, exact_resume=True, total_iter=6)
    opt['logger'].update(val_pictures=1, use_tb_logger=False)
    opt['datasets']['train']['num_worker_per_gpu'] = 0
    assert train(write_options({**opt, 'name': 'whole'}, tmp_path / 'whole.yml')) == 0
    path = write_options({**opt, 'name': 'stopped'}, tmp_path / 'stopped.yml')
    train_until(path, 'trained', 5)
    assert train(path, '--auto_resume') == 0
    whole, stopped = (tmp_path / 'experiments' / name for name in ('whole', 'stopped'))
    for name in ('net_g_6.pth', 'distill_6.pth', *(['net_d_6.pth'] if kind in GANS else [])):
        one, other = weights(whole, name), weights(stopped, name)
        for key in ('params', 'params_ema', 'losses'):
            for tensor, value in one.get(key, {}).items():
                assert not isinstance(value, torch.Tensor) or torch.equal(value, other[key][tensor]), (name, tensor)
    assert (whole / 'pictures/val/0_4.png').exists()
    net = build_network(dict(STUDENT))  # as BasicSR opens it
    net.load_state_dict(weights(whole, 'net_g_latest.pth')['params_ema'], strict=True)
    spandrel = pytest.importorskip('spandrel')
    found = spandrel.ModelLoader().load_from_file(str(whole / 'models/net_g_latest.pth'))
    assert found.architecture.id == 'Compact'
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.model(image), net(image))


@pytest.mark.parametrize(('key', 'value'), [('queue_size', 2), ('noise_range', [1, 20]), ('gt_usm', False)])
def test_another_degradation_cannot_go_on_exactly(key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                  capsys: pytest.CaptureFixture[str]) -> None:
    """The pool of pairs has the old size, and the images that it holds were degraded as before."""
    monkeypatch.chdir(write_images(tmp_path))
    opt = options(tmp_path, 'RealESRNet', exact_resume=True)
    opt['logger']['use_tb_logger'] = False
    path = write_options(opt, tmp_path / 'tiny.yml')
    train_until(path, 'trained', 3)
    old = opt[key]
    write_options({**opt, key: value}, path)
    capsys.readouterr()
    assert train(path, '--auto_resume') == 2
    assert f'{key} {old} -> {value}; the run cannot end like one that was not interrupted' in capsys.readouterr().err
    write_options({**opt, 'high_order_degradation': True}, path)  # the default, written out
    assert train(path, '--auto_resume') == 0


@pytest.mark.parametrize('kind', KINDS)
def test_the_check_measures_gradients(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                      capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(write_images(tmp_path))
    opt = options(tmp_path, kind, LOSSES, **({'net_d_iters': 2, 'net_d_init_iters': 1} if kind in GANS else {}))
    path = write_options(opt, tmp_path / 'tiny.yml')
    before = sorted(tmp_path.rglob('*'))
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    said = capsys.readouterr().out
    assert ('l_g_total ' in said) is (kind in GANS)
    assert f'iteration {2 if kind in GANS else 1}\n' in said
    for term in ('l_feat', 'l_block', 'l_logits'):
        line, = (line for line in said.splitlines() if line.split()[:1] == [term])
        norm, cosine = float(line.split()[1]), line.split()[4]
        assert norm > 0
        assert -1 <= float(cosine) <= 1
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.parametrize('kind', ['SRGAN', 'RealESRGAN'])
def test_two_ranks_hold_equal_networks(kind: str, tmp_path: Path) -> None:
    write_images(tmp_path)
    opt = options(tmp_path, kind, ALL_LOSSES[:3], total_iter=3)
    opt['logger']['save_checkpoint_freq'] = 3
    opt['datasets']['train']['dataset_enlarge_ratio'] = 8
    write_options(opt, tmp_path / 'tiny.yml')

    def run(arguments: list[str]) -> int:
        seen: list[Any] = []
        plain = BaseModel.save_training_state

        def keep(self: Any, *args: Any) -> None:
            if not seen:
                tensors = {name: {key: value.numpy().copy() for key, value in getattr(self, name).state_dict().items()
                                  if isinstance(value, torch.Tensor) and not key.endswith('_extra_state')}
                           for name in ('net_g', 'net_d', 'losses')}  # ranks draw random numbers of their own
                Path(arguments[0], f'rank{torch.distributed.get_rank()}.pkl').write_bytes(pickle.dumps(tensors))
                seen.append(1)
            plain(self, *args)

        BaseModel.save_training_state = keep  # in this fork alone
        return basicsr_main(['train', '-opt', 'tiny.yml', '--launcher', 'pytorch'])

    for result in two_ranks(run, str(tmp_path), cwd=tmp_path):
        assert result.returncode == 0, result.stderr[-3000:]
    first, second = (pickle.loads((tmp_path / f'rank{rank}.pkl').read_bytes()) for rank in (0, 1))
    for part, tensors in first.items():
        for name, value in tensors.items():
            assert np.array_equal(value, second[part][name]), f'{part} {name} differs'
    fresh = build_network(dict(STUDENT)).state_dict()
    assert any(not np.array_equal(value, first['net_g'][f'module.{name}']) for name, value in fresh.items())
    assert compat.has_gloo() is False


def test_a_comparison_has_basicsrs_own_class_as_its_control(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_images(tmp_path))
    opt = options(tmp_path, 'RealESRNet', total_iter=4)
    del opt['train']['distill_opt']
    opt['compare'] = {'seeds': [0], 'equal_time': False, 'methods': {'logits': {'type': 'LogitsKDLoss'}}}
    opt['logger'].update(use_tb_logger=False, val_pictures=1)
    opt['val']['metrics']['ssim'] = {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True}
    assert mipkd_main(['compare', '-opt', str(write_options(opt, tmp_path / 'tiny.yml')), '--jobs', '1']) == 0
    folder = tmp_path / 'experiments/tiny'
    assert '| logits |' in (folder / 'table.md').read_text()
    assert 'model_type: RealESRNetModel' in (folder / 'options/tiny_none_seed0.yml').read_text()
    assert (tmp_path / 'experiments/tiny_logits_seed0/pictures/val/0_4.png').exists()
    assert not (tmp_path / 'experiments/tiny_none_seed0/pictures').exists(), 'its class draws none'
