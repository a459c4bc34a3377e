"""Relational knowledge distillation (CVPR 2019, arXiv 1904.05068)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.losses.base import DistillationLoss, mean
from mipkd_plugin.losses.vectors import unit
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import PositiveFloat, Taps, Weight, checked
from mipkd_plugin.utils.registry import register

_SMALLEST_DISTANCE = 1e-12


def relative_distances(codes: Tensor) -> Tensor:
    """ψ_D, equation 5: Euclidean distances between samples over their mean (equation 6): (N, C) → (N, N).

    >>> relative_distances(torch.tensor([[0.], [1.], [2.]]))
    tensor([[0.0000, 0.7500, 1.5000],
            [0.7500, 0.0000, 0.7500],
            [1.5000, 0.7500, 0.0000]])

    Returns:
        The relative distances.
    """
    n = len(codes)
    distances = torch.cdist(codes, codes, compute_mode='donot_use_mm_for_euclid_dist')
    return distances / (distances.sum() / (n * (n - 1))).clamp_min(_SMALLEST_DISTANCE)


def angles(codes: Tensor) -> Tensor:
    """ψ_A, equation 9: cosine of the angle at sample i between samples j and k: (N, C) → (N, N, N)."""
    directions = unit(codes.unsqueeze(0) - codes.unsqueeze(1), dim=2)
    return directions @ directions.transpose(1, 2)


@register(LOSS_REGISTRY)
class RKDLoss(DistillationLoss):
    """25 · l_δ(distances) + 50 · l_δ(angles): match the distances and angles between the samples of a batch.

    l_δ is the smooth L1 distance with δ = 1 (Huber), as a mean over all pairs or triples, as in the authors' code
    (github.com/lenscloth/RKD). A sample is the mean of its feature over H×W, at each tap; mean over the taps (our
    choice: the paper embeds images, not maps). Under torchrun each rank relates its own samples.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        distance_weight: Weight of ``l_rkd_distance``.
        angle_weight: Weight of ``l_rkd_angle``.
        loss_weight: Common factor on both terms.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.

    Raises:
        ArgumentError: An option is out of range.
        ValueError: Both weights are 0.
    """

    needs_taps = True
    min_batch_size = 3
    min_batch_reason = 'an angle needs three samples, and the relative distance of two is always 1'

    @checked
    def __init__(self, taps: Taps = 3, distance_weight: Weight = 25.0, angle_weight: Weight = 50.0,
                 loss_weight: PositiveFloat = 1.0, resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        if not distance_weight and not angle_weight:
            raise ValueError('distance_weight and angle_weight are both 0: nothing would be distilled')
        self.weights = {'l_rkd_distance': loss_weight * distance_weight, 'l_rkd_angle': loss_weight * angle_weight}

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_rkd_distance`` and ``l_rkd_angle``, those whose weights are above 0."""
        codes = [(f_s.mean((2, 3)), f_t.mean((2, 3))) for f_s, f_t in self.features(step)]
        relations = {'l_rkd_distance': relative_distances, 'l_rkd_angle': angles}
        return {name: self.weights[name] * mean(F.smooth_l1_loss(relation(s), relation(t)) for s, t in codes)
                for name, relation in relations.items() if self.weights[name]}
