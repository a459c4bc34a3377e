"""Relational knowledge distillation (CVPR 2019, arXiv 1904.05068)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin import require
from mipkd_plugin.losses.base import DistillationLoss, mean, unit
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step

_SMALLEST_DISTANCE = 1e-12


def relative_distances(codes: Tensor) -> Tensor:
    """ψ_D, equation 5: Euclidean distances between samples over their mean (equation 6): (N, C) → (N, N)."""
    n = len(codes)
    distances = torch.cdist(codes, codes, compute_mode='donot_use_mm_for_euclid_dist')
    return distances / (distances.sum() / (n * (n - 1))).clamp_min(_SMALLEST_DISTANCE)


def angles(codes: Tensor) -> Tensor:
    """ψ_A, equation 9: cosine of the angle at sample i between samples j and k: (N, C) → (N, N, N)."""
    directions = unit(codes.unsqueeze(0) - codes.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)


@register(LOSS_REGISTRY)
class RKDLoss(DistillationLoss):
    """25 · l_δ(distances) + 50 · l_δ(angles): the samples of a batch shall lie to each other as the teacher has them.

    l_δ is the smooth L1 distance with δ = 1 (Huber), as a mean over all pairs or triples, as in the authors' code
    (github.com/lenscloth/RKD). A sample is the mean of its feature over H×W, at each tap; mean over the taps (our
    choice: the paper embeds images, not maps). Under torchrun each rank relates its own samples.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        distance_weight: Weight of ``l_rkd_distance``.
        angle_weight: Weight of ``l_rkd_angle``.
        loss_weight: Common factor on both terms.

    Raises:
        ValueError: An option is out of range.
    """

    needs_taps = True
    smallest_batch = 3
    why_batch = 'an angle needs three samples, and the relative distance of two is always 1'

    def __init__(self, taps: int | Sequence[Sequence[str]] = 3, distance_weight: float = 25.0,
                 angle_weight: float = 50.0, loss_weight: float = 1.0) -> None:
        super().__init__(taps)
        require.positive(loss_weight=loss_weight)
        require.between(0, math.inf, distance_weight=distance_weight, angle_weight=angle_weight)
        if not distance_weight and not angle_weight:
            raise ValueError('distance_weight and angle_weight are both 0: nothing would be distilled')
        self.weights = {'l_rkd_distance': loss_weight * distance_weight, 'l_rkd_angle': loss_weight * angle_weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        self.require_batch(step)
        codes = [(f_s.mean((2, 3)), f_t.mean((2, 3))) for f_s, f_t in self.features(step)]
        relations = {'l_rkd_distance': relative_distances, 'l_rkd_angle': angles}
        return {name: self.weights[name] * mean(F.smooth_l1_loss(relation(s), relation(t)) for s, t in codes)
                for name, relation in relations.items() if self.weights[name]}
