"""Run ``test()`` of the model on small patches with the sizes that validation and test images have."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.config.dataset_samples import READ_ERRORS, Samples, Size
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.outputs import channel_word
from mipkd_plugin.config.patches import window_of
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.padding import needed_multiple
from mipkd_plugin.utils.errors import failure_of

_ODD_SIZE = (13, 11)
"""A network that takes this size takes sides of any remainder."""
_FACTORS = (2, 4, 8, 16, 32, 64)
_LARGEST = 64
"""Pixels of an LR side up to which a failure is confirmed at the full size of the image; a larger image is cropped.
With 256, SwinIR on a CPU took minutes to be refused."""

Test = Callable[[Tensor], Tensor]


def check_test(ctx: Context, net: nn.Module, samples: Samples, sizes: Mapping[int, Size], smallest: int,
               channels: int) -> bool:
    """Check that the model can validate on images of all sizes of a data set.

    Args:
        ctx: Options, and where problems go.
        net: The network, left as it is.
        samples: The data set.
        sizes: (height, width) of LR images, by number of the sample.
        smallest: Number of the smallest image.
        channels: Number of channels of its images.

    Returns:
        Whether it can, or nobody can tell.
    """
    if not owner(ctx.model_class, 'test'):
        return True
    test, scale = _tester(ctx, net, ctx.model_class), ctx.scale or 1
    window = window_of(ctx.section('network_g')) or 1
    found = _failing(test, sizes, smallest, window, channels, scale)
    if found is None:
        return True
    index, failure = found
    height, width = sizes[index]
    image = f'{samples.name(index) or "its images"} of {samples.where} (LR {height}×{width})'
    subject = f'{type(net).__name__} of network_g cannot run on {image}: {failure}'
    _explain(ctx, net, samples, (height, width), channels, subject)
    return False


def _tester(ctx: Context, net: nn.Module, model_class: type | None) -> Test:
    """``test()`` of a model class, on one image; what the model finds out about the network it keeps."""
    model: Any = object.__new__(model_class or object)
    opt = {**ctx.opt, 'is_train': ctx.is_train, 'dist': False}

    def test(lq: Tensor) -> Tensor:
        vars(model).update(opt=opt, net_g=net, lq=lq, device=lq.device, is_train=ctx.is_train)
        with evaluating(net):
            model.test()
        output: Tensor = model.output
        return output

    return test


def _failing(test: Test, sizes: Mapping[int, Size], smallest: int, window: int, channels: int,
             scale: int) -> tuple[int, str] | None:
    """Find an image that the model cannot validate on.

    Sides of an odd size show whether the network asks for multiples of anything. If it does, one patch is tried for
    each remainder that the images have, and a larger one; a patch that fails is tried again at the size of its image.

    Returns:
        Number of the first such image, and why; None without one.
    """
    edge = max(16, 2 * window)  # padding by reflection asks for a side that is larger than the padding
    modulus, tried = math.lcm(8, window), set[Size]()
    takes_all = not _failure(test, _ODD_SIZE, channels, scale)
    patches = [(index, edge) for index in [smallest, *sizes]]
    for index, side in [*patches, (max(sizes, key=lambda index: min(sizes[index])), edge + modulus)]:
        patch = _cut(sizes[index], modulus, side)
        if patch in tried or takes_all and min(sizes[index]) >= side:
            continue
        tried.add(patch)
        if _failure(test, patch, channels, scale):
            failure = _failure(test, _cut(sizes[index], modulus, _LARGEST), channels, scale)
            if failure:
                return index, failure
        if takes_all:
            break  # a larger image would not fail either
    return None


def _cut(size: Size, modulus: int, edge: int) -> Size:
    """The size of a crop with the same remainders, each side at least ``edge`` where the image is as long."""
    edge = math.ceil(edge / modulus) * modulus
    height, width = (min(side, edge + side % modulus) for side in size)
    return height, width


def _failure(test: Test, size: Size, channels: int, scale: int) -> str:
    """Why a model cannot validate on an image of this size, or ''."""
    generator = torch.Generator().manual_seed(0)
    try:
        output = test(torch.rand(1, channels, *size, generator=generator))
    except READ_ERRORS as error:
        return failure_of(error)
    wanted = (1, channels, *(scale * side for side in size))
    if tuple(output.shape) != wanted:
        return (f'it returns {channel_word(output.shape[1])} of {output.shape[-2]}×{output.shape[-1]} and not '
                f'{channel_word(channels)} of {wanted[2]}×{wanted[3]}' if output.dim() == 4 else
                f'it returns a tensor of the shape {tuple(output.shape)}')
    return '' if bool(torch.isfinite(output).all()) else 'its output is not finite'


def _explain(ctx: Context, net: nn.Module, samples: Samples, size: Size, channels: int, subject: str) -> None:
    """Note the problem with the remedy that helps: other channels, a model that pads, or other sizes."""
    test, scale, where = _tester(ctx, net, ctx.model_class), ctx.scale or 1, samples.where
    window = window_of(ctx.section('network_g'))
    other, cut = 4 - channels, _cut(size, math.lcm(8, window or 1), max(16, 2 * (window or 1)))
    if channels in (1, 3) and not _failure(test, cut, other, scale):
        fix = {f'{where}.color': 'y' if other == 1 else REMOVE}
        ctx.add(f'{where}.color', f'the images have {channel_word(channels)}, and {type(net).__name__} of network_g '
                f'wants {channel_word(other)}', fix=fix)
        return
    padded = _padding_model(ctx, net, window)
    if padded is not None and not _failure(padded[0], cut, channels, scale):
        ctx.add('model_type', f'{ctx.opt["model_type"]} validates without padding, and {subject}', fix=padded[1])
        return
    factors = {window or 2, needed_multiple(net, channels, scale)} - {1}
    factor = next((f for f in sorted({*_FACTORS, *factors}) if _failure(test, (f + 1, f + 1), channels, scale)
                   and not any(_failure(test, _multiple(side, f), channels, scale)
                               for side in (cut, (cut[0] + f, cut[1] + f)))), None)
    if factor is None:
        ctx.add(where, subject, 'fix the arguments of network_g, or remove the image from the data set')
        return
    ctx.add(where, f'{subject}. It takes only sides that are multiples of {factor}',
            f'crop the HR images to multiples of {factor * scale} pixels and make the LR images from them again with '
            'mipkd prepare, or remove this data set'
            + (', or write model_type: AnySRModel, which pads images' if ctx.opt['model_type'] == 'SRModel' else ''),
            {where: REMOVE} if ctx.is_train else None)


def _padding_model(ctx: Context, net: nn.Module, window: int | None) -> tuple[Test, dict[str, Any]] | None:
    """``test()`` of a model that pads images to whole windows, and what to write for it."""
    from basicsr.models.swinir_model import SwinIRModel

    if window is None or ctx.opt['model_type'] != 'SRModel':
        return None
    fix: dict[str, Any] = {'model_type': 'SwinIRModel'}
    if 'window_size' not in ctx.section('network_g'):
        fix['network_g.window_size'] = window
    named = Context({**ctx.opt, 'network_g': {**ctx.section('network_g'), 'window_size': window}}, ctx.is_train)
    return _tester(named, net, SwinIRModel), fix


def _multiple(size: Size, factor: int) -> Size:
    return max(size[0] // factor, 1) * factor, max(size[1] // factor, 1) * factor
