"""Crops of ``RealESRGANCropDataset`` lie inside the images, also where BasicSR mirrors an image first."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from basicsr.data import build_dataset
from PIL import Image

from mipkd_plugin.preparation.pairs import prepare_gt_only
from real_world import KERNELS

SIDE = 46


@pytest.fixture(params=['disk', 'lmdb'])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """Options of a data set of one image of 50×70 pixels, each of which has a value of its own."""
    row, column = np.mgrid[:50, :70]
    (tmp_path / 'photos').mkdir()
    Image.fromarray(np.stack([row, column, 0 * row], -1).astype(np.uint8)).save(tmp_path / 'photos/0.png')
    made = prepare_gt_only(tmp_path / 'photos', tmp_path / 'made', lmdb=request.param == 'lmdb')
    return {**copy.deepcopy(KERNELS), 'type': 'RealESRGANCropDataset', 'name': 'HR', 'crop_size': SIDE,
            'dataroot_gt': str(made.hr), 'meta_info': str(made.meta_info), 'io_backend': {'type': request.param},
            'use_hflip': False, 'use_rot': False, 'phase': 'train'}


@pytest.mark.parametrize('turns', [False, True])
def test_crops_lie_inside_the_image(options: dict[str, Any], turns: bool) -> None:
    data = build_dataset({**options, 'use_hflip': turns, 'use_rot': turns})
    corners = set()
    for _ in range(100):
        crop = (255 * data[0]['gt'].numpy()).round().astype(int)
        assert crop.shape == (3, SIDE, SIDE)
        for channel in (0, 1):  # a mirrored row or column would repeat values
            assert len(np.unique(crop[channel])) == SIDE
        corners.add((crop[0].min(), crop[1].min()))
    tops, lefts = zip(*corners, strict=True)
    assert (min(tops), max(tops)) == (0, 50 - SIDE), 'all of the image is used'
    assert max(lefts) > 50 - SIDE, 'all of the longer side is used'


def test_an_image_smaller_than_a_crop_is_mirrored(options: dict[str, Any]) -> None:
    crop = (255 * build_dataset({**options, 'crop_size': 64})[0]['gt'].numpy()).round().astype(int)
    assert crop.shape == (3, 64, 64)
    assert np.array_equal(crop[0, :, 0], [*range(50), *range(48, 34, -1)])
