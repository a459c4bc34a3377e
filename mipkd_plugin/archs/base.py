"""What networks that compare features have in common: a feature scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

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
        if feature_scale not in FEATURE_SCALES:
            raise ValueError(f'feature_scale must be one of {", ".join(FEATURE_SCALES)}, got {feature_scale!r}')
        if isinstance(momentum, bool) or not isinstance(momentum, (int, float)) or not 0 < momentum <= 1:
            raise ValueError(f'momentum must lie above 0 and not above 1, got {momentum!r}')
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


def require_whole(**options: object) -> None:
    """Refuse options that are no whole number of at least 1.

    Raises:
        ValueError: Names the first such option.
    """
    for name, number in options.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise ValueError(f'{name} must be a whole number of at least 1, got {number!r}')


def require_odd(**options: object) -> None:
    """Refuse kernel sizes that are not odd and positive.

    Raises:
        ValueError: Names the first such option.
    """
    for name, size in options.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1 or size % 2 == 0:
            raise ValueError(f'{name} must be odd and positive, got {size!r}')
