"""A pool of fixed crops, kept in memory: the teacher's features of a crop need to be computed only once."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils import get_root_logger
from basicsr.utils.registry import DATASET_REGISTRY
from torch import Tensor
from torch.utils.data import Dataset

from mipkd_plugin.utils.registry import register


@register(DATASET_REGISTRY)
class CropPoolDataset(Dataset[dict[str, Any]]):
    """Crops that are drawn once, by the rules of ``PairedImageDataset``: place, flip and rotation of each stay fixed.

    All images are read at the start, the crops are kept in memory, and nothing is decoded later. As the crops do not
    change, a teacher can be run once on each of them (``teacher.cache``). The price is variety: the student sees
    ``crops`` patches again and again. Our choice; no paper does it.

    Args:
        opt: The options of ``PairedImageDataset`` for training, and ``crops``, the number of crops, and ``crop_seed``,
            the seed of the draw (default: 0).

    Raises:
        ValueError: ``opt`` is not for training.
    """

    def __init__(self, opt: Mapping[str, Any]) -> None:
        if opt['phase'] != 'train':
            raise ValueError(f'CropPoolDataset is for training, not for {opt["phase"]}')
        images = PairedImageDataset({**opt, 'io_backend': dict(opt['io_backend'])})
        self.exact = fits_bytes(opt)
        order = list(range(len(images)))
        random.Random(opt.get('crop_seed', 0)).shuffle(order)
        self.paths: list[tuple[str, str]] = []
        get_root_logger().info(f'Drawing {opt["crops"]:,d} crops.')
        for crop in range(opt['crops']):
            with _seeded(f'{opt.get("crop_seed", 0)} {crop}'):
                sample = images[order[crop % len(order)]]
            self.paths.append((sample['lq_path'], sample['gt_path']))
            lq, gt = self._packed(sample['lq']), self._packed(sample['gt'])
            if crop == 0:
                self.lq, self.gt = (first.new_empty(opt['crops'], *first.shape) for first in (lq, gt))
            self.lq[crop], self.gt[crop] = lq, gt

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One crop.

        Returns:
            ``lq`` (C, H, W) and ``gt`` (C, sH, sW), RGB in [0, 1]; their paths; and ``crop``, the number of the crop.
        """
        lq_path, gt_path = self.paths[index]
        return {'lq': self._unpacked(self.lq[index]), 'gt': self._unpacked(self.gt[index]), 'lq_path': lq_path,
                'gt_path': gt_path, 'crop': index}

    def _packed(self, image: Tensor) -> Tensor:
        """As 8-bit numbers, where nothing is lost by it."""
        return (image * 255).round().to(torch.uint8) if self.exact else image

    def _unpacked(self, image: Tensor) -> Tensor:
        return image.float() / 255 if self.exact else image


def fits_bytes(opt: Mapping[str, Any]) -> bool:
    """Whether the crops of these options are 8-bit numbers, so that a pool keeps one byte for each."""
    return opt.get('color') != 'y' and opt.get('mean') is None and opt.get('std') is None


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Inside the block, Python's random numbers depend on ``seed`` alone; afterwards they go on as before."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)
