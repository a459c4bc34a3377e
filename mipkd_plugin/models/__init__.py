"""BasicSR models with distillation, in MODEL_REGISTRY. Importing this package registers them."""

from mipkd_plugin.models.distill_model import DistillMixin, DistillModel, SwinIRDistillModel

__all__ = ['DistillMixin', 'DistillModel', 'SwinIRDistillModel']
