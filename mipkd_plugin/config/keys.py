"""The keys of an option file, BasicSR's and ours: their allowed values, and which keys are required.

The tables follow BasicSR 1.4.2. They hold every key that ``SRModel``, ``SwinIRModel``, their base class, the
pipelines, the loggers, the data loaders and ``PairedImageDataset`` read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (``true`` is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; ``!!float 5e3`` is one too."""
    return is_number(value) and float(value).is_integer()


class Kind(NamedTuple):
    """The values that a key allows."""

    name: str
    fits: Callable[[Any], bool]


def optional(kind: Kind) -> Kind:
    """The same kind, or ``~``."""
    return Kind(f'{kind.name}, or ~', lambda value: value is None or kind.fits(value))


TEXT = Kind('a string', lambda v: isinstance(v, str) and v != '')
FLAG = Kind('true or false', lambda v: isinstance(v, bool))
MAPPING = Kind('a block of keys', lambda v: isinstance(v, Mapping))
LIST = Kind('a list', lambda v: isinstance(v, list))
WHOLE = Kind('a whole number', is_whole)
COUNT = Kind('a whole number, 0 or more', lambda v: is_whole(v) and v >= 0)
INTEGER = Kind('a whole number, 1 or more', lambda v: is_whole(v) and isinstance(v, int) and v >= 1)
ITERATIONS = Kind('a whole number, 1 or more', lambda v: is_whole(v) and v >= 1)
SEED = Kind('a whole number, 0 or more', lambda v: is_whole(v) and type(v) is int and v >= 0)
NUMBER = Kind('a number', is_number)
POSITIVE = Kind('a number above 0', lambda v: is_number(v) and v > 0)
FRACTION = Kind('a number from 0 up to, not including, 1', lambda v: is_number(v) and 0 <= v < 1)
GPUS = Kind('a whole number or auto', lambda v: v == 'auto' or is_whole(v) and isinstance(v, int) and v >= 0)
CACHE_TYPE = Kind('float32, float16 or bfloat16', lambda v: v in ('float32', 'float16', 'bfloat16'))
ANYTHING = Kind('anything', lambda v: True)
PREFETCH = Kind('~, cpu or cuda', lambda v: v in (None, 'cpu', 'cuda'))
NUMBERS = Kind('a list of numbers', lambda v: isinstance(v, list) and all(is_number(x) for x in v))
COLOR = Kind("'y' or another string", lambda v: v is None or isinstance(v, str))
DTYPE = Kind('one of float32, bfloat16, float16', lambda v: v in ('float32', 'bfloat16', 'float16'))
KEEP_OR_NEW = Kind('keep or new', lambda v: v in ('keep', 'new'))
LOSSES = Kind('one loss (a block with type) or a list of them',
              lambda v: isinstance(v, (Mapping, list)) and len(v) > 0)


class Key(NamedTuple):
    """A key of a section.

    Attributes:
        kind: The allowed values.
        needed: When the key is required: ``always``, ``train``, ``test``, or ``''`` for never.
    """

    kind: Kind
    needed: str = ''


TOP = {
    'name': Key(TEXT, 'always'), 'model_type': Key(TEXT, 'always'), 'scale': Key(INTEGER, 'always'),
    'num_gpu': Key(GPUS, 'always'), 'manual_seed': Key(optional(SEED)), 'find_unused_parameters': Key(FLAG),
    'datasets': Key(MAPPING, 'always'), 'network_g': Key(MAPPING, 'always'), 'path': Key(MAPPING, 'always'),
    'train': Key(MAPPING, 'train'), 'val': Key(optional(MAPPING), 'test'), 'logger': Key(MAPPING, 'train'),
    'dist_params': Key(MAPPING), 'teacher': Key(MAPPING), 'imports': Key(LIST),
}
SECTIONS: dict[str, dict[str, Key]] = {
    'path': {
        'pretrain_network_g': Key(optional(TEXT)), 'param_key_g': Key(optional(TEXT)),
        'strict_load_g': Key(FLAG), 'resume_state': Key(optional(TEXT)),
        'ignore_resume_networks': Key(optional(LIST)),
    },
    'train': {
        'ema_decay': Key(FRACTION), 'optim_g': Key(MAPPING, 'train'), 'scheduler': Key(MAPPING, 'train'),
        'total_iter': Key(ITERATIONS, 'train'), 'warmup_iter': Key(WHOLE),
        'pixel_opt': Key(optional(MAPPING)), 'perceptual_opt': Key(optional(MAPPING)),
        'distill_opt': Key(LOSSES), 'distill': Key(optional(MAPPING)), 'exact_resume': Key(FLAG),
        'resume_hyperparameters': Key(optional(KEEP_OR_NEW)),
    },
    'val': {
        'val_freq': Key(ITERATIONS, 'train'), 'save_img': Key(FLAG, 'always'), 'suffix': Key(optional(TEXT)),
        'pbar': Key(FLAG), 'metrics': Key(optional(MAPPING)),
    },
    'logger': {
        'print_freq': Key(ITERATIONS, 'train'), 'save_checkpoint_freq': Key(ITERATIONS, 'train'),
        'use_tb_logger': Key(FLAG, 'train'), 'wandb': Key(optional(MAPPING)), 'keep_last': Key(optional(INTEGER)),
    },
    'logger.wandb': {'project': Key(optional(TEXT)), 'resume_id': Key(optional(TEXT))},
    'dist_params': {'backend': Key(TEXT), 'port': Key(COUNT)},
}
TEACHER = {
    'network': Key(MAPPING, 'always'), 'weights': Key(TEXT, 'always'), 'param_key': Key(optional(TEXT)),
    'cache': Key(optional(TEXT)), 'cache_dtype': Key(CACHE_TYPE),
    'dtype': Key(DTYPE), 'channels_last': Key(FLAG), 'compile': Key(FLAG),
}
DATASET = {  # for data sets of any type
    'name': Key(TEXT, 'always'), 'type': Key(TEXT, 'always'), 'num_worker_per_gpu': Key(COUNT, 'train'),
    'batch_size_per_gpu': Key(INTEGER, 'train'), 'dataset_enlarge_ratio': Key(POSITIVE),
    'prefetch_mode': Key(PREFETCH), 'num_prefetch_queue': Key(INTEGER), 'pin_memory': Key(FLAG),
    'persistent_workers': Key(FLAG), 'scale': Key(INTEGER), 'phase': Key(TEXT),
    'use_shuffle': Key(FLAG),  # BasicSR's option files have it, but nothing reads it
}
PAIRED_IMAGES = {
    **DATASET, 'dataroot_gt': Key(TEXT, 'always'), 'dataroot_lq': Key(TEXT, 'always'),
    'io_backend': Key(MAPPING, 'always'), 'meta_info_file': Key(optional(TEXT)), 'filename_tmpl': Key(TEXT),
    'gt_size': Key(INTEGER, 'train'), 'use_hflip': Key(FLAG, 'train'), 'use_rot': Key(FLAG, 'train'),
    'mean': Key(optional(NUMBERS)), 'std': Key(optional(NUMBERS)), 'color': Key(COLOR),
}
CROP_POOL = {**PAIRED_IMAGES, 'crops': Key(INTEGER, 'always'), 'crop_seed': Key(SEED)}
IO_BACKENDS = {
    'disk': {'type': Key(TEXT, 'always')},
    'lmdb': {'type': Key(TEXT, 'always'), 'readonly': Key(FLAG), 'lock': Key(FLAG), 'readahead': Key(FLAG),
             'db_paths': Key(ANYTHING), 'client_keys': Key(ANYTHING)},
    'memcached': {'type': Key(TEXT, 'always'), 'server_list_cfg': Key(TEXT, 'always'),
                  'client_cfg': Key(TEXT, 'always'), 'sys_path': Key(optional(TEXT))},
}
PARTS = ('SRModel', 'SwinIRModel', 'BaseModel', 'DistillMixin', 'DistillModel', 'SwinIRDistillModel',
         'object')
"""Model classes that read only the keys above."""

ARGUMENTS = {
    'lr': POSITIVE, 'weight_decay': NUMBER, 'loss_weight': NUMBER, 'perceptual_weight': NUMBER,
    'style_weight': NUMBER, 'reduction': Kind('mean or sum', lambda v: v in ('mean', 'sum')),
    'milestones': NUMBERS, 'gamma': POSITIVE, 'restarts': NUMBERS, 'restart_weights': NUMBERS, 'periods': NUMBERS,
    'eta_min': NUMBER, 'crop_border': Kind('a whole number, 0 or more', lambda v: COUNT.fits(v) and type(v) is int),
    'test_y_channel': FLAG,
}
"""Arguments of BasicSR's losses, metrics, optimizer and schedulers."""

TEXTS = ('name', 'suffix', 'filename_tmpl', 'taps', 'project', 'resume_id')
"""Keys whose text may look like a number."""

_PARSED = {'is_train', 'dist', 'rank', 'world_size', 'auto_resume', 'root_path'}
_PARSED_PATHS = {'experiments_root', 'models', 'training_states', 'log', 'visualization', 'results_root'}


def written_by_user(opt: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options without the entries that BasicSR's ``parse_options`` adds."""
    if 'is_train' not in opt:
        return opt
    own = {key: value for key, value in opt.items() if key not in _PARSED}
    if isinstance(own.get('path'), Mapping):
        own['path'] = {key: value for key, value in own['path'].items() if key not in _PARSED_PATHS}
    return own
