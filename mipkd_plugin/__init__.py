"""Knowledge distillation for image super-resolution, as a plug-in for BasicSR.

``import mipkd_plugin``, before the first import of basicsr, is all that a project needs: it repairs BasicSR where a
current PyTorch needs it (:mod:`mipkd_plugin.compat`) and enters our architectures, losses and models in BasicSR's
registries. It is quick, as the work is done when ``basicsr`` is imported (at once, if it is already there). Public
names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from mipkd_plugin import compat
from mipkd_plugin.version import __version__

if TYPE_CHECKING:
    from mipkd_plugin import archs, losses, models
    from mipkd_plugin.config import OptionError, build_distillation
    from mipkd_plugin.losses import (
        AttentionTransferLoss,
        BindError,
        CrossKDLoss,
        CSDLoss,
        DistillationLoss,
        DUKDLoss,
        FAKDLoss,
        FitNetLoss,
        KRNetLoss,
        LogitsKDLoss,
        MiPKDLoss,
        ProjectionLoss,
        RandomizedLoss,
        RKDLoss,
        TapPair,
        bind,
    )
    from mipkd_plugin.models import DistillMixin, DistillModel, SwinIRDistillModel
    from mipkd_plugin.networks.features import NetPass
    from mipkd_plugin.networks.step import NetPair, Step, StepPlan
    from mipkd_plugin.networks.tapped_net import TappedNet
    from mipkd_plugin.networks.trunk import TapError
    from mipkd_plugin.utils.errors import MipkdError
    from mipkd_plugin.utils.ranges import ArgumentError

_HOMES = {
    'config': ('OptionError', 'build_distillation'),
    'losses': ('AttentionTransferLoss', 'BindError', 'CSDLoss', 'CrossKDLoss', 'DUKDLoss', 'DistillationLoss',
               'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'ProjectionLoss', 'RKDLoss',
               'RandomizedLoss', 'TapPair', 'bind'),
    'models': ('DistillMixin', 'DistillModel', 'SwinIRDistillModel'),
    'networks.features': ('NetPass', ),
    'networks.step': ('NetPair', 'Step', 'StepPlan'),
    'networks.tapped_net': ('TappedNet', ),
    'networks.trunk': ('TapError', ),
    'utils.errors': ('MipkdError', ),
    'utils.ranges': ('ArgumentError', ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
_ROOMS = ('archs', 'losses', 'models')

__all__ = ['ArgumentError', 'AttentionTransferLoss', 'BindError', 'CSDLoss', 'CrossKDLoss', 'DUKDLoss', 'DistillMixin',
           'DistillModel', 'DistillationLoss', 'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss',
           'MipkdError', 'NetPair', 'NetPass', 'OptionError', 'ProjectionLoss', 'RKDLoss', 'RandomizedLoss', 'Step',
           'StepPlan', 'SwinIRDistillModel', 'TapError', 'TapPair', 'TappedNet', '__version__', 'archs', 'bind',
           'build_distillation', 'losses', 'models']


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name in _ROOMS:
        return importlib.import_module(f'{__name__}.{name}')
    if name in _MODULES:
        return getattr(importlib.import_module(f'{__name__}.{_MODULES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register(basicsr: Any) -> None:
    """Repair BasicSR, and enter our classes in its registries: importing these rooms does it."""
    compat.apply()
    for room in _ROOMS:
        importlib.import_module(f'{__name__}.{room}')


compat.apply_early()
wrapt.register_post_import_hook(_register, 'basicsr')
