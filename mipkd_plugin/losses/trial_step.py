"""One training step of every loss on random images, before the training: what would fail there fails here."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mipkd_plugin.losses.base import DistillationLoss, LossError
from mipkd_plugin.losses.inner_step import HalfBatchError
from mipkd_plugin.networks.step import NetPair, Step
from mipkd_plugin.networks.views import View
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

BASICSR_TERMS = ('l_pix', 'l_percep', 'l_style', 'l_g_pix', 'l_g_percep', 'l_g_style', 'l_g_gan', 'l_g_ldl', 'l_g_real',
                 'l_g_fake', 'l_d', 'l_d_real', 'l_d_fake', 'l_d_r1')
"""Names under which BasicSR's own models log their terms."""

ITERATIONS = (126_000, 1, 10, 101, 1003, 25_202, 250_001)
"""The first is a multiple of 1 to 10, of 100 and of 1000: what a loss does every n-th iteration is due."""


def trial_problem(loss: DistillationLoss, nets: NetPair, shape: Sequence[int], scale: int) -> str:
    """Try one step of a bound loss. Networks, loss and random numbers are left as they were.

    The first try is an iteration in which everything is due that a loss does every n-th iteration. If a term has no
    gradient there (a hinge, a slow start), other iterations are tried with other images.

    Args:
        loss: A loss that is bound to these networks.
        nets: The networks it is bound to, or others of the same architectures.
        shape: (C, H, W) of the low-resolution images.
        scale: Scale factor.

    Returns:
        What is wrong with its terms, or ''. Each must be a finite scalar named ``l_*``, must not have the name of a
        term of BasicSR, and must have a gradient into the student or into the loss's own parameters. A step must not
        add or reshape parameters or buffers of the loss. What the trial has found out the loss takes over: the batch
        that it needs with this student, and what :meth:`learn_from` says.

    Raises:
        LossError: The loss cannot train with this student, and the message says what to do.
    """
    bound, loss = loss, _copy_of(loss)
    before = _Snapshot(loss, nets)
    size = max(2, loss.min_batch_size)
    try:
        try:
            problem = _tried(loss, nets, shape, scale, size)
        except HalfBatchError as error:
            problem = _tried(loss, nets, shape, scale, 2 * size)
            bound.min_batch_size, bound.min_batch_reason = 2 * size, error.what
    finally:
        changed = before.restore()
    bound.learn_from(loss)
    return problem or changed


def _tried(loss: DistillationLoss, nets: NetPair, shape: Sequence[int], scale: int, size: int) -> str:
    """What is wrong with the terms of a loss in steps over random batches, or ''."""
    device = next(nets.student.net.parameters()).device
    problem, reached = '', set[str]()
    with random_numbers_restored([device] if device.type == 'cuda' else []):
        generator = torch.Generator().manual_seed(0)
        for iteration in (math.lcm(ITERATIONS[0], loss.due_every), *ITERATIONS[1:]):
            lq = torch.rand(size, *shape, generator=generator).to(device)
            gt = torch.rand(size, shape[0], *(scale * side for side in shape[1:]), generator=generator).to(device)
            terms, step = _train(loss, nets, lq, gt, iteration)
            problem = terms_problem(terms) or _gradients_problem(terms, loss, step, reached)
            if not problem.endswith(_NO_GRADIENT):
                break
        if not problem:
            _check_student_trains(terms, loss, step)
    return problem


def _copy_of(loss: DistillationLoss) -> DistillationLoss:
    """A loss to try: a copy, so that counters and other memory of the loss stay as they are.

    A loss that cannot be copied is tried itself; then only its state, its modes and its gradients are restored.

    Returns:
        The copy, or the loss.
    """
    try:
        return copy.deepcopy(loss)
    except FOREIGN_ERRORS:
        return loss


def terms_problem(terms: Any) -> str:
    """What is wrong with the names and values that a loss has returned, or ''."""
    if not isinstance(terms, Mapping):
        return f'forward(step) must return a dict of terms, got {type(terms).__name__}'
    if not terms:
        return 'forward(step) returned no term: nothing would be distilled'
    return '; '.join(problem for name, value in terms.items() for problem in [_term_problem(name, value)] if problem)


def _term_problem(name: Any, value: Any) -> str:
    if not isinstance(name, str) or not name.startswith('l_'):
        return f'the term {name!r} must have a name that begins with l_'
    if name in BASICSR_TERMS:
        return f'the term {name!r} has the name of a term of BasicSR; give it another'
    if not isinstance(value, Tensor):
        return f'the term {name!r} must be a tensor, got {type(value).__name__}'
    if value.dim() != 0:
        return f'the term {name!r} must be a scalar, got the shape {tuple(value.shape)}; take its mean'
    if not torch.isfinite(value):
        return f'the term {name!r} is {value.item()} on random images'
    return ''


_NO_GRADIENT = 'no gradient of it reaches the student or the loss itself: it would train nothing'


def _train(loss: DistillationLoss, nets: NetPair, lq: Tensor, gt: Tensor, iteration: int) -> tuple[Any, Step]:
    """What the loss returns in a step as the model takes it, and the step."""
    optimizer = torch.optim.Adam(nets.student.net.parameters(), lr=1e-4)
    plan = nets.plan(lq, gt, optimizer, torch.nn.functional.l1_loss, iteration)
    if loss.self_trained_parameters():
        loss.prepare(plan)
    step = plan.run()
    return loss(step), step


def _check_student_trains(terms: Mapping[str, Tensor], loss: DistillationLoss, step: Step) -> None:
    """Refuse taps behind layers that do not train, where no term reaches the student in another way."""
    features, student = step.student.features, step.nets.student.net
    if not loss.pairs or any(features[s].requires_grad for s, _ in loss.pairs):
        return
    weights = [p for p in student.parameters() if p.requires_grad]
    total = torch.stack([value for value in terms.values() if value.requires_grad]).sum()
    if weights and all(g is None for g in torch.autograd.grad(total, weights, retain_graph=True, allow_unused=True)):
        raise LossError(f'no gradient of {", ".join(terms)} reaches the student {type(student).__name__}: all that '
                        f'runs before its tap {View.of(loss.pairs[-1][0]).path!r} has requires_grad=False',
                        'tap modules behind layers that train, or let those layers train')


def _gradients_problem(terms: Mapping[str, Tensor], loss: DistillationLoss, step: Step, reached: set[str]) -> str:
    """Describe bad gradients, or return ''. Terms that have a gradient are added to ``reached``."""
    weights = [p for module in (step.nets.student.net, loss) for p in module.parameters() if p.requires_grad]
    for name, value in terms.items():
        gradients: Sequence[Tensor | None] = ()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        found = [g for g in gradients if g is not None]
        if not all(bool(torch.isfinite(g).all()) for g in found):
            return f'the term {name!r} has a gradient that is not finite on random images'
        if any(bool(g.any()) for g in found):
            reached.add(name)
    return '; '.join(f'the term {name!r} is cut off: {_NO_GRADIENT}' for name in terms if name not in reached)


class _Snapshot:
    """States, modes and gradients of student and loss before a trial; both of them train from here on."""

    def __init__(self, loss: DistillationLoss, nets: NetPair) -> None:
        self.modules: list[nn.Module] = [nets.student.net, loss]
        self.states = [copy.deepcopy(module.state_dict()) for module in self.modules]
        self.modes = {m: m.training for module in self.modules for m in module.modules()}
        self.parameters = {p: (p.grad, p.requires_grad) for module in self.modules for p in module.parameters()}
        for module in self.modules:
            module.train()
        for parameter in self.parameters:
            parameter.grad = None

    def restore(self) -> str:
        """Restore everything. Returns the changed entries of the loss's state, or ''."""
        changed = ''
        for module, state in zip(self.modules, self.states):
            now = module.state_dict()
            others = [key for key in dict.fromkeys([*state, *now]) if _shape(state.get(key)) != _shape(now.get(key))]
            if others:
                changed = (f'a step adds, removes or reshapes parameters or buffers of the loss ({", ".join(others)}): '
                           'its checkpoints could not be loaded; make them in build(pairs), in their final size')
            module.load_state_dict({key: value for key, value in state.items() if key not in others}, strict=False)
        for each, mode in self.modes.items():
            each.training = mode
        for parameter, (gradient, requires_gradient) in self.parameters.items():
            parameter.grad = gradient
            parameter.requires_grad_(requires_gradient)
        return changed


def _shape(entry: Any) -> Any:
    """Shape of a tensor of a state, or the kind of another entry."""
    if isinstance(entry, Tensor) and not is_lazy(entry):
        return tuple(entry.shape)
    return type(entry)
