"""Data sets, and the reading and writing of images; importing this package registers and repairs them."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.data import reading, writing
from mipkd_plugin.data.crop_pool_dataset import CropPoolDataset
from mipkd_plugin.data.realesrgan_crop_dataset import RealESRGANCropDataset

__all__ = ['CropPoolDataset', 'RealESRGANCropDataset']

reading.apply()
writing.apply()
