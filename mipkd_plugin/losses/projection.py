"""What losses share that project the student's feature to the teacher's width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from basicsr.archs import build_network
from torch import Tensor, nn

from mipkd_plugin.archs.projection_arch import FeatureProjection
from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.ranges import Taps


class ProjectionLoss(DistillationLoss):
    """A loss that projects the student's feature to the teacher's width: one :class:`FeatureProjection` a tap pair."""

    needs_taps = True

    def __init__(self, taps: Taps, feature_scale: str, momentum: float, loss_weight: float,
                 resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        self.loss_weight = loss_weight
        self.projection_options: dict[str, Any] = {'feature_scale': feature_scale, 'momentum': momentum}
        self.projections = nn.ModuleList()

    def build(self, pairs: Sequence[TapPair]) -> None:
        """Build the projections."""
        self.projections = nn.ModuleList(
            build_network({'type': 'FeatureProjection', 'student_channels': pair.student.channels,
                           'teacher_channels': pair.teacher.channels, **self.projection_options}) for pair in pairs)

    def scaled_networks(self) -> Sequence[FeatureProjection]:
        """The projections."""
        return cast(Sequence[FeatureProjection], self.projections)

    def projected(self, step: Step) -> list[tuple[FeatureProjection, Tensor, Tensor]]:
        """(projection, P(F_S / scale), F_T) at each tap pair."""
        return [(projection, projection(f_s), f_t)
                for projection, (f_s, f_t) in zip(self.scaled_networks(), self.features(step))]
