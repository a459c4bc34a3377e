"""``basicsr train`` with networks of unusual shapes: what the check has found out about them holds in the training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from stand_ins import ChannelsLast, FilledLists, Pairs, UShape, WritingInEval
from torch import nn
from training import train, write_options

from mipkd_plugin.networks.answers import Recorder

Make = Callable[..., dict[str, Any]]
NETWORKS = (ChannelsLast, FilledLists, Pairs, UShape, WritingInEval)


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    for network in NETWORKS:
        ARCH_REGISTRY._obj_map[network.__name__] = network
    yield
    for network in NETWORKS:
        del ARCH_REGISTRY._obj_map[network.__name__]


def options(train_options: Make, role: str, network: type[nn.Module], folder: Path) -> dict[str, Any]:
    opt = train_options()
    if role == 'student':
        opt['network_g'] = {'type': network.__name__}
    else:
        torch.save({'params': network().state_dict()}, folder / 'teacher.pth')
        opt['teacher'].update(network={'type': network.__name__}, weights=str(folder / 'teacher.pth'))
    opt['train'].update(total_iter=2, distill_opt={'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4})
    return opt


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize('network', NETWORKS, ids=lambda network: network.__name__)
def test_it_trains_and_validates(network: type[nn.Module], role: str, train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, role, network, tmp_path)
    opt['val']['val_freq'] = 2
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0


def test_what_the_student_has_computed_is_not_computed_again(train_options: Make, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    own = Recorder.of
    monkeypatch.setattr(Recorder, 'of', lambda self, lq: found.append(len(own(self, lq))) or own(self, lq))
    opt = options(train_options, 'student', FilledLists, tmp_path)
    opt['train']['distill_opt']['route_probability'] = 1.0
    opt['train']['total_iter'] = 1
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    assert len(found) > 2
    assert all(found[-2:])


@pytest.mark.parametrize('network', [FilledLists, Pairs], ids=lambda network: network.__name__)
def test_a_share_of_the_batch(network: type[nn.Module], train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, 'student', network, tmp_path)
    opt['train']['distill'] = {'share': 0.5}
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0


@pytest.mark.parametrize('network', [FilledLists, WritingInEval], ids=lambda network: network.__name__)
def test_a_teacher_that_runs_once_on_each_crop(network: type[nn.Module], train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, 'teacher', network, tmp_path)
    opt['teacher']['cache'] = 'memory'
    opt['datasets']['train'].update(type='CropPoolDataset', crops=8)
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
