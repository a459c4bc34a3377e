"""Options of tiny trainings on degraded images, as of Real-ESRGAN, for the tests."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from helpers import tiny_options

FIRST = {'resize_prob': [0.2, 0.7, 0.1], 'resize_range': [0.5, 1.5], 'gaussian_noise_prob': 0.5, 'noise_range': [1, 30],
         'poisson_scale_range': [0.05, 3], 'gray_noise_prob': 0.4, 'jpeg_range': [30, 95]}
BLUR = {'blur_kernel_size': 21, 'kernel_list': ['iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso',
                                                'plateau_aniso'],
        'kernel_prob': [0.45, 0.25, 0.12, 0.03, 0.12, 0.03], 'sinc_prob': 0.1, 'blur_sigma': [0.2, 3],
        'betag_range': [0.5, 4], 'betap_range': [1, 2]}
DEGRADATION: dict[str, Any] = {**FIRST, **{f'{key}2': value for key, value in FIRST.items()}, 'second_blur_prob': 0.8,
                               'gt_size': 16, 'queue_size': 8}
KERNELS: dict[str, Any] = {**BLUR, **{f'{key}2': value for key, value in BLUR.items()}, 'final_sinc_prob': 0.8}
SHARPENED = {'RealESRNet': {'gt_usm': True},
             'RealESRGAN': {'l1_gt_usm': True, 'percep_gt_usm': True, 'gan_gt_usm': False}}
GAN_LOSS = {'type': 'GANLoss', 'gan_type': 'vanilla', 'loss_weight': 0.1}
DISCRIMINATOR = {'type': 'UNetDiscriminatorSN', 'num_in_ch': 3, 'num_feat': 4}


def real_options(folder: Path, model_type: str = 'RealESRNetDistillModel', **changes: Any) -> dict[str, Any]:
    """The options of a tiny training whose model makes the LR images; it validates on pairs."""
    opt = tiny_options(folder, model_type=model_type)
    (folder / 'list.txt').write_text(''.join(f'{number}.png\n' for number in range(4)))
    kind = model_type.removesuffix('Model').removesuffix('Distill')
    opt.update(copy.deepcopy({**SHARPENED[kind], **DEGRADATION}))
    train = opt['datasets']['train']
    for key in ('dataroot_lq', 'gt_size'):
        del train[key]
    train.update(copy.deepcopy(KERNELS), type='RealESRGANCropDataset', crop_size=48,
                 meta_info=str(folder / 'list.txt'))
    if 'Distill' not in model_type:
        del opt['teacher'], opt['train']['distill_opt']
    if kind == 'RealESRGAN':
        opt.update(gt_size=32, network_d=dict(DISCRIMINATOR))
        opt['train'].update(optim_d={'type': 'Adam', 'lr': 0.0001}, gan_opt=dict(GAN_LOSS))
    opt.update(changes)
    return opt
