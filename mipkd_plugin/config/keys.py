"""The keys of an option file, BasicSR's and ours: their allowed values, and which keys are required.

The tables follow BasicSR 1.4.2. They hold every key that ``SRModel``, ``SwinIRModel``, their base class, the
pipelines, the loggers, the data loaders and ``PairedImageDataset`` read. Further models are in ``degradation_keys``,
further data sets in ``data_set_tables``.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mipkd_plugin.config.remedies import REMOVE

LARGEST_SCALE = 64
LARGEST_PATCH = 4096
"""Side of the largest patch that a check tries."""


def is_number(value: Any) -> bool:
    """Whether a value is a finite number (``true`` is not)."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


_LARGEST = sys.float_info.max
_WORD = re.compile(r'[A-Za-z][A-Za-z0-9_-]{0,31}')
_NUMBER = re.compile(r'[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?')


NOT_A_NUMBER = 'is a string, not a number'
"""How the problem of a number in quotes ends."""


def number_in(value: Any) -> float | None:
    """The number that a text such as ``1e-4`` means; None for other values."""
    if not isinstance(value, str) or _NUMBER.fullmatch(value.strip()) is None:
        return None
    return int(value) if value.strip().isdigit() else float(value)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number; ``!!float 5e3`` is one too."""
    return is_number(value) and float(value).is_integer()


class Kind(NamedTuple):
    """The values that a key allows.

    Attributes:
        name: The values in words.
        fits: Whether a value is one of them.
        example: One of them, for a remedy; ``REMOVE`` if none is better than another.
        schema: The values as a JSON schema, for editors; it refuses no value that fits.
    """

    name: str
    fits: Callable[[Any], bool]
    example: Any = REMOVE
    schema: Mapping[str, Any] = {}

    @property
    def words(self) -> list[str]:
        """The texts among the values of an enumeration; empty for other kinds."""
        schemas = [self.schema, *self.schema.get('anyOf', ())]
        return [value for schema in schemas for value in schema.get('enum', ()) if isinstance(value, str)]


def optional(kind: Kind) -> Kind:
    """The same kind, or ``~``; of an enumeration the example stays one of its words."""
    return Kind(f'{kind.name}, or ~', lambda value: value is None or kind.fits(value),
                kind.example if kind.words else None, {'anyOf': [kind.schema, {'type': 'null'}]} if kind.schema else {})


def one_of(*values: Any) -> Kind:
    """A kind of these values alone; 1 is not ``true``."""
    words = [{None: '~', True: 'true', False: 'false'}.get(value, str(value)) for value in values]
    return Kind(f'{", ".join(words[:-1])} or {words[-1]}' if len(words) > 1 else words[0],
                lambda v: any(v == value and type(v) is type(value) for value in values), values[0],
                {'enum': list(values)})


def _whole(lowest: float, highest: float = math.inf, *, exact: bool = False, name: str = '', example: int = 1) -> Kind:
    """Whole numbers in a range; ``exact`` leaves out floats such as ``5e3``."""
    said, limits = name or f'a whole number, {lowest} or more', {'minimum': lowest, 'maximum': highest}
    return Kind(said, lambda v: is_whole(v) and (isinstance(v, int) or not exact) and lowest <= v <= highest, example,
                {'type': 'integer', **{word: limit for word, limit in limits.items() if math.isfinite(limit)}})


TEXT = Kind('a string', lambda v: isinstance(v, str) and v != '', schema={'type': 'string', 'minLength': 1})
FLAG = Kind('true or false', lambda v: isinstance(v, bool), False, {'type': 'boolean'})
MAPPING = Kind('a block of keys', lambda v: isinstance(v, Mapping), schema={'type': 'object'})
LIST = Kind('a list', lambda v: isinstance(v, list), schema={'type': 'array'})
WHOLE = _whole(-math.inf, name='a whole number', example=-1)
COUNT = _whole(0, example=0)
INTEGER = _whole(1, exact=True)
ITERATIONS = _whole(1, 10**12, name='a whole number from 1 to 1e12', example=1000)  # the time left has a limit too
SEED = _whole(0, 4 * 10**9, exact=True, name='a whole number from 0 to 4e9', example=0)
SCALE = _whole(1, LARGEST_SCALE, exact=True, name=f'a whole number from 1 to {LARGEST_SCALE}', example=2)
WORKERS = _whole(0, 512, exact=True, name='a whole number from 0 to 512', example=0)
PICTURES = _whole(0, 100, exact=True, name='a whole number from 0 to 100', example=1)
NUMBER = Kind('a number', is_number, 1.0, {'type': 'number'})
POSITIVE = Kind('a number above 0', lambda v: is_number(v) and v > 0, 1, {'type': 'number', 'exclusiveMinimum': 0})
FRACTION = Kind('a number from 0 up to, not including, 1', lambda v: is_number(v) and 0 <= v < 1, 0.999,
                {'type': 'number', 'minimum': 0, 'exclusiveMaximum': 1})
GPUS = Kind('a whole number or auto', lambda v: v == 'auto' or is_whole(v) and isinstance(v, int) and v >= 0, 'auto',
            {'anyOf': [{'const': 'auto'}, {'type': 'integer', 'minimum': 0}]})
ANYTHING = Kind('anything', lambda v: True)
PREFETCH = one_of(None, 'cpu', 'cuda')
NUMBERS = Kind('a list of numbers', lambda v: isinstance(v, list) and all(is_number(x) for x in v),
               schema={'type': 'array', 'items': {'type': 'number'}})
COLOR = Kind("'y' or another string", lambda v: v is None or isinstance(v, str), schema={'type': ['string', 'null']})
DTYPE = one_of('float32', 'bfloat16', 'float16')
CACHE_TYPE = one_of('float32', 'float16', 'bfloat16')
OUTPUT = Kind('a whole number or a key', lambda v: isinstance(v, (int, str)) and not isinstance(v, bool) and v != '',
              0, {'type': ['integer', 'string'], 'minLength': 1})
KEEP_OR_NEW = one_of('keep', 'new')
TEACHER_SLICE, RANDOM = 'teacher_slice', 'random'
INIT = one_of(TEACHER_SLICE, RANDOM)
"""What a student starts from."""
LOSSES = Kind('one loss (a block with type) or a list of them',
              lambda v: isinstance(v, (Mapping, list)) and len(v) > 0,
              schema={'type': ['object', 'array'], 'minItems': 1, 'minProperties': 1})


class Key(NamedTuple):
    """A key of a section.

    Attributes:
        kind: The allowed values.
        needed: When the key is required: ``always``, ``train``, ``test``, or ``''`` for never.
    """

    kind: Kind
    needed: str = ''


TOP = {
    'name': Key(TEXT, 'always'), 'model_type': Key(TEXT, 'always'), 'scale': Key(SCALE, 'always'),
    'num_gpu': Key(GPUS, 'always'), 'manual_seed': Key(optional(SEED)), 'find_unused_parameters': Key(FLAG),
    'datasets': Key(MAPPING, 'always'), 'network_g': Key(MAPPING, 'always'), 'path': Key(MAPPING, 'always'),
    'train': Key(MAPPING, 'train'), 'val': Key(optional(MAPPING), 'test'), 'logger': Key(MAPPING, 'train'),
    'dist_params': Key(MAPPING), 'teacher': Key(MAPPING), 'teachers': Key(ANYTHING), 'imports': Key(LIST),
    'output': Key(optional(OUTPUT)),
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
        'distill_opt': Key(LOSSES), 'distill': Key(optional(MAPPING)), 'eco': Key(optional(MAPPING)),
        'init': Key(optional(INIT)), 'exact_resume': Key(FLAG),
        'resume_hyperparameters': Key(optional(KEEP_OR_NEW)),
    },
    'val': {
        'val_freq': Key(ITERATIONS, 'train'), 'save_img': Key(FLAG, 'always'), 'suffix': Key(optional(TEXT)),
        'pbar': Key(FLAG), 'metrics': Key(optional(MAPPING)),
    },
    'logger': {
        'print_freq': Key(ITERATIONS, 'train'), 'save_checkpoint_freq': Key(ITERATIONS, 'train'),
        'use_tb_logger': Key(FLAG, 'train'), 'wandb': Key(optional(MAPPING)), 'keep_last': Key(optional(INTEGER)),
        'val_pictures': Key(optional(PICTURES)),
        'gradient_freq': Key(optional(INTEGER)),
    },
    'logger.wandb': {'project': Key(optional(TEXT)), 'resume_id': Key(optional(TEXT))},
    'dist_params': {'backend': Key(TEXT), 'port': Key(COUNT)},
}
TEACHER = {
    'network': Key(MAPPING), 'weights': Key(TEXT, 'always'), 'param_key': Key(optional(TEXT)),
    'aggregate': Key(TEXT), 'files': Key(MAPPING), 'cache': Key(optional(TEXT)), 'cache_dtype': Key(CACHE_TYPE),
    'output': Key(optional(OUTPUT)), 'dtype': Key(DTYPE), 'channels_last': Key(FLAG), 'compile': Key(FLAG),
}
WORD = Kind('a word of letters, digits, _ and -, up to 32 of them, that begins with a letter',
            lambda v: isinstance(v, str) and _WORD.fullmatch(v) is not None,
            schema={'type': 'string', 'pattern': '^[A-Za-z][A-Za-z0-9_-]{0,31}$'})
OF_SEVERAL = {'name': Key(WORD, 'always')}
"""What each of several teachers has besides."""
OF_LOSS = {'teacher': Key(WORD)}
"""What each distillation loss has besides the arguments of its class."""


def teacher_keys(teacher: Mapping[str, Any]) -> dict[str, Key]:
    """The keys of a block ``teacher``: a file of an aggregator says itself where weights are."""
    return {**TEACHER, 'weights': Key(TEXT)} if 'aggregate' in teacher else TEACHER


DATASET = {  # for data sets of any type
    'name': Key(TEXT, 'always'), 'type': Key(TEXT, 'always'), 'num_worker_per_gpu': Key(WORKERS, 'train'),
    'batch_size_per_gpu': Key(INTEGER, 'train'), 'dataset_enlarge_ratio': Key(POSITIVE),
    'prefetch_mode': Key(PREFETCH), 'num_prefetch_queue': Key(INTEGER), 'pin_memory': Key(FLAG),
    'persistent_workers': Key(FLAG), 'scale': Key(INTEGER), 'phase': Key(TEXT),
    'use_shuffle': Key(FLAG), 'task': Key(TEXT),  # published option files have them, but nothing reads them
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
    'memcached': {key: Key(ANYTHING) for key in ('type', 'server_list_cfg', 'client_cfg', 'sys_path')},  # refused
}
PARTS = ('SRModel', 'SwinIRModel', 'SRGANModel', 'ESRGANModel', 'RealESRNetModel', 'RealESRGANModel', 'BaseModel',
         'DistillMixin', 'DistillModel', 'SwinIRDistillModel', 'SRGANDistillModel', 'ESRGANDistillModel',
         'RealESRNetDistillModel', 'RealESRGANDistillModel', 'StudentMixin', 'AnySRModel', 'AggregateModel', 'object')
"""Model classes that read only the keys above, and those of ``degradation_keys``."""

def _numbers(example: Any) -> Kind:
    return NUMBERS._replace(example=example)


_DECAY = Kind('a number from 0 to 1e30', lambda v: is_number(v) and 0 <= v <= 1e30, 0,
              {'type': 'number', 'minimum': 0, 'maximum': 1e30})


def _up_to(most: float, example: float) -> Kind:
    return Kind(f'a number above 0, up to {most:g}', lambda v: POSITIVE.fits(v) and v <= most, example,
                {**POSITIVE.schema, 'maximum': most})


ARGUMENTS = {
    'lr': _up_to(1e30, 0.0001), 'eps': _up_to(1, 1e-8), 'gamma': _up_to(1e6, 0.5), 'weight_decay': _DECAY,
    'amsgrad': FLAG, 'capturable': FLAG, 'differentiable': one_of(False), 'loss_weight': NUMBER,
    'perceptual_weight': NUMBER, 'style_weight': NUMBER, 'reduction': one_of('mean', 'sum'),
    'milestones': _numbers([250000]), 'restarts': NUMBERS, 'restart_weights': NUMBERS, 'periods': NUMBERS,
    'eta_min': NUMBER, 'crop_border': _whole(0, exact=True, example=0),
    'test_y_channel': FLAG,
}
"""Arguments of BasicSR's losses, metrics, optimizer and schedulers."""

TEXTS = ('name', 'suffix', 'filename_tmpl', 'taps', 'project', 'resume_id', 'type', 'model_type', 'weights', 'output')
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
