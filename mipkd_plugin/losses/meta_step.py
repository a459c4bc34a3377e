"""The meta step: train a loss so that following it improves the student's reconstruction."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from mipkd_plugin.losses.inner_step import (
    HalfBatchError,
    InnerRule,
    InnerStep,
    MetaStepError,
    gradients,
    trainable,
)
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.replay import without_checkpoints
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
_NOT_TWICE = re.compile(r'derivative for .+ is not implemented|differentiate twice|double.?backward', re.I)
_ONE_VALUE = 'Expected more than 1 value per channel when training'


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
    A student with BatchNorm runs as in training, with the statistics of its half batch (our choice).

    Args:
        every: Iterations from one meta step to the next; 0: never.
        first_order: The second of the two forms; None: only for students that cannot be differentiated twice.
        inner: Rule of the look-ahead, see :class:`~mipkd_plugin.losses.inner_step.InnerStep`.
        inner_lr: Its learning rate.
        learning_rate: Of φ's own Adam, constant; betas (0.9, 0.99); ε 1e-16, as the gradients carry the factor α.
    """

    def __init__(self, every: int = 5, first_order: bool | None = None, inner: InnerRule = 'adam',
                 inner_lr: float | None = None, learning_rate: float = 1e-4) -> None:
        super().__init__()
        self.every = every
        self.first_order = first_order
        self.lacking = ''
        """What cannot be differentiated twice in the student, as far as a meta step has met it."""
        self.inner = InnerStep(inner, inner_lr)
        self.learning_rate = learning_rate
        self._optimizer: torch.optim.Adam | None = None

    def train_on(self, parameters: Sequence[nn.Parameter]) -> None:
        """Take φ. To be called once, before the first step."""
        self._optimizer = torch.optim.Adam(parameters, lr=self.learning_rate, betas=_BETAS, eps=_EPSILON)

    @property
    def note(self) -> str:
        """What a person should know of the form that is taken, or ''."""
        return f'the student has no second derivative ({self.lacking}): its meta step is of first order' * bool(
            self.lacking)

    def is_due(self, iteration: int) -> bool:
        """Whether a meta step belongs to this iteration."""
        return self.every > 0 and iteration % self.every == 0

    def forward(self, plan: StepPlan, loss: Teaching) -> dict[str, Tensor]:
        """Train φ for one step, whether due or not.

        Returns:
            ``meta_rec``: L_rec(B; θ') (second order) or L_rec(B; θ) (first order).

        Raises:
            HalfBatchError: Half of the batch is too small for the student's BatchNorm.
            MetaStepError: The batch has a single image; or the student has no second derivative and ``first_order`` is
                False.
            FloatingPointError: The gradient for φ is not finite; φ stays as it was, on all ranks.
        """
        if len(plan.lq) < 2:
            raise MetaStepError('the meta step splits the batch in two, and it has one image')
        phi = self.phi()
        with without_checkpoints(), _halves_large_enough(plan):  # checkpoints would run again with other weights
            value, gradient = self._look_ahead(plan, loss, phi)
        self._descend(phi, gradient, plan.iteration)
        return {'meta_rec': value.detach()}

    def phi(self) -> dict[str, Tensor]:
        """φ, by number."""
        if self._optimizer is None:
            raise RuntimeError('the meta step has nothing to train yet: call train_on first')
        return {str(i): p for i, p in enumerate(self._optimizer.param_groups[0]['params'])}

    def _look_ahead(self, plan: StepPlan, loss: Teaching, phi: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
        """L_rec and the gradient for φ, in the form that the options or the student ask for."""
        if not self.first_order and not self.lacking:
            found = _without_second_derivative(plan.nets.student.net)
            try:
                if not found:
                    with _random_numbers_given_back(plan.lq), sdpa_kernel(SDPBackend.MATH):
                        return self._second_order(plan, loss, phi)
            except RuntimeError as error:
                if not _NOT_TWICE.search(str(error)):
                    raise
                found = str(error).partition('\n')[0].strip()
            if self.first_order is False:
                raise MetaStepError(
                    f'the student {type(plan.nets.student.net).__name__} has no second derivative ({found}), and '
                    'first_order: false needs it', 'write first_order: true', {'first_order': True})
            self.lacking = found
        with _random_numbers_given_back(plan.lq):
            return self._first_order(plan, loss, phi)

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


def _without_second_derivative(student: nn.Module) -> str:
    """What is known, without a try, to have no second derivative in a student: its error would be a wrong gradient."""
    ranks = torch.distributed.is_available() and torch.distributed.is_initialized()
    if ranks and torch.distributed.get_world_size() > 1:
        for path, module in student.named_modules():
            if isinstance(module, nn.SyncBatchNorm):
                return f'SyncBatchNorm in {path!r}'
    return ''


@contextmanager
def _halves_large_enough(plan: StepPlan) -> Iterator[None]:
    """Say what to do where BatchNorm gets one value per channel: a map of 1×1 of a single image."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith(_ONE_VALUE):
            raise
        raise HalfBatchError(
            f'the meta step runs the student on half batches, and on one image BatchNorm in '
            f'{type(plan.nets.student.net).__name__} has a single value per channel',
            'take batches of 4 images or more, or write meta_every: 0', {'meta_every': 0}) from error


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
