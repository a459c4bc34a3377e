"""CrossKD: cross-head knowledge distillation (CVPR 2024, arXiv 2306.11369), carried over to super-resolution."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin.losses.base import ProjectingLoss, mean
from mipkd_plugin.registration import register
from mipkd_plugin.step import Step


@register(LOSS_REGISTRY)
class CrossKDLoss(ProjectingLoss):
    """λ · |T_{>k}(P F_S) − T(x)|: the student's feature runs through the rest of the frozen teacher to the same image.

    The paper sends features of the student's detection head into the teacher's head; here the taps cut the trunk, and
    the rest of the teacher is the blocks behind the tap and its upsampler. The projection P (1×1), its feature scale
    and the mean over several taps are our choice. Gradients pass through the teacher, never into it.

    Args:
        taps: Number of taps, evenly spaced over both trunks, or a list of [student block, teacher block].
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures`.
        momentum: Weight of the newest batch in the running feature scale.
        loss_weight: λ of ``l_crosskd``.

    Raises:
        ValueError: An option is out of range.
    """

    reenters = True

    def __init__(self, taps: int | Sequence[Sequence[str]] = 3, feature_scale: str = 'running',
                 momentum: float = 0.01, loss_weight: float = 1.0) -> None:
        super().__init__(taps, feature_scale, momentum, loss_weight)

    def forward(self, step: Step) -> dict[str, Tensor]:
        images = [step.teacher_net.finish(step.lq, t, hint * projection.scale)
                  for (projection, hint, _), (_, t) in zip(self.projected(step), self.pairs)]
        return {'l_crosskd': self.loss_weight * mean((image - step.teacher.output).abs().mean() for image in images)}
