"""What networks that compare features have in common: a feature scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mipkd_plugin import require

FEATURE_SCALES = ('running', 'none')


class ScaledFeatures(nn.Module):
    """A network that divides features by a running mean of |F_T|, so that weights mean the same for every architecture.

    EDSR and RCAN carry features of order 100 (img_range 255), SwinIR of order 1. Our choice; no paper says how.

    Args:
        feature_scale: ``running``: the scale is a running mean, a buffer saved with the network; ``none``: 1.
        momentum: Weight of the newest mean in the running mean.

    Raises:
        ValueError: An option is out of range; the message names it.
    """

    scale: Tensor
    num_batches: Tensor

    def __init__(self, feature_scale: str = 'running', momentum: float = 0.01) -> None:
        super().__init__()
        require.one_of(FEATURE_SCALES, feature_scale=feature_scale)
        require.between(0, 1, momentum=momentum)
        self.feature_scale = feature_scale
        self.momentum = momentum
        self.register_buffer('scale', torch.ones(()))
        self.register_buffer('num_batches', torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def update_scale(self, teacher_feature: Tensor) -> None:
        """Take the mean of |F_T| of this batch (N, C, H, W), over all ranks, into the running mean; the first sets it.

        The buffers are replaced, not changed in place: earlier forward passes may still wait for their backward.
        """
        if self.feature_scale == 'none' or not self.training:
            return
        mean = teacher_feature.abs().mean().clamp_min(1e-12)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(mean)
            mean /= torch.distributed.get_world_size()
        self.scale = torch.where(self.num_batches > 0, self.scale + self.momentum * (mean - self.scale), mean)
        self.num_batches = self.num_batches + 1
