"""Distillation inside the training step of a BasicSR class that has a step of its own, such as a GAN.

Such a class computes forward pass, losses and backward pass of the generator, and then the step of its discriminator,
in one method. That method runs unchanged. It gets the student's image from a pass that also fills the taps, and the
sum of the distillation terms travels with this image: the backward pass of the class also computes the gradient of the
terms. The discriminator sees the image without its gradient, as always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from torch import Tensor, nn

from mipkd_plugin import config
from mipkd_plugin.losses.gradients import OF_HOST
from mipkd_plugin.models.eco import Batch, batch_of
from mipkd_plugin.models.lesson import lesson_of, terms_of
from mipkd_plugin.models.terms import refuse_not_finite, total_of

if TYPE_CHECKING:
    from mipkd_plugin.models.distill_model import DistillMixin

Pulled = Callable[[dict[str, Tensor]], None]
"""Takes all terms of a step, in its backward pass: the sum of the host's own, and the distillation terms."""


class _Carry(torch.autograd.Function):
    """An image whose backward pass is also that of a sum of terms."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, total: Tensor, see: Callable[[Tensor], None]) -> Tensor:
        ctx.see, ctx.is_done = see, False
        return image.view_as(image)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None]:
        if ctx.is_done:  # a class that goes backward several times gets the terms once
            return gradients[0], None, None
        ctx.is_done = True
        ctx.see(gradients[0])
        return gradients[0], gradients[0].new_ones(()), None


def _carrying(image: Tensor, terms: Mapping[str, Tensor], arrived: Callable[[], None],
              see: Pulled | None = None) -> Tensor:
    """The image for the host's losses, with the distillation terms behind it.

    Args:
        image: S(x) (N, C, sH, sW).
        terms: The weighted distillation terms, by name; at least one.
        arrived: Called in the backward pass.
        see: Takes the terms in the backward pass, in which their graph is still there.

    Returns:
        The same values. The student's weights get the gradients of the host's losses and of the terms.
    """
    def with_host(gradient: Tensor) -> None:
        arrived()
        if see is not None:
            with torch.enable_grad():  # the gradient of this product equals the one of the host's losses
                see({OF_HOST: (image * gradient.detach()).sum(), **terms})

    carried: Tensor = _Carry.apply(image, total_of(terms), with_host)
    return carried


class _FirstCall:
    """Stands in for ``net_g`` of a model until somebody runs it with gradient: the forward pass of the training step.

    Args:
        model: The model.
        run: What to run then in place of the network: LR images (N, C, H, W) → S(x).
    """

    def __init__(self, model: DistillMixin, run: Callable[[Tensor], Tensor]) -> None:
        self._model = model
        self._run = run
        self._net: nn.Module = model.net_g

    def __enter__(self) -> _FirstCall:
        self._model.net_g = self  # type: ignore[assignment]  # it does what a step needs
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._model.net_g = self._net

    def __call__(self, lq: Tensor) -> Tensor:
        """Run the stand-in; from now on the model has its own network again. A pass without gradient is another."""
        if not torch.is_grad_enabled():
            return self._net(lq)  # type: ignore[no-any-return]  # a module returns anything
        self._model.net_g = self._net
        return self._run(lq)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._net, name)


def has_own_step(optimize_parameters: Callable[[int], None]) -> bool:
    """Whether a bound ``optimize_parameters`` is another than SRModel's."""
    return getattr(optimize_parameters, '__func__', None) is not SRModel.optimize_parameters


def step_of_host(model: DistillMixin, iteration: int, run: Callable[[int], None]) -> None:
    """Let a class take its own training step, with the distillation terms in it.

    Teacher and student see the images ``lq`` that the class hands to ``net_g``: degraded, and out of the pool of
    pairs. Losses that compare with ``gt`` get the images that the pixel loss compares with: sharpened ones, unless
    ``l1_gt_usm`` says no. What ECO blends, everything in the step sees, the discriminator too.

    Args:
        model: The model.
        iteration: Number of the iteration, from 1.
        run: ``optimize_parameters`` of the class.
    """
    batch = batch_of(model, iteration)
    with _seen(model, batch):
        model.own_log = dict(batch.logged)
        try:
            if model.schedule.distills(iteration) and config.trains_generator(model.opt, iteration):
                arrivals: list[int] = []
                with _FirstCall(model, lambda lq: _forward(model, iteration, batch, lq, arrivals)):
                    run(iteration)
                if not arrivals:
                    _warn_once(model, iteration)
            else:
                model.dismiss_teacher_when_over(iteration)
                run(iteration)
        finally:
            model.own_log = {}


def _warn_once(model: Any, iteration: int) -> None:
    """Say that the terms of an iteration had no effect: nobody else would notice."""
    if not vars(model).setdefault('_missed_terms', False):
        model._missed_terms = True
        get_root_logger().warning(
            f'Iteration {iteration:,d} distilled nothing: {type(model).__name__} did not run net_g with gradient, or '
            'did not go backward through its image. If that is so in each iteration, its optimize_parameters cannot '
            'distill.')


def _forward(model: DistillMixin, iteration: int, batch: Batch, lq: Tensor, arrivals: list[int]) -> Tensor:
    """The student's image, with the distillation terms behind it; ``arrivals`` grows when they get their gradient."""
    own = lq is batch.lq
    batch = replace(batch, lq=lq, gt=pixel_target(model), teacher=batch.teacher if own else None,
                    as_fed=own and batch.as_fed)
    lesson = lesson_of(model, iteration, batch)
    student = model.nets.student(lq)
    terms = terms_of(model, lesson, student, {})
    if model.see_losses is not None:
        model.see_losses([*terms.values(), *lesson.prepared.values()])
    elif terms:
        refuse_not_finite(terms, iteration)
    model.own_log.update({**terms, **lesson.prepared})
    if not terms:  # no loss is due
        arrivals.append(iteration)
        return student.output
    log = model.log_gradients if model.log_gradients is not None and model.log_gradients.is_due(iteration) else None

    def see(all_terms: dict[str, Tensor]) -> None:
        if log is not None:
            log(iteration, all_terms, model.get_bare_model(model.net_g))
        if model.see_terms is not None:
            model.see_terms(all_terms, lesson.prepared)

    return _carrying(student.output, terms, lambda: arrivals.append(iteration),
                     see if log is not None or model.see_terms is not None else None)


def pixel_target(model: Any) -> Tensor:
    """The images that the pixel loss compares with, by RealESRGANModel's option ``l1_gt_usm``."""
    sharpened: Tensor | None = getattr(model, 'gt_usm', None)
    target: Tensor = model.gt
    return target if sharpened is None or model.opt.get('l1_gt_usm', False) is False else sharpened


@contextmanager
def _seen(model: Any, batch: Batch) -> Iterator[None]:
    """Inside the block, the images of a model are those of a batch."""
    before = {name: getattr(model, name) for name in ('lq', 'gt', 'gt_usm') if hasattr(model, name)}
    model.lq = batch.lq
    if batch.gt is not model.gt:
        model.gt = batch.gt
        if 'gt_usm' in before and hasattr(model, 'usm_sharpener'):
            model.gt_usm = model.usm_sharpener(batch.gt)
    try:
        yield
    finally:
        vars(model).update(before)
