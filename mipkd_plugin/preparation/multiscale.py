"""The smaller versions of an HR image that ``--multiscale`` adds, as Real-ESRGAN makes them (arXiv 2107.10833).

Training draws from all versions alike, so that the same textures appear in several sizes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FACTORS = (0.75, 0.5, 1 / 3)
SHORTEST = 400
"""Shortest side of the last version: the side of the crops that ``RealESRGANDataset`` takes."""


def smaller_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """Height and width of the versions T0, T1, … of an image.

    Sides are cut off to whole pixels, as in Real-ESRGAN. Our choice: no version is an enlargement, which would teach a
    network to be blurred, so an image of at most 400 rows or columns has no version of that side; and a version without
    pixels is left out.

    Args:
        height: Rows of the image.
        width: Columns of the image.

    Returns:
        The sizes.

    Example:
        >>> smaller_sizes(1356, 2040)
        [(1017, 1530), (678, 1020), (452, 680), (400, 601)]
    """
    sizes = [(int(height * factor), int(width * factor)) for factor in FACTORS]
    if min(height, width) > SHORTEST:
        sizes.append((int(SHORTEST * (height / width)), SHORTEST) if width < height else
                     (SHORTEST, int(SHORTEST * (width / height))))
    return [size for size in sizes if min(size) > 0]


def shrunk(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A smaller version of an image, by Pillow's Lanczos filter.

    Args:
        image: (H, W, 3), channels in any order.
        size: Height and width of the version.

    Returns:
        (h, w, 3), channels in the same order.
    """
    return np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.LANCZOS), np.uint8)
