"""NIQE is BasicSR's own, and a dash where BasicSR's function fails."""

from __future__ import annotations

import math
import warnings

import cv2
import numpy as np
import pytest

from mipkd_plugin.inference.naturalness import niqe
from basicsr.metrics.niqe import calculate_niqe


def natural(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise of several sizes, as in photographs."""
    rng = np.random.default_rng(seed)
    layers = [cv2.resize(rng.normal(0, 40, (height // step, width // step, 3)), (width, height)) for step in (1, 4, 16)]
    return np.clip(128 + sum(layers), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(('size', 'border'), [((96, 192), 0), ((200, 110), 4), ((200, 300), 2)])
def test_it_is_that_of_basicsr(size: tuple[int, int], border: int) -> None:
    image = natural(*size)
    assert niqe(image, border) == calculate_niqe(image, crop_border=border) > 0


@pytest.mark.parametrize(('size', 'border'), [
    ((95, 400), 0), ((400, 95), 0), ((103, 400), 4), ((96, 96), 0), ((191, 191), 0), ((16, 16), 8)])
def test_images_that_are_too_small_have_none(size: tuple[int, int], border: int) -> None:
    assert math.isnan(niqe(natural(*size), border))


def test_flat_images_have_none_and_nothing_is_said() -> None:
    image = np.full((200, 300, 3), 7, np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert math.isnan(niqe(image, 0))
        image[:96, :96] = natural(96, 96)
        assert math.isnan(niqe(image, 0)), 'one block is left'
        image[:] = natural(200, 300)
        image[:96, :96] = 7
        assert niqe(image, 0) > 0, 'BasicSR leaves out a flat block'
