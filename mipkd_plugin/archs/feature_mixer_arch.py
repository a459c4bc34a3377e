"""Feature prior mixer of MiPKD (arXiv 2404.02573, ICLR 2025)."""

from __future__ import annotations

from typing import Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.base import FeatureScale, ScaledFeatures
from mipkd_plugin.utils.ranges import Count, OddSize, Share, checked
from mipkd_plugin.utils.registry import register

MaskType = Literal['3d', 'channel', 'pixel']
Encoders = Literal['separate', 'shared']
LatentWidth = Count | Literal['student', 'teacher']


def _convolutions(in_channels: int, hidden: int, out_channels: int, num_layers: int, kernel_size: int) -> nn.Sequential:
    """``num_layers`` convolutions with a ReLU between them; the size H×W stays."""
    widths = [in_channels] + [hidden] * (num_layers - 1) + [out_channels]
    layers: list[nn.Module] = []
    for i in range(num_layers):
        layers.append(nn.Conv2d(widths[i], widths[i + 1], kernel_size, padding=kernel_size // 2))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


@register(ARCH_REGISTRY)
class FeaturePriorMixer(ScaledFeatures):
    """Mixes a student's and a teacher's feature in one latent space, by a random mask (one mixer a tap pair).

    z = I ⊙ E_S(F_S) + (1 − I) ⊙ E_T(F_T), I ~ Bernoulli(ρ); decoders D_T and D_S lead back to the widths of the two
    networks. Separate encoders, convolutions and a random 3-D mask are the paper's best choices; the layers (one 3×3
    convolution each), the latent width (the teacher's), ρ, the second decoder and the feature scale are our choice.
    Measured in one setting, with one seed (``experiments/README.md``): a second convolution took all of the gain away,
    ρ = 0.8 gained more than 0.5. A latent space as wide as the teacher gained 0.04 dB more than one as wide as the
    student, with three seeds, for four times the parameters. There a shared encoder gained 0.07 dB more than separate
    ones, and ρ = 0.95 gained 0.04 more than 0.8 (``docs/results.md``).

    Args:
        student_channels: Width of the student's feature.
        teacher_channels: Width of the teacher's feature.
        latent_channels: Width Z of the latent space: a number, or the width of the ``teacher`` or the ``student``.
        mask_ratio: ρ, the probability that an element of the mask takes the student's side, in [0, 1].
        mask_type: ``3d``: one draw per element of (N, Z, H, W); ``channel``: per (N, Z); ``pixel``: per (N, H, W).
        encoders: ``separate`` (paper's best) or ``shared``: 1×1 convolutions to the latent width, then one
            encoder for both.
        feature_scale: ``running``: features are divided by a running mean of |F_T|, a buffer saved with the mixer;
            ``none``: raw features.
        num_layers: Convolutions per encoder and decoder, with a ReLU between them.
        kernel_size: Odd size of their kernels; 1 gives an MLP per pixel.
        momentum: Weight of the newest mean in the running mean.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, student_channels: Count, teacher_channels: Count, latent_channels: LatentWidth = 'teacher',
                 mask_ratio: Share = 0.8, mask_type: MaskType = '3d', encoders: Encoders = 'separate',
                 feature_scale: FeatureScale = 'running', num_layers: Count = 1, kernel_size: OddSize = 3,
                 momentum: Share = 0.01) -> None:
        super().__init__(feature_scale, momentum)
        z = latent_channels
        if isinstance(z, str):
            z = student_channels if z == 'student' else teacher_channels
        if encoders == 'shared':
            shared = _convolutions(z, z, z, num_layers, kernel_size)
            self.encoder_s: nn.Module = nn.Sequential(nn.Conv2d(student_channels, z, 1), shared)
            self.encoder_t: nn.Module = nn.Sequential(nn.Conv2d(teacher_channels, z, 1), shared)
        else:
            self.encoder_s = _convolutions(student_channels, z, z, num_layers, kernel_size)
            self.encoder_t = _convolutions(teacher_channels, z, z, num_layers, kernel_size)
        self.decoder_s = _convolutions(z, z, student_channels, num_layers, kernel_size)
        self.decoder_t = _convolutions(z, z, teacher_channels, num_layers, kernel_size)
        self.latent_channels = z
        self.mask_ratio = mask_ratio
        self.mask_type = mask_type

    def draw_mask(self, feature: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a mask I.

        Args:
            feature: A feature (N, C, H, W); gives N, H, W and device.
            generator: On the device of ``feature``.

        Returns:
            I, boolean: True for the student's side, in a shape that broadcasts to (N, Z, H, W).
        """
        n, _, h, w = feature.shape
        z = self.latent_channels
        shape = {'3d': (n, z, h, w), 'channel': (n, z, 1, 1), 'pixel': (n, 1, h, w)}[self.mask_type]
        return torch.rand(shape, generator=generator, device=feature.device) < self.mask_ratio

    def encode(self, feature: Tensor, of_student: bool) -> Tensor:
        """E(F / scale): (N, C, H, W) of one of the networks → (N, Z, H, W)."""
        latent: Tensor = (self.encoder_s if of_student else self.encoder_t)(feature / self.scale)
        return latent

    def decode(self, latent: Tensor, for_student: bool) -> Tensor:
        """D(z) · scale: (N, Z, H, W) → a feature (N, C, H, W) that can enter the chosen network."""
        decoded: Tensor = (self.decoder_s if for_student else self.decoder_t)(latent)
        return decoded * self.scale

    def mix(self, student_latent: Tensor, teacher_latent: Tensor, mask: Tensor) -> Tensor:
        """Mix two latents: z = I ⊙ z_S + (1 − I) ⊙ z_T, all (N, Z, H, W)."""
        return torch.where(mask, student_latent, teacher_latent)

    def teacher_error(self, latent: Tensor, teacher_feature: Tensor) -> Tensor:
        """Compute |D_T(latent) − F_T| in units of the feature scale: L_feat of z, L_ae of E_T(F_T).

        Dividing by the scale makes the weight of the loss mean the same for every architecture (our choice).

        Returns:
            A scalar.
        """
        return (self.decode(latent, for_student=False) - teacher_feature).abs().mean() / self.scale

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> tuple[Tensor, Tensor]:
        """E_S(F_S) and E_T(F_T), both (N, Z, H, W), from F_S (N, C_S, H, W) and F_T (N, C_T, H, W)."""
        return self.encode(student_feature, of_student=True), self.encode(teacher_feature, of_student=False)
