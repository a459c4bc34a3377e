"""DUKD: data upcycling knowledge distillation for image super-resolution (arXiv 2309.14162)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses.base import RandomizedLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import PositiveFloat, Share, Weight, checked
from mipkd_plugin.utils.registry import register

Augmentation = Literal['invert', 'hflip', 'vflip', 'transpose']
AUGMENTATIONS: dict[Augmentation, Callable[[Tensor], Tensor]] = {
    'invert': lambda images: 1 - images,
    'hflip': lambda images: images.flip(3),
    'vflip': lambda images: images.flip(2),
    'transpose': lambda images: images.transpose(2, 3),
}
"""Invertible augmentations, each the inverse of itself, of images (N, C, H, W) in [0, 1]."""


def augment(images: Tensor, steps: Sequence[Augmentation]) -> Tensor:
    """F: apply augmentations in the given order."""
    for name in steps:
        images = AUGMENTATIONS[name](images)
    return images


def restore(images: Tensor, steps: Sequence[Augmentation]) -> Tensor:
    """F⁻¹: undo the steps in reverse order, on augmented images or on a network's output for them.

    >>> images, steps = torch.rand(1, 3, 4, 6), ['hflip', 'transpose']
    >>> restore(augment(images, steps), steps).equal(images)
    True

    Returns:
        Images (N, C, H, W).
    """
    return augment(images, list(reversed(steps)))


def window_size(net: nn.Module) -> int:
    """Find the window size of a network.

    BasicSR's SwinIR does not store the size of its windows, only its blocks do.

    Returns:
        Height and width of an image must be multiples of it; 1 for a network without attention in windows.
    """
    found = (getattr(module, 'window_size', 1) for module in net.modules())
    return math.lcm(*(size for size in found if isinstance(size, int) and size > 0))


def mirrored(images: Tensor, height: int, width: int) -> Tensor:
    """Extend images (N, C, h, w) to the right and below by reflection, to any size."""
    for dim, side in ((2, height), (3, width)):
        last = images.shape[dim] - 1
        places = torch.arange(side, device=images.device) % max(2 * last, 1)
        images = images.index_select(dim, torch.minimum(places, 2 * last - places))
    return images


@register(LOSS_REGISTRY)
class DUKDLoss(RandomizedLoss):
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
        super().__init__()
        self.probability = probability
        self.augmentations = list(augmentations)
        self.zoom_in_weight, self.zoom_out_weight = loss_weight * zoom_in_weight, loss_weight * zoom_out_weight
        if not self.zoom_in_weight and not self.zoom_out_weight:
            raise ValueError('zoom_in_weight and zoom_out_weight are both 0: nothing would be distilled')

    def draw_steps(self) -> list[Augmentation]:
        """The steps of F in this iteration."""
        drawn = torch.rand(len(self.augmentations), generator=self._generator) < self.probability
        return [name for name, chosen in zip(self.augmentations, drawn.tolist()) if chosen]

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
        return (restore(step.nets.student.image(augment(tiles, steps)), steps) - label).abs().mean()

    def _zoom_out(self, step: Step) -> tuple[Tensor, Tensor]:
        scale = step.gt.shape[2] // step.lq.shape[2]
        height, width = (side // scale for side in step.lq.shape[2:])
        if not height or not width:
            raise ValueError(f'DUKDLoss zooms out by {scale}, and the LR images have only {tuple(step.lq.shape[2:])} '
                             'pixels; take larger patches, or zoom_out_weight: 0')
        truth = step.lq[:, :, :height * scale, :width * scale]
        small = F.interpolate(truth, (height, width), mode='bicubic', align_corners=False, antialias=True).clamp(0, 1)
        window = math.lcm(*(window_size(net.net) for net in step.nets))
        padded = mirrored(small, height + -height % window, width + -width % window)
        of_student, of_teacher = (net.image(padded)[:, :, :height * scale, :width * scale]
                                  for net in step.nets)
        return (of_student - truth).abs().mean(), (of_student - of_teacher).abs().mean()
