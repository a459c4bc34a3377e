"""A few batches of training images for a measurement before the training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from mipkd_plugin.config.data_set_tables import KERNEL_SIDE, crop_side, gives_kernels
from mipkd_plugin.config.dataset_samples import build_samples
from mipkd_plugin.config.degradation_keys import QUEUE
from mipkd_plugin.config.patches import probe_shape
from mipkd_plugin.config.problems import Context
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_WHERE = 'datasets.train'
_MOST_LISTED = 5000
"""Number of pairs up to which two folders are listed: BasicSR compares each name with all others."""


@dataclass(frozen=True)
class TrialBatches:
    """Batches as a model takes them.

    Attributes:
        batches: What ``feed_data`` takes: ``lq`` (N, C, H, W) and ``gt`` (N, C, sH, sW), RGB in [0, 1], and more; of a
            training set for Real-ESRGAN whole HR crops and their kernels.
        source: Where the images come from, in words.
        is_real: Whether they are images of the training set.
    """

    batches: list[dict[str, Any]]
    source: str
    is_real: bool


def trial_batches(opt: Mapping[str, Any], size: int, count: int, side: int, root: Path | None = None,
                  pairs: int = 0) -> TrialBatches:
    """Draw batches as the training draws them: its class of data set, its crops and flips, and a seed of their own.

    Leaves the random numbers as they are. Where the images cannot be read, the batches are random numbers.

    Args:
        opt: The options.
        size: Images in a batch.
        count: Number of batches.
        side: Side of the LR images, in pixels; larger patches are cut, except by a model that makes LR images: it cuts
            them itself.
        root: Folder that relative paths start from; default: the working directory.
        pairs: Number of image pairs, if it is known.

    Returns:
        The batches.
    """
    ctx = Context(opt, is_train=True, root=root or Path.cwd())
    size = _whole_in_queue(opt, size) if gives_kernels(opt) else size
    with random_numbers_restored():
        random.seed(0)
        np.random.seed(0)
        torch.manual_seed(0)
        try:
            found = _read(ctx, size, count, side, pairs)
        except FOREIGN_ERRORS as error:
            found = f'{type(error).__name__} in datasets.train'
        if not isinstance(found, str):
            return TrialBatches(found, str(ctx.section('datasets', 'train').get('name')), is_real=True)
        noise = [noise_of(opt, size, side) for _ in range(count)]
    return TrialBatches(noise, f'random numbers ({found})', is_real=False)


def _whole_in_queue(opt: Mapping[str, Any], size: int) -> int:
    """The largest batch, up to a size, of which a whole number fits into the queue that batches are mixed from."""
    queue = opt.get('queue_size', QUEUE)
    return next(n for n in range(size, 0, -1) if not isinstance(queue, int) or queue % n == 0)


def noise_of(opt: Mapping[str, Any], size: int, side: int) -> dict[str, Tensor]:
    """A batch of random numbers.

    Args:
        opt: The options.
        size: Images in a batch.
        side: Side of the LR images.

    Returns:
        What ``feed_data`` takes; of a training set for Real-ESRGAN HR crops and kernels.
    """
    channels, scale = probe_shape(opt)[0], opt.get('scale') or 1
    if not gives_kernels(opt):
        return {'lq': torch.rand(size, channels, side, side),
                'gt': torch.rand(size, channels, side * scale, side * scale)}
    crop, kernels = crop_side(opt), torch.rand(3, size, KERNEL_SIDE, KERNEL_SIDE)
    kernels /= kernels.sum((2, 3), keepdim=True)
    return {'gt': torch.rand(size, channels, crop, crop),
            **dict(zip(('kernel1', 'kernel2', 'sinc_kernel'), kernels, strict=True))}


def _read(ctx: Context, size: int, count: int, side: int, pairs: int) -> list[dict[str, Any]] | str:
    """The batches, or why there are none."""
    options = ctx.section('datasets', 'train')
    if pairs > _MOST_LISTED and not gives_kernels(ctx.opt) and not options.get('meta_info_file') and (
            options.get('io_backend') or {}).get('type') == 'disk':
        return f'BasicSR would take long to list {pairs:,d} pairs of files; an LMDB or a meta_info_file is fast'
    samples = build_samples(ctx, _WHERE, options)
    if samples is None:
        return 'the training images cannot be read'
    try:
        order = torch.randperm(len(samples)).repeat(-(-size * count // len(samples)))[:size * count]
        found = [samples.take(ctx, index) for index in order.tolist()]
    finally:
        samples.close()
    whole = [sample for sample in found if sample is not None]
    if len(whole) < len(found):
        return 'a training image cannot be read'
    if gives_kernels(ctx.opt):
        return [default_collate(whole[start:start + size]) for start in range(0, len(whole), size)]
    images = [sample.get(key) for sample in whole for key in ('lq', 'gt')]
    if not all(isinstance(image, Tensor) and image.dim() == 3 for image in images):
        return 'the data set gives other images than its model takes'
    cut = [{**sample, 'lq': sample['lq'][:, :side, :side],
            'gt': sample['gt'][:, :side * (ctx.scale or 1), :side * (ctx.scale or 1)]} for sample in whole]
    if len({tuple(sample['lq'].shape) for sample in cut}) > 1:
        return 'the training images are not equal in size'
    return [default_collate(cut[start:start + size]) for start in range(0, len(cut), size)]
