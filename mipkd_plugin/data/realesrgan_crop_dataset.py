"""BasicSR's data set for real-world SR, with smaller crops to degrade: for a CPU, or more images in a batch."""

from __future__ import annotations

import random
from typing import Any

from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils.registry import DATASET_REGISTRY

from mipkd_plugin.utils.registry import register

BASICSR_SIDE = 400
"""Side of the crops of ``RealESRGANDataset``, which has it hard-coded."""


@register(DATASET_REGISTRY)
class RealESRGANCropDataset(RealESRGANDataset):  # type: ignore[misc]  # BasicSR ships no types
    """``RealESRGANDataset`` whose HR crops have another side than 400.

    The model degrades whole crops and then cuts patches of ``gt_size`` out of them. With 400×400 pixels for patches of
    128, nine tenths of that work are thrown away, and on a CPU it takes longer than the training step. Smaller crops
    get the same blur, resizing, noise and JPEG compression; a larger part of a patch lies near a border (our choice).

    Args:
        opt: The options of ``RealESRGANDataset``, and ``crop_size``, the side of a crop, up to 400, which is the
            default.
    """

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One HR crop and its kernels.

        Returns:
            ``gt`` (3, crop_size, crop_size), RGB in [0, 1]; ``kernel1``, ``kernel2`` and ``sinc_kernel`` (21, 21);
            ``gt_path``.
        """
        sample: dict[str, Any] = super().__getitem__(index)
        side = self.opt.get('crop_size', BASICSR_SIDE)
        height, width = sample['gt'].shape[1:]
        top, left = random.randint(0, height - side), random.randint(0, width - side)
        sample['gt'] = sample['gt'][:, top:top + side, left:left + side].contiguous()
        return sample
