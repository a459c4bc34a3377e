"""ECO: how fast the training goes over from the teacher's images to the real ones; the block ``train.eco``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from mipkd_plugin.config.degradation_keys import degrades
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.schedule import PartOfAll, read_checked
from mipkd_plugin.utils.ranges import ArgumentError, Count, checked

EcoMode = Literal['full', 'hr_only']

PLACE = 'train.eco'

_CLOSE = 1e-9
"""0.55 of 100,000 iterations are 55,000, whatever the last digit of a float says."""


class EcoSchedule:
    """Which part of the images is real in each iteration: a = min(1, iteration / (end_ratio · total_iter)).

    ECO: "Noise-free Optimization in Early Training Steps for Image Super-Resolution", arXiv 2312.17526 (AAAI 2024),
    equation 14, and its code, github.com/2minkyulee/Noise-free-Optimization-in-Early-Training-Steps-for-Image-
    Super-Resolution at ef63e35. The authors' trainer takes a sigmoid, which leaves 0 at 26 % and reaches 1 at 74 % of
    the training; they saw no difference to the straight line, which their README shows and which this is.

    Args:
        total_iter: Length of the training, in iterations.
        end_ratio: Share of the training after which all images are real, in (0, 1].
        mode: ``full`` blends HR and LR images, as the paper does; ``hr_only`` leaves the LR images as they are (our
            choice: it saves the teacher's second pass beside other losses).

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, total_iter: Count, end_ratio: PartOfAll = 0.75, mode: EcoMode = 'full') -> None:
        self.total_iter = total_iter
        self.end_ratio = end_ratio
        self.mode = mode

    def __str__(self) -> str:
        images = 'HR and LR images' if self.mode == 'full' else 'HR images'
        if not self.last:
            return f'{images} are the real ones from the first iteration on (a = 1): it does nothing'
        return (f'{images} from those of the teacher to the real ones: a = 1 from iteration {self.last + 1:,d} of '
                f'{self.total_iter:,d} on')

    def real(self, iteration: int) -> float:
        """The part a of the real images in iteration number ``iteration``, from 1: in (0, 1]."""
        a = iteration / (self.end_ratio * self.total_iter)
        return a if a < 1 - _CLOSE else 1.0

    def blends(self, iteration: int) -> bool:
        """Whether a is below 1 in an iteration."""
        return self.real(iteration) < 1

    def cost(self, has_losses: bool, has_cache: bool = False) -> str:
        """How often the teacher runs because of it, in words.

        Args:
            has_losses: Whether there are distillation losses, too.
            has_cache: Whether there is a cache of the teacher's passes.

        Returns:
            A sentence without its full stop.
        """
        if has_cache:
            known = 'the teacher runs once on each crop, and the cache keeps that'
            blended = 'so it runs again for the losses' if has_losses else 'which no loss needs'
            return known + ('' if self.mode == 'hr_only' else f'; it holds no blended LR images, {blended}')
        if not has_losses:
            return 'the teacher runs once in each of these iterations, and not at all from there on'
        if self.mode == 'hr_only':
            return 'it shares the one pass of the teacher with the losses'
        return 'in these iterations the teacher runs on the LR images, and again on the blended ones for the losses'

    @property
    def last(self) -> int:
        """The last iteration that blends; 0 if none does."""
        last = min(int(self.end_ratio * self.total_iter) + 1, self.total_iter)
        return next((number for number in range(last, max(last - 3, 0), -1) if self.blends(number)), 0)


def read_eco(opt: Mapping[str, Any]) -> EcoSchedule | None:
    """What ``train.eco`` of a training run asks for.

    Args:
        opt: The options.

    Returns:
        The schedule; None without the block.

    Raises:
        ArgumentError: An option is unknown or out of range.
    """
    options = opt['train'].get('eco')
    if options is None:
        return None
    own = {str(key): value for key, value in options.items()}
    if 'total_iter' in own:
        raise ArgumentError('EcoSchedule', {'total_iter': 'is not an option of eco'})
    return EcoSchedule(int(opt['train']['total_iter']), **own)


def check_eco(ctx: Context) -> EcoSchedule | None:
    """Check ``train.eco``.

    Returns:
        The schedule; None without the block, or with a problem noted.
    """
    if ctx.section('train').get('eco') is None:
        return None
    found = read_checked(ctx, PLACE, read_eco, _REMEDIES)
    if found is not None and found.mode == 'full' and ctx.opt.get('scale') == 1:
        ctx.add(f'{PLACE}.mode', 'full shrinks images of the teacher to new LR images, and scale: 1 shrinks nothing',
                'write mode: hr_only, which blends the HR images alone', {f'{PLACE}.mode': 'hr_only'})
        return None
    if found is not None and found.mode == 'full' and degrades(ctx):
        ctx.add(f'{PLACE}.mode', 'full blends the LR images with bicubic ones, which have no blur and no noise, and '
                f'{ctx.opt["model_type"]} degrades its own', 'write mode: hr_only, which blends the HR images alone',
                {f'{PLACE}.mode': 'hr_only'})
        return None
    return found


_REMEDIES: dict[str, tuple[str, Any]] = {
    'end_ratio': ('write end_ratio: 0.75, the share of the training after which all images are real', 0.75),
    'mode': ('write mode: full, or mode: hr_only to leave the LR images as they are', 'full')}
