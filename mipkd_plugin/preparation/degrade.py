"""Degrade whole photographs once, as Real-ESRGAN's models degrade crops while they train: fixed pairs to measure on."""

from __future__ import annotations

import math
import os
import random
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models import realesrnet_model
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils import DiffJPEG, USMSharp, img2tensor, tensor2img
from numpy.typing import NDArray
from tqdm import tqdm

from mipkd_plugin.data.headers import BrokenImageError
from mipkd_plugin.data.reading import decode
from mipkd_plugin.preparation.sources import PrepareError, find_images, read_sources
from mipkd_plugin.utils.files import write_bytes
from mipkd_plugin.utils.random_numbers import random_numbers_restored
from mipkd_plugin.utils.replacing import replaced

HR, LQ = 'HR', 'LQ'
_BLUR = 11  # the kernels of 21 pixels look 10 pixels beyond a border, by reflection


class _Degradation(RealESRNetModel):  # type: ignore[misc]  # BasicSR ships no types
    """The degradation of RealESRNetModel alone: no network, no pool of pairs, no crop."""

    def __init__(self, opt: Mapping[str, Any]) -> None:
        self.opt = {'gt_size': 0, **opt, 'gt_usm': False, 'high_order_degradation': True}
        self.is_train = True
        self.device = torch.device('cpu')
        self.jpeger = DiffJPEG(differentiable=False)
        self.usm_sharpener = USMSharp()

    def _dequeue_and_enqueue(self) -> None:
        """A single image needs no pool."""


def degrade(opt: Mapping[str, Any], hr: Path, out: Path, seed: int = 0) -> tuple[int, list[Path]]:
    """Make pairs of whole photographs: ``out/HR`` and ``out/LQ``, with equal names.

    BasicSR's own code degrades, with the ranges and kernels of an option file; HR images are not sharpened. What
    happens to an image depends on the seed, its name and its size alone. Sides of HR images are cropped to
    multiples of the scale.

    Args:
        opt: Options of a training on ``RealESRGANDataset``.
        hr: Folder of 8-bit images.
        out: New or empty folder.
        seed: Seed of all random numbers.

    Returns:
        Number of pairs, and what of ``hr`` is left out: files of other kinds, and subfolders.

    Raises:
        PrepareError: An image cannot be used, or ``out`` holds something.
    """
    scale = int(opt['scale'])
    if os.path.lexists(out) and (not out.is_dir() or any(out.iterdir())):
        raise PrepareError(f'--out {out}: is {"not empty" if out.is_dir() else "a file"}; name a new folder.')
    paths, left_out = find_images([hr])
    read_sources(paths, scale, lmdb=False)
    for path in paths:  # all of them before anything is written; together they may not fit in memory
        _read(path, scale, opt)
    kernels = RealESRGANDataset({'use_hflip': False, 'use_rot': False, **opt['datasets']['train'],
                                 'dataroot_gt': str(hr), 'io_backend': {'type': 'disk'}, 'meta_info': os.devnull})
    kernels.paths = [str(path) for path in paths]
    model = _Degradation(opt)
    with random_numbers_restored(), replaced(realesrnet_model, {
            'paired_random_crop': lambda gt, lq, gt_size, scale: (gt, lq)}):
        for index, path in enumerate(tqdm(paths, unit='image', disable=None)):
            image = _read(path, scale, opt)
            number = zlib.crc32(f'{seed} {path.stem}'.encode())
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            drawn = {name: value[None] for name, value in kernels[index].items() if isinstance(value, torch.Tensor)}
            model.feed_data({**drawn, 'gt': img2tensor(image.astype(np.float32) / 255, bgr2rgb=True)[None]})
            for folder, pixels in ((HR, image), (LQ, tensor2img(model.lq))):
                _write(out / folder / f'{path.stem}.png', pixels)
    return len(paths), left_out


def _read(path: Path, scale: int, opt: Mapping[str, Any]) -> NDArray[np.uint8]:
    """An image whose sides are multiples of the scale."""
    try:
        image = decode(path.read_bytes())
    except BrokenImageError as error:
        raise PrepareError(f'{path} {error}.') from None
    height, width = (side // scale * scale for side in image.shape[:2])
    needed = math.ceil(max(_BLUR / min(1.0, opt['resize_range'][0]), _BLUR * scale))
    if min(height, width) < needed:
        raise PrepareError(f'{path}: has {image.shape[1]}×{image.shape[0]} pixels, and both sides must have {needed}: '
                           f'the blur kernels need {_BLUR} after the strongest downscaling.')
    return image[:height, :width]


def _write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, cv2.imencode('.png', image)[1].tobytes())
