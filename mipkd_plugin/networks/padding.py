"""Image sizes that a network takes: find the multiple that it needs, and pad images to it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.outputs import OutputError, images_in
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_ODD_SIZES = ((13, 11), (43, 41), (71, 67))
"""A network that takes one of these takes sides of any remainder; some need more pixels than the first has."""
LARGEST = 64
_SMALLEST_SIDE = 16


def needed_multiple(net: nn.Module, channels: int, scale: int) -> int:
    """Find the number that both sides of an image must be multiples of, by trying small random images.

    A size counts as taken if the network runs and enlarges it by ``scale``. The sides of each try are two multiples
    of the number that have no further divisor in common, so that no smaller window can hide behind a larger one.

    Args:
        net: The network, unwrapped; it is left as it is.
        channels: Number of channels of the images.
        scale: Scale factor.

    Returns:
        The number; 1 if the network takes any size, or if no number up to ``LARGEST`` helps.
    """
    device = next((parameter.device for parameter in net.parameters()), torch.device('cpu'))

    def takes(height: int, width: int) -> bool:
        lq = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(0)).to(device)
        try:
            output = net(lq)
        except OutputError as error:  # it runs; which of its outputs is the image is another question
            return bool(images_in(error.returned, (channels, height * scale, width * scale)))
        except FOREIGN_ERRORS:
            return False
        return isinstance(output, Tensor) and output.shape[2:] == (height * scale, width * scale)

    with evaluating(net), random_numbers_restored([device] if device.type == 'cuda' else []):
        if any(takes(*size) for size in _ODD_SIZES):
            return 1
        for number in range(2, LARGEST + 1):
            short = -(-_SMALLEST_SIDE // number) * number
            if takes(short, short + number) and takes(short + number, short):
                return number
    return 1


def padded(lq: Tensor, multiple: int) -> Tensor:
    """Pad images at the bottom and at the right by reflection, as BasicSR's SwinIRModel does.

    Images smaller than the padding are reflected more than once.

    Args:
        lq: Images (N, C, H, W).
        multiple: What both sides become multiples of.

    Returns:
        Images (N, C, H', W'); the images themselves if there is nothing to pad.
    """
    height, width = (-(-side // multiple) * multiple for side in lq.shape[2:])
    return padded_to(lq, height, width)


def padded_to(lq: Tensor, height: int, width: int) -> Tensor:
    """Pad images at the bottom and at the right by reflection, to a size.

    Args:
        lq: Images (N, C, H, W).
        height: H'.
        width: W'.

    Returns:
        Images (N, C, H', W'), reflected more than once where they are smaller than the padding; a side that is larger
        stays as it is.
    """
    for axis, wanted in ((2, height), (3, width)):
        side = lq.shape[axis]
        if wanted > side:
            turn = max(2 * (side - 1), 1)
            index = torch.arange(wanted, device=lq.device) % turn
            lq = lq.index_select(axis, torch.minimum(index, turn - index))
    return lq
