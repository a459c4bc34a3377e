"""On a machine with a GPU: the commands train there, resume, and leave it alone where it is not wanted.

Each run is a process of its own that sees the GPU; the other tests do not, see conftest.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import REPO

pytestmark = pytest.mark.skipif(shutil.which('nvidia-smi') is None, reason='there is no nvidia-smi: no GPU here')

Make = Callable[..., dict[str, Any]]
RUN = Path('experiments/tiny')
LOGITS = {'type': 'LogitsKDLoss'}
MIPKD = {'type': 'MiPKDLoss', 'taps': 3, 'latent_channels': 8}
METHODS: dict[str, list[dict[str, Any]]] = {
    'MiPKD': [MIPKD],
    'KRNets': [{'type': 'KRNetLoss', 'taps': 3, 'hidden_channels': 8, 'meta_every': 2}, LOGITS],
    'FitNets, AT, RKD': [{'type': name, 'taps': 2} for name in ('FitNetLoss', 'AttentionTransferLoss', 'RKDLoss')],
    'FAKD, CrossKD': [{'type': 'FAKDLoss', 'taps': 2, 'positions': 16}, {'type': 'CrossKDLoss', 'taps': 3}],
    'DUKD, logits': [{'type': 'DUKDLoss'}, LOGITS],
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python process that sees the GPU."""
    environment = {**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1', 'CUBLAS_WORKSPACE_CONFIG': ':4096:8'}
    gpus = environment.pop('MIPKD_TEST_GPUS')
    environment['CUDA_VISIBLE_DEVICES'] = gpus
    if gpus == 'all':
        del environment['CUDA_VISIBLE_DEVICES']
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True,
                          timeout=240)


def command(folder: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """``basicsr``, with what starts it before."""
    return run(folder, *before, '-m', 'mipkd_plugin', *arguments)


def write(folder: Path, opt: dict[str, Any]) -> None:
    (folder / 'tiny.yml').write_text(yaml.safe_dump(opt, sort_keys=False))


def trained(folder: Path, *arguments: str) -> dict[str, torch.Tensor]:
    """The student's weights after ``mipkd train``."""
    result = command(folder, 'train', '-opt', 'tiny.yml', *arguments)
    assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
    return torch.load(folder / RUN / 'models/net_g_4.pth', weights_only=True)['params']


def back_to(folder: Path, iteration: int) -> None:
    """Delete all later checkpoints of a run."""
    for path in [*(folder / RUN / 'models').iterdir(), *(folder / RUN / 'training_states').iterdir()]:
        if not path.stem.endswith(f'_{iteration}') and path.stem != str(iteration):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize('width', [12, 8])
def test_a_slice_of_the_teacher_starts_there(width: int, train_options: Make, tmp_path: Path) -> None:
    """As wide as the teacher, and narrower."""
    opt = train_options(num_gpu=1)
    opt['network_g']['num_feat'] = width
    opt['train'].update(init='teacher_slice', distill_opt=[LOGITS])
    write(tmp_path, opt)
    assert trained(tmp_path)


@pytest.mark.parametrize('method', METHODS)
def test_a_method_trains_and_resumes_within_rounding(method: str, train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    opt['datasets']['train'].update(prefetch_mode='cuda', pin_memory=True, batch_size_per_gpu=3,
                                    num_worker_per_gpu=1)
    opt['train'].update(exact_resume=True, distill_opt=METHODS[method])
    write(tmp_path, opt)
    whole = trained(tmp_path)
    back_to(tmp_path, 2)
    again = trained(tmp_path, '--auto_resume')
    worst = {name: float((whole[name] - again[name]).abs().max()) for name in whole}
    assert max(worst.values()) < 1e-6, worst  # 1.5e-8 on an H200: BasicSR lets cuDNN choose its kernels anew


@pytest.mark.parametrize('teacher', [{'dtype': 'bfloat16'}, {'dtype': 'float16', 'channels_last': True},
                                     {'compile': True}, {'cache': 'memory'}], ids=str)
def test_a_cheaper_teacher(teacher: dict[str, Any], train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    opt['teacher'].update(teacher)
    if 'cache' in teacher:
        opt['datasets']['train'].update(type='CropPoolDataset', crops=4)
    write(tmp_path, opt)
    weights = trained(tmp_path)
    assert all(value.isfinite().all() for value in weights.values())


def test_a_run_without_the_gpu_keeps_off_it(train_options: Make, tmp_path: Path) -> None:
    write(tmp_path, train_options(num_gpu=0))
    trained(tmp_path)
    back_to(tmp_path, 2)
    trained(tmp_path, '--auto_resume')
    state = torch.load(tmp_path / RUN / 'training_states/4.state', weights_only=True)
    tensors = [value for optimizer in state['optimizers'] for of_one in optimizer['state'].values()
               for value in of_one.values() if isinstance(value, torch.Tensor)]
    assert tensors
    assert {str(value.device) for value in tensors} == {'cpu'}


def test_from_the_gpu_to_the_cpu_and_back(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    write(tmp_path, opt)
    trained(tmp_path)
    for gpus in (0, 1):
        back_to(tmp_path, 2)
        write(tmp_path, {**opt, 'num_gpu': gpus})
        trained(tmp_path, '--auto_resume')


def test_torchrun_with_nccl(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    opt['train']['distill_opt'] = [MIPKD, *METHODS['KRNets']]
    write(tmp_path, opt)
    launcher = ('-m', 'torch.distributed.run', '--nproc_per_node=1', '--standalone', '--master_port=0')
    arguments = ('train', '-opt', 'tiny.yml', '--launcher', 'pytorch')
    for _ in range(2):
        result = command(tmp_path, *arguments, before=launcher)
        assert result.returncode == 0, result.stderr[-3000:]
        assert (tmp_path / RUN / 'training_states/4.state').is_file()
        back_to(tmp_path, 2)
        arguments = (*arguments, '--auto_resume')


def test_torchrun_without_the_gpu_beside_it_is_refused_and_its_remedy_works(train_options: Make,
                                                                            tmp_path: Path) -> None:
    write(tmp_path, train_options(num_gpu=0))
    launcher = ('-m', 'torch.distributed.run', '--nproc_per_node=2', '--standalone', '--master_port=0')
    arguments = ('train', '-opt', 'tiny.yml', '--launcher', 'pytorch')
    result = command(tmp_path, *arguments, before=launcher)
    assert result.returncode != 0
    assert 'hide them: CUDA_VISIBLE_DEVICES= torchrun' in result.stderr
    hidden = subprocess.run([sys.executable, *launcher, '-m', 'mipkd_plugin', *arguments], cwd=tmp_path, timeout=240,
                            env={**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1'}, capture_output=True)
    assert hidden.returncode == 0


def test_a_step_that_is_not_finite_is_not_applied(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    opt['train']['optim_g']['lr'] = 1e10
    opt['train'].update(total_iter=60, distill_opt=LOGITS)
    write(tmp_path, opt)
    result = command(tmp_path, 'train', '-opt', 'tiny.yml')
    assert result.returncode == 3, (result.stdout + result.stderr)[-3000:]
    assert 'Traceback' not in result.stderr


def test_step_times_and_memory(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=1)
    del opt['train']['distill_opt']
    opt['val']['metrics']['ssim'] = {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True}
    opt['compare'] = {'seeds': [0], 'methods': {'mipkd': MIPKD, 'logits': LOGITS}}
    write(tmp_path, opt)
    code = 'import sys; from mipkd_plugin.cli import mipkd_main; sys.exit(mipkd_main(sys.argv[1:]))'
    result = run(tmp_path, '-c', code, 'compare', '-opt', 'tiny.yml', '--times')
    assert result.returncode == 0, result.stderr[-3000:]
    assert 'MB' in result.stdout
