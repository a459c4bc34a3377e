"""Distillation losses, in LOSS_REGISTRY: one method, one file. Importing this package registers them."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.losses.attention_loss import AttentionTransferLoss
from mipkd_plugin.losses.augmented_loss import AugmentedPixelLoss
from mipkd_plugin.losses.base import (
    DistillationLoss,
    RandomizedLoss,
    TapPair,
    logits_distance,
    mean,
)
from mipkd_plugin.losses.binding import BindError, bind
from mipkd_plugin.losses.block_chain import BlockPriorMixer
from mipkd_plugin.losses.crosskd_loss import CrossKDLoss
from mipkd_plugin.losses.csd_loss import CSDLoss
from mipkd_plugin.losses.dckd_loss import DCKDLoss
from mipkd_plugin.losses.dukd_loss import DUKDLoss
from mipkd_plugin.losses.fakd_loss import FAKDLoss
from mipkd_plugin.losses.fitnet_loss import FitNetLoss
from mipkd_plugin.losses.krnet_loss import KRNetLoss
from mipkd_plugin.losses.logits_loss import LogitsKDLoss
from mipkd_plugin.losses.mipkd_loss import MiPKDLoss
from mipkd_plugin.losses.projection import ProjectionLoss
from mipkd_plugin.losses.rkd_loss import RKDLoss
from mipkd_plugin.losses.vectors import unit
from mipkd_plugin.losses.wavelet_loss import WaveletKDLoss

__all__ = ['AttentionTransferLoss', 'AugmentedPixelLoss', 'BindError', 'BlockPriorMixer', 'CSDLoss', 'CrossKDLoss',
           'DCKDLoss', 'DUKDLoss', 'DistillationLoss', 'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss',
           'MiPKDLoss', 'ProjectionLoss', 'RKDLoss', 'RandomizedLoss', 'TapPair', 'WaveletKDLoss', 'bind',
           'logits_distance', 'mean', 'unit']
