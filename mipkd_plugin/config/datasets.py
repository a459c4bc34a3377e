"""Check the ``datasets`` section: keys, patch size, batch size, and whether training reaches its last iteration."""

from __future__ import annotations

import math
import os
import string
from collections.abc import Mapping
from typing import Any

import psutil
import torch

from mipkd_plugin.config.components import check_dataset_type
from mipkd_plugin.config.data_set_tables import DATA_SETS, PAIRS, WITH_KERNELS
from mipkd_plugin.config.dataset_rules import check_names, check_paths, check_range
from mipkd_plugin.config.degradation import check_degradation, check_kernels
from mipkd_plugin.config.examples import backend_for
from mipkd_plugin.config.feeding import check_feeding
from mipkd_plugin.config.hr_images import check_hr_images
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
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.sections import check_epoch, check_keys
from mipkd_plugin.config.suggestions import meant, other_key, other_value
from mipkd_plugin.data.crop_pool_dataset import fits_bytes
from mipkd_plugin.utils.launcher import world_size
from mipkd_plugin.utils.words import gigabytes

_KINDS = {True: ('train', 'val'), False: ('test', 'val')}
"""The first part of the name of a data set, for training or not."""


def check_datasets(ctx: Context) -> dict[str, int]:
    """Check all data sets.

    Returns:
        Number of images by YAML path, for the data sets that could be counted.
    """
    counts: dict[str, int] = {}
    phases = ctx.section('datasets')
    strange = [name for name in phases if not _is_used(ctx, str(name))]
    meanings = {meant(name, phases, _KINDS[ctx.is_train]) for name in strange}
    if ctx.is_train and 'datasets' in ctx.opt and 'train' not in {*phases, *meanings}:
        ctx.add('datasets.train', 'is missing', 'name the training images: see options/train_*.yml')
    if not ctx.is_train and MAPPING.fits(ctx.opt.get('datasets')) and not phases:
        ctx.add('datasets', 'holds no test set', 'add one, as in options/test_*.yml')
    for name, options in phases.items():
        where = f'datasets.{name}'
        if name in strange:
            _add_strange(ctx, name, phases)
        elif not isinstance(options, Mapping):
            needed = name == 'train' or not ctx.is_train and len(phases) == 1
            ctx.add(where, f'must be a block of keys, not {options!r}', 'name its images: see options/*.yml' if needed
                    else '', {} if needed else {where: REMOVE})
        else:
            check_paths(ctx, where, options)
            check_range(ctx, where, options)
            count = _check_dataset(ctx, where, options)
            if count is not None:
                counts[where] = count
                if name == 'train' and ctx.clean(where):
                    _check_reaches_end(ctx, where, options, options.get('crops', count))
    check_names(ctx, phases)
    check_degradation(ctx)
    return counts


def _is_used(ctx: Context, name: str) -> bool:
    kind = name.split('_')[0]
    return kind in _KINDS[ctx.is_train] and (kind != 'train' or name == 'train')


def _add_strange(ctx: Context, name: Any, phases: Mapping[str, Any]) -> None:
    """Note a data set that BasicSR does not use, and what to call it or that it goes."""
    purpose, names = (('training', 'train, val, val_1, val_2, …') if ctx.is_train else
                      ('testing', 'test, test_1, test_2, …'))
    remedy, fix = other_key('datasets', name, phases, _KINDS[ctx.is_train])
    if not ctx.is_train and len(phases) == 1:
        remedy = 'call it test'
        fix = {**fix, 'datasets.test': phases[name]} if isinstance(phases[name], Mapping) else {}
    elif len(fix) == 1:
        remedy = f'remove it; valid here: {names}'
    ctx.add(f'datasets.{name}', f'BasicSR does not use a data set {name!r} for {purpose}', remedy, fix)


def _check_dataset(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    found = check_dataset_type(ctx, where, options)
    name, trains = getattr(found, '__name__', ''), where == 'datasets.train'
    if trains and not check_feeding(ctx, where, options):
        return None
    table = DATA_SETS.get(name)
    if table is None or name == 'SingleImageDataset' and trains:  # that one has its own problem
        check_keys(ctx, where, options, DATASET if found is None else _needed_of_any(options), strict=False)
        if ctx.files:
            _check_roots_exist(ctx, where, options)
        return None
    if name in WITH_KERNELS and not trains:
        fix = {f'{where}.type': 'PairedImageDataset'}
        ctx.add(f'{where}.type', f'{name} is for training: it gives no LR images', f'{in_words(fix)}, with dataroot_gt '
                'and dataroot_lq; or SingleImageDataset, with dataroot_lq alone',
                fix if 'dataroot_lq' in options else {})
        return None
    check_keys(ctx, where, options, table, strict=True)
    _check_backend(ctx, where, options.get('io_backend'))
    _check_loader(ctx, where, options)
    if trains:
        check_patch(ctx, {})
    if name == 'CropPoolDataset':
        _check_pool(ctx, where, options)
    if name in WITH_KERNELS:
        check_kernels(ctx, where, options)
    template = options.get('filename_tmpl', '{}')
    if not _is_template(template):
        ctx.add(f'{where}.filename_tmpl', f'{template!r} has no usable {{}} for the name of the HR image',
                "write filename_tmpl: '{}', or '{}x4' for 0001x4.png", {f'{where}.filename_tmpl': '{}'})
    return _check_images(ctx, where, options, name)


def _check_images(ctx: Context, where: str, options: Mapping[str, Any], name: str) -> int | None:
    """Check the images of a data set of a known class; their number, or None if they cannot be counted."""
    kinds = {**dict.fromkeys(PAIRS, ('dataroot_gt', 'dataroot_lq')), **dict.fromkeys(WITH_KERNELS, ('dataroot_gt', ))}
    roots = (*kinds.get(name, ('dataroot_lq', )), 'io_backend')
    readable = all(ctx.clean(f'{where}.{key}') and options.get(key) for key in roots)
    others = ('filename_tmpl', 'meta_info_file', 'meta_info')
    if not ctx.files or not ctx.scale or not readable or not all(ctx.clean(f'{where}.{key}') for key in others):
        return None
    if name in PAIRS:
        return check_image_pairs(ctx, where, options)
    if name in WITH_KERNELS:
        return check_hr_images(ctx, where, options)
    _check_roots_exist(ctx, where, options)
    return None


def _is_template(template: Any) -> bool:
    """Whether a text has a place for a name, and asks for nothing else: ``{:>999999999}`` would fill the memory."""
    try:
        fields = [field[1:] for field in string.Formatter().parse(template) if field[1] is not None]
    except (TypeError, ValueError):
        return False
    return bool(fields) and all(field in (('', '', None), ('0', '', None)) for field in fields) and len(
        {field[0] for field in fields}) == 1


def _check_pool(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    """Check that the crops of a pool fit in memory."""
    if where != 'datasets.train':
        extra = {f'{where}.{key}': REMOVE for key in set(CROP_POOL) - set(PAIRED_IMAGES) if key in options}
        ctx.add(f'{where}.type', 'CropPoolDataset is for training',
                fix={f'{where}.type': 'PairedImageDataset', **dict(sorted(extra.items()))})
        return
    if not ctx.clean(where) or not ctx.scale:
        return
    channels = 1 if options.get('color') == 'y' else 3
    pixels = options['gt_size'] ** 2 + (options['gt_size'] // ctx.scale) ** 2
    each = channels * pixels * (1 if fits_bytes(options) else 4)
    size, free = options['crops'] * each, psutil.virtual_memory().available
    if size > free:
        fix = {f'{where}.crops': free // (2 * each)} if free >= 2 * each else {}
        ctx.add(f'{where}.crops', f'{options["crops"]:,d} crops take {gigabytes(size)}, and {gigabytes(free)} of '
                'memory are free', f'write fewer crops, for instance {in_words(fix)[6:]}' if fix else 'use a machine '
                'with more memory', fix)


def _needed_of_any(options: Mapping[str, Any]) -> dict[str, Key]:
    """Key table for a data set class that we do not know: our keys, and any other key of the block."""
    return {**{key: Key(ANYTHING) for key in options}, **DATASET}


def _check_backend(ctx: Context, where: str, backend: Any) -> None:
    if not MAPPING.fits(backend):
        return
    kind = backend.get('type')
    if not isinstance(kind, str) or kind not in IO_BACKENDS:
        remedy, fix = other_value(f'{where}.io_backend.type', kind, ('disk', 'lmdb'))
        ctx.add(f'{where}.io_backend.type', f'there is no backend {kind!r}', remedy,
                fix or {f'{where}.io_backend': {'type': backend_for(ctx.section(*where.split('.')))}})
    else:
        check_keys(ctx, f'{where}.io_backend', backend, IO_BACKENDS[kind], strict=True)


def _check_loader(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    workers = options.get('num_worker_per_gpu') if where == 'datasets.train' else 0
    if options.get('persistent_workers') is True and workers == 0:
        ctx.add(f'{where}.persistent_workers', 'needs workers, and this data set has none',
                fix={f'{where}.persistent_workers': False})
    if where != 'datasets.train' or options.get('prefetch_mode') != 'cuda':
        return
    if options.get('pin_memory') is not True:
        ctx.add(f'{where}.pin_memory', 'must be true for prefetch_mode: cuda', fix={f'{where}.pin_memory': True})
    if ctx.opt.get('num_gpu') == 0 or torch.cuda.device_count() == 0:
        reason = 'num_gpu is 0' if ctx.opt.get('num_gpu') == 0 else 'PyTorch finds no CUDA device here'
        ctx.add(f'{where}.prefetch_mode', f'cuda needs a GPU, and {reason}', fix={f'{where}.prefetch_mode': None})


def _check_roots_exist(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        is_root = str(key).startswith('dataroot') and isinstance(value, str) and ctx.clean(f'{where}.{key}')
        if is_root and not os.path.exists(ctx.path(value)):
            ctx.add(f'{where}.{key}', f'{value} does not exist; looked for {ctx.path(value)}',
                    'fix the path')


def _check_reaches_end(ctx: Context, where: str, options: Mapping[str, Any], images: int) -> None:
    """Check that training reaches ``total_iter``: BasicSR counts the last, smaller batch of an epoch but drops it."""
    batch: Any = options.get('batch_size_per_gpu')
    total: Any = ctx.section('train').get('total_iter')
    ratio = options.get('dataset_enlarge_ratio', 1)
    if not INTEGER.fits(batch) or not ITERATIONS.fits(total):
        return
    world = world_size(ctx.launcher)
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
    enough = next((r for r in (10 ** k for k in range(1, 8)) if r > ratio and reached(r) >= total), None)
    fix = {f'{where}.dataset_enlarge_ratio': enough} if enough else {
        f'{where}.batch_size_per_gpu': max(min(16, int(images * ratio)), 1)}
    ctx.add(f'{where}.dataset_enlarge_ratio',
            f'{images} {things} × {ratio} in batches of {loaded * world} last for {reached(ratio)} of '
            f'{int(total)} iterations: BasicSR counts the last, smaller batch of an epoch but drops it',
            fix=fix)
