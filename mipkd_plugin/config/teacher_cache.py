"""The cache of the teacher's passes: ``teacher.cache`` and ``teacher.cache_dtype``."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, get_args

import lmdb
import psutil
import torch
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor

from mipkd_plugin.config.data_set_tables import gives_kernels
from mipkd_plugin.config.keys import INTEGER
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.teacher_run import execution_of
from mipkd_plugin.config.teachers import teachers_of
from mipkd_plugin.data.crop_pool_dataset import CropPoolDataset
from mipkd_plugin.losses.doubts import MIXING_REMEDY, mixing
from mipkd_plugin.networks.conduct import conduct_of
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.teacher_cache import (
    CacheError,
    CacheType,
    TeacherCache,
    bytes_per_crop,
    describe,
    meta_of,
    refuse_other_cache,
    shapes_of,
)
from mipkd_plugin.utils.launcher import world_size
from mipkd_plugin.utils.lmdb_files import damage_of
from mipkd_plugin.utils.words import gigabytes

PLACE = 'teacher.cache'
MEMORY = 'memory'
POOL = 'CropPoolDataset'


def make_cache(opt: Mapping[str, Any], nets: NetPair, probe: Tensor, fingerprint: str) -> TeacherCache | None:
    """The cache that the options ask for; None if they ask for none.

    Args:
        opt: The options.
        nets: The tapped networks.
        probe: Images (1, C, H, W) of the size of a training patch.
        fingerprint: Hash of the teacher's weights.

    Returns:
        The cache.

    Raises:
        CacheError: The LMDB was made for something else.
    """
    teacher = block(opt, 'teacher')
    where = teacher.get('cache')
    if where is None:
        return None
    path = None if where == MEMORY else Path(where).expanduser()
    return TeacherCache(nets.teacher, probe, block(opt, 'datasets', 'train')['crops'],
                        teacher.get('cache_dtype', 'float32'), path, _identity(fingerprint, teacher))


def make_caches(opt: Mapping[str, Any], nets: Mapping[str, NetPair], probe: Tensor,
                fingerprints: Mapping[str, str]) -> dict[str, TeacherCache]:
    """The caches of all teachers that ask for one.

    Args:
        opt: The options.
        nets: The student with each teacher, by the teacher's name.
        probe: Images (1, C, H, W) of the size of a training patch.
        fingerprints: Hash of each teacher's weights, by name.

    Returns:
        The caches by name.

    Raises:
        CacheError: An LMDB was made for something else.
    """
    found = {teacher.name: make_cache({**opt, 'teacher': teacher.options}, nets[teacher.name], probe,
                                      fingerprints[teacher.name])
             for teacher in teachers_of(opt) if teacher.name in nets}
    return {name: cache for name, cache in found.items() if cache is not None}


def check_cache(ctx: Context, nets: NetPair, probe: Tensor, fingerprint: str, others: list[int]) -> str | None:
    """Check that a cache fits in memory or on the disk, and that an existing one belongs to this teacher.

    Args:
        ctx: Options, and where problems go.
        nets: The tapped networks.
        probe: Images (1, C, H, W) of the size of a training patch.
        fingerprint: Hash of the teacher's weights.
        others: Bytes in memory that each cache of an earlier teacher takes in each process; gets those of this one.

    Returns:
        What the cache will take, in words; None without a cache, or with a problem noted.
    """
    teacher, train = ctx.section('teacher'), ctx.section('datasets', 'train')
    where, dtype = teacher.get('cache'), teacher.get('cache_dtype', 'float32')
    if where is None:
        if 'cache_dtype' in teacher:
            ctx.add('teacher.cache_dtype', 'is for a cache, and there is none', 'remove it, or write cache: memory',
                    {'teacher.cache_dtype': REMOVE})
        return None
    if gives_kernels(ctx.opt):
        ctx.add(PLACE, 'needs images that stay the same, and this model degrades them anew in each iteration',
                'remove cache', {PLACE: REMOVE})
    elif not _is_pool(train.get('type')):
        ctx.add(PLACE, f'needs crops that stay the same, and datasets.train.type is {train.get("type")}',
                f'write type: {POOL} and crops: 4096 under datasets.train (crops: 4096 in a method of a comparison), '
                'or remove cache', {'datasets.train.type': POOL, 'datasets.train.crops': 4096} if
                train.get('type') == 'PairedImageDataset' else {PLACE: REMOVE})
    elif not INTEGER.fits(train.get('crops')) or not ctx.clean(PLACE) or not ctx.clean('teacher.cache_dtype'):
        pass  # has its own problem
    elif where != MEMORY and Path(where).suffix != '.lmdb':
        ctx.add(PLACE, f'{where} is neither memory nor a name that ends in .lmdb',
                'write cache: memory, or the path of an LMDB, such as datasets/teacher_x2.lmdb', {PLACE: MEMORY})
    elif mixing('teacher', nets.teacher.net, conduct_of(nets.teacher, probe)):
        ctx.add(PLACE, f'{type(nets.teacher.net).__name__} depends on the batch: its result for an image changes with '
                'the images beside it, and a cache keeps the first', f'remove cache; or {MIXING_REMEDY}',
                {PLACE: REMOVE})
    else:
        found = nets.teacher(probe)
        shapes = shapes_of(found)
        crops, each = train['crops'], bytes_per_crop(shapes, dtype)
        if ctx.files:
            _check_room(ctx, where, (crops, each, sum(others)), describe(crops, each, where),
                        meta_of(shapes, dtype, _identity(fingerprint, teacher)))
            others += [crops * each] * (where == MEMORY)
        _check_range(ctx, found, dtype)
        return describe(crops, each, where) if ctx.clean(PLACE) else None
    return None


def _is_pool(name: Any) -> bool:
    found = lookup(DATASET_REGISTRY, name)
    return isinstance(found, type) and issubclass(found, CropPoolDataset)


def _identity(fingerprint: str, teacher: Mapping[str, Any]) -> str:
    """What the teacher's numbers depend on: its options, its weights, and the type in which it runs."""
    network = json.dumps(teacher.get('network'), sort_keys=True, default=str)
    chosen = f', output {teacher["output"]!r}' if teacher.get('output') is not None else ''
    return f'{network}, {fingerprint}, {execution_of(teacher)}{chosen}'


def _check_room(ctx: Context, where: str, size: tuple[int, int, int], text: str, meta: Mapping[str, Any]) -> None:
    """Check the room for (crops, bytes of each), in memory beside the bytes of other caches."""
    crops, each, others = size
    total, fewer = crops * each, 'write fewer crops, fewer taps, or cache_dtype: float16'
    if where == MEMORY:
        ranks = world_size(ctx.launcher)
        free, needed = psutil.virtual_memory().available, (total + others) * ranks
        if needed > free:
            processes = f' in each of {ranks} processes' if ranks > 1 else ''
            beside = f', beside {gigabytes(others)} for other teachers' if others else ''
            ctx.add(PLACE, f'takes {text}{beside}{processes}, and {gigabytes(free)} of memory are free',
                    f'{fewer}; or keep it on the disk: cache: datasets/teacher.lmdb',
                    _fewer(free, (each + others / crops) * ranks))
        return
    path = ctx.path(where)
    damage = damage_of(path) if os.path.isfile(path / 'data.mdb') else ''
    if damage:
        ctx.add(PLACE, f'{where} is damaged: {damage}', 'delete it, or name another')
        return
    if os.path.isdir(path):
        try:
            with lmdb.open(str(path), readonly=True, lock=False) as environment:
                refuse_other_cache(path, environment, meta)
        except (lmdb.Error, CacheError) as error:
            ctx.add(PLACE, f'{where} cannot be used: {error}', '' if isinstance(error, CacheError) else
                    'delete it, or name another')
        if not os.access(path, os.W_OK):
            ctx.add(PLACE, f'{where} cannot be written', 'change its permissions, or name another')
        total -= sum(file.stat().st_blocks * 512 for file in path.iterdir())
    elif os.path.exists(path):
        ctx.add(PLACE, f'{where} is a file, not an LMDB', fix={PLACE: _other_name(path, where)})
        return
    home = next(place for place in (path.absolute(), *path.absolute().parents) if os.path.exists(place))
    if not os.path.isdir(home) or not os.access(home, os.W_OK):
        ctx.add(PLACE, f'{where} cannot be made: {home} is no folder, or cannot be written', 'name another')
        return
    room = shutil.disk_usage(home).free
    if total > room:
        ctx.add(PLACE, f'takes {text}, and {gigabytes(room)} are free in {home}', fewer, _fewer(room, each))


def _fewer(free: int, each: float) -> dict[str, Any]:
    """Half as many crops as have room."""
    return {'datasets.train.crops': int(free // (2 * each))} if free >= 2 * each else {}


def _other_name(path: Path, where: str) -> str:
    """A name like this one that is free."""
    return next(where.removesuffix('.lmdb') + f'_{number}.lmdb' for number in range(2, 10_000)
                if not path.with_name(f'{path.stem}_{number}.lmdb').exists())


def _check_range(ctx: Context, found: NetPass, dtype: str) -> None:
    """Check that the type of the cache holds the teacher's numbers."""
    for name, values in {'output': found.output, **found.features}.items():
        if not bool(torch.isfinite(values.to(getattr(torch, dtype))).all()):
            ctx.add('teacher.cache_dtype', f'{dtype} cannot hold the numbers of {name}, up to {values.abs().max():.3g}',
                    f'write cache_dtype: {" or ".join(cast(tuple[str, ...], get_args(CacheType))[::2])}',
                    {'teacher.cache_dtype': 'float32'})
            return
