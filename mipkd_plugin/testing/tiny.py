"""A tiny student and a tiny teacher of each architecture, and random images for them."""

from __future__ import annotations

from typing import Any

import torch
from basicsr.archs import build_network
from torch import Tensor, nn

_SWINIR = {'type': 'SwinIR', 'img_size': 8, 'window_size': 4, 'mlp_ratio': 2, 'upscale': 2,
           'upsampler': 'pixelshuffledirect'}
STUDENTS: dict[str, dict[str, Any]] = {
    'EDSR': {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 3, 'upscale': 2},
    'RCAN': {'type': 'RCAN', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_group': 3, 'num_block': 1,
             'squeeze_factor': 4, 'upscale': 2},
    'SwinIR': {**_SWINIR, 'embed_dim': 8, 'depths': [1, 1, 1], 'num_heads': [2, 2, 2]},
    'RRDBNet': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 4, 'num_feat': 8, 'num_block': 3,
                'num_grow_ch': 4},
}
"""Options of the students, as ``build_network`` takes them: trunks of 3 blocks, 8 channels wide."""

TEACHERS: dict[str, dict[str, Any]] = {
    'EDSR': {**STUDENTS['EDSR'], 'num_feat': 12, 'num_block': 5},
    'RCAN': {**STUDENTS['RCAN'], 'num_feat': 12, 'num_group': 4},
    'SwinIR': {**_SWINIR, 'embed_dim': 12, 'depths': [2, 1, 1, 1], 'num_heads': [2, 2, 2, 2]},
    'RRDBNet': {**STUDENTS['RRDBNet'], 'num_feat': 12, 'num_block': 4},
}
"""Options of the teachers: deeper, and 12 channels wide."""

ARCHITECTURES = tuple(STUDENTS)


def make_pair(arch: str) -> tuple[nn.Module, nn.Module]:
    """Student and teacher of one architecture, in training mode; seeds torch's global random numbers."""
    torch.manual_seed(0)
    return build_network(STUDENTS[arch]), build_network(TEACHERS[arch])


def scale_of(arch: str) -> int:
    """Scale factor of the networks of one architecture."""
    return 4 if arch == 'RRDBNet' else 2


def batch(arch: str, size: int = 8, seed: int = 0, samples: int = 2) -> tuple[Tensor, Tensor]:
    """LR and HR images (samples, 3, size, size) and (samples, 3, s·size, s·size)."""
    generator = torch.Generator().manual_seed(seed)
    scale = scale_of(arch)
    return (torch.rand(samples, 3, size, size, generator=generator),
            torch.rand(samples, 3, size * scale, size * scale, generator=generator))
