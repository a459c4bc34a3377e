"""How far a network looks: how many pixels around a tile it needs so that the tile comes out as in the whole image."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

TOLERANCE = 1e-5
"""The largest difference between tiles and the whole image that counts as none, of values from 0 to 1."""
_SAFETY = 1.25  # images differ from the one that is measured on (our choice)
_DISTANCES = (32, 64, 128)
_ROWS = 32


class Reach(NamedTuple):
    """How many pixels of context a tile needs.

    Attributes:
        pixels: The context, in pixels of the low-resolution image.
        difference: The largest difference that is left with this context, of values from 0 to 1.
    """

    pixels: int
    difference: float

    @property
    def is_local(self) -> bool:
        """Whether tiles equal the whole image; not so with attention over the whole image or pooling of it."""
        return self.difference <= TOLERANCE


def reach(run: Callable[[Tensor], Tensor], channels: int, scale: int, multiple: int = 1) -> Reach:
    """Measure how far a network looks, on a strip of random texture of all scales.

    The strip is run whole, and again without its left half. Where both agree, the cut is too far away to matter.
    A receptive field counted from the layers would be safe as well, but is far larger where many layers hardly look
    around: 350 pixels for an RRDBNet of 23 blocks, of which 60 matter.

    Args:
        run: The network: (1, C, H, W) to (1, C, sH, sW).
        channels: C.
        scale: Scale factor s.
        multiple: What both sides must be multiples of.

    Returns:
        The context that is needed; if no context is enough, the one behind which more hardly helps.
    """
    found = Reach(0, 0.0)
    for distance in _DISTANCES:
        length = -(-distance // multiple) * multiple
        rows = -(-_ROWS // multiple) * multiple
        strip = _texture(channels, rows, 2 * length)
        whole, part = run(strip)[..., length * scale:], run(strip[..., length:])
        columns = (whole - part).abs().amax((0, 1, 2)).view(length, scale).amax(1).cpu()
        left = columns.flip(0).cummax(0).values.flip(0)  # the largest difference from here on
        plateau = float(left[-length // 4])
        found = _chosen(left, max(TOLERANCE / 4, 2 * plateau))
        if plateau <= TOLERANCE / 4:
            break
    return found


def _chosen(left: Tensor, allowed: float) -> Reach:
    pixels = int(_SAFETY * int((left > allowed).sum()) + 0.999)
    return Reach(pixels, float(left[min(pixels, len(left) - 1)]))


def _texture(channels: int, height: int, width: int) -> Tensor:
    """Random texture of all scales, as photographs have it, from 0 to 1; (1, channels, height, width)."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(1, channels, height, width)
    for cell in (1, 2, 4, 8, 16, 32):
        noise = torch.randn(1, channels, -(-height // cell) + 1, -(-width // cell) + 1, generator=generator)
        total += functional.interpolate(noise, scale_factor=cell, mode='bilinear')[..., :height, :width]
    return ((total - total.mean()) / (6 * total.std()) + 0.5).clamp(0, 1)
