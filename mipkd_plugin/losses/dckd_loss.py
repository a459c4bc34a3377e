"""DCKD: dynamic contrastive knowledge distillation for efficient image restoration (AAAI 2025, arXiv 2412.08939)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from basicsr.utils.registry import LOSS_REGISTRY
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses.base import LossError, RandomizedLoss
from mipkd_plugin.losses.history import HistoryStudent
from mipkd_plugin.losses.vgg_features import VGGFeatures
from mipkd_plugin.losses.vqgan_features import VQGANFeatures, codebook_distance
from mipkd_plugin.networks.encoding import encode
from mipkd_plugin.networks.step import Step
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.ranges import ArgumentError, Count, PositiveFloat, Share, ShareBelowOne, Taps, Weight, checked
from mipkd_plugin.utils.registry import register

LAYER_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1)
"""λ_1..λ_5 of the paper; fewer features take the last ones."""
CODEBOOK_WEIGHT = 0.001
"""λ_b of the paper."""

_SMALLEST_DISTANCE = 1e-7


def contrast(anchor: Sequence[Tensor], positive: Sequence[Tensor], negative: Sequence[Tensor],
             layer_weights: Sequence[float]) -> Tensor:
    """Compute Σ_i λ_i |f_i(S) − f_i(T)| / Σ_j |f_i(S) − f_i(N_j)|, with means over batch and feature.

    Args:
        anchor: f_i(S), each (N, C_i, H_i, W_i).
        positive: f_i(T), of the same shapes.
        negative: f_i(N_1..N_J), each (J · N, C_i, H_i, W_i): all samples of N_1, then those of N_2, and so on.
        layer_weights: λ_i.

    Returns:
        A scalar.
    """
    terms = []
    for weight, a, p, n in zip(layer_weights, anchor, positive, negative):
        away = torch.stack([(a - one).abs().mean() for one in torch.split(n, len(a))]).sum()
        terms.append(weight * (a - p).abs().mean() / (away + _SMALLEST_DISTANCE))
    return torch.stack(terms).sum()


@register(LOSS_REGISTRY)
class DCKDLoss(RandomizedLoss):
    """λ_c Σ_i λ_i |f_i(S) − f_i(T)| / Σ_j |f_i(S) − f_i(N_j)|: toward the teacher, away from what the student was.

    With VQGAN also λ_b times the cross-entropy between the class distributions of student and teacher, over the entries
    of its codebook: softmax of −‖z − e_k‖².

    The negatives N_j are images of a history student, θ_h ← α θ_h + (1 − α) θ_s every s iterations: of the LR images
    and of degraded copies of them, with Gaussian noise, clipped to [0, 1]. θ_s is the student's moving average (EMA)
    where it has one. The history student begins as a copy of θ_s, changes before the step of each s-th iteration, is
    saved with the distillation state and never trained. The paper's total has the pixel loss and logits KD too: write
    LogitsKDLoss beside it. Facts as in the paper and in the authors' code (github.com/super-SSS/DCKD at 66fe400).

    The paper's f is the encoder of VQGAN f16. ``encoder: teacher`` is our choice, as it needs no other weights: taps of
    the teacher, run on the images. Images go into VQGAN and VGG-19 in the range and the normalization that these were
    trained with.

    Args:
        encoder: f: ``teacher``, its own taps; ``vqgan``; or ``vgg19``, cut as in CSDLoss.
        taps: Number of taps, or list of [student module, teacher module], of ``encoder: teacher``. The teacher's alone
            are used, but as everywhere both networks must have as many.
        weights: File of the weights of ``vqgan`` (``last.ckpt`` of vqgan_imagenet_f16_1024, from
            github.com/CompVis/taming-transformers) or of ``vgg19`` (``vgg19-dcbb9e9d.pth``; None: torchvision downloads
            it).
        layer_weights: λ_1..λ_K, from shallow to deep; by default the last K of 1/32, 1/16, 1/8, 1/4, 1.
        contrast_weight: λ_c of ``l_dckd``.
        codebook_weight: λ_b of ``l_codebook``, which ``encoder: vqgan`` alone has.
        loss_weight: Common factor on all terms.
        num_degraded: Degraded copies of each LR image.
        noise: Lowest and highest σ of the noise, in levels of 8 bits: σ / 255 is added.
        gray_probability: How likely the noise of a copy is the same in all channels.
        history_every: s, in iterations; a list holds s of one ``history_period`` after another, the last one to the
            end.
        history_period: Iterations of a period.
        history_decay: α.
        teacher_input: What ``encoder: teacher`` takes: the images as they are (``hr``), or downsampled
            bicubically to the size of the LR images (``lr``), which costs 1/scale² (our choice).

    Raises:
        ArgumentError: An option is out of range, or does not go with the encoder.
        WeightFileError: The weights are missing or do not fit.
    """

    @checked
    def __init__(self, encoder: Literal['teacher', 'vqgan', 'vgg19'] = 'teacher', taps: Taps | None = None,
                 weights: str | None = None, layer_weights: Sequence[Weight] | None = None,
                 contrast_weight: PositiveFloat = 0.1, codebook_weight: Weight = CODEBOOK_WEIGHT,
                 loss_weight: PositiveFloat = 1.0, num_degraded: Count = 4,
                 noise: Annotated[Sequence[Weight], Field(min_length=2, max_length=2)] = (1, 30),
                 gray_probability: Share = 0.5,
                 history_every: Count | Annotated[Sequence[Count], Field(min_length=1)] = (1000, 2000, 3000),
                 history_period: Count = 100_000,
                 history_decay: ShareBelowOne = 0.1,
                 teacher_input: Literal['hr', 'lr'] = 'hr') -> None:
        super().__init__(taps)
        self._check(encoder, taps, weights, noise, {'codebook_weight': ('vqgan', codebook_weight != CODEBOOK_WEIGHT),
                                                    'teacher_input': ('teacher', teacher_input != 'hr')})
        self.encoder: Literal['teacher'] | VGGFeatures | VQGANFeatures = (
            'teacher' if encoder == 'teacher' else VQGANFeatures(str(weights)) if encoder == 'vqgan' else
            VGGFeatures(weights))
        self.layer_weights = self._weights_of(layer_weights, taps)
        self.contrast_weight, self.codebook_weight = loss_weight * contrast_weight, loss_weight * codebook_weight
        self.num_degraded = num_degraded
        self.noise = noise[0] / 255, noise[1] / 255
        self.gray_probability = gray_probability
        self.teacher_input = teacher_input
        self.history = HistoryStudent(history_every, history_period, history_decay)
        self.turns = {'history_every': self.history.first}

    def _check(self, encoder: str, taps: Taps | None, weights: str | None, noise: Sequence[float],
               owned: Mapping[str, tuple[str, bool]]) -> None:
        """Refuse options that do not go together; ``owned``: by name its encoder, and whether it is no default."""
        wrong = {name: f'goes with encoder: {owner} alone, and the encoder is {encoder}'
                 for name, (owner, differs) in owned.items() if differs and encoder != owner}
        if encoder == 'teacher' and taps is None:
            wrong['taps'] = 'is missing: encoder: teacher compares features of the teacher; write taps: 3'
        if encoder != 'teacher' and taps is not None:
            wrong['taps'] = f'goes with encoder: teacher alone, and the encoder is {encoder}'
        if encoder == 'teacher' and weights is not None:
            wrong['weights'] = 'goes with encoder: vqgan or vgg19, and the encoder is teacher'
        if encoder == 'vqgan' and weights is None:
            wrong['weights'] = ('is missing: encoder: vqgan needs the file of its weights, last.ckpt of '
                                'vqgan_imagenet_f16_1024 from https://github.com/CompVis/taming-transformers')
        if noise[0] > noise[1]:
            wrong['noise'] = f'must be [lowest, highest], got {list(noise)}'
        elif not noise[1]:
            wrong['noise'] = ('must go above 0: without noise the copies are the images themselves, and at the start '
                              'the negatives are the student\'s own images')
        if wrong:
            raise ArgumentError(type(self).__name__, wrong)

    def _weights_of(self, layer_weights: Sequence[float] | None, taps: Taps | None) -> list[float]:
        """λ_1..λ_K for the K features of the encoder."""
        count = (len(self.encoder.levels) if isinstance(self.encoder, VQGANFeatures) else len(LAYER_WEIGHTS)
                 if taps is None else taps if isinstance(taps, int) else len(taps))
        wrong = ''
        if layer_weights is None and count > len(LAYER_WEIGHTS):
            wrong = (f'is missing: the paper has {len(LAYER_WEIGHTS)} numbers, and there are {count} features; write '
                     f'{count} numbers, or fewer taps')
        elif layer_weights is not None and len(layer_weights) != count:
            wrong = f'must have {count} numbers, one for each feature, got {list(layer_weights)}'
        elif layer_weights is not None and not any(layer_weights):
            wrong = 'are all 0: nothing would be distilled'
        if wrong:
            raise ArgumentError(type(self).__name__, {'layer_weights': wrong})
        return list(LAYER_WEIGHTS[-count:] if layer_weights is None else layer_weights)

    def copy_student(self, student: nn.Module) -> None:
        """Make the history student."""
        try:
            self.history.copy_from(student)
        except FOREIGN_ERRORS as error:
            raise LossError(f'the student {type(student).__name__} cannot be copied, and DCKDLoss needs a copy of it '
                            f'({reason(error)})', 'let copy.deepcopy(student) work: keep no tensor with a gradient in '
                            'it, and no open file') from error

    def fixed_options(self) -> dict[str, Any]:
        """What the history student depends on."""
        every = self.history.every
        return {'history_every': every[0] if len(every) == 1 else every, 'history_decay': self.history.decay,
                'history_period': self.history.period}

    def degraded(self, lq: Tensor) -> Tensor:
        """Draw degraded copies of LR images: independent σ, noise and choice of gray for each copy and sample.

        Args:
            lq: (N, C, H, W).

        Returns:
            ``num_degraded`` copies of each image, (J · N, C, H, W), clipped to [0, 1].
        """
        generator = self._generator_on(lq.device)
        images = lq.repeat(self.num_degraded, 1, 1, 1)

        def uniform() -> Tensor:
            return torch.rand(len(images), 1, 1, 1, generator=generator, device=lq.device, dtype=lq.dtype)

        def normal(channels: int) -> Tensor:
            return torch.randn(len(images), channels, *lq.shape[2:], generator=generator, device=lq.device,
                               dtype=lq.dtype)

        sigma = self.noise[0] + (self.noise[1] - self.noise[0]) * uniform()
        is_gray = uniform() < self.gray_probability
        return (images + sigma * torch.where(is_gray, normal(1), normal(lq.shape[1]))).clamp(0, 1)

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the terms.

        Returns:
            ``l_dckd``; with VQGAN and a ``codebook_weight`` above 0 also ``l_codebook``.

        Raises:
            LossError: The teacher is the encoder, and no gradient passes through it.
            ValueError: The images are not RGB, and the encoder needs that.
        """
        self.require_bound()
        encoded = self._encoder_of(step)
        self.history.follow(step.iteration, step.nets.student.net, step.averaged)
        with torch.autocast(step.lq.device.type, enabled=False):  # 16 bits would lose gradients as small as these
            with torch.no_grad():
                negative = encoded(self.history(torch.cat([step.lq, self.degraded(step.lq)])))
                positive = encoded(step.teacher.output.float())
            anchor = encoded(step.student.output.float())
            self._check_gradient(step, anchor)
            terms = {'l_dckd': self.contrast_weight * contrast(anchor, positive, negative, self.layer_weights)}
            if isinstance(self.encoder, VQGANFeatures) and self.codebook_weight:
                classes = self.encoder.classify
                terms['l_codebook'] = self.codebook_weight * codebook_distance(
                    classes(anchor[-1]), classes(positive[-1]))
        return terms

    def _check_gradient(self, step: Step, anchor: Sequence[Tensor]) -> None:
        """Refuse a teacher through which no gradient comes back to the image."""
        if step.student.output.requires_grad and not any(feature.requires_grad for feature in anchor):
            raise LossError(f'no gradient passes through the teacher {type(step.nets.teacher.net).__name__} to the '
                            'student\'s image, so it cannot be the encoder', 'write encoder: vgg19, or vqgan and its '
                            'weights, without taps; with several teachers, let DCKDLoss learn from another')

    def _encoder_of(self, step: Step) -> Callable[[Tensor], Sequence[Tensor]]:
        """f: images (N, C, sH, sW) → features f_1..f_K."""
        if not isinstance(self.encoder, str):
            channels = step.student.output.shape[1]
            if channels != 3:
                raise ValueError(f'this encoder of DCKDLoss needs RGB images, got {channels} channels; write encoder: '
                                 'teacher, and taps')
            return self.encoder
        taps, size = [t for _, t in self.pairs], step.lq.shape[2:]

        def encoded(images: Tensor) -> list[Tensor]:
            if self.teacher_input == 'lr':
                images = F.interpolate(images, size, mode='bicubic', align_corners=False, antialias=True)
            return encode(step.nets.teacher, images, taps)

        return encoded
