"""Check that weights and images are finite, and say whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipkd_plugin.config.patches import small_shape
from mipkd_plugin.config.problems import Context
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.finite import bad_entries, is_finite


def check_weights(ctx: Context, where: str, path: Path, state: Mapping[str, Any], net: nn.Module | None) -> bool:
    """Check that the weights in a file are finite.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file: ``teacher.weights``, or a place for the student's.
        path: The file.
        state: Tensor by name.
        net: The network they are for, if there is one. Only its buffers may hold infinity.

    Returns:
        Whether they are.
    """
    bad = bad_entries(state, state if net is None else (name for name, _ in net.named_parameters()))
    role = 'teacher' if where.startswith('teacher') else 'student'
    if bad:
        what = (f'the {role}\'s weights in {path} are not finite: {len(bad)} of {len(state)} tensors hold NaN or '
                f'infinity, the first is {bad[0]}')
    elif net is not None and role == 'student' and not _image_is_finite(ctx, net, state):
        what = f'with the weights in {path} the student makes images that are not finite from images in [0, 1]'
    else:
        return True
    earlier = 'the training that saved them has diverged: give the file of an earlier iteration'
    if role == 'teacher':
        ctx.add(where, what, 'the training of this teacher has diverged, or the file is damaged: give another one')
    elif where.startswith('path.pretrain_network') and ctx.is_train:
        ctx.add(where, what, f'{earlier}, or write {where.partition(".")[2]}: ~ for random weights', fix={where: None})
    elif where.startswith('path.pretrain_network'):
        ctx.add(where, what, earlier)
    else:
        ctx.add(where, what, 'the run cannot go on from here: start a new one, under another name, with the '
                f'net_g_<iteration>.pth of an earlier iteration in {path.parent} as path.pretrain_network_g')
    return False


def _image_is_finite(ctx: Context, net: nn.Module, state: Mapping[str, Any] | None = None) -> bool:
    """Whether a network turns random images into finite ones, perhaps with the weights of a state dict."""
    device = next((parameter.device for parameter in net.parameters()), torch.device('cpu'))
    images = torch.rand(1, *small_shape(ctx.opt), generator=torch.Generator().manual_seed(0)).to(device)
    own = net.state_dict()
    fitting = {name: values.to(own[name]) for name, values in (state or {}).items()
               if name in own and own[name].shape == values.shape}
    try:
        with evaluating(net), torch.random.fork_rng(devices=[]):
            return is_finite(torch.func.functional_call(net, fitting, images))
    except FOREIGN_ERRORS:  # it needs a larger patch
        return True


def check_image(ctx: Context, net: nn.Module, where: str) -> bool:
    """Check that a network turns random images into finite ones.

    Args:
        ctx: Options, and where problems go.
        net: The network; its sizes have been checked.
        where: ``network_g``, ``teacher.network`` or ``teachers[1].network``.

    Returns:
        Whether it does.
    """
    if where == 'network_g' and ctx.section('path').get('pretrain_network_g') is not None:
        return True  # these are not the weights it will have
    if _image_is_finite(ctx, net):
        return True
    teacher = where.removesuffix('.network')
    weights = ctx.section(teacher).get('weights')
    if where == 'network_g':
        ctx.add(where, 'makes images that are not finite from random images in [0, 1], before any training',
                'fix its arguments, or the way the class initializes its weights')
    else:
        ctx.add(f'{teacher}.weights' if weights else where,
                f'with the weights in {weights} the teacher makes images that are not finite from images in [0, 1]',
                'give other weights, or describe the network that they were trained in')
    return False
