"""A control of DUKD (arXiv 2309.14162): its further images, with ground truth for labels and without the teacher."""

from __future__ import annotations

from collections.abc import Sequence

from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin.losses.upcycling import AUGMENTATIONS, Augmentation, UpcyclingLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import PositiveFloat, Share, Weight, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class AugmentedPixelLoss(UpcyclingLoss):
    """λ_in |y − F⁻¹(S(F(x)))| + λ_out |S(x↓) − x|: no method of distillation, but a control of ``DUKDLoss``.

    It tells what more images alone are worth (our choice): the student trains on augmented and on downsampled images
    as with ``DUKDLoss``, but the ground truth is the label and nothing looks at the teacher. F augments the LR images
    x, because the HR tiles of DUKD have no ground truth; x↓ is x downsampled once more, with x as its ground truth. F,
    p and x↓ are those of ``DUKDLoss``, and the pixel loss stands beside it as always.

    The student runs three times an iteration rather than once. The teacher runs once for nothing, since the model
    runs it whatever the loss: its step time counts that.

    Args:
        probability: p of each of the augmentations, drawn in the order invert, hflip, vflip, transpose.
        augmentations: Which ones to use.
        zoom_in_weight: λ_in of ``l_augmented``.
        zoom_out_weight: λ_out of ``l_zoom_out``.
        loss_weight: Common factor on both terms.

    Raises:
        ArgumentError: An option is out of range.
        ValueError: Both weights are 0.
    """

    uses_teacher = False

    @checked
    def __init__(self, probability: Share = 0.3, augmentations: Sequence[Augmentation] = tuple(AUGMENTATIONS),
                 zoom_in_weight: Weight = 1.0, zoom_out_weight: Weight = 1.0,
                 loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__(probability, augmentations)
        self.zoom_in_weight, self.zoom_out_weight = loss_weight * zoom_in_weight, loss_weight * zoom_out_weight
        if not self.zoom_in_weight and not self.zoom_out_weight:
            raise ValueError('zoom_in_weight and zoom_out_weight are both 0: there would be no further images')

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_augmented`` and ``l_zoom_out``, those whose weights are above 0."""
        terms: dict[str, Tensor] = {}
        if self.zoom_in_weight:
            output = self.augmented_output(step.nets.student, step.lq, self.draw_steps())
            terms['l_augmented'] = self.zoom_in_weight * (output - step.gt).abs().mean()
        if self.zoom_out_weight:
            truth, (output, ) = self.zoomed_out(step, [step.nets.student])
            terms['l_zoom_out'] = self.zoom_out_weight * (output - truth).abs().mean()
        return terms
