"""The batch of a training step, which ECO blends with the teacher's images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from mipkd_plugin.data.matlab_bicubic import bicubic_downsample_batch
from mipkd_plugin.networks.features import NetPass

if TYPE_CHECKING:
    from mipkd_plugin.config import EcoSchedule
    from mipkd_plugin.models.distill_model import DistillMixin

ECO_A = 'eco_a'
"""What the log calls the part of the real images."""


@dataclass(frozen=True)
class Batch:
    """The images that all losses of one iteration see.

    Attributes:
        lq: Low-resolution images (N, C, H, W).
        gt: High-resolution images (N, C, sH, sW).
        teacher: The teacher's pass over all of ``lq``, if it was made for the blend.
        logged: What the log shows of it.
        as_fed: Whether ``lq`` are the images that were fed.
    """

    lq: Tensor
    gt: Tensor
    teacher: NetPass | None
    logged: dict[str, Tensor]
    as_fed: bool = True


def batch_of(model: DistillMixin, iteration: int) -> Batch:
    """The batch that was fed to a model, blended as ``train.eco`` says.

    With a from :class:`~mipkd_plugin.config.eco.EcoSchedule` and T(lq) clipped to [0, 1]:
    gt ← (1 − a) · T(lq) + a · gt, and in mode ``full`` lq ← (1 − a) · bicubic↓(T(lq)) + a · lq, where bicubic↓ is
    MATLAB's and clips as that does with images: where T makes the HR image, it makes the LR image.

    Everything behind it sees these images, as in the authors' code: pixel loss, perceptual loss, distillation losses
    and their teacher, which runs once more on the blended LR images. Without the block, and from a = 1 on, the images
    are the very tensors that were fed, and the teacher does not run here.

    The authors make the teacher's images once, of whole pictures, in files of 8 bits; here they are made of each
    batch, in float (which they announce for BasicSR, too).

    Args:
        model: The model, with ``lq`` and ``gt`` of this batch.
        iteration: Number of the iteration, from 1.

    Returns:
        The batch.
    """
    eco = model.eco
    if eco is None:
        return Batch(model.lq, model.gt, None, {})
    a = eco.real(iteration)
    logged = {ECO_A: model.gt.new_tensor(a)}
    if a == 1:
        return Batch(model.lq, model.gt, None, logged)
    found = _teacher_pass(model, eco, iteration)
    image = found.output.clamp(0, 1)
    gt = (1 - a) * image + a * model.gt
    if eco.mode == 'hr_only':
        return Batch(model.lq, gt, found, logged)
    smaller = bicubic_downsample_batch(image, int(model.opt['scale']), clips=True)
    return Batch((1 - a) * smaller + a * model.lq, gt, None, logged, as_fed=False)


def _teacher_pass(model: DistillMixin, eco: EcoSchedule, iteration: int) -> NetPass:
    """T(lq) of the images as they were fed; with features only where the losses can use the same pass."""
    cache = model.teaching.caches.get(model.teaching.first)
    if cache is not None:
        return cache(model.lq, model.crops)
    if eco.mode == 'hr_only' and model.schedule.distills(iteration):
        return model.nets.teacher(model.lq)
    return NetPass(model.nets.teacher.image(model.lq), {})
