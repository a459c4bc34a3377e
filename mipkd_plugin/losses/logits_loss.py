"""Distillation of the output image alone."""

from __future__ import annotations

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin import require
from mipkd_plugin.losses.base import DistillationLoss, logits_distance
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step


@register(LOSS_REGISTRY)
class LogitsKDLoss(DistillationLoss):
    """|S(x) − T(x)|: the student also learns the teacher's image ("logits" in the tables of the field).

    Args:
        loss_weight: λ_kd, weight of the term ``l_logits``.

    Raises:
        ValueError: ``loss_weight`` is no number above 0.
    """

    def __init__(self, loss_weight: float = 1.0) -> None:
        super().__init__()
        require.positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_logits': self.loss_weight * logits_distance(step)}
