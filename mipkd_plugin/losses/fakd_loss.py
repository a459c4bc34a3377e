"""FAKD: feature-affinity based knowledge distillation for super-resolution (ICIP 2020)."""

from __future__ import annotations

from typing import Annotated

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor

from mipkd_plugin.losses.base import RandomizedLoss, mean
from mipkd_plugin.losses.vectors import unit
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import PositiveFloat, Taps, checked
from mipkd_plugin.utils.registry import register


def affinity(vectors: Tensor) -> Tensor:
    """A = F̂ᵀ F̂ with each position's vector scaled to unit length: (N, C, P) → (N, P, P)."""
    directions = unit(vectors, dim=1)
    return directions.transpose(1, 2) @ directions


@register(LOSS_REGISTRY)
class FAKDLoss(RandomizedLoss):
    """10 · |A_S − A_T|: match how similar the positions of a feature are to each other.

    The spatial affinity of the paper and of the authors' code (github.com/Vincent-Hoo/Knowledge-Distillation-for-
    Super-resolution at 1ed28d9), mean over elements and taps. Write LogitsKDLoss beside it for the paper's total.

    Memory: a matrix takes 4 N (HW)² bytes, 21 MB at N = 16 and 24×24, 340 MB at 48×48. Autograd keeps one per tap until
    the backward pass (A_S − A_T), and two more live while a tap is computed: 1.7 GB for three taps at 48×48. With
    ``positions`` it is positions² instead of (HW)².

    Args:
        taps: Number of taps (the paper has three), evenly spaced over both trunks, or a list of
            [student module, teacher module].
        positions: How many of the H·W positions to relate, drawn again in each iteration, at least 2; None: all
            of them, as in the paper. Sampling is our choice; the expected value of the loss hardly changes (only
            the share of the diagonal, which is 0, grows).
        loss_weight: Weight of ``l_fakd``.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.

    Raises:
        ArgumentError: An option is out of range.
    """

    needs_taps = True

    @checked
    def __init__(self, taps: Taps = 3, positions: Annotated[int, Field(ge=2)] | None = None,
                 loss_weight: PositiveFloat = 10.0, resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        self.positions = positions
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_fakd``."""
        distances = []
        for f_s, f_t in self.features(step):
            f_s, f_t = f_s.flatten(2), f_t.flatten(2)
            if self.positions is not None and self.positions < f_s.shape[2]:
                order = torch.randperm(f_s.shape[2], generator=self._generator)[:self.positions].to(f_s.device)
                f_s, f_t = f_s[:, :, order], f_t[:, :, order]
            distances.append((affinity(f_s) - affinity(f_t)).abs().mean())
        return {'l_fakd': self.loss_weight * mean(distances)}
