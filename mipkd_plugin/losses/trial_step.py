"""One training step of every loss on random images, before the training: what would fail there fails here."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.networks.step import NetPair, Step

BASICSR_TERMS = ('l_pix', 'l_percep', 'l_style', 'l_g_pix', 'l_g_percep', 'l_g_style', 'l_g_gan', 'l_g_ldl', 'l_g_real',
                 'l_g_fake', 'l_d', 'l_d_real', 'l_d_fake', 'l_d_r1')
"""Names under which BasicSR's own models log their terms."""

_TRIES = 3


def trial_problem(loss: DistillationLoss, nets: NetPair, shape: Sequence[int], scale: int) -> str:
    """Try one step of a bound loss. Networks, loss and random numbers are left as they were.

    The step counts as iteration 0, so that whatever a loss does every n-th iteration is due.

    Args:
        loss: A loss that is bound to these networks.
        nets: The networks it is bound to, or others of the same architectures.
        shape: (C, H, W) of the low-resolution images.
        scale: Scale factor.

    Returns:
        What is wrong with its terms, or ''. Each must be a finite scalar named ``l_*``, must not have the name of a
        term of BasicSR, and must have a gradient into the student or into the loss's own parameters.
    """
    device = next(nets.student.net.parameters()).device
    size = max(2, loss.min_batch_size)
    problem = ''
    with _left_alone(loss, nets), torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        generator = torch.Generator().manual_seed(0)
        for _ in range(_TRIES):  # a term may be 0 by chance, as that of a hinge
            lq = torch.rand(size, *shape, generator=generator).to(device)
            gt = torch.rand(size, shape[0], *(scale * side for side in shape[1:]), generator=generator).to(device)
            problem = _problem(loss, nets, lq, gt)
            if not problem.endswith(_NO_GRADIENT):
                break
    return problem


_NO_GRADIENT = 'no gradient of it reaches the student or the loss itself: it would train nothing'


def _problem(loss: DistillationLoss, nets: NetPair, lq: Tensor, gt: Tensor) -> str:
    optimizer = torch.optim.Adam(nets.student.net.parameters(), lr=1e-4)
    plan = nets.plan(lq, gt, optimizer, torch.nn.functional.l1_loss, iteration=0)
    if loss.self_trained_parameters():
        loss.prepare(plan)
    step = plan.run()
    terms: Any = loss(step)
    return _terms_problem(terms) or _gradients_problem(terms, loss, step)


def _terms_problem(terms: Any) -> str:
    if not isinstance(terms, Mapping):
        return f'forward(step) must return a dict of terms, got {type(terms).__name__}'
    if not terms:
        return 'forward(step) returned no term: nothing would be distilled'
    for name, value in terms.items():
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


def _gradients_problem(terms: Mapping[str, Tensor], loss: DistillationLoss, step: Step) -> str:
    weights = [p for module in (step.nets.student.net, loss) for p in module.parameters() if p.requires_grad]
    for name, value in terms.items():
        gradients: Sequence[Tensor | None] = ()
        if value.requires_grad:
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
        found = [g for g in gradients if g is not None]
        if not all(bool(torch.isfinite(g).all()) for g in found):
            return f'the term {name!r} has a gradient that is not finite on random images'
        if not any(bool(g.any()) for g in found):
            return f'the term {name!r} is cut off: {_NO_GRADIENT}'
    return ''


@contextmanager
def _left_alone(loss: DistillationLoss, nets: NetPair) -> Iterator[None]:
    """Inside the block everything trains; afterwards states, modes and gradients are what they were."""
    modules: list[nn.Module] = [nets.student.net, loss]
    before = [(module, copy.deepcopy(module.state_dict()), {m: m.training for m in module.modules()})
              for module in modules]
    gradients = {p: p.grad for module in modules for p in module.parameters()}
    for module in modules:
        module.train()
    try:
        yield
    finally:
        for module, state, modes in before:
            module.load_state_dict(state)
            for each, mode in modes.items():
                each.training = mode
        for parameter, gradient in gradients.items():
            parameter.grad = gradient
