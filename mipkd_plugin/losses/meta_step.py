"""The meta step: train a loss so that following it improves the student's reconstruction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mipkd_plugin.losses.inner_step import InnerRule, InnerStep, MetaStepError, gradients, trainable
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.step import StepPlan
from mipkd_plugin.utils.optimizer_states import load_in_small


class Teaching(Protocol):
    """A loss L(φ) with parameters φ of its own."""

    def distance(self, student: NetPass, teacher: NetPass) -> Tensor:
        """L(φ), a scalar with its weight applied."""

    def gap(self, here: NetPass, there: NetPass, teacher: NetPass) -> Tensor:
        """L(φ) of the student ``there`` minus L(φ) of the student ``here``."""


_BETAS = (0.9, 0.99)
_EPSILON = 1e-16


class MetaStep(nn.Module):
    """Trains the parameters φ of a loss L(φ) by looking one step of the student ahead (arXiv 2207.08356; our choice).

    The batch is split in two halves A and B. Second order:
    θ' = step(θ, ∇_θ [L_rec(A) + L(A; φ)]), differentiable; φ takes an Adam step on ∇_φ L_rec(B; θ').
    First order: with θ_B = step(θ, ∇_θ L_rec(B)), where reconstruction alone would lead, φ takes an Adam step on
    ∇_φ [L(A; θ_B, φ) − L(A; θ, φ)]: a step that improves reconstruction must lower L. This is a finite difference of
    the gradient of second order, taken at θ instead of θ', and needs no second derivative; with ``sgd`` the two agree
    for small α, with Adam only roughly (v̂ contains another gradient, and past momentum is left out).
    The look-ahead follows L alone, as in the method, not the terms of other losses.

    θ, the student's buffers, its optimizer and the random numbers are left as they are. Each rank looks ahead on its
    own half batches; the gradient for φ is averaged over the ranks. φ's Adam is saved as extra state of this module.

    Args:
        every: Iterations from one meta step to the next; 0: never.
        first_order: The second of the two forms.
        inner: Rule of the look-ahead, see :class:`~mipkd_plugin.losses.inner_step.InnerStep`.
        inner_lr: Its learning rate.
        learning_rate: Of φ's own Adam, constant; betas (0.9, 0.99); ε 1e-16, as the gradients carry the factor α.
    """

    def __init__(self, every: int = 5, first_order: bool = False, inner: InnerRule = 'adam',
                 inner_lr: float | None = None, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.every = every
        self.first_order = first_order
        self.inner = InnerStep(inner, inner_lr)
        self.learning_rate = learning_rate
        self._optimizer: torch.optim.Adam | None = None

    def train_on(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take φ. To be called once, before the first step."""
        self._optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=_BETAS, eps=_EPSILON)

    def unsupported_reason(self, student: nn.Module) -> tuple[str, str] | None:
        """(What is wrong with a student, what to do about it), or None."""
        found = next((path for path, module in student.named_modules()
                      if isinstance(module, nn.modules.batchnorm._BatchNorm)), None)
        if found is None or not self.every:
            return None
        return (f'the student {type(student).__name__} has BatchNorm ({found!r}): the meta step runs it on half '
                'batches and with other weights, which would spoil its running statistics',
                'use a student without BatchNorm, or write meta_every: 0')

    def is_due(self, iteration: int) -> bool:
        """Whether a meta step belongs to this iteration."""
        return self.every > 0 and iteration % self.every == 0

    def forward(self, plan: StepPlan, loss: Teaching) -> dict[str, Tensor]:
        """Train φ for one step, whether due or not.

        Returns:
            ``meta_rec``: L_rec(B; θ') (second order) or L_rec(B; θ) (first order).

        Raises:
            MetaStepError: The batch has a single image, or the student has BatchNorm.
            FloatingPointError: The gradient for φ is not finite; φ stays as it was, on all ranks.
        """
        reason = self.unsupported_reason(plan.nets.student.net)
        if reason is not None or len(plan.lq) < 2:
            raise MetaStepError('; '.join(reason or ('the meta step splits the batch in two, and it has one image', )))
        with _random_numbers_given_back(plan.lq):
            phi = self.phi()
            value, gradient = (self._first_order if self.first_order else self._second_order)(plan, loss, phi)
        self._descend(phi, gradient, plan.iteration)
        return {'meta_rec': value.detach()}

    def phi(self) -> dict[str, Tensor]:
        """φ, by number."""
        if self._optimizer is None:
            raise RuntimeError('the meta step has nothing to train yet: call train_on first')
        return {str(i): p for i, p in enumerate(self._optimizer.param_groups[0]['params'])}

    def _second_order(self, plan: StepPlan, loss: Teaching, phi: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        first, second = _halves(plan)
        theta = trainable(plan.nets.student.net)
        student = plan.nets.student(plan.lq[first], theta)
        total = plan.reconstruction(student.output, plan.gt[first]) + loss.distance(student, _part(plan.teacher, first))
        ahead = self.inner(theta, gradients(total, theta, create_graph=True), plan.optimizer)
        value = plan.reconstruction(plan.nets.student(plan.lq[second], ahead).output, plan.gt[second])
        return value, gradients(value, phi)

    def _first_order(self, plan: StepPlan, loss: Teaching, phi: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        first, second = _halves(plan)
        theta = trainable(plan.nets.student.net)
        value = plan.reconstruction(plan.nets.student(plan.lq[second], theta).output, plan.gt[second])
        ahead = self.inner(theta, gradients(value, theta), plan.optimizer, momentum=False)
        passes = []
        for weights in (theta, ahead):  # the same drop-path in both, so that they differ in the weights alone
            with torch.no_grad(), _random_numbers_given_back(plan.lq):
                passes.append(plan.nets.student(plan.lq[first], weights))
        here, there = passes
        return value, gradients(loss.gap(here, there, _part(plan.teacher, first)), phi)

    def _descend(self, phi: dict[str, Tensor], gradient: list[Tensor], iteration: int) -> None:
        """φ's Adam step, with the gradient averaged over the ranks; leaves no ``grad`` behind for other optimizers."""
        flat = torch.cat([g.reshape(-1) for g in gradient])
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(flat)
            flat /= torch.distributed.get_world_size()
        if not torch.isfinite(flat).all():
            raise FloatingPointError(f'iteration {iteration}: the gradient of the meta step is not finite; go '
                                     'back to weights from before it went wrong, with a lower inner_lr or '
                                     'train.optim_g.lr')
        for parameter, g in zip(phi.values(), torch.split(flat, [p.numel() for p in phi.values()])):
            parameter.grad = g.view_as(parameter)
        if self._optimizer is not None:
            self._optimizer.step()
            self._optimizer.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        """State of φ's Adam: part of the loss's ``state_dict``."""
        return {} if self._optimizer is None else self._optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Restore φ's Adam; its learning rate is the one of the options, which may have changed.

        Raises:
            ValueError: This is not the state of an Adam for φ.
        """
        if self._optimizer is not None:
            try:
                load_in_small(state, [[p.shape for p in self.phi().values()]],
                              lambda groups: torch.optim.Adam(groups[0]))
            except ValueError as error:
                raise ValueError(f'the state of the meta step\'s optimizer {error}') from error
            self._optimizer.load_state_dict(state)
            self._optimizer.param_groups[0]['lr'] = self.learning_rate


def _halves(plan: StepPlan) -> tuple[slice, slice]:
    middle = len(plan.lq) // 2
    return slice(None, middle), slice(middle, None)


def _part(whole: NetPass, part: slice) -> NetPass:
    return NetPass(whole.output[part], {path: feature[part] for path, feature in whole.features.items()})


@contextmanager
def _random_numbers_given_back(images: Tensor) -> Iterator[None]:
    """Drop-path and dropout inside the block draw what the student's own step will draw again."""
    with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
        yield
