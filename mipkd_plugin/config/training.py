"""Check the ``train`` section: losses, optimizer and scheduler of BasicSR."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.config.components import check_arguments, check_component, check_values
from mipkd_plugin.config.keys import is_number
from mipkd_plugin.config.problems import Context, suggestion
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason


def check_training(ctx: Context) -> None:
    """Check pixel loss, perceptual loss, optimizers and scheduler."""
    train = ctx.section('train')
    for key in ('pixel_opt', 'perceptual_opt'):
        if isinstance(train.get(key), Mapping):
            check_component(ctx, f'train.{key}', train[key], LOSS_REGISTRY)
            check_values(ctx, f'train.{key}', train[key])
    if train and not train.get('pixel_opt') and not train.get('perceptual_opt') and ctx.inherits('SRModel'):
        ctx.add('train.pixel_opt', 'is missing: BasicSR needs pixel_opt or perceptual_opt',
                'write pixel_opt: {type: L1Loss, loss_weight: 1.0, reduction: mean}')
    _check_optimizers(ctx, train)
    _check_scheduler(ctx, train.get('scheduler'))


def _check_optimizers(ctx: Context, train: Mapping[str, Any]) -> None:
    from basicsr.models.base_model import BaseModel

    if getattr(ctx.model_class, 'get_optimizer', None) is not BaseModel.get_optimizer:
        return
    for key, options in train.items():
        if not str(key).startswith('optim_') or not isinstance(options, Mapping):
            continue
        if options.get('type') != 'Adam':
            ctx.add(f'train.{key}.type', f'{options.get("type")!r} is not supported by BasicSR',
                    'write type: Adam')
            continue
        arguments = {k: v for k, v in options.items() if k != 'type'}
        check_arguments(ctx, f'train.{key}', 'Adam', torch.optim.Adam, arguments, given=('params', ))
        if 'lr' not in arguments:
            ctx.add(f'train.{key}.lr', 'is missing', 'write lr: !!float 1e-4')
        check_values(ctx, f'train.{key}', arguments)
        if 'lr' in arguments and ctx.clean(f'train.{key}'):
            device = 'cuda' if ctx.opt.get('num_gpu') != 0 and torch.cuda.is_available() else 'cpu'
            weight = torch.nn.Parameter(torch.zeros(1, device=device))
            weight.grad = torch.ones_like(weight)
            try:
                torch.optim.Adam([weight], **arguments).step()  # some arguments are looked at in the first step only
            except FOREIGN_ERRORS as error:
                ctx.add(f'train.{key}', f'Adam refuses it: {reason(error)}', 'fix the argument named in the message')


def _check_scheduler(ctx: Context, options: Any) -> None:
    from basicsr.models import lr_scheduler
    from basicsr.models.base_model import BaseModel

    if (getattr(ctx.model_class, 'setup_schedulers', None) is not BaseModel.setup_schedulers
            or not isinstance(options, Mapping)):
        return
    steps, cosine = lr_scheduler.MultiStepRestartLR, lr_scheduler.CosineAnnealingRestartLR
    classes = {'MultiStepLR': steps, 'MultiStepRestartLR': steps, 'CosineAnnealingRestartLR': cosine}
    name = options.get('type')
    if not isinstance(name, str) or name not in classes:
        ctx.add('train.scheduler.type', f'there is no scheduler {name!r}', suggestion(str(name), classes))
        return
    arguments = {key: value for key, value in options.items() if key != 'type'}
    if not check_arguments(ctx, 'train.scheduler', name, classes[name], arguments, given=('optimizer', )):
        return
    check_values(ctx, 'train.scheduler', arguments)
    if not ctx.clean('train.scheduler'):
        return
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    try:
        classes[name](optimizer, **arguments)
    except FOREIGN_ERRORS as error:
        ctx.add('train.scheduler', f'{name} refuses it: {error}', 'fix the argument named in the message')
        return
    total: Any = ctx.section('train').get('total_iter')
    if name == 'CosineAnnealingRestartLR' and is_number(total) and sum(options['periods']) < total:
        ctx.add('train.scheduler.periods', f'end at iteration {sum(options["periods"])}, but total_iter is '
                f'{total}', 'write periods that add up to total_iter or more')
