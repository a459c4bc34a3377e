"""CrossKD: cross-head knowledge distillation (CVPR 2024, arXiv 2306.11369), carried over to super-resolution."""

from __future__ import annotations

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin.archs.base import FeatureScale
from mipkd_plugin.losses.base import ProjectionLoss, mean
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import PositiveFloat, Share, Taps, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class CrossKDLoss(ProjectionLoss):
    """λ · |T_{>k}(P F_S) − T(x)|: the student's feature runs through the rest of the teacher to its image.

    The paper sends features of the student's detection head into the teacher's head; here the taps cut the trunk, and
    the rest of the teacher is the blocks behind the tap and its upsampler. The projection P (1×1), its feature scale
    and the mean over several taps are our choice. Gradients pass through the teacher, never into it.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student block, teacher block].
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures`.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ of ``l_crosskd``.
        resample: ``area`` or ``bilinear``, see :class:`~mipkd_plugin.losses.base.DistillationLoss`.

    Raises:
        ArgumentError: An option is out of range.
    """

    reenters_network = True
    reentered = ('teacher', )

    @checked
    def __init__(self, taps: Taps = 3, feature_scale: FeatureScale = 'running', momentum: Share = 0.01,
                 loss_weight: PositiveFloat = 1.0, resample: Resample | None = None) -> None:
        super().__init__(taps, feature_scale, momentum, loss_weight, resample)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_crosskd``."""
        images = [step.nets.teacher.finish(step.lq, t, projected * projection.scale)
                  for (projection, projected, _), (_, t) in zip(self.projected(step), self.pairs)]
        return {'l_crosskd': self.loss_weight * mean((image - step.teacher.output).abs().mean() for image in images)}
