"""BasicSR's GAN and real-world models with distillation: the generator's step gets the terms, the rest is BasicSR's."""

from __future__ import annotations

from basicsr.models.esrgan_model import ESRGANModel
from basicsr.models.realesrgan_model import RealESRGANModel
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.models.srgan_model import SRGANModel
from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.models.distill_model import DistillMixin
from mipkd_plugin.utils.registry import register


@register(MODEL_REGISTRY)
class SRGANDistillModel(DistillMixin, SRGANModel):  # type: ignore[misc]  # BasicSR ships no types
    """SRGANModel (arXiv 1609.04802) with distillation."""


@register(MODEL_REGISTRY)
class ESRGANDistillModel(DistillMixin, ESRGANModel):  # type: ignore[misc]  # BasicSR ships no types
    """ESRGANModel (arXiv 1809.00219, relativistic GAN) with distillation."""


@register(MODEL_REGISTRY)
class RealESRNetDistillModel(DistillMixin, RealESRNetModel):  # type: ignore[misc]  # BasicSR ships no types
    """RealESRNetModel (arXiv 2107.10833) with distillation: HR images are degraded while it trains, no GAN.

    Teacher and student see the degraded images, after the pool of pairs.
    """


@register(MODEL_REGISTRY)
class RealESRGANDistillModel(DistillMixin, RealESRGANModel):  # type: ignore[misc]  # BasicSR ships no types
    """RealESRGANModel (arXiv 2107.10833) with distillation: HR images are degraded while it trains, with a GAN.

    Teacher and student see the degraded images, after the pool of pairs. Losses that compare with the HR image get the
    one of the pixel loss, by ``l1_gt_usm``.
    """
