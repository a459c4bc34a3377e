"""The further images of DUKD: augmented so that it can be undone, or downsampled once more (arXiv 2309.14162)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses.base import RandomizedLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.networks.tapped_net import TappedNet

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


class UpcyclingLoss(RandomizedLoss):
    """A loss of a student on further images that are made from the batch.

    Args:
        probability: p of each of the augmentations.
        augmentations: Which ones to use.
    """

    def __init__(self, probability: float, augmentations: Sequence[Augmentation]) -> None:
        super().__init__()
        self.probability = probability
        self.augmentations = list(augmentations)

    def draw_steps(self) -> list[Augmentation]:
        """The steps of F in this iteration."""
        drawn = torch.rand(len(self.augmentations), generator=self._generator) < self.probability
        return [name for name, chosen in zip(self.augmentations, drawn.tolist()) if chosen]

    def augmented_output(self, student: TappedNet, images: Tensor, steps: Sequence[Augmentation]) -> Tensor:
        """F⁻¹(S(F(x))), for images (N, C, H, W)."""
        return restore(student.image(augment(images, steps)), steps)

    def zoomed_out(self, step: Step, nets: Sequence[TappedNet]) -> tuple[Tensor, list[Tensor]]:
        """Run networks on the LR images, downsampled once more.

        Args:
            step: The iteration.
            nets: The networks.

        Returns:
            The LR images (N, C, H, W), which are the ground truth, and the image of each network, of the same size.

        Raises:
            ValueError: The LR images are too small.
        """
        scale = step.gt.shape[2] // step.lq.shape[2]
        height, width = (side // scale for side in step.lq.shape[2:])
        if not height or not width:
            raise ValueError(f'{type(self).__name__} zooms out by {scale}, and the LR images have only '
                             f'{tuple(step.lq.shape[2:])} pixels; take larger patches, or zoom_out_weight: 0')
        truth = step.lq[:, :, :height * scale, :width * scale]
        small = F.interpolate(truth, (height, width), mode='bicubic', align_corners=False, antialias=True).clamp(0, 1)
        window = math.lcm(*(window_size(net.net) for net in nets))
        padded = mirrored(small, height + -height % window, width + -width % window)
        return truth, [net.image(padded)[:, :, :height * scale, :width * scale] for net in nets]
