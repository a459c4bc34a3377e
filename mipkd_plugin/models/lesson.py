"""What a training step learns from the teachers: prepared before the student runs, and read off its pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mipkd_plugin.models.eco import Batch
from mipkd_plugin.models.teaching import prepare
from mipkd_plugin.models.terms import free_name, total_of
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.step import StepPlan

if TYPE_CHECKING:
    from mipkd_plugin.models.distill_model import DistillMixin


@dataclass(frozen=True)
class Lesson:
    """An iteration that distills, before the student has run.

    Attributes:
        plans: What the losses of each teacher prepared with, by its name.
        samples: Number of images of the batch to distill on.
        weight: Factor on all terms.
        prepared: What losses log of their own training.
    """

    plans: dict[str, StepPlan]
    samples: int
    weight: float
    prepared: dict[str, Tensor]


def lesson_of(model: DistillMixin, iteration: int, batch: Batch) -> Lesson:
    """Run the teachers, and let losses train their own parameters.

    Args:
        model: The model.
        iteration: Number of the iteration, from 1.
        batch: The images.

    Returns:
        What :func:`terms_of` needs.
    """
    samples = model.schedule.samples(len(batch.lq))
    lq = batch.lq if samples >= len(batch.lq) else batch.lq[:samples]  # itself: the student's answers belong to it
    known = None if batch.teacher is None else batch.teacher.first(samples)
    plans = model.teaching.plans(
        lq, batch.gt[:samples], model.optimizer_g,
        lambda output, gt: total_of(model.reconstruction_terms(output, gt)), iteration,
        model.crops, as_fed=batch.as_fed, known=known, averaged=getattr(model, 'net_g_ema', None))
    prepared = prepare(model.distillation_losses(), [plans[name] for name in model.teaching.chosen], model.device,
                       stops=model.see_losses is None)
    return Lesson(plans, samples, model.schedule.weight(iteration), prepared)


def terms_of(model: DistillMixin, lesson: Lesson, student: NetPass, taken: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weighted distillation terms.

    Args:
        model: The model.
        lesson: From :func:`lesson_of`.
        student: The student's pass over the whole batch.
        taken: Terms of others, whose names are taken.

    Returns:
        The terms by name.
    """
    terms: dict[str, Tensor] = {}
    steps = model.teaching.steps(lesson.plans, student.first(lesson.samples))
    for runner, step in zip(model.loss_runners, steps):
        for name, value in runner(step).items():
            terms[free_name(name, {**taken, **terms})] = value if lesson.weight == 1 else lesson.weight * value
    return terms
