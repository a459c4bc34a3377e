"""Bicubic resizing that equals MATLAB's: of 8-bit images bit for bit, and of batches in float."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from basicsr.utils.matlab_functions import calculate_weights_indices
from numpy.typing import NDArray
from torch import Tensor


@contextmanager
def _float64() -> Iterator[None]:
    """Let BasicSR's ``calculate_weights_indices`` compute in double precision, as MATLAB does."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@lru_cache(maxsize=64)
def _weights(length: int, wanted: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Weights and zero-based source rows, both (wanted, taps), mirrored beyond the border."""
    with _float64():
        weights, rows, before, _ = calculate_weights_indices(
            length, wanted, wanted / length, 'cubic', kernel_width=4, antialiasing=True)
    wrapped = (rows.numpy().astype(np.int64) - before) % (2 * length)
    return weights.numpy(), np.where(wrapped < length, wrapped, 2 * length - 1 - wrapped)


def _resize_rows(image: NDArray[Any], wanted: int) -> NDArray[Any]:
    weights, rows = _weights(image.shape[0], wanted)
    shape = (-1, ) + (1, ) * (image.ndim - 1)
    total = np.zeros((weights.shape[0], *image.shape[1:]))
    for tap in range(weights.shape[1]):
        total += weights[:, tap].reshape(shape) * image[rows[:, tap]]
    return np.floor(np.clip(total, 0, 255) + 0.5).astype(np.uint8)  # MATLAB rounds halves up


def _resized(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    rows_done = _resize_rows(image, height)
    return np.ascontiguousarray(_resize_rows(rows_done.swapaxes(0, 1), width).swapaxes(0, 1))


def bicubic_downsample(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """Shrink an image exactly as MATLAB's ``imresize(image, 1 / scale, 'bicubic')`` does with uint8.

    The kernel is the antialiased cubic (a = -0.5). Rows come first, then columns; each pass rounds the values to
    uint8. BasicSR's own float ``imresize`` does not round and differs by 1-2 levels.

    Args:
        image: uint8, (H, W) or (H, W, 3). It is first cropped at the right and bottom to a multiple of ``scale``.
        scale: Whole-number factor.

    Returns:
        uint8, (H // scale, W // scale) or (H // scale, W // scale, 3).

    Raises:
        TypeError: The image is not uint8.
        ValueError: The image is not (H, W) or (H, W, C), or is smaller than ``scale``.
    """
    if image.dtype != np.uint8:
        raise TypeError(f'bicubic_downsample needs a uint8 image, got {image.dtype}.')
    if image.ndim not in (2, 3) or min(image.shape[:2]) < scale:
        raise ValueError(f'an image of shape {image.shape} cannot be shrunk by {scale}.')
    height, width = (side // scale * scale for side in image.shape[:2])
    return _resized(image[:height, :width], height // scale, width // scale)


def bicubic_upsample(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """Enlarge an image as MATLAB's ``imresize(image, scale, 'bicubic')`` does with uint8: the baseline of papers.

    Args:
        image: uint8, (H, W) or (H, W, 3).
        scale: Whole-number factor.

    Returns:
        uint8, (scale H, scale W) or (scale H, scale W, 3).
    """
    return _resized(image, scale * image.shape[0], scale * image.shape[1])


def bicubic_downsample_batch(images: Tensor, scale: int, clips: bool = False) -> Tensor:
    """Shrink a batch as MATLAB's ``imresize(image, 1 / scale, 'bicubic')`` does, with nothing rounded.

    Two matrix products on the device of the images, with weights that are kept: BasicSR's ``imresize`` loops over
    images, rows and channels, and gives the same numbers.

    Args:
        images: (N, C, H, W), float; H and W are multiples of ``scale``.
        scale: Whole-number factor.
        clips: Whether rows and then columns are clipped to [0, 1], as MATLAB does with uint8: then the result is that
            of :func:`bicubic_downsample` but for its rounding. Without it values may leave [0, 1] at strong edges.

    Returns:
        (N, C, H // scale, W // scale), of the same type.

    Raises:
        ValueError: H or W is no multiple of ``scale``.
    """
    height, width = images.shape[-2:]
    if height % scale or width % scale:
        raise ValueError(f'images of {height}×{width} cannot be shrunk by {scale}: a side is no multiple of it.')
    rows, columns = (_matrix(side, side // scale, images.dtype, images.device) for side in (height, width))
    with torch.autocast(images.device.type, enabled=False):
        shorter = rows @ images
        shrunk = (shorter.clamp(0, 1) if clips else shorter) @ columns.T
    return shrunk.clamp(0, 1) if clips else shrunk


@lru_cache(maxsize=64)
def _matrix(length: int, wanted: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What a column of an image is multiplied with (wanted, length), to get as many rows as wanted."""
    weights, rows = _weights(length, wanted)
    matrix = np.zeros((wanted, length))
    np.add.at(matrix, (np.arange(wanted)[:, None], rows), weights)  # rows beyond the border are mirrored: some twice
    return torch.from_numpy(matrix).to(device, dtype)
