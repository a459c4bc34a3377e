"""The regressor of FitNets (ICLR 2015): a student's feature in the width of the teacher's."""

from __future__ import annotations

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.base import FeatureScale, ScaledFeatures
from mipkd_plugin.utils.ranges import Count, Share, checked
from mipkd_plugin.utils.registry import register


@register(ARCH_REGISTRY)
class FeatureProjection(ScaledFeatures):
    """P, a 1×1 convolution that trains with the student (one a tap pair), in units of the feature scale.

    Args:
        student_channels: Width C_S of the student's feature.
        teacher_channels: Width C_T of the teacher's feature.
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures` (our choice).
        momentum: Weight of the newest mean in the running scale.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, student_channels: Count, teacher_channels: Count, feature_scale: FeatureScale = 'running',
                 momentum: Share = 0.01) -> None:
        super().__init__(feature_scale, momentum)
        self.projection = nn.Conv2d(student_channels, teacher_channels, 1)

    def forward(self, student_feature: Tensor) -> Tensor:
        """P(F_S / scale): (N, C_S, H, W) → (N, C_T, H, W). Times ``scale`` it can enter the teacher."""
        projected: Tensor = self.projection(student_feature / self.scale)
        return projected
