"""Check the numbers by which Real-ESRGAN spoils images: BasicSR reads them one by one in the middle of a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import psutil

from mipkd_plugin.config.data_set_tables import (
    CROP,
    DATA_SETS,
    KERNEL_SHARES,
    KERNEL_SIDE,
    KERNELS,
    crop_side,
    gives_kernels,
    patch_place,
    patch_side,
)
from mipkd_plugin.config.degradation_keys import DEGRADATION, QUEUE, degrades
from mipkd_plugin.config.examples import fitting
from mipkd_plugin.config.keys import INTEGER, Key
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.patches import check_patch, window_size
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.config.suggestions import other_value
from mipkd_plugin.utils.launcher import world_size
from mipkd_plugin.utils.words import gigabytes

_NEAR = 0.01
"""How far shares may be from a sum of 1, as three thirds with two decimals are."""
_REACH = KERNEL_SIDE // 2 + 1
"""Side of the smallest image that BasicSR can blur: it mirrors the borders."""
_SHARPENED = 26
"""Side of the smallest image that BasicSR sharpens, with a kernel of 51×51."""


class Limits(NamedTuple):
    """What the two numbers of a range must fulfill.

    Attributes:
        above: Both lie above it, or at it if ``or_at``.
        most: Neither is larger.
        or_at: Whether ``above`` itself is allowed.
        around_1: Whether 1 lies between them: BasicSR draws from the lower one to 1, and from 1 to the upper one.
        differ: Whether they must differ.
    """

    above: float = 0
    most: float = math.inf
    or_at: bool = False
    around_1: bool = False
    differ: bool = False


RANGES = {'resize_range': Limits(most=16, around_1=True), 'noise_range': Limits(or_at=True),
          'poisson_scale_range': Limits(), 'jpeg_range': Limits(most=100), 'blur_sigma': Limits(differ=True),
          'betag_range': Limits(around_1=True), 'betap_range': Limits(around_1=True)}


def check_degradation(ctx: Context) -> None:
    """Check what the model reads at the top level: ranges, probabilities, the crop, and the queue of images."""
    if ctx.is_train and owner(ctx.model_class, 'feed_data') == 'RealESRGANModel':
        _check_sharpened_patch(ctx)
    if not ctx.is_train or not degrades(ctx):
        return
    _check_ranges(ctx, '', ctx.opt, DEGRADATION)
    for key in ('resize_prob', 'resize_prob2'):
        if ctx.clean(key) and key in ctx.opt:
            _check_sum(ctx, key, ctx.opt[key], DEGRADATION[key].kind.example)
    if ctx.clean('gt_size'):
        check_patch(ctx, {})
    _check_queue(ctx)
    if gives_kernels(ctx.opt):
        _check_crop(ctx)


def check_kernels(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    """Check the blur kernels of a data set.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.
    """
    table = DATA_SETS['RealESRGANDataset']
    _check_ranges(ctx, f'{where}.', options, table)
    for end in ('', '2'):
        names, shares, side = (options.get(f'{key}{end}') for key in ('kernel_list', 'kernel_prob', 'blur_kernel_size'))
        place = f'{where}.kernel_list{end}'
        for index, name in enumerate(names if isinstance(names, list) and ctx.clean(place) else ()):
            if name not in KERNELS:
                remedy, fix = other_value(f'{place}[{index}]', name, KERNELS)
                ctx.add(f'{place}[{index}]', f'there is no kernel {name!r}', remedy, fix)
        place = f'{where}.kernel_prob{end}'
        if isinstance(names, list) and isinstance(shares, list) and ctx.clean(place):
            equal = [round(1 / max(len(names), 1), 4)] * len(names)
            better = KERNEL_SHARES if len(names) == len(KERNELS) else equal
            if len(names) != len(shares):
                ctx.add(place, f'has {len(shares)} numbers, and kernel_list{end} has {len(names)} kernels: each kernel '
                        'needs one', fix={place: better})
            else:
                _check_sum(ctx, place, shares, better)
        if INTEGER.fits(side) and side != KERNEL_SIDE and ctx.clean(f'{where}.blur_kernel_size{end}'):
            ctx.notes.append(f'{where}.blur_kernel_size{end} is {side}, and BasicSR does not use it: its kernels have '
                             f'7 to {KERNEL_SIDE} pixels a side')


def _check_sum(ctx: Context, where: str, shares: list[float], other: Any) -> None:
    """Check that probabilities sum to 1; if not, the remedy keeps their proportions."""
    total = sum(shares)
    if abs(total - 1) <= _NEAR:
        return
    better = [round(share / total, 4) for share in shares] if total > 0 else list(other)
    ctx.add(where, f'{shares} sum to {total:g}, and probabilities sum to 1', fix={where: better})


def _check_ranges(ctx: Context, prefix: str, options: Mapping[str, Any], table: Mapping[str, Key]) -> None:
    for key, entry in table.items():
        limits, where = RANGES.get(key.removesuffix('2')), f'{prefix}{key}'
        if limits is None or key not in options or not ctx.clean(where):
            continue
        what, better = _range_problem(options[key], limits, entry.kind.example)
        if what:
            ctx.add(where, what, fix={where: better})


def _range_problem(pair: list[float], limits: Limits, example: list[float]) -> tuple[str, list[float]]:
    """What is wrong with a range, or ''; and a better one."""
    low, high = pair
    outside = low < limits.above or low == limits.above and not limits.or_at or high > limits.most
    if low > high:
        swapped = [high, low]
        return f'{pair} is reversed: the smaller number comes first', example if _range_problem(
            swapped, limits, example)[0] else swapped
    if outside or low == limits.most:
        least = f'{limits.above:g} or more' if limits.or_at else f'above {limits.above:g}'
        most = f', up to {limits.most:g}, and not all of it {limits.most:g}' if math.isfinite(limits.most) else ''
        return f'{pair} must lie {least}{most}', example
    if limits.around_1 and not low <= 1 <= high:
        return (f'{pair} leaves out 1: BasicSR draws from the smaller number to 1, and from 1 to the larger one',
                [min(low, 1), max(high, 1)])
    if limits.differ and low == high:
        return f'{pair} holds one number alone, and BasicSR wants a smaller and a larger one', example
    return '', pair


def _check_queue(ctx: Context) -> None:
    """Check that the queue holds whole batches, and fits in memory."""
    queue, where = ctx.opt.get('queue_size', QUEUE), 'queue_size'
    size: Any = ctx.section('datasets', 'train').get('batch_size_per_gpu')
    if not INTEGER.fits(size) or not ctx.clean(where) or not ctx.clean('datasets.train.batch_size_per_gpu'):
        return
    gpus = ctx.opt.get('num_gpu')
    batch: int = size * (gpus if world_size(ctx.launcher) == 1 and isinstance(gpus, int) and gpus > 1 else 1)
    if queue % batch:
        said = f'{queue} is' if where in ctx.opt else f'is not written, and by default it is {queue}:'
        ctx.add(where, f'{said} not a multiple of the {batch} images of a batch, and BasicSR fills the queue with '
                'whole batches', fix={where: max(round(queue / batch), 1) * batch})
        return
    side: Any = ctx.opt.get('gt_size')
    if not INTEGER.fits(side) or not ctx.scale or ctx.opt.get('num_gpu') != 0:
        return
    each = 4 * 3 * (side ** 2 + (side // ctx.scale) ** 2)
    free = psutil.virtual_memory().available
    if queue * each > free and batch * each <= free:
        ctx.add(where, f'{queue} pairs of images take {gigabytes(queue * each)}, and {gigabytes(free)} of memory are '
                'free', fix={where: max(free // (2 * each * batch), 1) * batch})


def _check_sharpened_patch(ctx: Context) -> None:
    """Check that Real-ESRGAN can sharpen the HR patches, which it does with pairs too."""
    side, where, unit = patch_side(ctx.opt), patch_place(ctx.opt), 16 * window_size(ctx.opt) * (ctx.scale or 1)
    if INTEGER.fits(side) and side < _SHARPENED and ctx.clean(where):
        better = math.ceil(_SHARPENED / unit) * unit
        ctx.add(where, f'{side} is too small: RealESRGANModel sharpens the HR patches, and needs {_SHARPENED} pixels a '
                'side', fix={where: better})


def _least_crop(ctx: Context, scale: int) -> int:
    """Side of the smallest HR crop that BasicSR can blur and sharpen."""
    sharpens = ctx.inherits('RealESRGANModel') or ctx.opt.get('gt_usm') is True
    return math.ceil(max(_REACH * scale, _SHARPENED if sharpens else 0) / scale) * scale


def fitting_crop(ctx: Context, side: int) -> int:
    """Side of the largest HR crop that fits into an image side, and holds a patch; 0 without any."""
    scale, patch = ctx.scale or 1, patch_side(ctx.opt)
    crop = min(side, CROP) // scale * scale
    return crop if crop >= max(_least_crop(ctx, scale), patch if INTEGER.fits(patch) else 1) else 0


def _check_crop(ctx: Context) -> None:
    """Check that the HR crop fits the scale, holds a patch, and is never made too small to be blurred."""
    crop, scale, data = crop_side(ctx.opt), ctx.scale, 'datasets.train'
    own = ctx.section('datasets', 'train').get('type') != 'RealESRGANDataset'
    place = f'{data}.crop_size' if own else f'{data}.type'
    if scale is None or not ctx.clean(place):
        return
    said = f'crop_size is {crop}' if own else f'RealESRGANDataset cuts crops of {CROP}×{CROP} pixels'
    least = _least_crop(ctx, scale)
    if crop % scale or crop < least:
        what = f'no multiple of the scale, {scale}'
        if crop % scale == 0:
            lr = crop // scale
            what = (f'too small: BasicSR blurs the LR crop of {lr}×{lr} pixels, and needs {_REACH}' if lr < _REACH else
                    f'too small: BasicSR sharpens the crop, and needs {_SHARPENED} pixels')
        side = max(crop // scale * scale, least)
        fix: dict[str, Any] = {} if own else {f'{data}.type': 'RealESRGANCropDataset'}
        fix = {**fix, f'{data}.crop_size': side} if side <= CROP else {}
        ctx.add(place, f'{said}: {what}', '' if fix else 'train for a smaller scale', fix)
        return
    patch: Any = ctx.opt.get('gt_size')
    if INTEGER.fits(patch) and patch > crop and ctx.clean('gt_size'):
        smaller = fitting(ctx, crop)
        ctx.add('gt_size', f'{patch} is larger than the crop that it is cut from: {said}', '' if smaller else
                'use networks for smaller patches', {'gt_size': smaller} if smaller else {})
    blurs = ctx.opt.get('second_blur_prob') != 0
    for key, whole, least in (('resize_range', crop, _REACH if blurs else 1), ('resize_range2', crop / scale, 1)):
        pair = ctx.opt.get(key)
        if not ctx.clean(key) or not isinstance(pair, list) or int(whole * pair[0]) >= least:
            continue
        lowest = min(math.ceil(100 * least / whole) / 100, 1)
        fix = {key: [lowest, max(pair[1], 1)]}
        reason = f'BasicSR blurs it again, and needs {least}' if least > 1 else 'nothing is left of it'
        ctx.add(key, f'shrinks a crop of {int(whole)}×{int(whole)} pixels to {int(whole * pair[0])}: {reason}',
                f'{in_words(fix)}, or a larger crop', fix)
