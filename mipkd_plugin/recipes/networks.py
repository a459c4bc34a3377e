"""What the rules of ``mipkd distill`` want to know of a network: its trunk, its width, its depth."""

from __future__ import annotations

import math
from collections import Counter

import torch
from torch import nn

from mipkd_plugin.networks.trunk import TapError, trunk_of
from mipkd_plugin.utils.errors import FOREIGN_ERRORS


def trunk_size(net: nn.Module, unit: int) -> tuple[int, int]:
    """Look for the trunk of a network.

    Args:
        net: The network.
        unit: What the sides of images must be multiples of.

    Returns:
        Number of blocks in its trunk, 0 if it has none, and its width in channels.
    """
    side = math.ceil(8 / unit) * unit
    try:
        chain = trunk_of(net, torch.rand(1, 3, side, side))
    except (TapError, *FOREIGN_ERRORS):
        return 0, width_of(net)
    return len(chain.paths), chain.channels or width_of(net)


def width_of(net: nn.Module) -> int:
    """Channels of most layers: a guess at the width of a network without a trunk."""
    counts = Counter(module.weight.shape[0] for module in net.modules()
                     if isinstance(module, (nn.Conv2d, nn.Linear)))
    return counts.most_common(1)[0][0] if counts else 64


def layers_of(net: nn.Module) -> int:
    """Number of convolutions, those of single pixels left out."""
    return sum(isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1 for module in net.modules())


def attends(net: nn.Module) -> bool:
    """Whether a network is a transformer: it normalizes tokens."""
    return any(isinstance(module, nn.LayerNorm) for module in net.modules())
