"""Attention transfer (ICLR 2017, arXiv 1612.03928)."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.losses.base import DistillationLoss, mean
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import PositiveFloat, Taps, checked
from mipkd_plugin.utils.registry import register


def attention_map(feature: Tensor) -> Tensor:
    """Q = vec(mean_c F²) / ‖·‖₂: (N, C, H, W) → (N, HW), whatever the width C and the scale of the feature.

    >>> import torch
    >>> feature = torch.rand(2, 8, 4, 4)
    >>> attention_map(100 * feature).allclose(attention_map(feature))
    True

    Returns:
        The attention maps.
    """
    wide = feature.to(torch.promote_types(feature.dtype, torch.float32))  # squares leave the range of float16
    return F.normalize(wide.pow(2).mean(1).flatten(1), dim=1)


@register(LOSS_REGISTRY)
class AttentionTransferLoss(DistillationLoss):
    """β · mean (Q_S − Q_T)²: make the student active at the positions where the teacher is.

    The activation-based form of the paper with F² (its equation 2), as the mean over positions, samples and taps with
    β = 1000, as in the authors' code (github.com/szagoruyko/attention-transfer).

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        loss_weight: β of ``l_at``.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.

    Raises:
        ArgumentError: An option is out of range.
    """

    needs_taps = True

    @checked
    def __init__(self, taps: Taps = 3, loss_weight: PositiveFloat = 1000.0, resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_at``."""
        return {'l_at': self.loss_weight * mean(
            F.mse_loss(attention_map(f_s), attention_map(f_t)) for f_s, f_t in self.features(step))}
