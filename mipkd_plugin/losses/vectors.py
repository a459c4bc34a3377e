"""Vectors of length 1."""

from __future__ import annotations

import torch
from torch import Tensor

_SMALLEST_LENGTH = 1e-6


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Scale vectors to length 1 along ``dim``. Zero vectors stay 0 and get no gradient (it would be infinite).

    >>> unit(torch.tensor([[3., 4.], [0., 0.]]), dim=1)
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])

    Returns:
        Vectors of the same shape.
    """
    length = vectors.norm(dim=dim, keepdim=True)
    return torch.where(length > _SMALLEST_LENGTH, vectors / length.clamp_min(_SMALLEST_LENGTH), 0.0)
