"""Knowledge distillation for image super-resolution, as a plug-in for BasicSR.

Importing this package repairs the toolbox where a current PyTorch needs it (``compat``) and registers
architectures, losses and models by the named imports below.
"""

from mipkd_plugin import compat

compat.apply_early()

from mipkd_plugin import archs, losses, models
from mipkd_plugin.losses import (
    AttentionTransferLoss,
    CrossKDLoss,
    CSDLoss,
    DistillationLoss,
    DUKDLoss,
    FAKDLoss,
    FitNetLoss,
    KRNetLoss,
    LogitsKDLoss,
    MiPKDLoss,
    RKDLoss,
    bind,
)
from mipkd_plugin.models import DistillMixin, DistillModel, SwinIRDistillModel
from mipkd_plugin.step import NetPass, Step, StepPlan
from mipkd_plugin.taps import TappedNet
from mipkd_plugin.trunk import TapError
from mipkd_plugin.version import __version__

compat.apply()

__all__ = ['AttentionTransferLoss', 'CSDLoss', 'CrossKDLoss', 'DUKDLoss', 'DistillMixin', 'DistillModel',
           'DistillationLoss', 'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'NetPass', 'RKDLoss',
           'Step', 'StepPlan', 'SwinIRDistillModel', 'TapError', 'TappedNet', '__version__', 'archs', 'bind', 'losses',
           'models']
