"""FAKD: feature-affinity based knowledge distillation for super-resolution (ICIP 2020)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin import require
from mipkd_plugin.losses.base import DrawingLoss, mean, unit
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step


def affinity(vectors: Tensor) -> Tensor:
    """A = F̂ᵀ F̂ with each position's vector scaled to unit length: (N, C, P) → (N, P, P)."""
    directions = unit(vectors, dim=1)
    return directions.transpose(1, 2) @ directions


@register(LOSS_REGISTRY)
class FAKDLoss(DrawingLoss):
    """10 · |A_S − A_T|: positions of the student's feature shall be as similar to each other as the teacher's are.

    The spatial affinity of the paper and of the authors' code (github.com/Vincent-Hoo/Knowledge-Distillation-for-
    Super-resolution at 1ed28d9), mean over elements and taps. Write LogitsKDLoss beside it for the paper's total.

    Memory: a matrix takes 4 N (HW)² bytes, 21 MB at N = 16 and 24×24, 340 MB at 48×48. Autograd keeps one a tap until
    the backward pass (A_S − A_T), and two more live while a tap is computed: 1.7 GB for three taps at 48×48.
    ``positions`` puts positions² in the place of (HW)².

    Args:
        taps: Number of taps (the paper has three), evenly spaced over both trunks, or a list of
            [student module, teacher module].
        positions: How many of the H·W positions to relate, drawn anew in each iteration; None: all of them, as in
            the paper. Sampling is our choice; it leaves the expected value of the loss nearly as it is (only the
            share of the diagonal, which is 0, grows).
        loss_weight: Weight of ``l_fakd``.

    Raises:
        ValueError: An option is out of range.
    """

    needs_taps = True

    def __init__(self, taps: int | Sequence[Sequence[str]] = 3, positions: int | None = None,
                 loss_weight: float = 10.0) -> None:
        super().__init__(taps)
        if positions is not None:
            require.whole(2, positions=positions)
        self.positions = positions
        require.positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        distances = []
        for f_s, f_t in self.features(step):
            f_s, f_t = f_s.flatten(2), f_t.flatten(2)
            if self.positions is not None and self.positions < f_s.shape[2]:
                order = torch.randperm(f_s.shape[2], generator=self._generator)[:self.positions].to(f_s.device)
                f_s, f_t = f_s[:, :, order], f_t[:, :, order]
            distances.append((affinity(f_s) - affinity(f_t)).abs().mean())
        return {'l_fakd': self.loss_weight * mean(distances)}
