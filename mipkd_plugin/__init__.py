"""Knowledge distillation for image super-resolution, as a plug-in for BasicSR.

A project needs only ``import mipkd_plugin`` before its first import of basicsr. The import repairs BasicSR for current
versions of PyTorch (:mod:`mipkd_plugin.compat`) and registers our architectures, losses and models. It is fast, because
the work waits until ``basicsr`` is imported; if it is imported already, the work runs at once. Public names are
imported on first use.
"""

from __future__ import annotations

import importlib
import threading
from typing import TYPE_CHECKING, Any

import wrapt

from mipkd_plugin import compat
from mipkd_plugin.version import __version__

if TYPE_CHECKING:
    from mipkd_plugin import archs, data, losses, models
    from mipkd_plugin.config import OptionError, build_distillation
    from mipkd_plugin.losses import (
        AttentionTransferLoss,
        AugmentedPixelLoss,
        BindError,
        CrossKDLoss,
        CSDLoss,
        DCKDLoss,
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
        WaveletKDLoss,
        bind,
    )
    from mipkd_plugin.models import DistillMixin, DistillModel, SwinIRDistillModel
    from mipkd_plugin.networks.execution import Execution
    from mipkd_plugin.networks.features import NetPass
    from mipkd_plugin.networks.step import NetPair, Step, StepPlan
    from mipkd_plugin.networks.tapped_net import TappedNet
    from mipkd_plugin.networks.trunk import TapError
    from mipkd_plugin.utils.errors import MipkdError
    from mipkd_plugin.utils.ranges import ArgumentError

_HOMES = {
    'config': ('OptionError', 'build_distillation'),
    'losses': ('AttentionTransferLoss', 'AugmentedPixelLoss', 'BindError', 'CSDLoss', 'CrossKDLoss', 'DCKDLoss',
               'DUKDLoss', 'DistillationLoss', 'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss',
               'ProjectionLoss', 'RKDLoss', 'RandomizedLoss', 'TapPair', 'WaveletKDLoss', 'bind'),
    'models': ('DistillMixin', 'DistillModel', 'SwinIRDistillModel'),
    'networks.execution': ('Execution', ),
    'networks.features': ('NetPass', ),
    'networks.step': ('NetPair', 'Step', 'StepPlan'),
    'networks.tapped_net': ('TappedNet', ),
    'networks.trunk': ('TapError', ),
    'utils.errors': ('MipkdError', ),
    'utils.ranges': ('ArgumentError', ),
}
_MODULES = {name: module for module, names in _HOMES.items() for name in names}
_ROOMS = ('archs', 'data', 'losses', 'models')
_IMPORT_LOCK = threading.RLock()

__all__ = ['ArgumentError', 'AttentionTransferLoss', 'AugmentedPixelLoss', 'BindError', 'CSDLoss', 'CrossKDLoss',
           'DCKDLoss', 'DUKDLoss', 'DistillMixin', 'DistillModel', 'DistillationLoss', 'Execution', 'FAKDLoss',
           'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'MipkdError', 'NetPair', 'NetPass', 'OptionError',
           'ProjectionLoss', 'RKDLoss', 'RandomizedLoss', 'Step', 'StepPlan', 'SwinIRDistillModel', 'TapError',
           'TapPair', 'TappedNet', 'WaveletKDLoss', '__version__', 'archs', 'bind', 'build_distillation', 'data',
           'losses', 'models']


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name in _ROOMS or name in _MODULES:
        with _IMPORT_LOCK:  # of several threads one imports; basicsr first, as its import registers our classes
            importlib.import_module('basicsr')
            module = importlib.import_module(f'{__name__}.{_MODULES.get(name, name)}')
        return module if name in _ROOMS else getattr(module, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register(basicsr: Any) -> None:
    """Repair BasicSR and register our classes; importing their packages registers them."""
    compat.apply()
    for room in _ROOMS:
        importlib.import_module(f'{__name__}.{room}')


compat.apply_early()
wrapt.register_post_import_hook(_register, 'basicsr')
