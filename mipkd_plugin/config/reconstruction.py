"""Build pixel and perceptual loss as BasicSR will, and try them on random images."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import torch
import torchvision
from basicsr.archs.vgg_arch import NAMES, VGG_PRETRAIN_PATH, insert_bn
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.components import construct
from mipkd_plugin.config.examples import PIXEL_LOSS
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import other_key, other_value
from mipkd_plugin.config.weights import misfit, read_file
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, failure_of

_SIDE = 16
_PATIENCE = 5  # seconds until a server counts as out of reach


def check_pixel_loss(ctx: Context, where: str) -> None:
    """Check that a pixel loss compares two images.

    Args:
        ctx: Options, and where problems go.
        where: YAML path of the loss, whose type and arguments are in order.
    """
    options = ctx.section(*where.split('.'))
    loss = construct(ctx, where, options, LOSS_REGISTRY)
    if loss is None or not _calls_as_basicsr(ctx):
        return
    failure = _failure(loss) if options['type'] != 'WeightedTVLoss' else 'it takes no HR image'
    if failure:
        ctx.add(f'{where}.type', f'{options["type"]} cannot compare an output with an HR image: {failure}',
                'write type: L1Loss, MSELoss or CharbonnierLoss', {where: PIXEL_LOSS})


def _calls_as_basicsr(ctx: Context) -> bool:
    """Whether the model class computes its loss in one of BasicSR's ways or ours."""
    if owner(ctx.model_class, 'optimize_parameters'):
        return True
    steps = [c for c in getattr(ctx.model_class, '__mro__', ()) if 'optimize_parameters' in vars(c)]
    return ctx.inherits('SRModel') and steps[0].__module__.startswith('basicsr.')


def _failure(loss: nn.Module) -> str:
    """Why a loss gives no finite number with a gradient for two images, or ''."""
    generator = torch.Generator().manual_seed(0)
    output, gt = (torch.rand(2, 3, _SIDE, _SIDE, generator=generator) for _ in range(2))
    try:
        value = loss(output.requires_grad_(), gt)
        if not isinstance(value, Tensor) or value.dim() != 0:
            return f'it returns {tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}, no number'
        if not value.requires_grad:
            return 'its value has no gradient'
        finite = bool(torch.isfinite(value)) and bool(torch.isfinite(torch.autograd.grad(value, output)[0]).all())
    except FOREIGN_ERRORS as error:
        return failure_of(error)
    return '' if finite else 'its value or its gradient is not finite on random images'


def check_perceptual_loss(ctx: Context, where: str) -> None:
    """Check BasicSR's ``PerceptualLoss``: layers, criterion, and that the weights of its VGG can be had.

    Args:
        ctx: Options, and where problems go.
        where: YAML path of the loss, whose type and arguments are in order.
    """
    options = ctx.section(*where.split('.'))
    if options.get('type') != 'PerceptualLoss':
        return
    name = options.get('vgg_type', 'vgg19')
    plain = name.replace('_bn', '') if isinstance(name, str) else None
    if plain not in NAMES or name not in (plain, f'{plain}_bn'):
        ctx.add(f'{where}.vgg_type', f'there is no VGG {name!r}', *other_value(f'{where}.vgg_type', name, NAMES))
        return
    layers, given = NAMES[plain] if plain == name else insert_bn(NAMES[plain]), options['layer_weights']
    unknown = [layer for layer in given if layer not in layers] if isinstance(given, Mapping) else []
    if not isinstance(given, Mapping) or not given:
        ctx.add(f'{where}.layer_weights', f'must be a block of layers and weights, not {given!r}',
                fix={f'{where}.layer_weights': {'conv5_4': 1.0} if plain == 'vgg19' else {'conv5_2': 1.0}})
    for layer in unknown:
        ctx.add(f'{where}.layer_weights.{layer}', f'{name} has no layer {layer!r}',
                *other_key(f'{where}.layer_weights', layer, given, layers))
    if options.get('criterion', 'l1') not in ('l1', 'fro'):
        ctx.add(f'{where}.criterion', f'{options["criterion"]!r} does not work in BasicSR 1.4.2, only l1 and fro do',
                fix={f'{where}.criterion': 'l1'})
    if ctx.files and ctx.clean(where):
        _check_vgg(ctx, where, name)


def _check_vgg(ctx: Context, where: str, name: str) -> None:
    """Check the file of weights that BasicSR's VGG loads: its own one, torch's, or one to download."""
    url = torchvision.models.get_model_weights(name).IMAGENET1K_V1.url
    own, cached = ctx.path(VGG_PRETRAIN_PATH), Path(torch.hub.get_dir()) / 'checkpoints' / Path(url).name
    path = own if os.path.exists(own) else cached
    if not os.path.exists(path):
        reason = _out_of_reach(url)
        if reason:
            has_other = bool(ctx.section('train').get('pixel_opt'))
            ctx.add(where, f'needs the weights of {name}, which are neither in {own} nor in {cached}; and {url} is out '
                    f'of reach ({reason})', f'download {url} on another machine and put it there, for instance as '
                    f'{own if name == "vgg19" else cached}; or remove {where.rpartition(".")[2]}',
                    {where: REMOVE, **({} if has_other else {'train.pixel_opt': PIXEL_LOSS})})
        return
    content = read_file(ctx, where, path, '', f'download it again: {url}')
    if not isinstance(content, Mapping):
        return
    problem = misfit(_vgg(name), content, where)
    if problem:
        every = ', and BasicSR loads this file for every vgg_type' if path == own and name != 'vgg19' else ''
        ctx.add(where, f'{path} {problem[0]}{every}', f'rename {own}, or write vgg_type: vgg19' if every else
                f'put {url} in its place')


@cache
def _vgg(name: str) -> nn.Module:
    """A VGG of torchvision, without memory for its weights."""
    with torch.device('meta'):
        net: nn.Module = getattr(torchvision.models, name)(weights=None)
    return net


@cache
def _out_of_reach(url: str) -> str:
    """Why a file cannot be downloaded, or ''. Asks for its header alone."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method='HEAD'), timeout=_PATIENCE):
            return ''
    except (OSError, urllib.error.URLError) as error:
        return failure_of(error)
