"""The option file that ``mipkd distill`` writes: complete, short, with a comment on each choice."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from mipkd_plugin.config.keys import TEACHER_SLICE
from mipkd_plugin.recipes.data import Data
from mipkd_plugin.recipes.defaults import LOSSES
from mipkd_plugin.recipes.settings import Settings
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.yaml_text import flow

_EPOCH = 2000
"""Iterations of an epoch. A resumed run reads past what its epoch has trained on, and a new epoch starts workers."""
_FLOW = {'io_backend', 'network_g', 'network', 'optim_g', 'scheduler', 'pixel_opt', 'path', 'psnr', 'ssim', 'distill',
         'distill_opt', 'logger'}
"""Blocks on one line."""
_WIDE = 120
_OTHERWISE = {'name': '--out', 'train:total_iter': '--iterations', 'manual_seed': '--seed', 'train:init': '--init'}
"""Entries that have an option of their own, which changes others too or is recorded."""
_NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?', re.IGNORECASE)


def options_of(name: str, network_g: Mapping[str, Any], imports: Sequence[str], teacher: Mapping[str, Any], data: Data,
               settings: Settings, scale: int) -> dict[str, Any]:
    """The options of a run.

    Args:
        name: Name of the run.
        network_g: The student.
        imports: What registers it.
        teacher: ``network``, ``weights`` and ``param_key``.
        data: The data sets.
        settings: All chosen values.
        scale: Scale factor.

    Returns:
        The options, in the order of the file.
    """
    distills = settings['loss'] != 'none'
    options: dict[str, Any] = {'name': name, 'model_type': 'DistillModel' if distills else 'AnySRModel',
                               'scale': scale, 'num_gpu': 1 if torch.cuda.device_count() > 1 else 'auto',
                               'manual_seed': settings['seed']}
    if imports:
        options['imports'] = list(imports)
    options['datasets'] = {'train': _training(data, settings, scale),
                           'val': {'type': 'PairedImageDataset', **data.val.entries()}}
    options['network_g'] = dict(network_g)
    if distills:
        options['teacher'] = dict(teacher)
        if settings['crops'] and settings['loss'] != 'none':
            options['teacher'] |= {'cache': 'memory', 'cache_dtype': 'float16'}
    options['path'] = {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None}
    options['train'] = _train(settings)
    metrics = {metric: {'type': f'calculate_{metric}', 'crop_border': scale, 'test_y_channel': True}
               for metric in ('psnr', 'ssim')}
    options['val'] = {'val_freq': settings['val_freq'], 'save_img': False, 'metrics': metrics}
    options['logger'] = {'print_freq': max(settings['iterations'] // 100, 1),
                         'save_checkpoint_freq': settings['val_freq'], 'keep_last': 3, 'use_tb_logger': False,
                         'wandb': None}
    return options


def _training(data: Data, settings: Settings, scale: int) -> dict[str, Any]:
    crops, batch = settings['crops'], settings['batch']
    count = crops or data.train.count()
    return {'type': 'CropPoolDataset' if crops else 'PairedImageDataset', **({'crops': crops} if crops else {}),
            **data.train.entries(), 'gt_size': settings['patch'] * scale, 'use_hflip': True, 'use_rot': True,
            'num_worker_per_gpu': settings['workers'], 'batch_size_per_gpu': batch,
            'dataset_enlarge_ratio': math.ceil(min(_EPOCH, settings['iterations']) * batch / count) + 1,
            'prefetch_mode': None}


def _train(settings: Settings) -> dict[str, Any]:
    total = settings['iterations']
    found: dict[str, Any] = {
        'total_iter': total, 'warmup_iter': -1, 'ema_decay': settings['ema'], 'exact_resume': True,
        'optim_g': {'type': 'Adam', 'lr': settings['learning_rate'], 'weight_decay': 0, 'betas': [0.9, 0.99]},
        'scheduler': {'type': 'CosineAnnealingRestartLR', 'periods': [total], 'restart_weights': [1], 'eta_min': 1e-6},
        'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'}}
    losses = copy.deepcopy(LOSSES[settings['loss']])
    if not losses:
        return found
    for loss in losses:
        if loss['type'] not in ('LogitsKDLoss', 'DUKDLoss'):
            loss['taps'] = settings['taps']
    if settings['loss'] == 'mipkd':
        losses[0]['feat_weight'] = 5
        if settings['chain'] == 'no':
            losses[0] |= {'latent_channels': 'student', 'block_weight': 0}
        if settings['encoders'] == 'shared':
            losses[0]['encoders'] = 'shared'
    if settings['init'] == TEACHER_SLICE:
        found['init'] = settings['init']
    if settings['until'] < 1:
        found['distill'] = {'until': settings['until'], 'fade': 'linear'}
    return {**found, 'distill_opt': losses[0] if len(losses) == 1 else losses}


def with_changes(options: Mapping[str, Any], changes: Sequence[str]) -> dict[str, Any]:
    """Apply ``--set``.

    Args:
        options: The options.
        changes: Entries such as ``train:ema_decay=0.99`` or ``train:optim_g:lr=1e-4``, with YAML values.

    Returns:
        Changed options.

    Raises:
        UsageError: An entry cannot be read, its place is not a block, or it has an option of its own.
    """
    found = copy.deepcopy(dict(options))
    for change in changes:
        path, equals, text = change.partition('=')
        if path in _OTHERWISE:
            raise UsageError(f'--set {change}: this has an option of its own.\n   -> Write {_OTHERWISE[path]} '
                             f'{text or "…"} instead')
        *above, last = path.split(':')
        place: Any = found
        for key in above:
            place = place.setdefault(key, {}) if isinstance(place, dict) else None
        if not equals or not last or not isinstance(place, dict):
            raise UsageError(f'--set {change}: is not an entry of the option file.\n   -> Write block:key=VALUE, as in '
                             '--set train:ema_decay=0.99')
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise UsageError(f'--set {change}: {text!r} cannot be read.\n   -> Write a YAML value: 1e-4, [1, 2], '
                             'true or a text') from error
        place[last] = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
    return found


def render(options: Mapping[str, Any], head: Sequence[str], comments: Mapping[str, str]) -> str:
    """The text of an option file.

    Args:
        options: The options.
        head: Lines of the comment at its top.
        comments: Comment by YAML path.

    Returns:
        The text; blocks that no comment divides stand on one line.
    """
    lines = [f'# {line}' for line in head] + _block(options, comments, '', '')
    return '\n'.join(lines) + '\n'


def _block(block: Mapping[str, Any], comments: Mapping[str, str], path: str, indent: str) -> list[str]:
    lines = []
    for key, value in block.items():
        place = f'{path}.{key}' if path else key
        comment = f'# {comments[place]}' if place in comments else ''
        if isinstance(value, Mapping) and key not in _FLOW:
            lines += [f'{indent}{key}:{"  " * bool(comment)}{comment}', *_block(value, comments, place, f'{indent}  ')]
        else:
            line = f'{indent}{key}: {flow(value)}'
            if comment and len(line) + len(comment) > _WIDE:
                lines += [f'{indent}{comment}', line]
            else:
                lines.append(f'{line:<38} {comment}' if comment else line)
    return lines
