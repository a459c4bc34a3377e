"""Data sets; importing this package registers them."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.data.crop_pool_dataset import CropPoolDataset

__all__ = ['CropPoolDataset']
