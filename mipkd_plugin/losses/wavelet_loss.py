"""The wavelet loss of MTKD (arXiv 2404.09571, ECCV 2024), between the images of student and teacher."""

from __future__ import annotations

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.ranges import ArgumentError, Weight, checked
from mipkd_plugin.utils.registry import register


def haar(images: Tensor) -> tuple[Tensor, Tensor]:
    """One level of the orthonormal Haar transform; an odd side gets its last pixels twice.

    >>> low, high = haar(torch.ones(1, 3, 4, 4))
    >>> low[0, 0].tolist(), high.abs().max().item()
    ([[2.0, 2.0], [2.0, 2.0]], 0.0)

    Args:
        images: (N, C, H, W).

    Returns:
        The low band (N, C, H/2, W/2), and the three high bands (3, N, C, H/2, W/2): differences along the width, along
        the height, and of both.
    """
    height, width = images.shape[2:]
    if height % 2 or width % 2:
        images = F.pad(images, (0, width % 2, 0, height % 2), mode='replicate')
    left, right = images[..., ::2], images[..., 1::2]
    along, across = left + right, left - right
    bands = [(rows[..., ::2, :] + sign * rows[..., 1::2, :]) / 2 for sign in (1, -1) for rows in (along, across)]
    return bands[0], torch.stack(bands[1:])


@register(LOSS_REGISTRY)
class WaveletKDLoss(DistillationLoss):
    """λ_low |L(S(x)) − L(T(x))| + λ_high |H(S(x)) − H(T(x))|, with the bands of one level of the Haar transform.

    L is the low band and H are the three high bands, of all images of the batch; |·| is the mean absolute error. In
    MTKD the teacher is the aggregator of several teachers, ``teacher: {aggregate: FILE}``, and the pixel loss to the HR
    image has the weight 0.1.

    Args:
        low_weight: λ_low, weight of the term ``l_wavelet_low``.
        high_weight: λ_high, weight of the term ``l_wavelet_high``.

    Raises:
        ArgumentError: A weight is below 0, or both are 0.
    """

    @checked
    def __init__(self, low_weight: Weight = 1.0, high_weight: Weight = 1.0) -> None:
        super().__init__()
        if not low_weight and not high_weight:
            raise ArgumentError(type(self).__name__, {'low_weight': 'is 0, and so is high_weight: there is no term'})
        self.low_weight, self.high_weight = low_weight, high_weight

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute ``l_wavelet_low`` and ``l_wavelet_high``."""
        low, high = haar(step.student.output - step.teacher.output)  # linear: the bands of the difference
        terms = (('l_wavelet_low', self.low_weight, low), ('l_wavelet_high', self.high_weight, high))
        return {name: weight * band.abs().mean() for name, weight, band in terms if weight}
