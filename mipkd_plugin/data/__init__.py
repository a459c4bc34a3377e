"""Data sets, and the reading of images; importing this package registers the data sets and repairs the reading."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.data import reading
from mipkd_plugin.data.crop_pool_dataset import CropPoolDataset

__all__ = ['CropPoolDataset']

reading.apply()
