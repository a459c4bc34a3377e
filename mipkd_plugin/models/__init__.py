"""BasicSR models with distillation. Importing this package registers them in MODEL_REGISTRY."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.models.aggregate_model import AggregateModel
from mipkd_plugin.models.distill_model import DistillMixin, DistillModel, SwinIRDistillModel
from mipkd_plugin.models.gan_models import (
    ESRGANDistillModel,
    RealESRGANDistillModel,
    RealESRNetDistillModel,
    SRGANDistillModel,
)
from mipkd_plugin.models.student import AnySRModel, StudentMixin

__all__ = ['AggregateModel', 'AnySRModel', 'DistillMixin', 'DistillModel', 'ESRGANDistillModel',
           'RealESRGANDistillModel', 'RealESRNetDistillModel', 'SRGANDistillModel', 'StudentMixin',
           'SwinIRDistillModel']
