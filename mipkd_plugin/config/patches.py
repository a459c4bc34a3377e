"""Patch sizes: which patches the networks accept, and which output size they return."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.config.data_set_tables import gives_kernels, patch_place, patch_side
from mipkd_plugin.config.keys import INTEGER
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.outputs import add_output_problem, channel_word, other_output, output_shape
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.teachers import networks_of
from mipkd_plugin.networks.padding import needed_multiple

_DEFAULT_PATCH = 48
_CHANNELS = re.compile(r'(num_)?(in|out|inp|img)_?(ch|chans|nc|channels?)|n_colors')


def patch_problem(gt_size: Any, scale: Any, windows: Mapping[str, int], named: bool = True) -> tuple[str, int] | None:
    """Check that a training patch fits the scale and all window sizes.

    Args:
        gt_size: Side of the HR patch.
        scale: Scale factor.
        windows: Window size by YAML path of the network.
        named: Whether these are window sizes; if not, they are what the networks have been found to need.

    Returns:
        (what is wrong, gt_size to write), or None if the patch fits. The size to write fits everything at once.
    """
    if not all(isinstance(number, int) and number > 0 for number in (gt_size, scale)):
        return None
    unit = math.lcm(*windows.values())
    fitting = max(gt_size // scale // unit, 1) * unit * scale
    if gt_size % scale:
        return f'{gt_size} is not a multiple of the scale, {scale}', fitting
    if gt_size // scale % unit == 0:
        return None
    owner = next((where for where, window in windows.items() if window == unit), None)
    listed = ' and '.join(f'{window} of {where}' for where, window in windows.items())
    what = ('the window size ' if named else 'the size ') + f'{unit} {"of" if named else "needed by"} {owner}'
    if owner is None:
        what = f'{unit}, the least common multiple of the {"window sizes" if named else "sizes needed,"} {listed}'
    return f'gt_size / scale = {gt_size // scale} is not a multiple of {what}', fitting


def probe_shape(opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """Shape (C, H, W) of an LR training patch; about 48×48 if the options give no size."""
    train = block(opt, 'datasets', 'train')
    channels = 1 if train.get('color') == 'y' and not gives_kernels(opt) else 3
    gt_size, scale = patch_side(opt), opt.get('scale')
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


def runnable_shape(opt: Mapping[str, Any], nets: Iterable[nn.Module]) -> tuple[int, int, int]:
    """Shape (C, H, W) of the small LR patch if all networks run on it; if not, of a training patch."""
    channels, side, _ = small_shape(opt)
    runs = all(output_shape(net, channels, side)[0] is not None for net in nets)
    return small_shape(opt) if runs else probe_shape(opt)


def window_size(opt: Mapping[str, Any]) -> int:
    """Least common multiple of the window sizes of student and teacher, for the sides of LR images; 1 without any."""
    return math.lcm(*_windows(opt).values())


def _windows(opt: Mapping[str, Any]) -> dict[str, int]:
    """Window size by YAML path, for the networks that use windows."""
    networks = {'network_g': block(opt, 'network_g'), **networks_of(opt)}
    found = {where: window_of(options) for where, options in networks.items()}
    return {where: size for where, size in found.items() if size is not None}


def window_of(network: Mapping[str, Any]) -> int | None:
    """Window size of a network, as its options or the defaults of its class give it; None without windows."""
    size = network.get('window_size')
    if 'window_size' not in network:
        found = lookup(ARCH_REGISTRY, network.get('type'))
        parameters = inspect.signature(found).parameters if found is not None else {}
        size = parameters['window_size'].default if 'window_size' in parameters else None
    is_window = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return size if is_window and not getattr(lookup(ARCH_REGISTRY, network.get('type')), 'any_size', False) else None


def check_patch(ctx: Context, nets: Mapping[str, nn.Module]) -> None:
    """Check that the training patch is a multiple of the scale and of each window size.

    Args:
        ctx: Options, and where problems go.
        nets: Networks by YAML path. Where the patch does not fit, those without a window size are tried, so that the
            remedy fits all.
    """
    _say_what_is_not_read(ctx)
    windows = _windows(ctx.opt)
    problem = patch_problem(patch_side(ctx.opt), ctx.scale, windows)
    if problem:
        found = _needed(ctx, {where: net for where, net in nets.items() if where not in windows})
        if found:  # the names alone have said less
            ctx.take_back(patch_place(ctx.opt), problem[0])
        _add_patch_problem(ctx, {**windows, **found}, not found)


def _say_what_is_not_read(ctx: Context) -> None:
    """Where the model cuts the patches and ``gt_size`` stands in the data set alone, say that it is not read there."""
    side, said = ctx.section('datasets', 'train').get('gt_size'), 'is missing'
    if gives_kernels(ctx.opt) and INTEGER.fits(side) and any(
            (problem.where, problem.what) == ('gt_size', said) for problem in ctx.problems):
        ctx.take_back('gt_size', said)
        ctx.add('gt_size', f'{said} at the top level, and the {side} of datasets.train is not read: '
                f'{ctx.opt.get("model_type")} cuts the patches itself', fix={'gt_size': side})


def _needed(ctx: Context, nets: Mapping[str, nn.Module]) -> dict[str, int]:
    """What the sides of LR patches must be multiples of, by YAML path of the network; found by trying."""
    windows, channels = _windows(ctx.opt), probe_shape(ctx.opt)[0]
    found = {where: math.lcm(windows.get(where, 1), needed_multiple(net, channels, ctx.scale or 1))
             for where, net in nets.items()}
    return {where: multiple for where, multiple in found.items() if multiple > 1}


def _add_patch_problem(ctx: Context, windows: Mapping[str, int], named: bool) -> bool:
    """Note that the training patch is no multiple of what the networks need; return whether that is so."""
    where = patch_place(ctx.opt)
    problem = patch_problem(patch_side(ctx.opt), ctx.scale, windows, named)
    if problem and ctx.clean(where):
        ctx.add(where, problem[0], fix={where: problem[1]})
    return problem is not None


def check_output(ctx: Context, nets: Mapping[str, nn.Module], where: str) -> bool:
    """Check that a network runs and enlarges images by ``scale``. Tries a small patch first.

    Networks of models that feed something else, such as frames of a video, are left alone.

    Args:
        ctx: Options, and where problems go.
        nets: Networks by YAML path.
        where: Which of them.

    Returns:
        Whether no problem was found.
    """
    net = nets[where]
    if ctx.inherits('VideoBaseModel') or ctx.model_class is not None and not (
            ctx.distills or owner(ctx.model_class, 'feed_data')):
        return True
    channels, patch, _ = probe_shape(ctx.opt)
    failure = ''
    for side in dict.fromkeys((small_shape(ctx.opt)[1], patch)):
        shape, failure = output_shape(net, channels, side)
        scale = ctx.scale or 1
        if shape is None:
            other = other_output(net, channels, side)
            if other is not None:
                add_output_problem(ctx, where, other, (channels, side * scale, side * scale))
                return False
            continue
        if ctx.scale is None or shape == (channels, side * scale, side * scale):
            return _check_training_patch(ctx, nets, where, channels, patch)
        _add_other_size(ctx, where, (channels, side, side), shape)
        return False
    needed = _needed(ctx, nets) if ctx.is_train else {}
    if ctx.is_train and _add_patch_problem(ctx, needed, named=False):
        unit = math.lcm(*needed.values())
        other = other_output(net, channels, unit)
        if other is not None:
            add_output_problem(ctx, where, other, (channels, unit * (ctx.scale or 1), unit * (ctx.scale or 1)))
    elif ctx.is_train:
        _add_cannot_run(ctx, net, where, (channels, patch), failure)
    return False


def _add_other_size(ctx: Context, where: str, patch: tuple[int, int, int], shape: tuple[int, ...]) -> None:
    """Note that a network does not enlarge images by ``scale``."""
    options, scale = ctx.section(*where.split('.')), ctx.scale or 1
    made = lookup(ARCH_REGISTRY, options.get('type'))
    own = inspect.signature(made).parameters if made is not None else {}
    key = next((k for k in ('upscale', 'scale', 'upsampler') if k in options), 'type')
    written = next((k for k in ('upscale', 'scale') if k in {**options, **own} and options.get(k) != scale), None)
    channels, side, _ = patch
    enlarges = shape[1] != side * scale
    remedy, fix = 'use a network for this scale' if enlarges else 'fix the arguments of this network', {}
    if written is not None and enlarges:
        fix = {f'{where}.{written}': scale}
        remedy = f'{in_words(fix)}, or fix scale'
    if where != 'network_g':
        remedy, fix = 'use a teacher for this scale', {}
    ctx.add(f'{where}.{key}', f'{options["type"]} turns a patch of {channels}×{side}×{side} into (channels, height, '
            f'width) = {shape}; scale {scale} needs {(channels, side * scale, side * scale)}', remedy, fix)


def _add_cannot_run(ctx: Context, net: nn.Module, where: str, patch: tuple[int, int], failure: str) -> None:
    """Note that a network cannot run on patches; say whether their number of channels is the reason."""
    channels, side = patch
    other, place = 4 - channels, 'datasets.train.color'
    size = f'cannot run on patches of {channels}×{side}×{side}: {failure}'
    if output_shape(net, other, small_shape(ctx.opt)[1])[0] is None:
        ctx.add(where, size, 'fix the arguments of this network')
    elif where == 'network_g' and gives_kernels(ctx.opt):  # which gives color images alone
        fix: dict[str, Any] = {f'{where}.{key}': channels for key, value in ctx.section(where).items()
                               if value == other and _CHANNELS.fullmatch(str(key))}
        ctx.add(where, size, f'{in_words(fix) or "fix the arguments of this network"}: it wants '
                f'{channel_word(other)}, and {ctx.section("datasets", "train")["type"]} gives {channels}', fix)
    elif where == 'network_g':
        fix = {place: 'y'} if other == 1 else {place: REMOVE}
        ctx.add(where, size, f'{in_words(fix)} in datasets.train: this network wants {channel_word(other)}', fix)
    else:
        ctx.add(where, f'is for images with {channel_word(other)}, and those of the training have {channels}',
                f'give a teacher for {channel_word(channels)}')


def _check_training_patch(ctx: Context, nets: Mapping[str, nn.Module], where: str, channels: int,
                          patch: int) -> bool:
    """Check that a network which runs on a small patch runs on a training patch too.

    Some networks need sides that are multiples of a number which no option names. Tried is the smallest patch with
    the same remainder; where that fails, the training patch itself.

    Returns:
        Whether it does.
    """
    net, small = nets[where], small_shape(ctx.opt)[1]
    if not ctx.is_train or patch % small == 0 or output_shape(net, channels, small + patch % small)[0] is not None:
        return True
    shape, failure = output_shape(net, channels, patch)
    if shape is not None:
        return True
    place, unit, needed = patch_place(ctx.opt), window_size(ctx.opt), _needed(ctx, nets)
    if len(needed) > 1 and _add_patch_problem(ctx, needed, named=False):
        return False
    sides = (max(patch // m, 1) * m for m in (math.lcm(unit, factor) for factor in (2, 4, 8, 16)))
    side = next((side for side in sides if output_shape(net, channels, side)[0] is not None), None)
    what = f'{type(net).__name__} of {where} cannot run on LR patches of {channels}×{patch}×{patch}: {failure}'
    if side is not None and ctx.clean(place):
        ctx.add(place, what, fix={place: side * (ctx.scale or 1)})
    elif side is None:
        ctx.add(where, what, 'fix the arguments of this network')
    return False
