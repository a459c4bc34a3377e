"""FitNets: hints for thin deep nets (ICLR 2015, arXiv 1412.6550)."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.losses.base import ProjectingLoss, mean
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step


@register(LOSS_REGISTRY)
class FitNetLoss(ProjectingLoss):
    """λ · MSE(P F_S, F_T): the student's feature, projected to the teacher's width, shall be the teacher's.

    The hint loss of the paper's equation 3. Where we differ: P is a 1×1 convolution at each of several taps, it trains
    together with the reconstruction loss rather than in a stage before it, and features are divided by a running
    mean of |F_T| (our choices). Mean over elements and taps.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures`.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ of ``l_fitnet``.

    Raises:
        ValueError: An option is out of range.
    """

    def __init__(self, taps: int | Sequence[Sequence[str]] = 3, feature_scale: str = 'running',
                 momentum: float = 0.01, loss_weight: float = 1.0) -> None:
        super().__init__(taps, feature_scale, momentum, loss_weight)

    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_fitnet': self.loss_weight * mean(
            F.mse_loss(hint, f_t / projection.scale) for projection, hint, f_t in self.projected(step))}
