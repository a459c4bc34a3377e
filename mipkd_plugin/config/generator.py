"""When the generator of a GAN trains: not in each iteration, so it may miss those that distill."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mipkd_plugin.config.keys import COUNT, INTEGER
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.schedule import PLACE, DistillSchedule

_TURNS = ('train.net_d_iters', 'train.net_d_init_iters')


def generator_period(opt: Mapping[str, Any]) -> int:
    """The generator trains in the iterations that this number divides; ``train.net_d_iters`` of SRGANModel."""
    return int(opt['train'].get('net_d_iters', 1))


def iterations_alone(opt: Mapping[str, Any]) -> int:
    """In so many iterations at first the discriminator trains alone; ``train.net_d_init_iters`` of SRGANModel."""
    return int(opt['train'].get('net_d_init_iters', 0))


def trains_generator(opt: Mapping[str, Any], iteration: int) -> bool:
    """Whether a step changes the generator; a GAN may train its discriminator alone at first, and more often.

    Args:
        opt: The options.
        iteration: Number of the iteration, from 1.

    Returns:
        Whether it does.
    """
    return iteration % generator_period(opt) == 0 and iteration > iterations_alone(opt)


def acts(ctx: Context, last: int, every: int) -> bool:
    """Whether the generator trains in one of the iterations that distill, as far as the options can be read.

    Args:
        ctx: The options.
        last: The last iteration that distills.
        every: They are those whose numbers this divides.

    Returns:
        Whether it does.
    """
    train = ctx.section('train')
    if not INTEGER.fits(train.get('net_d_iters', 1)) or not COUNT.fits(train.get('net_d_init_iters', 0)):
        return True
    together = math.lcm(generator_period(ctx.opt), every)
    return last // together * together > iterations_alone(ctx.opt)


def check_meeting(ctx: Context, schedule: DistillSchedule) -> None:
    """Check that the generator trains in one of the iterations that distill.

    Args:
        ctx: Where problems go.
        schedule: When the training distills, by ``train.distill``.
    """
    total = int(ctx.section('train')['total_iter'])
    if acts(ctx, schedule.last, schedule.every) or not acts(ctx, total, 1) or not all(map(ctx.clean, _TURNS)):
        return  # that it never trains at all has its own message
    if acts(ctx, schedule.last, 1):
        fix: dict[str, Any] = {f'{PLACE}.every': 1}
    else:
        fix = {f'{PLACE}.until': 1.0} if acts(ctx, total, schedule.every) else {PLACE: REMOVE}
    ctx.add(PLACE, f'distills in {schedule}; and network_g trains in {generator_in_words(ctx.opt)} (net_d_iters, '
            'net_d_init_iters): no iteration does both', fix=fix)


def generator_in_words(opt: Mapping[str, Any]) -> str:
    """In which iterations the generator trains, as ``iterations from 6 on, one in 2``; '' if in each."""
    period, alone = generator_period(opt), iterations_alone(opt)
    parts = [f'iterations from {alone + 1:,d} on' if alone else 'all iterations', f'one in {period}']
    return ', '.join(parts[:1 + (period > 1)]) if alone or period > 1 else ''
