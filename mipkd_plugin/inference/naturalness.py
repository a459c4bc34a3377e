"""NIQE: how natural an image looks, without an original. Images are as in :mod:`pictures`."""

from __future__ import annotations

import inspect
import math
import warnings

import numpy as np
from basicsr.metrics.niqe import calculate_niqe

from mipkd_plugin.inference.pictures import Pixels

BLOCK = 96
"""Side of the blocks that NIQE cuts an image into."""
NEEDS = f'two blocks of {BLOCK}×{BLOCK} pixels that are not flat'
"""What an image must have: of one block there is no covariance, and a flat one has no statistics."""


def niqe(image: Pixels, border: int) -> float:
    """NIQE by BasicSR's own function, of the Y channel; lower is better.

    Args:
        image: The image.
        border: Pixels left out at each edge.

    Returns:
        NIQE; NaN for an image that lacks what it :data:`NEEDS`, where BasicSR's function fails.
    """
    down, across = ((side - 2 * border) // BLOCK for side in image.shape[:2])
    if min(down, across) < 1 or down * across < 2:
        return math.nan
    with warnings.catch_warnings(), np.errstate(all='ignore'):
        warnings.simplefilter('ignore')  # of blocks that are flat in part
        try:
            return float(inspect.unwrap(calculate_niqe)(image, crop_border=border))
        except np.linalg.LinAlgError:  # too few blocks are left
            return math.nan
