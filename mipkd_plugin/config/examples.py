"""Values that work, to write in the place of a missing or a wrong one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from mipkd_plugin.config.data_set_tables import crop_side
from mipkd_plugin.config.keys import Kind, is_number
from mipkd_plugin.config.patches import window_size
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.data.headers import BrokenImageError, header_of_file

PIXEL_LOSS = {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}
DISTILLATION_LOSS = {'type': 'LogitsKDLoss'}
_SIDE, _LARGER, _LARGE = 48, 256, 4096
_MOST_READ = 20
_VALUES: dict[str, Any] = {
    'path': {'pretrain_network_g': None}, 'val': {'save_img': True, 'suffix': None},
    'logger': {'print_freq': 100, 'save_checkpoint_freq': 5000, 'use_tb_logger': False},
    'train.optim_g': {'type': 'Adam', 'lr': 0.0001}, 'train.pixel_opt': PIXEL_LOSS,
    'train.distill_opt': DISTILLATION_LOSS,
    'train.scheduler': {'type': 'MultiStepLR', 'milestones': [250000], 'gamma': 0.5},
}
MEANINGS = {'dataroot_lq': 'the folder of the low-resolution images', 'io_backend': '{type: disk}',
            'dataroot_gt': 'the folder of the high-resolution images'}
"""What to write for an entry of a data set, in words."""
_OF_DATA_SETS: dict[str, Any] = {
    'type': 'PairedImageDataset', 'batch_size_per_gpu': 16, 'use_hflip': True, 'use_rot': True, 'crops': 4096}


def example(ctx: Context, where: str, kind: Kind) -> Any:
    """A value that works for an entry.

    Args:
        ctx: The options.
        where: YAML path of the entry.
        kind: The values that it allows.

    Returns:
        The value; ``REMOVE`` if nobody can know one.
    """
    above, _, key = where.rpartition('.')
    value = ctx.section(*above.split('.')).get(key) if above else ctx.opt.get(key)
    if key in ('name', 'suffix') and is_number(value):
        return str(value)
    if where == 'val' and ctx.is_train:
        return kind.example
    if where in ('path', 'path.pretrain_network_g') and not ctx.is_train:
        return REMOVE
    if where == 'teacher' and isinstance(value, str) and value:
        return {'weights': value}  # its network is recognized
    if key.startswith('param_key'):
        return 'params'
    if where in _VALUES:
        return _VALUES[where]
    if where == 'gt_size':
        return fitting(ctx, min(_LARGER, crop_side(ctx.opt))) or kind.example
    if above.startswith('datasets.') and above.count('.') == 1:
        return _of_data_set(ctx, above, key, kind)
    if where == 'scale':
        return next((ctx.section('network_g')[k] for k in ('upscale', 'scale')
                     if kind.fits(ctx.section('network_g').get(k))), kind.example)
    if where == 'model_type':
        swinir = ctx.section('network_g').get('type') == 'SwinIR'
        return ('SwinIR' if swinir else '') + (
            'DistillModel' if {'teacher', 'teachers'} & set(ctx.opt) else 'Model' if swinir else 'SRModel')
    if key == 'eco':
        return {'end_ratio': 0.75}
    return 'my_run' if where == 'name' else kind.example


def _of_data_set(ctx: Context, where: str, key: str, kind: Kind) -> Any:
    if key == 'name':
        return where.rpartition('.')[2]
    if key == 'gt_size':
        wanted = fitting(ctx, _SIDE * (ctx.scale or 1)) or window_size(ctx.opt) * (ctx.scale or 1)
        return fitting(ctx, min(wanted, _smallest_side(ctx, where))) or wanted
    if key == 'io_backend':
        return {'type': backend_for(ctx.section(*where.split('.')))}
    return _OF_DATA_SETS.get(key, kind.example)


def _smallest_side(ctx: Context, where: str) -> int:
    """The smallest side of the first HR images of a data set; a large number if nobody knows."""
    text = ctx.section(*where.split('.')).get('dataroot_gt')
    root = ctx.path(text) if isinstance(text, str) and ctx.files else None
    sides = [_LARGE]
    try:
        for path in itertools.islice(root.iterdir(), _MOST_READ) if root is not None and root.is_dir() else ():
            header = header_of_file(path)
            sides.append(min(header.height, header.width))
    except (BrokenImageError, OSError):
        pass  # these have their own problem
    return min(sides)


def backend_for(options: Mapping[str, Any]) -> str:
    """The backend that reads the images of a data set: ``disk`` or ``lmdb``."""
    roots = [str(value).rstrip('/') for key, value in options.items() if str(key).startswith('dataroot')]
    return 'lmdb' if roots and all(root.endswith('.lmdb') for root in roots) else 'disk'


def fitting(ctx: Context, side: int) -> int:
    """The largest size of an HR patch that fits into an image side, the scale and all window sizes; 0 without any."""
    unit = window_size(ctx.opt) * (ctx.scale or 1)
    return side // unit * unit


def may_be_removed(ctx: Context, where: str, needed: str) -> bool:
    """Whether the options are in order without an entry."""
    return not needed and not (where == 'teacher' and ctx.distills or
                               where == 'path.pretrain_network_g' and not ctx.is_train)


