"""``logger.gradient_freq``: how strongly each term pulls at the student, logged while it trains."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from mipkd_plugin import config
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.gradients import REFERENCES, Pull, pulls, shares
from mipkd_plugin.models.ranks import ranks
from mipkd_plugin.utils.replacing import replaced

if TYPE_CHECKING:
    from mipkd_plugin.config import DistillSchedule

_writers: list[Any] = []


@contextmanager
def writer_known(pipeline: ModuleType) -> Iterator[None]:
    """Inside the block, models can write to the TensorBoard log that a pipeline of BasicSR opens.

    Args:
        pipeline: ``basicsr.train``.
    """
    plain = getattr(pipeline, 'init_tb_loggers', None)

    def init_tb_loggers(opt: dict[str, Any]) -> Any:
        found = None if plain is None else plain(opt)
        _writers[:] = [found]
        return found

    try:
        with replaced(pipeline, {'init_tb_loggers': init_tb_loggers}):
            yield
    finally:
        _writers.clear()


def common_period(schedule: DistillSchedule, losses: Iterable[DistillationLoss], generator: int = 1) -> int:
    """All terms of a training act in the iterations that this number divides.

    Args:
        schedule: When the training distills.
        losses: The losses.
        generator: The generator trains in each iteration that this number divides.

    Returns:
        The number; that without the losses where the training is too short for an iteration of all terms.
    """
    fewest = math.lcm(schedule.every, generator)
    every = math.lcm(fewest, *(loss.due_every for loss in losses))
    return every if every <= schedule.last else fewest


class GradientLog:
    """Logs norm, share and cosine of the gradient of each term; see :func:`~mipkd_plugin.losses.gradients.pulls`.

    It logs in the first iteration from each multiple of ``every`` on in which all terms act, as long as the training
    distills. Weights, random numbers and what is saved do not depend on it. Such an iteration takes one more backward
    pass for each term.

    Args:
        every: ``logger.gradient_freq``, in iterations.
        schedule: When the training distills.
        losses: The losses.
        generator: The generator trains in each iteration that this number divides.
    """

    def __init__(self, every: int, schedule: DistillSchedule, losses: Iterable[DistillationLoss],
                 generator: int = 1) -> None:
        self.every = every
        self._period = common_period(schedule, losses, generator)
        self._schedule = schedule
        self._is_off = False

    def is_due(self, iteration: int) -> bool:
        """Whether this iteration is logged. Depends on its number alone, so that a resumed run goes on alike."""
        return (not self._is_off and iteration % self._period == 0 and self._schedule.distills(iteration)
                and iteration // self.every > (iteration - self._period) // self.every)

    def __call__(self, iteration: int, terms: Mapping[str, Tensor], student: nn.Module) -> None:
        """Measure and log, before the backward pass of the step.

        Args:
            iteration: Its number.
            terms: The weighted terms, by name.
            student: The student, unwrapped.

        Raises:
            RuntimeError: Under torchrun, where all ranks must measure or none.
        """
        try:
            found = pulls(terms, student)
        except RuntimeError as error:  # such as reentrant gradient checkpoints, which have no torch.autograd.grad
            if ranks() > 1 or isinstance(error, torch.OutOfMemoryError):
                raise
            self._is_off = True
            get_root_logger().warning('Gradients cannot be logged with this student, and logger.gradient_freq is off: '
                                      f'{str(error).splitlines()[0]}')
            return
        get_root_logger().info(f'Gradients at iteration {iteration:,d}: {in_words(found)}')
        for name, value in scalars(found).items():
            for writer in _writers:
                if writer is not None:
                    writer.add_scalar(name, value, iteration)


def gradient_log(opt: Mapping[str, Any], schedule: DistillSchedule,
                 losses: Iterable[DistillationLoss]) -> GradientLog | None:
    """What ``logger.gradient_freq`` asks for; None if it asks for nothing."""
    every = (opt.get('logger') or {}).get('gradient_freq')
    return GradientLog(every, schedule, losses, config.generator_period(opt)) if every else None


def in_words(found: Mapping[str, Pull]) -> str:
    """One line: share, norm and cosine of each term."""
    return '; '.join(f'{name} {100 * share:.3g} % (norm {found[name].norm:.3g}{_cosine(name, found[name])})'
                     for name, share in shares(found).items())


def _cosine(name: str, pull: Pull) -> str:
    return '' if pull.cosine is None or name in REFERENCES else f', cosine {pull.cosine:+.2f}'


def scalars(found: Mapping[str, Pull]) -> dict[str, float]:
    """What TensorBoard gets: ``gradients/share_<term>``, ``gradients/norm_<term>`` and ``gradients/cosine_<term>``."""
    values: dict[str, float] = {}
    for name, share in shares(found).items():
        values[f'gradients/share_{name}'] = share
        values[f'gradients/norm_{name}'] = found[name].norm
        cosine = found[name].cosine
        if cosine is not None and name not in REFERENCES:
            values[f'gradients/cosine_{name}'] = cosine
    return values
