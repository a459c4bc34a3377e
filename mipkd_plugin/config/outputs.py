"""What networks return: the options ``output`` and ``teacher.output``, and the size of the image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from mipkd_plugin.config.keys import OUTPUT, PARTS
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.outputs import OutputError, OutputKey, images_in, select_output, selects
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, failure_of

_NAMES = ('sr', 'hr', 'out', 'output', 'img', 'image', 'result', 'pred')
"""Keys under which networks return their image, most likely first (our choice)."""


def _place(where: str) -> str:
    """Where the output of a network is chosen."""
    return 'output' if where == 'network_g' else f'{where.removesuffix(".network")}.output'


def output_key(opt: Mapping[str, Any], where: str) -> OutputKey:
    """Which output of a network the options choose; None if they choose none."""
    key = opt.get('output') if where == 'network_g' else block(opt, where.removesuffix('.network')).get('output')
    return key if OUTPUT.fits(key) else None


def choose_outputs(ctx: Context, nets: Mapping[str, nn.Module], given: nn.Module | None) -> None:
    """Let networks return the output that the options choose, and refuse to return anything but an image.

    Args:
        ctx: Options, and where problems go.
        nets: Networks by YAML path.
        given: A student that is not ours: without the option it is left as it is.
    """
    own = ctx.distills or ctx.model_class is None or ctx.model_class.__name__ in PARTS
    for where, net in nets.items():
        key = output_key(ctx.opt, where)
        if key is not None or net is not given and (own or where != 'network_g'):
            select_output(net, key)
    is_clean = ctx.clean('output') and ctx.clean('model_type')
    if ctx.opt.get('output') is not None and own and is_clean and not _reads_output(ctx):
        ctx.add('output', f'{ctx.opt.get("model_type")} does not read it', fix={'model_type': 'AnySRModel'})


def add_output_problem(ctx: Context, where: str, error: OutputError, image: tuple[int, ...]) -> None:
    """Note that a network returns no image, with the option that chooses one.

    Args:
        ctx: Where problems go.
        where: ``network_g``, ``teacher.network`` or ``teachers[1].network``.
        error: What the network has returned.
        image: (C, sH, sW) of the image that it should return.
    """
    place = _place(where)
    if not ctx.clean(place) or not ctx.clean(where):
        return
    fitting = images_in(error.returned, image)
    if not fitting:
        ctx.add(place if output_key(ctx.opt, where) is not None else where, str(error),
                f'none of it has the size of the image, {"×".join(map(str, image))}: fix the arguments of this network')
        return
    named = [name for name in _NAMES for key in fitting if str(key).lower() == name]
    best = next((key for key in fitting if named and str(key).lower() == named[0]), fitting[-1])
    fix: dict[str, Any] = {place: best}
    if where == 'network_g' and not _reads_output(ctx):
        fix['model_type'] = 'AnySRModel'
    others = ', '.join(str(key) for key in fitting if key != best)
    beside = 'beside network_g' if where == 'network_g' else f'in {where.removesuffix(".network")}'
    remedy = f'write output: {best} {beside}'
    remedy += f' (or {others}, of the same size)' if others else ''
    remedy += f', and {in_words({"model_type": "AnySRModel"})}' if 'model_type' in fix else ''
    ctx.add(place if output_key(ctx.opt, where) is not None else where, str(error), remedy, fix)


def other_output(net: nn.Module, channels: int, side: int) -> OutputError | None:
    """What a network returns for a square patch, if that is no image."""
    device = next((parameter.device for parameter in net.parameters()), torch.device('cpu'))
    try:
        with evaluating(net), torch.random.fork_rng(devices=[]):
            net(torch.zeros(1, channels, side, side, device=device))
    except OutputError as error:
        return error
    except FOREIGN_ERRORS:
        pass
    return None


def check_use(ctx: Context, nets: Mapping[str, nn.Module]) -> None:
    """Note an output that is chosen though its network has returned an image alone in every pass."""
    for where, net in nets.items():
        place = _place(where)
        if output_key(ctx.opt, where) is not None and ctx.clean(place) and selects(net) is False:
            ctx.add(place, f'is for a network that returns more than an image, and {type(net).__name__} returns an '
                    'image alone', fix={place: REMOVE})


def _reads_output(ctx: Context) -> bool:
    return ctx.distills or ctx.inherits('StudentMixin')


def output_shape(net: nn.Module, channels: int, side: int) -> tuple[tuple[int, ...] | None, str]:
    """(C, H, W) of the output of a network for a square patch, and ''; or None, and why the network cannot run."""
    device = next((parameter.device for parameter in net.parameters()), torch.device('cpu'))
    try:
        with evaluating(net), torch.random.fork_rng(devices=[]):
            return tuple(net(torch.zeros(1, channels, side, side, device=device)).shape[1:]), ''
    except FOREIGN_ERRORS as error:
        return None, failure_of(error)


def channel_word(channels: int) -> str:
    """A number of channels in words."""
    return f'{channels} channel' if channels == 1 else f'{channels} channels'
