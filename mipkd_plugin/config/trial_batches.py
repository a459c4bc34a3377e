"""A few batches of training images for a measurement before the training."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import default_collate

from mipkd_plugin.config.dataset_samples import build_samples
from mipkd_plugin.config.patches import probe_shape
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.data.realesrgan_crop_dataset import BASICSR_SIDE
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_WHERE = 'datasets.train'
_MOST_LISTED = 5000
"""Number of pairs up to which two folders are listed: BasicSR compares each name with all others."""


@dataclass(frozen=True)
class TrialBatches:
    """Batches as a model takes them.

    Attributes:
        batches: What ``feed_data`` takes: ``lq`` (N, C, H, W) and ``gt`` (N, C, sH, sW), RGB in [0, 1], and more; or
            HR images to degrade, and kernels.
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
        side: Side of the LR images, in pixels; larger patches are cut, but not those that the model makes itself.
        root: Folder that relative paths start from; default: the working directory.
        pairs: Number of image pairs, if it is known.

    Returns:
        The batches.
    """
    ctx = Context(opt, is_train=True, root=root or Path.cwd())
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
        channels, scale = probe_shape(opt)[0], ctx.scale or 1
        if degrades(ctx):
            noise = [_noise_to_degrade(ctx, size) for _ in range(count)]
            return TrialBatches(noise, f'random numbers ({found})', is_real=False)
        noise = [{'lq': torch.rand(size, channels, side, side),
                  'gt': torch.rand(size, channels, side * scale, side * scale)} for _ in range(count)]
    return TrialBatches(noise, f'random numbers ({found})', is_real=False)


def degrades(ctx: Context) -> bool:
    """Whether the training images are HR images alone, which the model degrades itself."""
    found = lookup(DATASET_REGISTRY, ctx.section('datasets', 'train').get('type'))
    return isinstance(found, type) and issubclass(found, RealESRGANDataset)


def _noise_to_degrade(ctx: Context, size: int) -> dict[str, Tensor]:
    """What ``RealESRGANDataset`` would give, of random numbers, with kernels that do not blur."""
    pulse = torch.zeros(size, 21, 21)
    pulse[:, 10, 10] = 1
    side = ctx.section('datasets', 'train').get('crop_size', BASICSR_SIDE)
    return {'gt': torch.rand(size, 3, side, side), 'kernel1': pulse, 'kernel2': pulse, 'sinc_kernel': pulse}


def _read(ctx: Context, size: int, count: int, side: int, pairs: int) -> list[dict[str, Any]] | str:
    """The batches, or why there are none."""
    options = ctx.section('datasets', 'train')
    if pairs > _MOST_LISTED and not options.get('meta_info_file') and (
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
    if degrades(ctx):
        return [default_collate(whole[start:start + size]) for start in range(0, len(whole), size)]
    images = [sample.get(key) for sample in whole for key in ('lq', 'gt')]
    if not all(isinstance(image, Tensor) and image.dim() == 3 for image in images):
        return 'the data set gives other images than its model takes'
    cut = [{**sample, 'lq': sample['lq'][:, :side, :side],
            'gt': sample['gt'][:, :side * (ctx.scale or 1), :side * (ctx.scale or 1)]} for sample in whole]
    if len({tuple(sample['lq'].shape) for sample in cut}) > 1:
        return 'the training images are not equal in size'
    return [default_collate(cut[start:start + size]) for start in range(0, len(cut), size)]
