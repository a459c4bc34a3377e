"""CSD: towards compact single image super-resolution via contrastive self-distillation (IJCAI 2021, 2105.11683)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.vgg_features import VGGFeatures
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import Count, PositiveFloat, Weight, checked
from mipkd_plugin.utils.registry import register

_SMALLEST_DISTANCE = 1e-7


def contrast(anchor: Sequence[Tensor], positive: Sequence[Tensor], negative: Sequence[Tensor],
             layer_weights: Sequence[float], num_negatives: int | None = None) -> Tensor:
    """Compute Σ_i w_i |V_i(S) − V_i(T)| / mean over the negatives of |V_i(S) − V_i(neg)|.

    Args:
        anchor: V_1..V_5 of the student's images, each (N, C_i, H_i, W_i).
        positive: V_1..V_5 of the teacher's images.
        negative: V_1..V_5 of one negative per sample; the negatives of a sample are the ones of the other samples.
        layer_weights: w_i.
        num_negatives: How many of the others to take; None: all N − 1.

    Returns:
        A scalar.
    """
    count = len(anchor[0]) - 1 if num_negatives is None else min(num_negatives, len(anchor[0]) - 1)
    terms = []
    for weight, a, p, n in zip(layer_weights, anchor, positive, negative):
        away = torch.stack([(a - n.roll(shift, 0)).abs().mean() for shift in range(1, count + 1)]).mean()
        terms.append(weight * (a - p).abs().mean() / (away + _SMALLEST_DISTANCE))
    return torch.stack(terms).sum()


@register(LOSS_REGISTRY)
class CSDLoss(DistillationLoss):
    """λ · Σ_i w_i |V_i(S) − V_i(T)| / mean_neg |V_i(S) − V_i(neg)|, w = 1/32, 1/16, 1/8, 1/4, 1.

    The contrastive term of CSD alone: the paper trains the student as a slice of the teacher's channels jointly with
    it, and a frozen teacher rules that out. V_i are features of VGG-19; negatives are the LR images of the
    batch's other samples, upsampled bicubically. As in the authors' code (github.com/Booooooooooo/CSD at ab8570f)
    distances are means over the batch. Its λ = 200 goes with images in [0, 255], as our 1 with [0, 1]. Images are
    normalized as VGG-19 was trained (our choice).

    Args:
        weights: File with torchvision's VGG-19 (``vgg19-dcbb9e9d.pth``); None: torchvision downloads it.
        num_negatives: Negatives a sample; None: all others of the batch (the paper has 10).
        layer_weights: w_1..w_5.
        loss_weight: λ of ``l_csd``.

    Raises:
        ArgumentError: An option is out of range.
        WeightFileError: The weights are missing or do not fit.
    """

    min_batch_size = 2
    min_batch_reason = 'the negatives of a sample are the other ones'

    @checked
    def __init__(self, weights: str | None = None, num_negatives: Count | None = None,
                 layer_weights: Annotated[Sequence[Weight], Field(min_length=5, max_length=5)] = (
                     1 / 32, 1 / 16, 1 / 8, 1 / 4, 1), loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__()
        if not any(layer_weights):
            raise ValueError('layer_weights are all 0: nothing would be distilled')
        self.vgg = VGGFeatures(weights)
        self.num_negatives = num_negatives
        self.layer_weights = list(layer_weights)
        self.loss_weight = loss_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the term.

        Returns:
            ``l_csd``.

        Raises:
            ValueError: The images are not RGB.
        """
        if step.student.output.shape[1] != 3:
            raise ValueError(f'CSDLoss needs RGB images, as VGG-19 does, got {step.student.output.shape[1]} channels')
        with torch.no_grad():
            upsampled = F.interpolate(step.lq, step.gt.shape[2:], mode='bicubic', align_corners=False)
            positive, negative = self.vgg(step.teacher.output), self.vgg(upsampled)
        anchor = self.vgg(step.student.output)
        return {'l_csd': self.loss_weight * contrast(anchor, positive, negative, self.layer_weights,
                                                     self.num_negatives)}
