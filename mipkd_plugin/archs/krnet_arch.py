"""KRNet: the knowledge representation network of meta knowledge distillation (arXiv 2207.08356)."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mipkd_plugin.archs.base import FeatureScale, ScaledFeatures
from mipkd_plugin.utils.ranges import Count, OddSize, Share, checked
from mipkd_plugin.utils.registry import register

_SMALLEST_NORM = 1e-6
_SMALLEST_ENERGY = 1e-3  # in units of the feature scale

TextureKernelSize = Annotated[OddSize, Field(ge=3)]
"""Odd and at least 3: a 1×1 kernel of zero sum is zero."""

RelativeTo = Literal['none', 'energy']
"""What a distance of textures is divided by: nothing, or the mean absolute texture of the teacher."""


class KernelGenerator(nn.Module):
    """Makes texture-aware dynamic kernels and their weights from two features and their correlation (our choice).

    Two strided 3×3 convolutions → global average pooling, joined with the channel correlation → one linear layer for
    the kernels, one for the weights. The latter starts at zero: before training all textures have the same weight.

    Args:
        channels: Width C of both features.
        num_kernels: Kernels G per sample and channel.
        kernel_size: Their odd size k.
        hidden_channels: Width of the convolutions.
    """

    def __init__(self, channels: int, num_kernels: int, kernel_size: int, hidden_channels: int) -> None:
        super().__init__()
        self.shape = channels, num_kernels, kernel_size, kernel_size
        self.convolutions = nn.Sequential(
            nn.Conv2d(2 * channels + 1, hidden_channels, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(hidden_channels, hidden_channels, 3, stride=2, padding=1), nn.ReLU())
        self.kernel_head = nn.Linear(hidden_channels + channels, channels * num_kernels * kernel_size**2)
        self.weight_head = nn.Linear(hidden_channels + channels, num_kernels)
        nn.init.zeros_(self.weight_head.weight)
        nn.init.zeros_(self.weight_head.bias)

    def forward(self, projected: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Make the kernels and their weights.

        Args:
            projected: P F_S (N, C, H, W).
            teacher: F_T (N, C, H, W).

        Returns:
            Kernels (N, C, G, k, k), each of zero sum and L1 norm 1; weights (N, G) that sum to 1.
        """
        by_position = F.cosine_similarity(projected, teacher, dim=1).unsqueeze(1)
        by_channel = F.cosine_similarity(projected.flatten(2), teacher.flatten(2), dim=2)
        condition = torch.cat([projected, teacher - projected, by_position], dim=1)
        code = torch.cat([self.convolutions(condition).mean((2, 3)), by_channel], dim=1)
        kernels = self.kernel_head(code).unflatten(1, self.shape)
        kernels = kernels - kernels.mean((3, 4), keepdim=True)
        kernels = kernels / kernels.abs().sum((3, 4), keepdim=True).clamp_min(_SMALLEST_NORM)
        return kernels, self.weight_head(code).softmax(dim=1)


@register(ARCH_REGISTRY)
class KRNet(ScaledFeatures):
    """Turns a student's and a teacher's feature into textures to be matched (one KRNet a tap pair).

    From the abstract: the knowledge is drawn from the student's features and the teacher–student correlation, by
    texture-aware dynamic kernels, and supervised texture by texture. The rest is our choice: a 1×1 projection P of
    the student's feature to the teacher's width, which trains with the student (as FitNet's regressor); G depthwise
    kernels per sample and channel from a :class:`KernelGenerator`, of zero sum (they answer to texture, not to level)
    and L1 norm 1; replicate padding; the same kernels filter P F_S and F_T; weights w_g that sum to 1.

    Args:
        student_channels: Width of the student's feature.
        teacher_channels: Width C of the teacher's feature.
        num_kernels: Kernels G per sample and channel.
        kernel_size: Their odd size, at least 3: a 1×1 kernel of zero sum is zero.
        hidden_channels: Width of the generator's convolutions.
        condition_gradient: Whether the student also gets gradients through the kernels made from its feature. Off by
            default: the student matches textures and does not choose them.
        feature_scale: ``running`` or ``none``, see :class:`~mipkd_plugin.archs.base.ScaledFeatures`.
        momentum: Weight of the newest mean in the running scale.
        relative_to: ``energy`` divides the distance of each texture by the mean |U_T^g| of the sample, so that a
            generator cannot make it small by asking for faint textures; ``none``: as it is.

    Raises:
        ArgumentError: An option is out of range.
    """

    @checked
    def __init__(self, student_channels: Count, teacher_channels: Count, num_kernels: Count = 4,
                 kernel_size: TextureKernelSize = 3, hidden_channels: Count = 32, condition_gradient: bool = False,
                 feature_scale: FeatureScale = 'running', momentum: Share = 0.01,
                 relative_to: RelativeTo = 'none') -> None:
        super().__init__(feature_scale, momentum)
        self.relative_to = relative_to
        self.kernel_size = kernel_size
        self.condition_gradient = condition_gradient
        self.projection = nn.Conv2d(student_channels, teacher_channels, 1)
        self.generator = KernelGenerator(teacher_channels, num_kernels, kernel_size, hidden_channels)

    def project(self, student_feature: Tensor) -> Tensor:
        """P F_S in units of the feature scale: (N, C_S, H, W) → (N, C, H, W)."""
        projected: Tensor = self.projection(student_feature / self.scale)
        return projected

    def generate(self, projected: Tensor, teacher: Tensor, learn: bool = False) -> tuple[Tensor, Tensor]:
        """Make kernels and weights for two features in units of the feature scale.

        Args:
            projected: P F_S (N, C, H, W).
            teacher: F_T / scale (N, C, H, W).
            learn: Whether gradients reach the generator; otherwise it is held fixed.

        Returns:
            Kernels (N, C, G, k, k) and weights (N, G).
        """
        if not self.condition_gradient:
            projected = projected.detach()
        made: tuple[Tensor, Tensor]
        if learn:
            made = self.generator(projected, teacher)
        else:
            fixed = {name: parameter.detach() for name, parameter in self.generator.named_parameters()}
            made = functional_call(self.generator, fixed, (projected, teacher))
        return made

    def textures(self, feature: Tensor, kernels: Tensor) -> Tensor:
        """Filter each channel of each sample with its own kernels, replicate padding.

        Args:
            feature: (N, C, H, W).
            kernels: (N, C, G, k, k).

        Returns:
            (N, C, G, H, W).
        """
        n, c, h, w = feature.shape
        side = self.kernel_size
        padded = F.pad(feature, [side // 2] * 4, mode='replicate')
        if not kernels.requires_grad:
            filters = kernels.reshape(-1, 1, side, side)
            return F.conv2d(padded.reshape(1, n * c, *padded.shape[2:]), filters, groups=n * c).reshape(n, c, -1, h, w)
        # a matrix product: the second derivative of a grouped convolution would run group by group
        patches = F.unfold(padded, side).reshape(n, c, side * side, h * w)
        return (kernels.flatten(3) @ patches).reshape(n, c, -1, h, w)

    def distance(self, projected: Tensor, teacher: Tensor, kernels: Tensor, weights: Tensor) -> Tensor:
        """Compute Σ_g w_g |U_S^g − U_T^g| for features (N, C, H, W) in units of the feature scale.

        Convolution is linear, so U_S − U_T is computed as the texture of P F_S − F_T.

        Returns:
            One value per sample: (N,).
        """
        distances = self.textures(projected - teacher, kernels).abs().mean((1, 3, 4))
        if self.relative_to == 'energy':
            distances = distances / self.textures(teacher, kernels).abs().mean((1, 3, 4)).clamp_min(_SMALLEST_ENERGY)
        return (weights * distances).sum(1)

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, learn: bool = False) -> Tensor:
        """Compute Σ_g w_g |U_S^g − U_T^g|.

        Args:
            student_feature: F_S (N, C_S, H, W).
            teacher_feature: F_T (N, C, H, W).
            learn: Whether gradients reach the generator.

        Returns:
            One value per sample: (N,).
        """
        projected, teacher = self.project(student_feature), teacher_feature / self.scale
        return self.distance(projected, teacher, *self.generate(projected, teacher, learn))

    def gap(self, here: Tensor, there: Tensor, teacher_feature: Tensor) -> Tensor:
        """Compute how much the distance grows when the student's feature moves.

        The kernels made ``here`` measure both, unless ``condition_gradient`` is on.

        Args:
            here: F_S (N, C_S, H, W).
            there: The moved feature, of the same shape.
            teacher_feature: F_T (N, C, H, W).

        Returns:
            One value per sample, (N,), with gradients to the generator.
        """
        if self.condition_gradient:
            return (self.forward(there, teacher_feature, learn=True)
                    - self.forward(here, teacher_feature, learn=True))
        before, teacher = self.project(here), teacher_feature / self.scale
        made = self.generate(before, teacher, learn=True)
        return self.distance(self.project(there), teacher, *made) - self.distance(before, teacher, *made)
