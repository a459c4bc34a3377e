"""The feature scale that networks which compare features share."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mipkd_plugin.utils.ranges import Share, checked

FeatureScale = Literal['running', 'none']


class ScaledFeatures(nn.Module):
    """A network that divides features by a running mean of |F_T|, so that weights mean the same for every architecture.

    EDSR and RCAN carry features of order 100 (img_range 255), SwinIR of order 1. Our choice; no paper says how.

    Args:
        feature_scale: ``running``: the scale is a running mean, a buffer saved with the network; ``none``: 1.
        momentum: Weight of the newest mean in the running mean.

    Raises:
        ArgumentError: An option is out of range.
    """

    scale: Tensor
    num_batches: Tensor

    @checked
    def __init__(self, feature_scale: FeatureScale = 'running', momentum: Share = 0.01) -> None:
        super().__init__()
        self.feature_scale = feature_scale
        self.momentum = momentum
        self.register_buffer('scale', torch.ones(()))
        self.register_buffer('num_batches', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update_scale(self, teacher_feature: Tensor) -> None:
        """Update the running mean with the mean of |F_T| of this batch (N, C, H, W), over all ranks; the first sets it.

        The buffers are replaced, not changed in place: earlier forward passes may still wait for their backward. A
        mean that is not finite is left out, as its step will be.
        """
        if self.feature_scale == 'none' or not self.training:
            return
        mean = teacher_feature.abs().mean().clamp_min(1e-12)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        finite = torch.isfinite(mean)
        new = torch.where(self.num_batches > 0, self.scale + self.momentum * (mean - self.scale), mean)
        self.scale = torch.where(finite, new, self.scale)
        self.num_batches = self.num_batches + finite
