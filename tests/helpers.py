"""Tiny networks, tiny data and options for the tests; the modules of the package."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from mipkd_plugin.networks.trunk import trunk_of
from mipkd_plugin.testing import ARCHITECTURES, STUDENTS, TEACHERS, batch, make_pair
from basicsr.archs import build_network  # after mipkd_plugin, which repairs BasicSR

__all__ = ['ARCHITECTURES', 'MODULES', 'PACKAGE', 'REPO', 'SHARED', 'STUDENTS', 'TEACHERS', 'as_parsed', 'batch',
           'change', 'interrupt', 'make_pair', 'name_of', 'several_teachers', 'tiny_options', 'write_image_pairs']

REPO = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get('MIPKD_SHARED', REPO.parent / 'shared'))
PACKAGE = REPO / 'mipkd_plugin'


def name_of(path: Path) -> str:
    """Module name of a file, as mipkd_plugin.losses.base."""
    parts = path.relative_to(PACKAGE.parent).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob('*.py'))}


def change(opt: dict[str, Any], path: str, value: Any) -> None:
    """Set an entry by its path of keys; ``...`` deletes it."""
    *parents, last = path.split('.') if path else ['']
    for key in parents:
        opt = opt[key]
    if value is ...:
        del opt[last]
    else:
        opt[last] = value


def write_image_pairs(folder: Path) -> Path:
    """Make folders HR (48×48) and LRbicx2 (24×24) with four smooth random images."""
    rng = np.random.default_rng(0)
    for name in ('HR', 'LRbicx2'):
        (folder / name).mkdir()
    for index in range(4):
        coarse = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        high = cv2.resize(coarse, (48, 48), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / 'HR' / f'{index}.png'), high)
        cv2.imwrite(str(folder / 'LRbicx2' / f'{index}.png'), cv2.resize(high, (24, 24),
                                                                         interpolation=cv2.INTER_AREA))
    return folder


def tiny_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Options of a tiny training run (EDSR x2) on those images, its teacher's weights beside them."""
    weights = folder / 'teacher.pth'
    if not weights.exists():
        torch.manual_seed(1)
        torch.save({'params': build_network(TEACHERS['EDSR']).state_dict()}, weights)
    images = {'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'HR'),
              'dataroot_lq': str(folder / 'LRbicx2'), 'io_backend': {'type': 'disk'}}
    opt: dict[str, Any] = {
        'name': 'tiny', 'model_type': 'DistillModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {
            'train': {**images, 'name': 'train', 'gt_size': 16, 'use_hflip': True, 'use_rot': True,
                      'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 4},
            'val': {**images, 'name': 'val'}},
        'network_g': dict(STUDENTS['EDSR']),
        'teacher': {'network': dict(TEACHERS['EDSR']), 'weights': str(weights), 'param_key': 'params'},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {'ema_decay': 0.9, 'total_iter': 4, 'warmup_iter': -1,
                  'optim_g': {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5},
                  'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
                  'distill_opt': {'type': 'MiPKDLoss', 'taps': 3, 'latent_channels': 8}},
        'val': {'val_freq': 4, 'save_img': False,
                'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': True}}
    opt.update(changes)
    return opt


def several_teachers(folder: Path) -> list[dict[str, Any]]:
    """The list ``teachers`` of two: the EDSR of the tiny options, and a SwinIR whose weights are written beside it."""
    weights = folder / 'swinir.pth'
    if not weights.exists():
        before = torch.get_rng_state()
        torch.manual_seed(2)
        torch.save({'params': build_network(TEACHERS['SwinIR']).state_dict()}, weights)
        torch.set_rng_state(before)
    return [{'name': 'edsr', 'network': dict(TEACHERS['EDSR']), 'weights': str(folder / 'teacher.pth'),
             'param_key': 'params'},
            {'name': 'swinir', 'network': dict(TEACHERS['SwinIR']), 'weights': str(weights)}]


def as_parsed(opt: dict[str, Any], root: Path, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """What BasicSR's ``parse_options`` and ``make_exp_dirs`` would make of options for a training run."""
    opt = copy.deepcopy(opt)
    folder = root / 'experiments' / opt['name']
    opt.update(is_train=True, dist=world_size > 1, rank=rank, world_size=world_size, auto_resume=False,
               root_path=str(root))
    opt['path'].update(experiments_root=str(folder), models=str(folder / 'models'), log=str(folder),
                       training_states=str(folder / 'training_states'), visualization=str(folder / 'visualization'))
    for name in ('models', 'training_states'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for phase, dataset in opt['datasets'].items():
        dataset.update(phase=phase, scale=opt['scale'])
    return opt


def blocks_of(net: nn.Module) -> list[str]:
    """Paths of the blocks of a network's trunk."""
    return trunk_of(net, torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))).paths


def interrupt(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, behind which somebody types Ctrl-C."""
    def interrupted(*args: Any, **named: Any) -> Any:
        function(*args, **named)
        raise KeyboardInterrupt

    return interrupted
