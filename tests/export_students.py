"""Tiny students with random weights, for the tests of exports."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from mipkd_plugin.exporting import Student, student_of
from mipkd_plugin.recognition.recognized import build

RGB: dict[str, Any] = {'num_in_ch': 3, 'num_out_ch': 3}
SWIN: dict[str, Any] = {'type': 'SwinIR', 'in_chans': 3, 'embed_dim': 8, 'num_heads': [2], 'mlp_ratio': 2}
NETWORKS: dict[str, dict[str, Any]] = {
    'EDSR': {'type': 'EDSR', **RGB, 'num_feat': 8, 'num_block': 2, 'upscale': 2},
    'RCAN': {'type': 'RCAN', **RGB, 'num_feat': 8, 'num_group': 2, 'num_block': 2, 'squeeze_factor': 4, 'upscale': 2,
             'res_scale': 0.5},
    'SwinIR': {**SWIN, 'upscale': 2, 'img_size': 16, 'window_size': 8, 'img_range': 1.0, 'depths': [2],
               'upsampler': 'pixelshuffledirect'},
    'RRDBNet': {'type': 'RRDBNet', **RGB, 'num_feat': 8, 'num_block': 1, 'num_grow_ch': 8, 'scale': 4},
    'SRVGGNetCompact': {'type': 'SRVGGNetCompact', **RGB, 'num_feat': 8, 'num_conv': 2, 'upscale': 4},
    'MSRResNet': {'type': 'MSRResNet', **RGB, 'num_feat': 8, 'num_block': 2, 'upscale': 4},
}
"""Those that the exports must take."""
UNUSUAL: dict[str, dict[str, Any]] = {
    'EDSR x3, small range': {**NETWORKS['EDSR'], 'upscale': 3, 'img_range': 1.0, 'res_scale': 0.1,
                             'rgb_mean': [0.1, 0.2, 0.3]},
    'RCAN x4, small range': {**NETWORKS['RCAN'], 'num_feat': 12, 'squeeze_factor': 5, 'upscale': 4, 'img_range': 1.0,
                             'rgb_mean': [0.1, 0.2, 0.3]},
    'SwinIR, oblong, large range': {**SWIN, 'upscale': 4, 'img_size': [24, 32], 'window_size': 8, 'img_range': 255.0,
                                    'depths': [2], 'upsampler': 'nearest+conv', 'qkv_bias': False, 'qk_scale': 0.3},
    'SwinIR, window of 7': {**SWIN, 'upscale': 3, 'img_size': 28, 'window_size': 7, 'img_range': 1.0, 'depths': [2],
                            'upsampler': 'pixelshuffle', 'resi_connection': '3conv'},
    'SwinIR, one block first': {**SWIN, 'upscale': 2, 'img_size': 16, 'window_size': 8, 'img_range': 1.0,
                                'depths': [1, 2], 'num_heads': [2, 2], 'upsampler': 'pixelshuffledirect'},
    'EDSR x1': {**NETWORKS['EDSR'], 'upscale': 1},
    'RRDBNet x2': {**NETWORKS['RRDBNet'], 'scale': 2},
    'SRVGGNetCompact, relu': {**NETWORKS['SRVGGNetCompact'], 'act_type': 'relu'},
    'SRVGGNetCompact, leakyrelu': {**NETWORKS['SRVGGNetCompact'], 'act_type': 'leakyrelu'},
    'MSRResNet x3': {**NETWORKS['MSRResNet'], 'upscale': 3},
}
ECBSR: dict[str, Any] = {'type': 'ECBSR', **RGB, 'num_block': 2, 'num_channel': 8, 'with_idt': True,
                         'act_type': 'prelu', 'scale': 2}
SPAN: dict[str, Any] = {'type': 'SPAN', **RGB, 'feature_channels': 8, 'upscale': 2, 'norm': False}
MAMBA: dict[str, Any] = {'type': 'MambaLite', 'num_feat': 8, 'num_block': 1, 'num_state': 4, 'upscale': 2}


def student(network: dict[str, Any], seed: int = 0) -> Student:
    """A student whose weights are all random, biases and norms too."""
    torch.manual_seed(seed)
    net = build(network)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return student_of(net, network, 'net_g')


def of_class(cls: type[nn.Module]) -> Student:
    """A student of a class that no registry has."""
    return student_of(cls(), {'type': cls.__name__}, 'net_g')
