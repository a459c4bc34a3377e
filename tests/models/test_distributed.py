"""Two gloo processes: equal gradients, and the whole command under torchrun."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import distributed_worker
import pytest
import torch
import yaml
from helpers import REPO, STUDENTS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from training import two_ranks

from mipkd_plugin.cli import basicsr_main
from mipkd_plugin.models import DistillModel
from mipkd_plugin.models.distributed import with_fixed_buffers
from basicsr.archs import build_network

TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0', '--standalone']


def trained_by_two(folder: Path, *arguments: str) -> str:
    """What ``basicsr train -opt tiny.yml`` says under two ranks."""
    results = two_ranks(basicsr_main, 'train', '-opt', 'tiny.yml', '--launcher', 'pytorch', *arguments, cwd=folder)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:]
    return results[0].stdout + results[0].stderr


def test_gradients_are_equal_on_both_ranks(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [opt['train']['distill_opt'], {'type': 'LogitsKDLoss'},
                                   {'type': 'KRNetLoss', 'taps': 3, 'hidden_channels': 8, 'meta_every': 1},
                                   {'type': 'FitNetLoss'}, {'type': 'DUKDLoss'},
                                   {'type': 'DCKDLoss', 'taps': 2, 'history_every': 2}, {'type': 'WaveletKDLoss'}]
    opt['train']['init'] = 'teacher_slice'
    (tmp_path / 'opt.json').write_text(json.dumps(opt))
    for result in two_ranks(lambda paths: distributed_worker.main(*paths) or 0, str(tmp_path / 'opt.json'),
                            str(tmp_path), cwd=REPO):
        assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert first['wrapped'] == ['DistributedDataParallel', 'DistributedDataParallel', 'LogitsKDLoss',
                                'DistributedDataParallel', 'DistributedDataParallel', 'DUKDLoss', 'DCKDLoss',
                                'WaveletKDLoss', 'EDSR']
    assert not torch.equal(first['random'], second['random']), 'both ranks draw the same masks and routes'
    for part in ('student', 'losses', 'weights'):
        for name, value in first[part].items():
            other = second[part][name]  # both None: the decoder of a network that no route entered
            assert (value is None and other is None) or torch.equal(value, other), f'{part} {name} differs'
        assert any(value is not None and value.abs().sum() > 0 for value in first[part].values())
    saved = torch.load(tmp_path / 'experiments/tiny/models/distill_2.pth')
    steps = [state['step'] for state in saved['losses']['2.meta._extra_state']['state'].values()]
    assert len(steps) == 3 * 8, 'eight tensors in each generator'
    assert set(map(float, steps)) == {2.0}
    assert saved['losses']['5.history._extra_state'] == {'changed': 2}
    assert '5.history.net.conv_first.weight' in first['weights'], 'equal on both ranks'
    drawing = ['0._extra_state', '4._extra_state', '5._extra_state']
    assert [list(state['losses']) for state in saved['random']] == [drawing] * 2, 'once, not for each rank'
    assert [torch.equal(state['losses']['0._extra_state'], rank['random'])
            for state, rank in zip(saved['random'], (first, second))] == [True, True]


def test_torchrun_trains_and_resumes(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [opt['train']['distill_opt'],
                                   {'type': 'KRNetLoss', 'taps': 3, 'hidden_channels': 8, 'meta_every': 2}]
    opt['val']['val_freq'] = 2
    opt['logger'].update(use_tb_logger=True, val_pictures=1)
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    command = [*TORCHRUN, '-m', 'mipkd_plugin', 'train', '-opt', 'tiny.yml', '--launcher', 'pytorch']
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=240)
    assert result.returncode == 0, result.stderr[-3000:]
    states = tmp_path / 'experiments/tiny/training_states'
    assert sorted(p.name for p in states.iterdir()) == ['2.state', '4.state']
    file, = (tmp_path / 'tb_logger').rglob('events.out.*')  # of the first rank alone
    events = EventAccumulator(str(file), size_guidance={'images': 0}).Reload()
    assert events.Tags()['images'] == ['pictures/val/0']
    assert {event.step for event in events.Images('pictures/val/0')} >= {2, 4}
    (states / '4.state').unlink()
    assert 'Resuming training from epoch' in trained_by_two(tmp_path, '--auto_resume')
    assert (states / '4.state').exists()


def test_further_passes_of_the_student_under_ddp(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Data upcycling runs the student three times before one backward; SwinIR has buffers that DDP broadcasts."""
    opt = train_options(model_type='SwinIRDistillModel', network_g=STUDENTS['SwinIR'])
    opt['datasets']['train']['batch_size_per_gpu'] = 3
    opt['train'].update(total_iter=2, distill_opt=[
        {'type': 'DUKDLoss'}, {'type': 'RKDLoss', 'taps': 2}, {'type': 'CrossKDLoss', 'taps': 3},
        {'type': 'FAKDLoss', 'taps': 2, 'positions': 16}, opt['train']['distill_opt']])
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    assert 'l_zoom_out_logits' in trained_by_two(tmp_path)


def test_another_output_and_windows_under_ddp(train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """A student that returns a dict, and takes windows of 6 alone, trains and validates; there is no EMA."""
    (tmp_path / 'theirs.py').write_text('''
from basicsr.archs.edsr_arch import EDSR
from basicsr.utils.registry import ARCH_REGISTRY


@ARCH_REGISTRY.register()
class Theirs(EDSR):
    def forward(self, x):
        n, c, h, w = x.shape
        return {'lr': x, 'sr': super().forward(x.view(n, c, h // 6, 6, w // 6, 6).reshape(x.shape))}
''')
    opt = train_options(network_g={**STUDENTS['EDSR'], 'type': 'Theirs'}, output='sr', imports=['theirs.py'])
    opt['datasets']['train']['gt_size'] = 24
    opt['train'].update(total_iter=2, ema_decay=0)
    opt['val']['val_freq'] = 2
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    assert '# psnr:' in trained_by_two(tmp_path)


def test_ddp_broadcasts_only_buffers_that_training_changes() -> None:
    net = nn.Sequential(build_network(STUDENTS['SwinIR']), nn.BatchNorm2d(3))
    model = object.__new__(DistillModel)
    model.opt, model.device, model.net_g = {'dist': True}, torch.device('cpu'), net
    torch.distributed.init_process_group('gloo', store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        wrapped = model.model_to_device(net)
        assert {id(buffer) for buffer in wrapped.modules_buffers} == {id(buffer) for buffer in net[1].buffers()}
        assert len(list(net.buffers())) > 3
    finally:
        torch.distributed.destroy_process_group()


def test_buffers_of_all_ranks_begin_equal(tmp_path: Path) -> None:
    """BasicSR seeds each rank in its own way, and a network may draw a buffer."""
    def save_wrapped(arguments: list[str]) -> int:
        torch.distributed.init_process_group('gloo')
        rank = torch.distributed.get_rank()
        torch.manual_seed(rank)
        net = nn.Linear(2, 2)
        net.register_buffer('drawn', torch.rand(3))
        with_fixed_buffers(net, nn.parallel.DistributedDataParallel)
        torch.save(net.state_dict(), f'{rank}.pth')
        torch.distributed.destroy_process_group()
        return 0

    for result in two_ranks(save_wrapped, cwd=tmp_path):
        assert result.returncode == 0, result.stderr[-3000:]
    first, second = (torch.load(tmp_path / f'{rank}.pth') for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def started_ranks(folder: Path) -> list[subprocess.Popen[str]]:
    """A training of two processes that nobody looks after; each has its output in ``rank<n>.txt``."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, '-W', 'ignore', '-m', 'mipkd_plugin', 'train', '-opt', 'tiny.yml', '--launcher',
               'pytorch']
    return [subprocess.Popen(command, cwd=folder, text=True, stderr=subprocess.STDOUT,
                             stdout=(folder / f'rank{rank}.txt').open('w'),
                             env={**os.environ, 'PYTHONPATH': str(REPO), 'RANK': str(rank), 'LOCAL_RANK': str(rank),
                                  'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port})
            for rank in (0, 1)]


@pytest.mark.parametrize(('signum', 'codes', 'pieces'), [
    (signal.SIGKILL, [1, -9], ['rank 1 of this run has died, and rank 0 stops with it',
                               'start the same command again with --auto_resume']),
    (signal.SIGTERM, [143, 143], ['; saved. Go on with: the same command with --auto_resume'])])
def test_one_rank_gets_a_signal(signum: int, codes: list[int], pieces: list[str], train_options: Callable[..., Any],
                                tmp_path: Path) -> None:
    """A killed rank ends the other one; a stopped one takes it along after the same iteration."""
    opt = train_options()
    opt['datasets']['train']['dataset_enlarge_ratio'] = 2000
    opt['train'].update(total_iter=3000)
    opt['val']['val_freq'] = opt['logger']['save_checkpoint_freq'] = 3000
    (tmp_path / 'tiny.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    ranks, end = started_ranks(tmp_path), time.monotonic() + 200
    try:
        while 'iter:       5' not in (tmp_path / 'rank0.txt').read_text():
            assert time.monotonic() < end
            assert ranks[0].poll() is None, (tmp_path / 'rank0.txt').read_text()[-2000:]
            time.sleep(0.05)
        ranks[1].send_signal(signum)
        assert [rank.wait(timeout=60) for rank in ranks] == codes
    finally:
        for rank in ranks:
            rank.kill()
    out = (tmp_path / 'rank0.txt').read_text()
    assert all(piece in out for piece in pieces), out[-2000:]
    assert 'Traceback' not in out
    assert len(list((tmp_path / 'experiments/tiny/training_states').iterdir())) == (signum == signal.SIGTERM)
