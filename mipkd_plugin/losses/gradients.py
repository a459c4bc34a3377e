"""How strongly each term of a training step pulls at the student, and whether it pulls the way the pixel loss does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

OF_HOST = 'l_g_total'
"""BasicSR's name of the sum of its own terms, in the step of a GAN."""
REFERENCES = ('l_pix', OF_HOST)
"""Terms of BasicSR's, with the first of which the others are compared."""


@dataclass(frozen=True)
class Pull:
    """The gradient of one term.

    Attributes:
        norm: Euclidean norm of d(term)/d(student's trainable parameters), weights of the term and of the schedule
            applied; 0 if no gradient reaches them.
        cosine: Cosine between this gradient and the gradient of the pixel loss, in [-1, 1]. In a GAN all its own terms
            take the place of the pixel loss. Only parameters that both reach count; None where one of them is 0 or
            there is no such term.
        trains_itself: Whether a gradient reaches parameters of a loss.
        is_cut: Whether no gradient reaches the student, not even one of zeros.
    """

    norm: float
    cosine: float | None = None
    trains_itself: bool = False
    is_cut: bool = False


def reference_of(names: Iterable[str]) -> str:
    """The term that the others are compared with: the pixel loss, or the sum of a GAN's terms."""
    given = set(names)
    return next((name for name in REFERENCES if name in given), REFERENCES[0])


def pulls(terms: Mapping[str, Tensor], student: nn.Module, losses: Iterable[nn.Module] = ()) -> dict[str, Pull]:
    """Measure the gradient of each term. Takes one backward pass for each, and keeps the graph for another.

    Leaves ``grad`` of all parameters and the random numbers as they are. Under torchrun a gradient is the mean over the
    ranks, as in the optimizer's step; all ranks must call this at the same time.

    Args:
        terms: The weighted terms of one training step, by name.
        student: The student, unwrapped.
        losses: Modules whose own parameters may train with it.

    Returns:
        The gradients, by name.
    """
    weights = [p for p in student.parameters() if p.requires_grad]
    own = [p for loss in losses for p in loss.parameters() if p.requires_grad]
    found: dict[str, list[Tensor | None]] = {}
    trains_itself = dict.fromkeys(terms, False)
    for name, value in terms.items():
        gradients: Sequence[Tensor | None] = [None] * (len(weights) + len(own))
        if value.requires_grad and gradients:
            gradients = torch.autograd.grad(value, [*weights, *own], retain_graph=True, allow_unused=True)
        found[name] = list(gradients[:len(weights)])
        trains_itself[name] = any(g is not None for g in gradients[len(weights):])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        found = {name: _over_ranks(gradients, weights) for name, gradients in found.items()}
    pixel = found.get(reference_of(found))
    sums = [_sums(gradients, pixel or [None] * len(weights)) for gradients in found.values()]
    values = torch.stack(sums).tolist() if sums else []
    return {name: Pull(math.sqrt(square), _cosine(*products), trains_itself[name], all(g is None for g in found[name]))
            for name, (square, *products) in zip(found, values)}


def _sums(gradients: Sequence[Tensor | None], pixel: Sequence[Tensor | None]) -> Tensor:
    """|g|², and over the parameters that both reach: g·p, |g|², |p|². In float64; one tensor of four numbers."""
    device = next((g.device for g in (*gradients, *pixel) if g is not None), None)
    total = torch.zeros(4, dtype=torch.float64, device=device)
    for g, p in zip(gradients, pixel):
        if g is None:
            continue
        square = _product(g, g)
        total[0] += square
        if p is not None:
            total[1:] += torch.stack([_product(g, p), square, _product(p, p)])
    return total.to('cpu')


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.dot(a.reshape(-1).double(), b.reshape(-1).double())


def _cosine(product: float, square: float, other: float) -> float | None:
    length = math.sqrt(square * other) if square * other >= 0 else math.nan
    return None if length == 0 else max(-1.0, min(1.0, product / length)) if math.isfinite(length) else math.nan


def _over_ranks(gradients: Sequence[Tensor | None], weights: Sequence[Tensor]) -> list[Tensor | None]:
    """The mean of a gradient over all ranks. None only for parameters that it reaches on no rank."""
    if not weights:
        return []
    flat = torch.cat([(torch.zeros_like(w) if g is None else g).reshape(-1) for g, w in zip(gradients, weights)])
    reached = torch.tensor([float(g is not None) for g in gradients], device=flat.device)
    torch.distributed.all_reduce(flat)
    torch.distributed.all_reduce(reached)
    parts = torch.split(flat / torch.distributed.get_world_size(), [w.numel() for w in weights])
    return [part if is_reached else None for part, is_reached in zip(parts, (reached > 0).tolist())]


def shares(found: Mapping[str, Pull]) -> dict[str, float]:
    """Share of each term: its norm divided by the sum of the norms of all terms, in [0, 1].

    >>> shares({'l_pix': Pull(3.0), 'l_feat': Pull(1.0)})
    {'l_pix': 0.75, 'l_feat': 0.25}

    Returns:
        The shares, by name; all 0 where no term pulls.
    """
    total = sum(pull.norm for pull in found.values())
    return {name: pull.norm / total if total else 0.0 for name, pull in found.items()}


def over_batches(found: Sequence[Mapping[str, Pull]]) -> dict[str, Pull]:
    """The mean over several batches: of the norms, and of the cosines where there is one."""
    names = dict.fromkeys(name for each in found for name in each)
    mean: dict[str, Pull] = {}
    for name in names:
        own = [each[name] for each in found if name in each]
        cosines = [pull.cosine for pull in own if pull.cosine is not None]
        mean[name] = Pull(sum(pull.norm for pull in own) / len(own), sum(cosines) / len(cosines) if cosines else None,
                          any(pull.trains_itself for pull in own), all(pull.is_cut for pull in own))
    return mean
