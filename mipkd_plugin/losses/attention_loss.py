"""Attention transfer (ICLR 2017, arXiv 1612.03928)."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin import require
from mipkd_plugin.losses.base import DistillationLoss, mean
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step


def attention_map(feature: Tensor) -> Tensor:
    """Q = vec(mean_c F²) / ‖·‖₂: (N, C, H, W) → (N, HW), whatever the width C and the scale of the feature."""
    return F.normalize(feature.pow(2).mean(1).flatten(1), dim=1)


@register(LOSS_REGISTRY)
class AttentionTransferLoss(DistillationLoss):
    """β · mean (Q_S − Q_T)²: student and teacher shall be active at the same positions.

    The activation-based form of the paper with F² (its equation 2), as the mean over positions, samples and taps with
    β = 1000, like the authors' code (github.com/szagoruyko/attention-transfer).

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        loss_weight: β of ``l_at``.

    Raises:
        ValueError: An option is out of range.
    """

    needs_taps = True

    def __init__(self, taps: int | Sequence[Sequence[str]] = 3, loss_weight: float = 1000.0) -> None:
        super().__init__(taps)
        require.positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_at': self.loss_weight * mean(
            F.mse_loss(attention_map(f_s), attention_map(f_t)) for f_s, f_t in self.features(step))}
