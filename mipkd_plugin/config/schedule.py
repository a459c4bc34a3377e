"""When, on how much of a batch and with which weight to distill: the block ``train.distill``."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from mipkd_plugin.config.keys import INTEGER, ITERATIONS
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import other_key
from mipkd_plugin.config.teachers import distillation_entries
from mipkd_plugin.utils.ranges import ArgumentError, Count, checked

PartOfAll = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
"""A share of a whole that is not empty."""

Fade = Literal['none', 'linear', 'cosine']

PLACE = 'train.distill'

T = TypeVar('T')


class DistillSchedule:
    """Which iterations distill, on which part of the batch, and with which weight (our choice; no paper does it).

    An iteration that does not distill is BasicSR's own: no forward pass of the teacher, no term of a loss.

    Args:
        total_iter: Length of the training, in iterations.
        until: Share of the training after which it goes on without distillation, in (0, 1].
        every: Distill in each n-th iteration: those whose number ``every`` divides.
        share: Share of each batch to distill on, its first images, in (0, 1].
        fade: How the weight of all distillation terms falls from 1 to 0 at the end of ``until``: ``none`` (it stays
            1), ``linear`` or ``cosine``.

    Raises:
        ArgumentError: An option is out of range, or no iteration would distill.
    """

    @classmethod
    def never(cls) -> DistillSchedule:
        """No iteration distills: there are no losses, and the teacher has another use."""
        schedule = cls(1)
        schedule.last = 0
        return schedule

    @checked
    def __init__(self, total_iter: Count, until: PartOfAll = 1.0, every: Count = 1, share: PartOfAll = 1.0,
                 fade: Fade = 'none') -> None:
        self.last = _rounded_up(until * total_iter)
        self.every = every
        self.share = share
        self.fade = fade
        if every > self.last:
            raise ArgumentError(type(self).__name__, {
                'every': f'is {every}, and only the first {self.last:,d} iterations may distill: none would'})

    def __str__(self) -> str:
        parts = [f'iterations 1 to {self.last:,d}' if self.last < sys.maxsize else 'all iterations']
        if self.every > 1:
            parts.append(f'one in {self.every}')
        if self.share < 1:
            parts.append(f'on {self.share:g} of each batch')
        if self.fade != 'none':
            parts.append(f'with weights that fade to 0 ({self.fade})')
        return ', '.join(parts)

    def distills(self, iteration: int) -> bool:
        """Whether iteration number ``iteration``, from 1, distills."""
        return iteration <= self.last and iteration % self.every == 0

    def is_over(self, iteration: int) -> bool:
        """Whether neither this iteration nor a later one distills."""
        return iteration > self.last - self.last % self.every

    def weight(self, iteration: int) -> float:
        """Factor on all distillation terms, in [0, 1]."""
        left = max(1 - (iteration - 1) / self.last, 0.0)
        return {'none': 1.0, 'linear': left, 'cosine': (1 - math.cos(math.pi * left)) / 2}[self.fade]

    def samples(self, batch: int) -> int:
        """Number of images to distill on, of a batch of ``batch`` images."""
        return _rounded_up(self.share * batch)


def _rounded_up(number: float) -> int:
    """The next whole number, at least 1; 0.55 of 100,000 is 55,000, whatever the last digit of a float says."""
    return max(math.ceil(number - 1e-6), 1)


def read_schedule(opt: Mapping[str, Any]) -> DistillSchedule:
    """The schedule of a training run.

    Args:
        opt: The options.

    Returns:
        The schedule; without ``train.distill`` each iteration distills, on the whole batch; without losses none does.

    Raises:
        ArgumentError: An option is unknown or out of range.
    """
    has_losses, options = bool(distillation_entries(opt)), opt['train'].get('distill')
    if not options:
        return DistillSchedule(sys.maxsize) if has_losses else DistillSchedule.never()
    own = {str(key): value for key, value in options.items()}
    if 'total_iter' in own:
        raise ArgumentError('DistillSchedule', {'total_iter': 'is not an option of distill'})
    found = DistillSchedule(int(opt['train']['total_iter']), **own)
    return found if has_losses else DistillSchedule.never()


def check_schedule(ctx: Context) -> DistillSchedule | None:
    """Check ``train.distill``; what it says, or None without it or with a problem noted."""
    if not ctx.section('train', 'distill') or not ctx.clean(PLACE):
        return None
    is_for_nothing = not distillation_entries(ctx.opt) and ctx.clean('train.distill_opt')
    if not is_for_nothing or ctx.section('train').get('eco') is None:
        return read_checked(ctx, PLACE, read_schedule, _REMEDIES)
    ctx.add(PLACE, 'is for the losses of train.distill_opt, and there are none; train.eco ends with its own '
            'end_ratio', 'remove it', {PLACE: REMOVE})
    return None


def read_checked(ctx: Context, place: str, read: Callable[[Mapping[str, Any]], T],
                 remedies: Mapping[str, tuple[str, Any]]) -> T | None:
    """Read a block of ``train`` that depends on the length of the training, and note what is wrong with it.

    Args:
        ctx: Options, and where problems go.
        place: YAML path of the block.
        read: What reads it from the options.
        remedies: By option of the block: what to write, and a value that works.

    Returns:
        What was read; None with a problem noted.
    """
    name_of_block = place.rpartition('.')[2]
    if not ctx.clean(place):
        return None
    if not ITERATIONS.fits(ctx.section('train').get('total_iter')):
        if ctx.clean('train.total_iter'):
            ctx.add(place, 'needs train.total_iter, the length of the training', fix={'train.total_iter': 300_000})
        return None
    try:
        return read(ctx.opt)
    except ArgumentError as error:
        for name, what in error.mistakes.items():
            what, known = what.replace('of this class', f'of {name_of_block}'), remedies.get(name)
            if known is None:
                remedy, fix = f'valid here: {", ".join(remedies)}', other_key(
                    place, name, ctx.section('train', name_of_block), remedies)[1]
            else:
                remedy, fix = known[0], {f'{place}.{name}': known[1]}
            ctx.add(f'{place}.{name}', what, remedy, fix)
        return None


_REMEDIES: dict[str, tuple[str, Any]] = {
    'until': ('write until: 0.5 for the first half', 0.5), 'every': ('write a smaller number, as every: 1', 1),
    'share': ('write share: 0.5 for half of each batch', 0.5), 'fade': ('write fade: none, linear or cosine', 'none')}


def distilled_samples(ctx: Context) -> int | None:
    """Number of images of each batch that the losses see; None if the options do not say."""
    size: Any = ctx.section('datasets', 'train').get('batch_size_per_gpu')
    if not INTEGER.fits(size) or not ctx.clean(PLACE):
        return None
    share: float = ctx.section('train', 'distill').get('share', 1)
    return _rounded_up(share * int(size))
