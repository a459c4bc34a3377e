"""Check what a GAN model trains beside the network: its discriminator, its losses, and when each of them learns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import yaml
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.components import check_component, check_values, construct
from mipkd_plugin.config.data_set_tables import patch_place, patch_side
from mipkd_plugin.config.keys import COUNT, INTEGER, ITERATIONS, LARGEST_PATCH
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.patches import probe_shape
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.reconstruction import check_pixel_loss
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.suggestions import other_value
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, failure_of

_GAN_TYPES = ('vanilla', 'lsgan', 'wgan', 'wgan_softplus', 'hinge')
_VGG_SIDES = (128, 256)
"""Sides of the images that BasicSR's VGGStyleDiscriminator takes."""
_OPTIMIZER = 'optim_d: {type: Adam, lr: !!float 1e-4}'
_LOSS = 'gan_opt: {type: GANLoss, gan_type: vanilla, loss_weight: !!float 5e-3}'


def check_adversary(ctx: Context) -> None:
    """Check the discriminator of a GAN model, its optimizer, its loss, and that both networks get their turns."""
    if not ctx.inherits('SRGANModel'):
        return
    _check_is_there(ctx)
    _check_turns(ctx)
    _check_ldl(ctx)
    loss = _gan_loss(ctx)
    if not owner(ctx.model_class, 'optimize_parameters') or not isinstance(ctx.opt.get('network_d'), Mapping):
        return
    if ctx.clean('network_d') and ctx.clean(patch_place(ctx.opt)):
        net = construct(ctx, 'network_d', ctx.opt['network_d'], ARCH_REGISTRY)
        if net is not None:
            _check_runs(ctx, net, loss)


def _check_is_there(ctx: Context) -> None:
    needed = {'network_d': f'network_d: {_discriminator(ctx)}', 'train.optim_d': _OPTIMIZER, 'train.gan_opt': _LOSS}
    opt = {**ctx.opt, **{f'train.{key}': value for key, value in ctx.section('train').items()}}
    missing = [where for where in needed if not isinstance(opt.get(where), Mapping) and ctx.clean(where)]
    if missing:
        others = ' and '.join(missing[1:])
        what = f'and so {"are" if len(missing) > 2 else "is"} {others}: ' if others else 'and '
        plain = ('RealESRNet' if ctx.inherits('RealESRGANModel') else '' if ctx.distills else 'SR') + (
            'DistillModel' if ctx.distills else 'Model')
        ctx.add(missing[0], f'is missing, {what}{ctx.opt["model_type"]} trains a discriminator',
                f'write {"; ".join(needed[where] for where in missing)}; or write model_type: {plain}',
                {where: yaml.safe_load(needed[where])[where.rpartition('.')[2]] for where in missing})


def _discriminator(ctx: Context) -> str:
    """A discriminator for the patches of the training, as one types it. It is the paper's, if that takes them."""
    side = patch_side(ctx.opt)
    if ctx.inherits('RealESRGANModel') or side not in _VGG_SIDES:
        return '{type: UNetDiscriminatorSN, num_in_ch: 3}'
    return f'{{type: VGGStyleDiscriminator, num_in_ch: 3, num_feat: 64, input_size: {side}}}'


def _check_turns(ctx: Context) -> None:
    """Check that the network learns at all: in each ``net_d_iters``-th iteration behind ``net_d_init_iters``."""
    train = ctx.section('train')
    every, first, total = train.get('net_d_iters', 1), train.get('net_d_init_iters', 0), train.get('total_iter', 0)
    if not INTEGER.fits(every) or not COUNT.fits(first) or not ITERATIONS.fits(total):
        return
    if int(total) // every * every > first or not all(
            map(ctx.clean, ('train.net_d_iters', 'train.net_d_init_iters'))):
        return
    key = 'net_d_init_iters' if first >= total else 'net_d_iters'
    ctx.add(f'train.{key}', f'is {train[key]}, and the training has {int(total):,d} iterations: network_g would never '
            'learn', fix={f'train.{key}': 0 if first >= total else 1})


def _check_ldl(ctx: Context) -> None:
    """Check the LDL loss: only Real-ESRGAN reads it, and it compares with the average of the weights."""
    train, where = ctx.section('train'), 'train.ldl_opt'
    if not isinstance(train.get('ldl_opt'), Mapping):
        return
    if owner(ctx.model_class, 'optimize_parameters') in ('SRGANModel', 'ESRGANModel'):
        ctx.add(where, f'{ctx.opt["model_type"]} makes this loss and never uses it; RealESRGANModel does',
                fix={where: REMOVE})
        return
    if check_component(ctx, where, train['ldl_opt'], LOSS_REGISTRY):
        check_values(ctx, where, train['ldl_opt'])
        if ctx.clean(where):
            check_pixel_loss(ctx, where)
    if not train.get('ema_decay') and ctx.clean('train.ema_decay'):
        ctx.add('train.ema_decay', 'must be above 0 for ldl_opt, which compares the output with the image of the '
                'averaged weights', fix={'train.ema_decay': 0.999})


def _gan_loss(ctx: Context) -> nn.Module | None:
    """The loss of the discriminator, if it can be built."""
    where, options = 'train.gan_opt', ctx.section('train').get('gan_opt')
    if not isinstance(options, Mapping) or not check_component(ctx, where, options, LOSS_REGISTRY):
        return None
    check_values(ctx, where, options)
    kind = options.get('gan_type')
    if options['type'] in ('GANLoss', 'MultiScaleGANLoss') and kind not in _GAN_TYPES and ctx.clean(
            f'{where}.gan_type'):
        remedy, fix = other_value(f'{where}.gan_type', kind, _GAN_TYPES)
        ctx.add(f'{where}.gan_type', f'there is no GAN loss {kind!r}', remedy, fix or {f'{where}.gan_type': 'vanilla'})
    loss: nn.Module | None = construct(ctx, where, options, LOSS_REGISTRY) if ctx.clean(where) else None
    return loss


def _check_runs(ctx: Context, net: nn.Module, loss: nn.Module | None) -> None:
    """Run the discriminator on patches of the training. Tried is a small patch that leaves the same remainder."""
    side = patch_side(ctx.opt)
    if not INTEGER.fits(side) or side > LARGEST_PATCH:
        return
    failure, channels = '', probe_shape(ctx.opt)[0]
    for tried in dict.fromkeys((min(side, 32 + side % 32), side)):
        failure = _failure(net, loss, channels, tried)
        if not failure:
            return
    options, name = ctx.section('network_d'), type(net).__name__
    if name == 'VGGStyleDiscriminator' and options.get('input_size', 128) != side:
        fix: dict[str, Any] = {'network_d.input_size': side}
        if side not in _VGG_SIDES:
            fix = {'network_d': {'type': 'UNetDiscriminatorSN', 'num_in_ch': options.get('num_in_ch', 3)}}
        ctx.add('network_d.input_size', f'is {options.get("input_size", 128)}, and the HR patches of the training have '
                f'{patch_place(ctx.opt)}: {side}', f'{in_words(fix)}; this class takes patches of 128 and 256', fix)
        return
    if not _failure(net, None, channels, side):
        ctx.add('train.gan_opt', f'{type(loss).__name__} cannot take what {name} returns: {failure}',
                fix={'train.gan_opt': yaml.safe_load(_LOSS)['gan_opt']})
        return
    unit = 16 * (ctx.scale or 1)
    fitting = next((n for n in (side // unit * unit, unit) if n and not _failure(net, None, channels, n)), None)
    ctx.add('network_d', f'{name} cannot run on HR patches of {channels}×{side}×{side}: {failure}',
            '' if fitting else 'fix the arguments of this network', {patch_place(ctx.opt): fitting} if fitting else {})


def _failure(net: nn.Module, loss: nn.Module | None, channels: int, side: int) -> str:
    """Why a discriminator cannot judge patches of a size, or its loss not take what it returns; '' if they can."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = net.eval()(torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0)))
            if not isinstance(found, Tensor):
                return f'it returns a {type(found).__name__}, and BasicSR takes a tensor'
            value = torch.zeros(()) if loss is None else loss(found, True, is_disc=True)
    except FOREIGN_ERRORS as error:
        return failure_of(error)
    return '' if bool(torch.isfinite(value).all()) else 'its value is not finite'
