"""Measure the smallest image of a data set with every metric, as a validation will."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from basicsr.utils import tensor2img
from basicsr.utils.registry import METRIC_REGISTRY
from torch import Tensor

from mipkd_plugin.config.dataset_samples import READ_ERRORS, Samples, Size
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.utils.errors import failure_of

_ENOUGH = 224
"""Pixels of a side, without borders, that the usual metrics can work with: NIQE wants two blocks of 96."""

_BLOCK, _BLOCKS = 96, 2
"""Side of the blocks of NIQE, and how many it needs: it computes their covariance."""

_LARGEST = 4096
"""Pixels of both borders of the largest image that is tried."""

Pair = tuple[Tensor, Tensor | None]


def metrics_with_gt(ctx: Context) -> list[str]:
    """Names of the metrics that compare with an HR image."""
    found = []
    for name, options in ctx.section('val', 'metrics').items():
        metric = lookup(METRIC_REGISTRY, options.get('type')) if isinstance(options, Mapping) else None
        argument = inspect.signature(metric).parameters.get('img2') if metric is not None else None
        if argument is not None and argument.default is inspect.Parameter.empty:
            found.append(str(name))
    return found


def check_blocks(ctx: Context, samples: Samples, sizes: Mapping[int, Size]) -> None:
    """Check that no image of a data set is too small for NIQE, which compares blocks of 96×96 pixels.

    Args:
        ctx: Options, and where problems go.
        samples: The data set.
        sizes: (height, width) of LR images, by number of the sample.
    """
    scale = ctx.scale or 1
    for name, options in ctx.section('val', 'metrics').items():
        where, border = f'val.metrics.{name}', block(options).get('crop_border')
        if block(options).get('type') != 'calculate_niqe' or not isinstance(border, int) or not ctx.clean(where):
            continue

        def blocks(index: int, border: int = border) -> int:
            return math.prod(max(scale * side - 2 * border, 0) // _BLOCK for side in sizes[index])

        small = sorted((index for index in sizes if blocks(index) < _BLOCKS), key=blocks)
        if not small:
            continue
        height, width = (scale * side for side in sizes[small[0]])
        better = next((b for b in range(min(border, min(height, width) // 2 + 1) - 1, -1, -1)
                       if all(blocks(index, b) >= _BLOCKS for index in small)), None)
        fix: dict[str, Any] = {where: REMOVE} if better is None else {f'{where}.crop_border': better}
        ctx.add(where, f'calculate_niqe needs {_BLOCKS} blocks of {_BLOCK}×{_BLOCK} pixels without the border: '
                f'{len(small)} of {len(sizes)} images of {samples.where} are too small, as '
                f'{samples.name(small[0]) or "one"}, whose output has {height}×{width} pixels with crop_border: '
                f'{border}', 'remove the images from the data set, or this metric' if better is None else
                f'remove the images, or {in_words(fix)}', fix)


def check_metrics(ctx: Context, samples: Samples, index: int, lq: Tensor, gt: Tensor | None) -> None:
    """Check that every metric gives a number for the smallest image of a data set.

    A metric sees the LR image, enlarged, in the place of the network's output; where it fails, other images too: only
    what fails with all of them is a problem.

    Args:
        ctx: Options, and where problems go.
        samples: The data set.
        index: Number of its smallest image.
        lq: That image (C, H, W).
        gt: Its HR image (C, sH, sW), if there is one.
    """
    with_gt = metrics_with_gt(ctx) if gt is None else []
    for name, options in ctx.section('val', 'metrics').items():
        where = f'val.metrics.{name}'
        metric = lookup(METRIC_REGISTRY, options.get('type')) if isinstance(options, Mapping) else None
        if metric is None or name in with_gt or not ctx.clean(where):
            continue
        border = options.get('crop_border')
        border = border if isinstance(border, int) else 0
        failure = _failure(metric, options, _images(lq, gt, ctx.scale or 1, 2 * border + _ENOUGH))
        if failure:
            image = f'{samples.name(index) or "the smallest image"} of {samples.where}'
            _explain(ctx, where, (metric, options), failure, image, _full(lq, gt, ctx.scale or 1))


def _explain(ctx: Context, where: str, metric: tuple[Callable[..., Any], Mapping[str, Any]], failure: str, image: str,
             full: Pair) -> None:
    """Note the problem with the remedy that helps: a smaller border, or no such image."""
    function, options = metric
    height, width = full[0].shape[-2:]
    border = options.get('crop_border')
    border = border if isinstance(border, int) and not isinstance(border, bool) else 0
    said = f'{options["type"]} {failure}'
    side = [min(2 * border, _LARGEST) + _ENOUGH] * 2
    large = _noisy(_resized(full[0], side)), None if full[1] is None else _resized(full[1], side)
    if 2 * border < _LARGEST and _failure(function, options, [large]):
        ctx.add(where, f'{said} for {image}', 'fix the option that the message is about, or remove this metric',
                {where: REMOVE})
        return
    smaller = next((b for b in range(min(border - 1, (min(height, width) - 1) // 2), -1, -1)
                    if not _failure(function, {**options, 'crop_border': b}, [full])), None)
    what = f'{said} for {image}: its {height}×{width} pixels are too few'
    if smaller is not None:
        ctx.add(where, f'{what} with crop_border: {border}', f'remove the image, or write crop_border: {smaller}',
                {f'{where}.crop_border': smaller})
    else:
        ctx.add(where, what, 'remove the image from the data set, or this metric', {where: REMOVE})


def _images(lq: Tensor, gt: Tensor | None, scale: int, side: int) -> list[Pair]:
    """Pairs of images to try, one after the other: a crop, the whole, and the whole with noise."""
    sr, gt = _full(lq, gt, scale)
    crop = sr[..., :side, :side], None if gt is None else gt[..., :side, :side]
    return [crop, (sr, gt), (_noisy(sr), gt)]


def _full(lq: Tensor, gt: Tensor | None, scale: int) -> Pair:
    size = [scale * side for side in lq.shape[1:]]
    return _resized(lq[None], size), None if gt is None else gt[None]


def _resized(image: Tensor, size: Any) -> Tensor:
    return torch.nn.functional.interpolate(image, size=tuple(size), mode='bicubic').clamp(0, 1)


def _noisy(image: Tensor) -> Tensor:
    noise = torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    return (0.8 * image + 0.2 * noise).clamp(0, 1)


def _failure(metric: Callable[..., Any], options: Mapping[str, Any], pairs: list[Pair]) -> str:
    """Why a metric gives no number for any of these pairs (network output, HR image); '' if it gives one."""
    failure = ''
    for sr, gt in pairs:
        arguments = {key: value for key, value in copy.deepcopy(dict(options)).items() if key != 'type'}
        data = {'img': tensor2img([sr]), **({} if gt is None else {'img2': tensor2img([gt])})}
        try:
            with warnings.catch_warnings(), np.errstate(all='ignore'):
                warnings.simplefilter('ignore')
                value = float(metric(**data, **arguments))
        except READ_ERRORS as error:
            failure = failure or f'fails ({failure_of(error)})'
            continue
        if not math.isnan(value):
            return ''
        failure = failure or 'gives nan'
    return failure
