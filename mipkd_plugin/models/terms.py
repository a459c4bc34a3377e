"""Terms of a training step, by name."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def total_of(terms: Mapping[str, Tensor]) -> Tensor:
    """The sum of all terms."""
    return torch.stack(list(terms.values())).sum()


def free_name(name: str, taken: Mapping[str, Tensor]) -> str:
    """``name``, followed by a number if an earlier loss has a term with that name."""
    return next(n for n in [name, *(f'{name}_{i}' for i in range(2, len(taken) + 3))] if n not in taken)


def refuse_not_finite(terms: Mapping[str, Tensor], iteration: int) -> None:
    """Refuse a step whose loss is not finite.

    Args:
        terms: The terms of the step.
        iteration: Its number.

    Raises:
        FloatingPointError: Their sum is not finite.
    """
    if not torch.isfinite(total_of(terms)):
        raise FloatingPointError(
            f'iteration {iteration}: the loss is not finite ('
            + ', '.join(f'{name} = {value.item():.4g}' for name, value in terms.items())
            + '); go back to weights from before it went wrong, with a lower learning rate or lower weights of the '
            'losses')
