"""Check the ``datasets`` section: keys, patch size, batch size, and whether training reaches its last iteration."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from mipkd_plugin.config.components import check_dataset_type
from mipkd_plugin.config.dataset_rules import check_names, check_paths, check_range
from mipkd_plugin.config.image_pairs import check_image_pairs
from mipkd_plugin.config.keys import (
    ANYTHING,
    CROP_POOL,
    DATASET,
    INTEGER,
    IO_BACKENDS,
    ITERATIONS,
    MAPPING,
    PAIRED_IMAGES,
    Key,
)
from mipkd_plugin.config.patches import check_patch
from mipkd_plugin.config.problems import Context, suggestion
from mipkd_plugin.config.sections import check_epoch, check_keys
from mipkd_plugin.data.crop_pool_dataset import fits_bytes
from mipkd_plugin.utils.words import gigabytes


def check_datasets(ctx: Context) -> dict[str, int]:
    """Check all data sets.

    Returns:
        Number of images by YAML path, for the data sets that could be counted.
    """
    counts: dict[str, int] = {}
    phases = ctx.section('datasets')
    if ctx.is_train and 'datasets' in ctx.opt and 'train' not in phases:
        ctx.add('datasets.train', 'is missing', 'name the training images: see options/train_*.yml')
    if not ctx.is_train and MAPPING.fits(ctx.opt.get('datasets')) and not phases:
        ctx.add('datasets', 'holds no test set', 'write test: {name: …, type: PairedImageDataset, …}')
    for name, options in phases.items():
        where = f'datasets.{name}'
        kind = str(name).split('_')[0]
        allowed = ('train', 'val') if ctx.is_train else ('test', 'val')
        if kind not in allowed or kind == 'train' and name != 'train':
            purpose, names = (('training', 'train, val, val_1, val_2, …') if ctx.is_train else
                              ('testing', 'test, test_1, test_2, …'))
            ctx.add(where, f'BasicSR does not use a data set {name!r} for {purpose}', f'valid here: {names}')
        elif not isinstance(options, Mapping):
            ctx.add(where, f'must be a block of keys, not {options!r}')
        else:
            check_paths(ctx, where, options)
            check_range(ctx, where, options)
            count = _check_dataset(ctx, where, options)
            if count is not None:
                counts[where] = count
                if kind == 'train' and ctx.clean(where):
                    _check_reaches_end(ctx, where, options, options.get('crops', count))
    check_names(ctx, phases)
    return counts


def _check_dataset(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    found = check_dataset_type(ctx, where, options)
    tables = {'PairedImageDataset': PAIRED_IMAGES, 'CropPoolDataset': CROP_POOL}
    table = tables.get(getattr(found, '__name__', ''))
    if table is None:
        check_keys(ctx, where, options, DATASET if found is None else _needed_of_any(options), strict=False)
        if ctx.files:
            _check_roots_exist(ctx, where, options)
        return None
    check_keys(ctx, where, options, table, strict=True)
    _check_backend(ctx, where, options.get('io_backend'))
    _check_loader(ctx, where, options)
    if where == 'datasets.train':
        check_patch(ctx)
    if table is CROP_POOL:
        _check_pool(ctx, where, options)
    template = options.get('filename_tmpl', '{}')
    try:
        usable = isinstance(template, str) and template.format('x') != template
    except (LookupError, ValueError):
        usable = False
    if not usable:
        ctx.add(f'{where}.filename_tmpl', f'{template!r} has no usable {{}} for the name of the HR image',
                "write '{}', or '{}x4' for 0001x4.png")
    needed = ('dataroot_gt', 'dataroot_lq', 'io_backend')
    readable = all(ctx.clean(f'{where}.{key}') and options.get(key) for key in needed)
    if ctx.files and ctx.scale and usable and readable and ctx.clean(f'{where}.meta_info_file'):
        return check_image_pairs(ctx, where, options)
    return None


def _check_pool(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    """Check that the crops of a pool fit in memory."""
    if where != 'datasets.train':
        ctx.add(f'{where}.type', 'CropPoolDataset is for training', 'write type: PairedImageDataset')
        return
    if not ctx.clean(where) or not ctx.scale:
        return
    channels = 1 if options.get('color') == 'y' else 3
    pixels = options['gt_size'] ** 2 + (options['gt_size'] // ctx.scale) ** 2
    size = options['crops'] * channels * pixels * (1 if fits_bytes(options) else 4)
    free = psutil.virtual_memory().available
    if size > free:
        ctx.add(f'{where}.crops', f'{options["crops"]:,d} crops take {gigabytes(size)}, and {gigabytes(free)} of '
                'memory are free', 'write fewer crops')


def _needed_of_any(options: Mapping[str, Any]) -> dict[str, Key]:
    """Key table for a data set class that we do not know: our keys, and any other key of the block."""
    return {**{key: Key(ANYTHING) for key in options}, **DATASET}


def _check_backend(ctx: Context, where: str, backend: Any) -> None:
    if not MAPPING.fits(backend):
        return
    kind = backend.get('type')
    if not isinstance(kind, str) or kind not in IO_BACKENDS:
        ctx.add(f'{where}.io_backend.type', f'there is no backend {kind!r}',
                suggestion(str(kind), IO_BACKENDS))
    else:
        check_keys(ctx, f'{where}.io_backend', backend, IO_BACKENDS[kind], strict=True)


def _check_loader(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    workers = options.get('num_worker_per_gpu') if where == 'datasets.train' else 0
    if options.get('persistent_workers') is True and workers == 0:
        ctx.add(f'{where}.persistent_workers', 'needs workers, and this data set has none',
                'write persistent_workers: false')
    if where != 'datasets.train' or options.get('prefetch_mode') != 'cuda':
        return
    if options.get('pin_memory') is not True:
        ctx.add(f'{where}.pin_memory', 'must be true for prefetch_mode: cuda', 'write pin_memory: true')
    if ctx.opt.get('num_gpu') == 0 or torch.cuda.device_count() == 0:
        reason = 'num_gpu is 0' if ctx.opt.get('num_gpu') == 0 else 'PyTorch finds no CUDA device here'
        ctx.add(f'{where}.prefetch_mode', f'cuda needs a GPU, and {reason}', fix={f'{where}.prefetch_mode': None})


def _check_roots_exist(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if str(key).startswith('dataroot') and isinstance(value, str) and not os.path.exists(ctx.path(value)):
            ctx.add(f'{where}.{key}', f'{value} does not exist; looked for {ctx.path(value)}',
                    'fix the path')


def _check_reaches_end(ctx: Context, where: str, options: Mapping[str, Any], images: int) -> None:
    """Check that training reaches ``total_iter``: BasicSR counts the last, smaller batch of an epoch but drops it."""
    batch: Any = options.get('batch_size_per_gpu')
    total: Any = ctx.section('train').get('total_iter')
    ratio = options.get('dataset_enlarge_ratio', 1)
    if not INTEGER.fits(batch) or not ITERATIONS.fits(total):
        return
    world = int(os.environ.get('WORLD_SIZE', 1)) if ctx.launcher != 'none' else 1
    gpus = ctx.opt.get('num_gpu')
    loaded: int = batch * (gpus if world == 1 and isinstance(gpus, int) and gpus > 1 else 1)

    if not check_epoch(ctx, where, images * ratio):
        return

    def reached(ratio: float) -> int:
        per_epoch = math.ceil(images * ratio / world) // loaded
        epochs: int = math.ceil(int(total) / math.ceil(images * ratio / (batch * world))) + 1
        return epochs * per_epoch

    if reached(ratio) >= total:
        return
    things = 'crops' if 'crops' in options else 'images'
    enough = next((r for r in (10 ** k for k in range(1, 8)) if r > ratio and reached(r) >= total), 10 ** 8)
    ctx.add(f'{where}.dataset_enlarge_ratio',
            f'{images} {things} × {ratio} in batches of {loaded * world} last for {reached(ratio)} of '
            f'{int(total)} iterations: BasicSR counts the last, smaller batch of an epoch but drops it',
            f'write dataset_enlarge_ratio: {enough}')
