"""Patch sizes: which patches the networks accept, and which output size they return."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.networks.trunk import evaluating
from mipkd_plugin.utils.errors import FOREIGN_ERRORS

_DEFAULT_PATCH = 48


def patch_problem(gt_size: Any, scale: Any, window: Any, network: str) -> tuple[str, int] | None:
    """Check that a training patch fits the scale and the window size.

    Args:
        gt_size: Side of the HR patch.
        scale: Scale factor.
        window: Window size of the network, or None.
        network: YAML path of the network, for the message.

    Returns:
        (what is wrong, gt_size to write), or None if the patch fits.
    """
    if not all(isinstance(number, int) and number > 0 for number in (gt_size, scale)):
        return None
    if gt_size % scale:
        return (f'{gt_size} is not a multiple of the scale, {scale}',
                max(gt_size // scale, 1) * scale)
    if isinstance(window, int) and window > 0 and gt_size // scale % window:
        return (f'gt_size / scale = {gt_size // scale} is not a multiple of the window size {window} of '
                f'{network}', max(gt_size // scale // window, 1) * window * scale)
    return None


def probe_shape(opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape (C, H, W) of an LR training patch; about 48×48 if ``datasets.train`` gives no size."""
    train = block(opt, 'datasets', 'train')
    channels = 1 if train.get('color') == 'y' else 3
    gt_size, scale = train.get('gt_size'), opt.get('scale')
    window = window_size(opt)
    side = window * max(_DEFAULT_PATCH // window, 1)
    if (isinstance(gt_size, int) and isinstance(scale, int) and gt_size > 0 and scale > 0
            and gt_size % (scale * window) == 0):
        side = gt_size // scale
    return channels, side, side


def small_shape(opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape (C, H, W) of a small LR patch that runs fast and is a multiple of the window sizes."""
    channels, side, _ = probe_shape(opt)
    small = min(side, math.lcm(8, *_windows(opt).values()))
    return channels, small, small


def window_size(opt: Mapping[str, Any]) -> int:
    """Least common multiple of the window sizes of student and teacher, for the sides of LR images; 1 without any."""
    return math.lcm(*_windows(opt).values())


def _windows(opt: Mapping[str, Any]) -> dict[str, int]:
    """Window size by YAML path, for the networks that use windows."""
    networks = {'network_g': block(opt, 'network_g'), 'teacher.network': block(opt, 'teacher', 'network')}
    found = {where: options.get('window_size') for where, options in networks.items()}
    return {where: size for where, size in found.items() if isinstance(size, int) and size > 0}


def check_windows(ctx: Context) -> None:
    """Check that the training patch is a multiple of each window size."""
    gt_size = ctx.section('datasets', 'train').get('gt_size')
    for where, window in _windows(ctx.opt).items():
        problem = patch_problem(gt_size, ctx.scale, window, where)
        if problem and ctx.clean('datasets.train.gt_size'):
            ctx.add('datasets.train.gt_size', problem[0], fix={'datasets.train.gt_size': problem[1]})


def check_output(ctx: Context, net: nn.Module, where: str) -> bool:
    """Check that a network runs and enlarges images by ``scale``. Tries a small patch first."""
    channels, patch, _ = probe_shape(ctx.opt)
    failure = ''
    device = next((parameter.device for parameter in net.parameters()), torch.device('cpu'))
    for side in dict.fromkeys((small_shape(ctx.opt)[1], patch)):
        try:
            with evaluating(net), torch.random.fork_rng(devices=[]):
                shape = tuple(net(torch.zeros(1, channels, side, side, device=device)).shape[1:])
        except FOREIGN_ERRORS as error:
            failure = f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}'
            continue
        scale = ctx.scale or 1
        if ctx.scale is None or shape == (channels, side * scale, side * scale):
            return True
        options = ctx.section(*where.split('.'))
        key = next((k for k in ('upscale', 'scale', 'upsampler') if k in options), 'type')
        wanted = (channels, side * scale, side * scale)
        remedy = f'write {key}: {scale}, or fix scale' if key in ('upscale', 'scale') else (
            'use a network for this scale')
        ctx.add(f'{where}.{key}', f'{options["type"]} turns a patch of {channels}×{side}×{side} into '
                f'(channels, height, width) = {shape}; scale {scale} needs {wanted}',
                remedy if where == 'network_g' else 'use a teacher for this scale')
        return False
    if ctx.is_train:
        ctx.add(where, f'cannot run on patches of {channels}×{patch}×{patch}: {failure}',
                'fix the arguments of this network')
    return False
