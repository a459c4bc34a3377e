"""Distillation of the output image alone."""

from __future__ import annotations

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin.losses.base import DistillationLoss, logits_distance
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import PositiveFloat, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class LogitsKDLoss(DistillationLoss):
    """|S(x) − T(x)|: the student also learns the teacher's image ("logits" in the tables of the field).

    Args:
        loss_weight: λ_kd, weight of the term ``l_logits``.

    Raises:
        ArgumentError: ``loss_weight`` is not above 0.
    """

    @checked
    def __init__(self, loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__()
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_logits``."""
        return {'l_logits': self.loss_weight * logits_distance(step)}
