"""What the training of a run does in which iterations, and so what there is to measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

from mipkd_plugin import config
from mipkd_plugin.compare.methods import arguments_of
from mipkd_plugin.config.teachers import distillation_entries, teachers_of

Options = Mapping[str, Any]

BLOCK = 20
_LONGEST_BLOCK = 60


class Part(NamedTuple):
    """Iterations of a run that cost alike.

    Attributes:
        size: Number of iterations to measure.
        every: They are those whose numbers this divides; the others between them cost what those of the control cost.
        share: Share of the training.
        first: Number of the last iteration before them.
    """

    size: int
    every: int
    share: float
    first: int = 0


def parts_of(options: Options) -> list[Part]:
    """The parts of a run in which the teacher takes part; a run without a teacher is one part of no share."""
    size, every, until = block_of(options)
    eco, total = config.read_eco(options), int(options['train']['total_iter'])
    if eco is None or not eco.last:
        alone = config.iterations_alone(options) / total  # of a discriminator: no teacher runs
        return [Part(size, every, max(until - alone, 0.0))]
    ends = sorted({0, eco.last, round(until * total)})
    most = min(size * every, max(_LONGEST_BLOCK, every))
    return [Part(min(most, end - first), 1, (end - first) / total, first) for first, end in zip(ends, ends[1:])]


def block_of(options: Options) -> tuple[int, int, float]:
    """How a run distills.

    Args:
        options: The options of the run.

    Returns:
        Number of distilling iterations to measure; one in how many iterations distills; share of the training that
        does so.
    """
    losses = [loss for _, loss in distillation_entries(options)]
    if not losses:
        return BLOCK, 1, 0.0
    schedule, total = config.read_schedule(options), int(options['train']['total_iter'])
    periods = [value for loss in losses for name, value in {**arguments_of(loss), **loss}.items()
               if name.endswith('every') and isinstance(value, int) and value > 0]
    generator = config.generator_period(options)
    period = min(math.lcm(schedule.every, generator, *periods) // schedule.every, _LONGEST_BLOCK)
    last = min(schedule.last, total)
    return min(math.ceil(BLOCK / period) * period, last // schedule.every), schedule.every, last / total


def turns_of(options: Options, iterations: int) -> int:
    """So many iterations or more, in which the generator of a GAN trains as often as in the mean."""
    generator = config.generator_period(options)
    return -(-iterations // generator) * generator


def new_crops(options: Options) -> float:
    """How many crops the cache of a run has to run the teacher on, in the mean over the iterations that need it.

    Args:
        options: The options of a run.

    Returns:
        The number; 0 without a cache.
    """
    eco = config.read_eco(options)
    if not caching(options) or not (distillation_entries(options) or eco):
        return 0.0
    train, schedule = options['datasets']['train'], config.read_schedule(options)
    last, blends = min(schedule.last, int(options['train']['total_iter'])), eco.last if eco else 0
    samples = train['batch_size_per_gpu'] if blends else schedule.samples(train['batch_size_per_gpu'])
    iterations = blends + (last // schedule.every - min(blends, last) // schedule.every)
    return min(float(samples), int(train['crops']) / iterations)


def caching(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The blocks of the teachers that have a cache."""
    return [cast(dict[str, Any], teacher.options) for teacher in teachers_of(options)
            if teacher.options.get('cache') is not None]
