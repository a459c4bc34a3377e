"""Tiny options and images for BasicSR's GAN and real-world models."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from real_world import DEGRADATION, DISCRIMINATOR, KERNELS, SHARPENED
from torch import Tensor

import mipkd_plugin  # noqa: F401  (repairs BasicSR)
from basicsr.archs import build_network

COMPACT = {'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'upscale': 2, 'act_type': 'prelu'}
STUDENT = {**COMPACT, 'num_feat': 6, 'num_conv': 3}
TEACHER = {**COMPACT, 'num_feat': 8, 'num_conv': 4}
GANS = ('SRGAN', 'ESRGAN', 'RealESRGAN')
KINDS = (*GANS, 'RealESRNet')

def write_images(folder: Path, count: int = 4, side: int = 96) -> Path:
    """Make ``HR`` with smooth random images, ``meta_info.txt``, and ``LR``, half as large."""
    rng = np.random.default_rng(0)
    for name in ('HR', 'LR'):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for index in range(count):
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / 'HR' / f'{index}.png'), image)
        cv2.imwrite(str(folder / 'LR' / f'{index}.png'), cv2.resize(image, (side // 2, side // 2),
                                                                    interpolation=cv2.INTER_AREA))
    (folder / 'meta_info.txt').write_text(''.join(f'{index}.png\n' for index in range(count)))
    return folder


def options(folder: Path, kind: str, losses: Any = None, **train: Any) -> dict[str, Any]:
    """Options of a tiny training run of ``<kind>DistillModel``, x2, on the images of ``folder``.

    Args:
        folder: Where :func:`write_images` has written.
        kind: One of ``KINDS``.
        losses: ``train.distill_opt``; None is LogitsKDLoss.
        train: Further entries of ``train``.

    Returns:
        The options.
    """
    weights = folder / 'teacher.pth'
    if not weights.exists():
        before = torch.get_rng_state()
        torch.manual_seed(1)
        torch.save({'params': build_network(dict(TEACHER)).state_dict()}, weights)
        torch.set_rng_state(before)
    is_real, adam = kind.startswith('Real'), {'type': 'Adam', 'lr': 0.001, 'betas': [0.9, 0.99]}
    images: dict[str, Any] = {'type': 'RealESRGANCropDataset', 'dataroot_gt': str(folder / 'HR'), 'crop_size': 64,
                              'meta_info': str(folder / 'meta_info.txt'), **KERNELS}
    if not is_real:
        images = {'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'HR'), 'gt_size': 32,
                  'dataroot_lq': str(folder / 'LR')}
    opt: dict[str, Any] = {
        'name': 'tiny', 'model_type': f'{kind}DistillModel', 'scale': 2, 'num_gpu': 0, 'manual_seed': 0,
        'datasets': {
            'train': {**images, 'name': 'train', 'io_backend': {'type': 'disk'}, 'use_hflip': True, 'use_rot': True,
                      'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2, 'dataset_enlarge_ratio': 4},
            'val': {'name': 'val', 'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'HR'),
                    'dataroot_lq': str(folder / 'LR'), 'io_backend': {'type': 'disk'}}},
        'network_g': dict(STUDENT),
        'teacher': {'network': dict(TEACHER), 'weights': str(weights), 'param_key': 'params'},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {'ema_decay': 0.9, 'total_iter': 4, 'warmup_iter': -1, 'optim_g': dict(adam),
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [30], 'gamma': 0.5},
                  'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
                  'distill_opt': losses or {'type': 'LogitsKDLoss'}, **train},
        'val': {'val_freq': 4, 'save_img': False,
                'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 2, 'test_y_channel': True}}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 2, 'use_tb_logger': True}}
    if is_real:
        opt.update(copy.deepcopy(DEGRADATION), gt_size=32, queue_size=4)
    opt.update(SHARPENED.get(kind, {}))
    if kind != 'RealESRNet':
        opt['network_d'] = dict(DISCRIMINATOR)
        opt['train'].update(optim_d=dict(adam), gan_opt={
            'type': 'GANLoss', 'gan_type': 'vanilla', 'real_label_val': 1.0, 'fake_label_val': 0.0, 'loss_weight': 0.1})
    return opt


def images(seed: int, count: int = 2) -> dict[str, Tensor]:
    """LR images 16×16 and HR images 32×32 of a step, and HR images that are sharpened."""
    generator = torch.Generator().manual_seed(seed)
    gt = torch.rand(count, 3, 32, 32, generator=generator)
    return {'lq': torch.nn.functional.avg_pool2d(gt, 2), 'gt': gt, 'gt_usm': (1.1 * gt).clamp(0, 1)}
