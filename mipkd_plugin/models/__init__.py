"""BasicSR models with distillation, in MODEL_REGISTRY. Importing this package registers them."""

import basicsr  # noqa: F401  (first: importing it registers all of our classes, see mipkd_plugin/__init__.py)

from mipkd_plugin.models.distill_model import DistillMixin, DistillModel, SwinIRDistillModel

__all__ = ['DistillMixin', 'DistillModel', 'SwinIRDistillModel']
