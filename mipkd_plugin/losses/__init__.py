"""Distillation losses, in LOSS_REGISTRY: one method, one file. Importing this package registers them."""

from mipkd_plugin.losses.base import DistillationLoss, TapPair, bind
from mipkd_plugin.losses.krnet_loss import KRNetLoss
from mipkd_plugin.losses.logits_loss import LogitsKDLoss
from mipkd_plugin.losses.mipkd_loss import MiPKDLoss

__all__ = ['DistillationLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'TapPair', 'bind']
