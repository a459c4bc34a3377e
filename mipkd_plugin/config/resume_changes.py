"""What has changed in an option file since a checkpoint was saved: hyper-parameters, and what exact resume needs."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY

from mipkd_plugin.checkpoints.trial import SCHEDULERS
from mipkd_plugin.config.degradation_keys import OF_DEGRADING, QUEUE
from mipkd_plugin.config.eco import EcoSchedule
from mipkd_plugin.config.keys import RANDOM
from mipkd_plugin.config.problems import block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.schedule import DistillSchedule
from mipkd_plugin.config.teachers import number_of_teacher, teachers_of

_NOT_TRAINING = ('total_iter', 'exact_resume', 'resume_hyperparameters')
_NOT_DATA = ('name', 'io_backend', 'prefetch_mode', 'num_prefetch_queue', 'pin_memory', 'persistent_workers',
             'use_shuffle', 'scale', 'phase')
_NOT_TEACHING = ('name', 'weights', 'param_key', 'aggregate', 'files', 'cache')  # files: a hash tells them apart
_TEACHER = {'dtype': 'float32', 'channels_last': False, 'compile': False, 'cache_dtype': 'float32'}
_SCHEDULES: dict[str, type] = {'train.distill': DistillSchedule, 'train.eco': EcoSchedule}

Change = tuple[str, Any, Any]
"""YAML path, old value, new value."""


def hyperparameters(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``train`` that a resumed run would keep as they were saved, or change in the middle, by key."""
    train = block(opt, 'train')
    found = {key: train[key] for key in train if str(key).startswith('optim_') or key == 'scheduler'}
    found |= {'warmup_iter': train.get('warmup_iter', -1), 'ema_decay': train.get('ema_decay', 0)}
    return {str(key): _plain(value) for key, value in found.items()}


def trained_with(opt: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """All other entries that change what a run trains, by YAML path; image folders by what they hold.

    Args:
        opt: The options.
        root: Folder that relative paths start from.

    Returns:
        Plain values by YAML path.
    """
    train, data = block(opt, 'train'), block(opt, 'datasets', 'train')
    own = hyperparameters(opt)
    found = {key: opt[key] for key in opt
             if key in ('manual_seed', 'model_type', 'output') or str(key).startswith('network_')}
    degradation = {key: opt[key] for key in opt if key in OF_DEGRADING}
    found |= {'queue_size': QUEUE, 'high_order_degradation': True, **degradation} if degradation else {}
    found |= {f'train.{key}': value for key, value in train.items() if key not in own and key not in _NOT_TRAINING}
    if found.get('train.init') in (None, RANDOM):
        found.pop('train.init', None)  # the default
    if train.get('distill') or train.get('eco') is not None:
        found['train.total_iter'] = train.get('total_iter')
    for key, value in {'dataset_enlarge_ratio': 1, **data}.items():
        if key not in _NOT_DATA:
            images = isinstance(value, str) and str(key).startswith(('dataroot', 'meta_info'))
            found[f'datasets.train.{key}'] = _contents(root / os.path.expanduser(value)) if images else value
    for teacher in teachers_of(opt):
        where = f'teachers.{teacher.name}' if teacher.name else teacher.place  # the order of teachers changes nothing
        found |= {f'{where}.{key}': value for key, value in {**_TEACHER, **teacher.options}.items()
                  if key not in _NOT_TEACHING}
    if 'train.distill_opt' in found and 'teachers' in opt:
        found['train.distill_opt'] = _with_teachers(opt)
    return {path: _plain(value) for path, value in found.items()}


def _with_teachers(opt: Mapping[str, Any]) -> Any:
    """The losses, each with the name of its teacher."""
    teachers, losses = teachers_of(opt), opt['train']['distill_opt']
    named = [{**loss, 'teacher': teachers[number_of_teacher(opt, loss)].name} if isinstance(loss, Mapping) else loss
             for loss in (losses if isinstance(losses, list) else [losses])]
    return named if isinstance(losses, list) else named[0]


def changes(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = '') -> list[Change]:
    """Compare saved entries with those of an option file; a default that is written out is no change.

    Args:
        saved: Value by key or YAML path.
        now: The same of the option file.
        prefix: Before each key to make it a YAML path.

    Returns:
        The changes, in the order of the option file.
    """
    old: dict[str, Any] = {}
    new: dict[str, Any] = {}
    for entries, flat in ((saved, old), (now, new)):
        for key, value in entries.items():
            flat.update(_flat(_complete(prefix + key, _plain(value)), prefix + key))
    written = {path for key, value in now.items() for path, _ in _flat(value, prefix + key)}
    found = [(path, old.get(path), new.get(path)) for path in [*new, *(path for path in old if path not in new)]
             if old.get(path) != new.get(path) and (path in old or path in written)]
    types = {path.removesuffix('type') for path, *_ in found if path.endswith('.type')}
    return [change for change in found
            if change[0].endswith('.type') or not change[0].startswith(tuple(types) or ('\0', ))]


def in_words(found: list[Change]) -> str:
    """Changes as ``train.optim_g.lr 0.001 -> 0.0001, …``."""
    return ', '.join(f'{path} {_short(old)} -> {_short(new)}' for path, old, new in found)


def _short(value: Any) -> str:
    text = 'nothing' if value is None else str(value)
    return text if len(text) <= 80 else f'{text[:76]} …'


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The single entries below a path; a list of plain values is one."""
    if isinstance(value, Mapping):
        for key, child in value.items():
            yield from _flat(child, f'{path}.{key}')
    elif isinstance(value, list) and any(isinstance(child, Mapping) for child in value):
        for index, child in enumerate(value):
            yield from _flat(child, f'{path}[{index}]')
    else:
        yield path, value


def _complete(path: str, value: Any) -> Any:
    """Entries with the defaults of their class written out, and in one form."""
    if isinstance(value, list):
        return [_complete(path, child) for child in value]
    if not isinstance(value, Mapping):
        return value
    name = value.get('type')
    own = {key: _complete(f'{path}.{key}', child) for key, child in value.items()}
    for key, parameter in _parameters(path, name).items():
        if parameter.default is not parameter.empty:
            own.setdefault(key, _plain(parameter.default))
    if name == 'MultiStepRestartLR':
        own['type'] = 'MultiStepLR'
    if isinstance(own.get('milestones'), list):
        own['milestones'] = sorted(own['milestones'], key=str)
    return own


def _parameters(path: str, name: Any) -> Mapping[str, inspect.Parameter]:
    if path in _SCHEDULES:
        return inspect.signature(_SCHEDULES[path]).parameters
    if not isinstance(name, str):
        return {}
    if path.startswith('train.optim_'):
        cls = getattr(torch.optim, name, None)
    elif path == 'train.scheduler':
        cls = SCHEDULERS.get(name)
    else:
        cls = lookup(ARCH_REGISTRY if 'network' in path else LOSS_REGISTRY, name)
    return inspect.signature(cls).parameters if callable(cls) else {}


def _plain(value: Any) -> Any:
    """The same in types that ``torch.load(weights_only=True)`` reads."""
    if isinstance(value, Mapping):
        return {str(key): _plain(child) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(child) for child in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def _contents(path: Path) -> str:
    """What a data set's folder or list holds, in a short text that changes with names and sizes of files."""
    digest, count, size = hashlib.sha256(), 0, 0
    try:
        if os.path.isdir(path) and path.suffix != '.lmdb':
            files = sorted((os.path.relpath(os.path.join(folder, name), path), os.stat(os.path.join(folder, name)))
                           for folder, _, names in os.walk(path) for name in names if not name.startswith('.'))
            for name, status in files:
                digest.update(f'{name} {status.st_size}\n'.encode())
                count, size = count + 1, size + status.st_size
            return f'{count:,d} files, {size:,d} bytes, {digest.hexdigest()[:8]}'
        content = (path / 'meta_info.txt' if os.path.isdir(path) else path).read_bytes()
        lines = content.count(b'\n')
        return f'{lines:,d} lines, {hashlib.sha256(content).hexdigest()[:8]}'
    except (OSError, ValueError):  # a NUL in its name
        return str(path)
