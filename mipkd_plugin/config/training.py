"""Check the ``train`` section: losses, optimizer and scheduler of BasicSR."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.config.adversary import check_adversary
from mipkd_plugin.config.components import check_arguments, check_component, check_values
from mipkd_plugin.config.examples import PIXEL_LOSS
from mipkd_plugin.config.keys import is_number, is_whole
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.reconstruction import check_perceptual_loss, check_pixel_loss
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.sections import knows_all_keys
from mipkd_plugin.config.suggestions import other_value
from mipkd_plugin.config.teachers import distillation_entries
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, failure_of


def check_training(ctx: Context) -> None:
    """Check pixel loss, perceptual loss, optimizers and scheduler."""
    train = ctx.section('train')
    for key in ('pixel_opt', 'perceptual_opt'):
        where = f'train.{key}'
        if isinstance(train.get(key), Mapping):
            fits = check_component(ctx, where, train[key], LOSS_REGISTRY)
            check_values(ctx, where, train[key])
            if fits and ctx.clean(where):
                check_pixel_loss(ctx, where) if key == 'pixel_opt' else check_perceptual_loss(ctx, where)
    has_loss = train.get('pixel_opt') or train.get('perceptual_opt') or ctx.inherits('SRGANModel')
    if train and not has_loss and ctx.inherits('SRModel'):
        ctx.add('train.pixel_opt', 'is missing: BasicSR needs pixel_opt or perceptual_opt',
                fix={'train.pixel_opt': PIXEL_LOSS})
    elif ctx.distills and ctx.inherits('SRGANModel') and not (train.get('pixel_opt') or train.get('perceptual_opt')):
        _check_meta_steps(ctx)
    total: Any = train.get('total_iter')
    warmup: Any = train.get('warmup_iter')
    if is_number(total) and is_number(warmup) and 0 < total <= warmup:  # as in a short trial of a long training
        ctx.notes.append(f'train.warmup_iter is {warmup:,d}, and the training has {total:,.0f} iterations: it never '
                         'reaches its learning rate')
    _check_optimizers(ctx, train)
    _check_scheduler(ctx, train.get('scheduler'))
    check_adversary(ctx)
    _check_loggers(ctx)
    _check_pictures(ctx)


def _check_meta_steps(ctx: Context) -> None:
    """Check that no loss takes meta steps where there is no reconstruction loss for them."""
    for where, options in distillation_entries(ctx.opt):
        found = lookup(LOSS_REGISTRY, options.get('type')) if isinstance(options, Mapping) else None
        every = inspect.signature(found).parameters.get('meta_every') if found is not None else None
        if every is not None and options.get('meta_every', every.default):
            ctx.add(where, f'{options["type"]} takes meta steps on the reconstruction loss, and there is none',
                    fix={'train.pixel_opt': PIXEL_LOSS})


def _check_loggers(ctx: Context) -> None:
    """Check that the loggers which BasicSR starts are installed; it starts none for a run that is named debug."""
    logger = ctx.section('logger')
    if logger.get('gradient_freq') is not None and not ctx.distills:
        ctx.notes.append('logger.gradient_freq is for models that distill; '
                         f'{ctx.opt.get("model_type")} does not read it')
    if 'debug' in str(ctx.opt.get('name')):
        return
    if logger.get('use_tb_logger') and find_spec('tensorboard') is None:
        ctx.add('logger.use_tb_logger', 'needs the package tensorboard, which is not installed',
                'run: pip install tensorboard; or write use_tb_logger: false', {'logger.use_tb_logger': False})
    if ctx.section('logger', 'wandb').get('project') is None:
        return
    if find_spec('wandb') is None:
        ctx.add('logger.wandb', 'needs the package wandb, which is not installed',
                'run: pip install wandb; or remove this block', {'logger.wandb': REMOVE})
    elif logger.get('use_tb_logger') is not True and ctx.clean('logger'):
        ctx.add('logger.use_tb_logger', 'must be true for wandb: BasicSR hands it what TensorBoard gets',
                fix={'logger.use_tb_logger': True})


def _check_pictures(ctx: Context) -> None:
    """Check that somebody draws the pictures of ``logger.val_pictures``, and of something."""
    where = 'logger.val_pictures'
    if not ctx.section('logger').get('val_pictures') or not ctx.clean(where):
        return
    if not ctx.inherits('StudentMixin'):
        if knows_all_keys(ctx):
            ctx.add(where, f'{ctx.opt["model_type"]} draws no pictures, and would ignore it',
                    'write model_type: AnySRModel, which does, or remove it' if owner(
                        ctx.model_class, 'feed_data') == 'SRModel' and not ctx.inherits('SRGANModel') else 'remove it',
                    {where: REMOVE})
    elif not ctx.section('val') or not any(str(name).startswith('val') for name in ctx.section('datasets')):
        lack = 'a block val' if not ctx.section('val') else 'a data set val in datasets'
        ctx.add(where, f'draws images of a validation, and there is none: {lack} is missing',
                f'add {lack}, or remove this', {where: REMOVE})


def _check_optimizers(ctx: Context, train: Mapping[str, Any]) -> None:
    from basicsr.models.base_model import BaseModel

    if getattr(ctx.model_class, 'get_optimizer', None) is not BaseModel.get_optimizer:
        return
    optimizers = inspect.getsource(vars(BaseModel)['get_optimizer'])  # a copy of BasicSR may know others than Adam
    for key, options in train.items():
        if not str(key).startswith('optim_') or not isinstance(options, Mapping):
            continue
        name = str(options.get('type'))
        if name != 'Adam' and f"'{name}'" not in optimizers:
            foreign = [name for name in options if name not in inspect.signature(torch.optim.Adam).parameters]
            others: dict[str, Any] = {f'train.{key}.{name}': REMOVE for name in foreign if name != 'type'}
            others.update({} if 'lr' in options else {f'train.{key}.lr': 0.0001})
            ctx.add(f'train.{key}.type', f'{options.get("type")!r} is not supported by BasicSR',
                    fix={f'train.{key}.type': 'Adam', **others})
            continue
        arguments = {k: v for k, v in options.items() if k != 'type'}
        check_arguments(ctx, f'train.{key}', name, getattr(torch.optim, name), arguments, given=('params', ))
        if 'lr' not in arguments:
            ctx.add(f'train.{key}.lr', 'is missing', fix={f'train.{key}.lr': 0.0001})
        check_values(ctx, f'train.{key}', arguments)
        if 'lr' in arguments and ctx.clean(f'train.{key}'):
            _try_adam(ctx, f'train.{key}', arguments)


def _try_adam(ctx: Context, where: str, arguments: Mapping[str, Any]) -> None:
    """Try two steps of Adam on a parameter with a gradient and one without, where the training will run."""
    betas = arguments.get('betas', [0.9, 0.999])
    if not isinstance(betas, (list, tuple)) or len(betas) != 2:
        ctx.add(f'{where}.betas', f'must be two numbers, not {betas!r}', fix={f'{where}.betas': [0.9, 0.99]})
        return
    if arguments.get('maximize'):
        ctx.add(f'{where}.maximize', 'would make the loss larger', fix={f'{where}.maximize': False})
        return
    on_gpu = ctx.opt.get('num_gpu') != 0 and torch.cuda.is_available()
    failure, finite = _steps_of_adam(arguments, 'cuda' if on_gpu else 'cpu')
    if failure:
        guilty = next((key for key in arguments if key != 'lr' and not _steps_of_adam(
            {k: v for k, v in arguments.items() if k != key}, 'cuda' if on_gpu else 'cpu')[0]), None)
        named = where if guilty is None else f'{where}.{guilty}'
        ctx.add(named, f'Adam refuses it: {failure}', 'fix the argument named in the message' if guilty is None else '',
                {} if guilty is None else {named: REMOVE})
    elif not finite:
        ctx.add(where, 'Adam makes weights that are not finite, for instance of a gradient that is 0',
                'write a smaller lr; and an eps above 0, as 1e-8, or none',
                {f'{where}.lr': min(arguments['lr'], 0.0001), f'{where}.eps': 1e-8})


def _steps_of_adam(arguments: Mapping[str, Any], device: str) -> tuple[str, bool]:
    """Why Adam cannot step with these arguments, or ''; and whether the weights stay finite."""
    weight = torch.nn.Parameter(torch.zeros(2, device=device))
    try:
        optimizer = torch.optim.Adam([weight], **arguments)
        for _ in range(2):
            weight.grad = torch.arange(2.0, device=device)
            optimizer.step()
    except FOREIGN_ERRORS as error:
        return failure_of(error).partition(': ')[2], False
    return '', bool(torch.isfinite(weight).all())


def scheduler_classes() -> dict[str, Any]:
    """BasicSR's schedulers by the names that its models take."""
    from basicsr.models import lr_scheduler

    steps, cosine = lr_scheduler.MultiStepRestartLR, lr_scheduler.CosineAnnealingRestartLR
    return {'MultiStepLR': steps, 'MultiStepRestartLR': steps, 'CosineAnnealingRestartLR': cosine}


def _check_scheduler(ctx: Context, options: Any) -> None:
    from basicsr.models.base_model import BaseModel

    if (getattr(ctx.model_class, 'setup_schedulers', None) is not BaseModel.setup_schedulers
            or not isinstance(options, Mapping)):
        return
    classes = scheduler_classes()
    name = options.get('type')
    if not isinstance(name, str) or name not in classes:
        ctx.add('train.scheduler.type', f'there is no scheduler {name!r}',
                *other_value('train.scheduler.type', name, classes))
        return
    arguments = {key: value for key, value in options.items() if key != 'type'}
    if not check_arguments(ctx, 'train.scheduler', name, classes[name], arguments, given=('optimizer', )):
        return
    check_values(ctx, 'train.scheduler', arguments)
    if not ctx.clean('train.scheduler'):
        return
    whole = {key: options[key] for key in ('milestones', 'periods', 'restarts')
             if isinstance(options.get(key), list) and not all(map(is_whole, options[key]))}
    for key, values in whole.items():
        ctx.add(f'train.scheduler.{key}', f'must be whole numbers, not {values!r}: nothing happens between '
                'two iterations', fix={f'train.scheduler.{key}': [math.ceil(value) for value in values]})
    if whole:
        return
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])
    try:
        classes[name](optimizer, **arguments)
    except FOREIGN_ERRORS as error:
        restarts = options.get('restarts', [0]) if name != 'CosineAnnealingRestartLR' else options['periods']
        fix = {'train.scheduler.restart_weights': [1] * len(restarts)}
        helps = 'weights' in str(error)
        ctx.add('train.scheduler', f'{name} refuses it: {error}',
                '' if helps else 'fix the argument named in the message', fix if helps else {})
        return
    total: Any = ctx.section('train').get('total_iter')
    periods = options.get('periods')
    if name == 'CosineAnnealingRestartLR' and is_number(total) and periods and sum(periods) < total:
        ctx.add('train.scheduler.periods', f'end at iteration {sum(periods)}, but total_iter is {total}',
                fix={'train.scheduler.periods': [*periods[:-1], periods[-1] + int(total) - sum(periods)]})
