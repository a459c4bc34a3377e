"""The keys of the data set classes of BasicSR and ours, and what such a class gives to a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY

from mipkd_plugin.config.keys import (
    COLOR,
    CROP_POOL,
    DATASET,
    FLAG,
    INTEGER,
    MAPPING,
    NUMBERS,
    PAIRED_IMAGES,
    TEXT,
    Key,
    Kind,
    is_number,
    is_whole,
    optional,
)
from mipkd_plugin.config.problems import block
from mipkd_plugin.config.registered import lookup

CROP = 400
"""Side of the HR crop of BasicSR's RealESRGANDataset, a number in its code; ours cuts a smaller one out of it."""
KERNELS = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')
"""The kinds of blur kernels that BasicSR's ``random_mixed_kernels`` knows."""
KERNEL_SHARES = [0.45, 0.25, 0.12, 0.03, 0.12, 0.03]
KERNEL_SIDE = 21
"""Side of the blur kernels, which are padded to it: a number in the code of BasicSR."""


def pair(low: float, high: float) -> Kind:
    """The kind of two numbers, with an example."""
    return Kind(f'two numbers, as [{low:g}, {high:g}]',
                lambda v: isinstance(v, list) and len(v) == 2 and all(map(is_number, v)), [low, high],
                {'type': 'array', 'minItems': 2, 'maxItems': 2, 'items': {'type': 'number'}})


def first_and_second(keys: Mapping[str, Key]) -> dict[str, Key]:
    """Keys of the first degradation, and the same with a 2 behind them for the second."""
    return {**keys, **{f'{key}2': entry for key, entry in keys.items()}}


PROBABILITY = Kind('a number from 0 to 1', lambda v: is_number(v) and 0 <= v <= 1, 0.5,
                   {'type': 'number', 'minimum': 0, 'maximum': 1})
_SHARES = Kind('a list of numbers from 0 to 1, one for each kernel, which sum to 1',
               lambda v: isinstance(v, list) and len(v) > 0 and all(map(PROBABILITY.fits, v)), KERNEL_SHARES,
               {'type': 'array', 'minItems': 1, 'items': PROBABILITY.schema})
_KERNELS = Kind(f'a list of kernels: {", ".join(KERNELS)}',
                lambda v: isinstance(v, list) and len(v) > 0 and all(isinstance(x, str) for x in v), list(KERNELS),
                {'type': 'array', 'minItems': 1, 'items': {'type': 'string'}})
_ODD = Kind('an odd whole number above 0', lambda v: is_whole(v) and isinstance(v, int) and v > 0 and v % 2 == 1,
            KERNEL_SIDE, {'type': 'integer', 'minimum': 1, 'not': {'multipleOf': 2}})
_SIDE = Kind(f'a whole number from 1 to {CROP}', lambda v: is_whole(v) and isinstance(v, int) and 1 <= v <= CROP, CROP,
             {'type': 'integer', 'minimum': 1, 'maximum': CROP})

SINGLE_IMAGES = {
    **DATASET, 'dataroot_lq': Key(TEXT, 'always'), 'io_backend': Key(MAPPING, 'always'), 'meta_info_file': Key(TEXT),
    'mean': Key(optional(NUMBERS)), 'std': Key(optional(NUMBERS)), 'color': Key(COLOR),
}
HR_IMAGES = {
    **DATASET, 'dataroot_gt': Key(TEXT, 'always'), 'io_backend': Key(MAPPING, 'always'), 'meta_info': Key(TEXT),
    'use_hflip': Key(FLAG, 'train'), 'use_rot': Key(FLAG, 'train'),
    'gt_size': Key(INTEGER),  # published option files have it, but the model reads the one at the top level
    **first_and_second({
        'blur_kernel_size': Key(_ODD, 'train'), 'kernel_list': Key(_KERNELS, 'train'),
        'kernel_prob': Key(_SHARES, 'train'), 'sinc_prob': Key(PROBABILITY._replace(example=0.1), 'train'),
        'blur_sigma': Key(pair(0.2, 3), 'train'), 'betag_range': Key(pair(0.5, 4), 'train'),
        'betap_range': Key(pair(1, 2), 'train')}),
    'final_sinc_prob': Key(PROBABILITY._replace(example=0.8), 'train'),
}
REAL_PAIRS = {**{key: entry for key, entry in PAIRED_IMAGES.items() if key not in ('color', 'meta_info_file')},
              'meta_info': Key(optional(TEXT))}
DATA_SETS: dict[str, dict[str, Key]] = {
    'PairedImageDataset': PAIRED_IMAGES, 'CropPoolDataset': CROP_POOL, 'SingleImageDataset': SINGLE_IMAGES,
    'RealESRGANDataset': HR_IMAGES, 'RealESRGANCropDataset': {**HR_IMAGES, 'crop_size': Key(_SIDE)},
    'RealESRGANPairedDataset': REAL_PAIRS}
"""Table by the name of the class."""
PAIRS = ('PairedImageDataset', 'CropPoolDataset', 'RealESRGANPairedDataset')
"""The classes that give HR and LR images."""
WITH_KERNELS = ('RealESRGANDataset', 'RealESRGANCropDataset')
"""The classes that give HR images and blur kernels, from which the model makes LR images."""


def _training_set(opt: Mapping[str, Any]) -> str:
    """Name of the class of the training set, '' for an unknown one; what extends such a class may give anything."""
    found = lookup(DATASET_REGISTRY, block(opt, 'datasets', 'train').get('type'))
    return str(getattr(found, '__name__', ''))


def gives_kernels(opt: Mapping[str, Any]) -> bool:
    """Whether the training set gives HR images and blur kernels, from which the model makes LR images."""
    return _training_set(opt) in WITH_KERNELS


def gives_pairs(opt: Mapping[str, Any]) -> bool:
    """Whether the training set gives HR and LR images, as far as its class is known."""
    return _training_set(opt) in PAIRS


def crop_side(opt: Mapping[str, Any]) -> int:
    """Side of the HR crop that is degraded, for a training set that gives kernels."""
    side = block(opt, 'datasets', 'train').get('crop_size', CROP)
    is_read = _training_set(opt) == 'RealESRGANCropDataset' and _SIDE.fits(side)
    return int(side) if is_read else CROP


def patch_place(opt: Mapping[str, Any]) -> str:
    """YAML path of the side of the HR patch: a model that makes LR images cuts the patch itself, behind that."""
    alone = 'gt_size' in opt and 'gt_size' not in block(opt, 'datasets', 'train')
    return 'gt_size' if gives_kernels(opt) or alone and not gives_pairs(opt) else 'datasets.train.gt_size'


def patch_side(opt: Mapping[str, Any]) -> Any:
    """What the options say about the side of the HR patch."""
    return (opt if patch_place(opt) == 'gt_size' else block(opt, 'datasets', 'train')).get('gt_size')
