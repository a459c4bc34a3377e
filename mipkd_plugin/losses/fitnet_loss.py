"""FitNets: hints for thin deep nets (ICLR 2015, arXiv 1412.6550)."""

from __future__ import annotations

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.archs.base import FeatureScale
from mipkd_plugin.losses.base import ProjectionLoss, mean
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import PositiveFloat, Share, Taps, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class FitNetLoss(ProjectionLoss):
    """λ · MSE(P F_S, F_T): match the teacher's feature (the hint) with the student's, projected to its width.

    The hint loss of the paper's equation 3. Where we differ: P is a 1×1 convolution at each of several taps, it trains
    together with the reconstruction loss rather than in a stage before it, and features are divided by a running
    mean of |F_T| (our choices). Mean over elements and taps.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student module, teacher module].
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures`.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ of ``l_fitnet``.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, taps: Taps = 3, feature_scale: FeatureScale = 'running', momentum: Share = 0.01,
                 loss_weight: PositiveFloat = 1.0, resample: Resample | None = None) -> None:
        super().__init__(taps, feature_scale, momentum, loss_weight, resample)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_fitnet``."""
        return {'l_fitnet': self.loss_weight * mean(
            F.mse_loss(projected, hint / projection.scale) for projection, projected, hint in self.projected(step))}
