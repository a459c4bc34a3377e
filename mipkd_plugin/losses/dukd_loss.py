"""DUKD: data upcycling knowledge distillation for image super-resolution (arXiv 2309.14162)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor

from mipkd_plugin.losses.upcycling import AUGMENTATIONS, Augmentation, UpcyclingLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import PositiveFloat, Share, Weight, checked
from mipkd_plugin.utils.registry import register


@register(LOSS_REGISTRY)
class DUKDLoss(UpcyclingLoss):
    """λ_in |T(u) − F⁻¹(S(F(u)))| + λ_out (|S(x↓) − x| + |S(x↓) − T(x↓)|): more training images.

    Zoom-in: u is a tile of the HR image y, as large as x, for which no ground truth exists, only the teacher's image;
    F is a chain of invertible augmentations (label consistency). Zoom-out: x↓ is x downsampled once more, with x as its
    ground truth. Joins any other loss: write LogitsKDLoss beside it for the paper's total. Our choice: one
    tile a sample and iteration, at a random place of the grid; one F for the whole batch; PyTorch's antialiased
    bicubic for x↓; x↓ is mirrored to a multiple of the networks' windows, where they have any.

    The student runs three times an iteration rather than once, and so does the teacher.

    Args:
        probability: p of each of the augmentations, drawn in the order invert, hflip, vflip, transpose.
        augmentations: Which ones to use.
        zoom_in_weight: λ_in of ``l_zoom_in``.
        zoom_out_weight: λ_out of ``l_zoom_out`` and ``l_zoom_out_logits``.
        loss_weight: Common factor on all terms.

    Raises:
        ArgumentError: An option is out of range.
        ValueError: Both weights are 0.
    """

    @checked
    def __init__(self, probability: Share = 0.3, augmentations: Sequence[Augmentation] = tuple(AUGMENTATIONS),
                 zoom_in_weight: Weight = 1.0, zoom_out_weight: Weight = 1.0,
                 loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__(probability, augmentations)
        self.zoom_in_weight, self.zoom_out_weight = loss_weight * zoom_in_weight, loss_weight * zoom_out_weight
        if not self.zoom_in_weight and not self.zoom_out_weight:
            raise ValueError('zoom_in_weight and zoom_out_weight are both 0: nothing would be distilled')

    def draw_tiles(self, gt: Tensor, height: int, width: int) -> Tensor:
        """One tile a sample of the HR images (N, C, sH, sW), from a grid of tiles (height, width)."""
        rows, columns = gt.shape[2] // height, gt.shape[3] // width
        places = torch.randint(rows * columns, (len(gt), ), generator=self._generator).tolist()
        corners = [(place // columns * height, place % columns * width) for place in places]
        return torch.stack([image[:, top:top + height, left:left + width]
                            for image, (top, left) in zip(gt, corners)])

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_zoom_in``, ``l_zoom_out`` and ``l_zoom_out_logits``, those whose weights are above 0."""
        terms: dict[str, Tensor] = {}
        if self.zoom_in_weight:
            terms['l_zoom_in'] = self.zoom_in_weight * self._zoom_in(step)
        if self.zoom_out_weight:
            of_truth, of_teacher = self._zoom_out(step)
            terms['l_zoom_out'] = self.zoom_out_weight * of_truth
            terms['l_zoom_out_logits'] = self.zoom_out_weight * of_teacher
        return terms

    def _zoom_in(self, step: Step) -> Tensor:
        tiles, steps = self.draw_tiles(step.gt, *step.lq.shape[2:]), self.draw_steps()
        label = step.nets.teacher.image(tiles)
        return (self.augmented_output(step.nets.student, tiles, steps) - label).abs().mean()

    def _zoom_out(self, step: Step) -> tuple[Tensor, Tensor]:
        truth, (of_student, of_teacher) = self.zoomed_out(step, [step.nets.student, step.nets.teacher])
        return (of_student - truth).abs().mean(), (of_student - of_teacher).abs().mean()
