"""BasicSR's data set for real-world SR, with smaller crops to degrade: for a CPU, or more images in a batch."""

from __future__ import annotations

import contextlib
import random
from typing import Any

from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.utils.file_client import FileClient
from basicsr.utils.registry import DATASET_REGISTRY

from mipkd_plugin.data.headers import BrokenImageError, header_of_bytes
from mipkd_plugin.utils.registry import register

BASICSR_SIDE = 400
"""Side of the crops of ``RealESRGANDataset``, which has it hard-coded."""


@register(DATASET_REGISTRY)
class RealESRGANCropDataset(RealESRGANDataset):  # type: ignore[misc]  # BasicSR ships no types
    """``RealESRGANDataset`` whose HR crops have another side than 400.

    The model degrades whole crops and then cuts patches of ``gt_size`` out of them. With 400×400 pixels for patches of
    128, nine tenths of that work are thrown away, and on a CPU it takes longer than the training step. Smaller crops
    get the same blur, resizing, noise and JPEG compression; a larger part of a patch lies near a border (our choice).
    ``RealESRGANDataset`` mirrors images smaller than 400 at their borders; here a crop lies inside the image, unless
    the image is smaller than the crop.

    Args:
        opt: The options of ``RealESRGANDataset``, and ``crop_size``, the side of a crop, up to 400, which is the
            default.
    """

    @property
    def file_client(self) -> _Client | None:
        """What reads the files; None until the first of them is read, by BasicSR's ``__getitem__``."""
        return self._client

    @file_client.setter
    def file_client(self, client: FileClient | None) -> None:
        self._client = None if client is None else _Client(client)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One HR crop and its kernels.

        Returns:
            ``gt`` (3, crop_size, crop_size), RGB in [0, 1]; ``kernel1``, ``kernel2`` and ``sinc_kernel`` (21, 21);
            ``gt_path``.
        """
        sample: dict[str, Any] = super().__getitem__(index)
        client: Any = self.file_client  # it has just read a file
        side, size = self.opt.get('crop_size', BASICSR_SIDE), client.size
        if self.opt['use_rot']:  # height and width may have changed places; what is mirrored lies at bottom and right
            size = (min(size), min(size))
        top, left = (random.randint(0, max(min(length, BASICSR_SIDE) - side, 0)) for length in size)
        sample['gt'] = sample['gt'][:, top:top + side, left:left + side].contiguous()
        return sample


class _Client:
    """A file client that knows how large the last image is.

    Attributes:
        size: Its height and width.
    """

    def __init__(self, client: FileClient) -> None:
        self._client = client
        self.size = (0, 0)

    def get(self, path: str, client_key: str) -> Any:
        """The content of a file."""
        content = self._client.get(path, client_key)
        self.size = (0, 0)
        with contextlib.suppress(BrokenImageError):  # whoever decodes it says what is wrong
            header = header_of_bytes(content, every_chunk=False)
            self.size = header.height, header.width
        return content
