"""The knowledge aggregation network of MTKD (arXiv 2404.09571, ECCV 2024), and the teacher that it makes of several.

Facts are from the paper and from github.com/YuxuanJJ/MTKD, commit d027a3a (DCTSwin_arch.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import torch
from basicsr.archs.swinir_arch import SwinIR, WindowAttention
from basicsr.utils.registry import ARCH_REGISTRY
from pydantic import Field
from torch import Tensor, nn

from mipkd_plugin.networks.padding import padded
from mipkd_plugin.utils.ranges import ArgumentError, Count, PositiveFloat, ShareBelowOne, checked
from mipkd_plugin.utils.registry import register

Depths = Annotated[Sequence[Count], Field(min_length=1)]
"""Blocks of each group; at least one group."""


def dct_matrix(size: int) -> Tensor:
    """The orthonormal discrete cosine transform (DCT-II) as a matrix; its transpose is the inverse.

    >>> matrix = dct_matrix(8)
    >>> torch.allclose(matrix @ matrix.T, torch.eye(8), atol=1e-6)
    True

    Args:
        size: Number n of values.

    Returns:
        (n, n): row k holds the cosine of frequency k.
    """
    place = torch.arange(size, dtype=torch.float64)
    matrix = torch.cos(torch.pi / max(size, 1) * (place + 0.5) * place[:, None]) * math.sqrt(2 / max(size, 1))
    matrix[:1] /= math.sqrt(2)
    return matrix.float()


def split_dct_matrices(size: int) -> Tensor:
    """For each place where the seam of a shift can lie: the DCT of what is before it, and that of what is behind it.

    Args:
        size: Side n of a window.

    Returns:
        (n + 1, n, n): entry k transforms the first k values by themselves and the other n − k by themselves; entries 0
        and n are the transform of all n.
    """
    matrices = torch.zeros(size + 1, size, size)
    for seam, matrix in enumerate(matrices):
        matrix[:seam, :seam], matrix[seam:, seam:] = dct_matrix(seam), dct_matrix(size - seam)
    return matrices


class DCTWindowAttention(WindowAttention):  # type: ignore[misc]  # BasicSR ships no types
    """BasicSR's window attention on the two-dimensional DCT coefficients of each window and channel.

    A token is so one frequency of a window, and the table of relative positions one of relative frequencies.

    A window at the edge of a shifted feature holds pixels from opposite sides of it, and its shift mask says which
    pixels belong together. A DCT of the whole window would mix them before the mask could keep them apart; the mask
    itself is no signal, and must not be transformed. So here each rectangle between the seams gets a DCT of its own
    size, and the mask keeps the coefficients of one from those of another (our choice; the paper does not say). The
    mask is BasicSR's, as it is.
    """

    transforms: Tensor

    def __init__(self, dim: int, window_size: tuple[int, int], num_heads: int) -> None:
        super().__init__(dim, window_size, num_heads)
        self.register_buffer('transforms', split_dct_matrices(window_size[0]), persistent=False)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Transform, attend, transform back.

        Args:
            x: Features of windows (N·W, n², C), the windows of one image in a row.
            mask: (W, n², n²): 0 where two pixels belong together, far below 0 where they do not; None: all do.

        Returns:
            (N·W, n², C).
        """
        rows, columns = self.matrices(mask)
        coefficients = self._transform(x, rows, columns)
        attended = super().forward(coefficients, mask)
        return self._transform(attended, rows.mT, columns.mT)

    def matrices(self, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The transforms along height and width of each window: two tensors (W, n, n); W is 1 without a mask."""
        side = self.window_size[0]
        if mask is None:
            return self.transforms[-1:], self.transforms[-1:]
        together = (mask[:, 0] == 0).reshape(-1, side, side)  # the pixels on the same sides as the first one
        return self.transforms[together[:, :, 0].sum(1)], self.transforms[together[:, 0].sum(1)]

    def _transform(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        side = self.window_size[0]
        windows = rows @ x.reshape(-1, len(rows), side, side * x.shape[-1])
        windows = columns[:, None] @ windows.reshape(-1, len(rows), side, side, x.shape[-1])
        return windows.reshape(x.shape)


@register(ARCH_REGISTRY)
class KnowledgeAggregator(SwinIR):  # type: ignore[misc]  # BasicSR ships no types
    """The images of N teachers → one image: SwinIR on pixel-unshuffled images, with attention on DCT coefficients.

    Pixel unshuffle → 3×3 convolution → residual Swin groups → norm → convolution and skip → convolution to 64,
    LeakyReLU → pixel shuffle → 3 channels. It takes images of any size: they are padded by reflection to whole windows.

    Args:
        num_teachers: Number N of teachers.
        upscale: Scale factor s: the images are unshuffled by it.
        embed_dim: Width of the features.
        depths: Blocks of each residual group.
        num_heads: Heads of the attention; they divide ``embed_dim``.
        window_size: Side of a window.
        mlp_ratio: Width inside of an MLP, as a multiple of ``embed_dim``.
        drop_path_rate: Probability that training leaves out the last block; it rises from 0, as in the released code.
        image_skip: Whether the mean of the teachers' images is added to the output, which is 0 at first. Our choice,
            off by default: a short training starts from their mean.

    Raises:
        ArgumentError: An option is out of range.
    """

    any_size = True
    """It pads images by itself."""

    @checked
    def __init__(self, num_teachers: Count = 3, upscale: Count = 4, embed_dim: Count = 96,
                 depths: Depths = (4, 4), num_heads: Count = 6, window_size: Count = 8,
                 mlp_ratio: PositiveFloat = 2.0, drop_path_rate: ShareBelowOne = 0.1, image_skip: bool = False) -> None:
        if embed_dim % num_heads:
            raise ArgumentError(type(self).__name__, {
                'embed_dim': f'must be a multiple of num_heads, {num_heads}, got {embed_dim}'})
        # a fixed img_size: BasicSR saves a mask of its size, and computes those of all other sizes anew
        super().__init__(img_size=2 * window_size, in_chans=3 * num_teachers * upscale**2, embed_dim=embed_dim,
                         depths=tuple(depths), num_heads=(num_heads, ) * len(depths), window_size=window_size,
                         mlp_ratio=mlp_ratio, drop_path_rate=drop_path_rate, upscale=upscale,
                         upsampler='pixelshuffle')
        self.num_teachers, self.window_size, self.image_skip = num_teachers, window_size, image_skip
        self.conv_last: nn.Module = nn.Conv2d(64, 3, 3, padding=1)
        for parameter in self.conv_last.parameters() if image_skip else ():
            nn.init.zeros_(parameter)
        for layer in self.layers:
            for block in layer.residual_group.blocks:
                block.attn = DCTWindowAttention(embed_dim, (window_size, window_size), num_heads)
                block.attn.apply(self._init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """Aggregate.

        Args:
            images: The images of the teachers, one behind the other (N, 3·teachers, sH, sW).

        Returns:
            (N, 3, sH, sW).

        Raises:
            ValueError: There are more or fewer channels.
        """
        wanted = 3 * self.num_teachers
        if images.shape[1] != wanted:
            raise ValueError(f'it takes the images of its {self.num_teachers} teachers, {wanted} channels, and got '
                             f'{images.shape[1]}: it runs with them alone; write teacher: {{aggregate: FILE}} in an '
                             'option file, and name that')
        height, width = images.shape[2:]
        whole = padded(images, self.window_size * self.upscale)
        image: Tensor = super().forward(nn.functional.pixel_unshuffle(whole, self.upscale))[:, :, :height, :width]
        if self.image_skip:
            image = image + images.reshape(len(images), -1, 3, height, width).mean(1)
        return image


@register(ARCH_REGISTRY)
class AggregatedTeachers(nn.Module):
    """Several teachers and the aggregator of their images, as one teacher: LR image in, image out.

    The teachers stay in eval mode, and run without gradient: see :func:`images_of`.

    Args:
        aggregator: ``type`` and arguments of the aggregator.
        teachers: ``type`` and arguments of each teacher.
    """

    trunk_in = 'aggregator'
    """Taps are spread over its blocks."""

    def __init__(self, aggregator: Mapping[str, Any], teachers: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.teachers = nn.ModuleList(_built(options) for options in teachers).eval()
        self.aggregator = _built(aggregator)

    @classmethod
    def of(cls, aggregator: nn.Module, teachers: Iterable[nn.Module]) -> AggregatedTeachers:
        """Put networks together that are built already."""
        own = cls.__new__(cls)
        nn.Module.__init__(own)
        own.teachers, own.aggregator = nn.ModuleList(teachers).eval(), aggregator
        return own

    def train(self, mode: bool = True) -> AggregatedTeachers:
        """Set the mode of the aggregator; the teachers stay in eval mode."""
        super().train(mode)
        self.teachers.eval()
        return self

    def forward(self, lq: Tensor) -> Tensor:
        """(N, 3, H, W) → (N, 3, sH, sW)."""
        image: Tensor = self.aggregator(images_of(self.teachers, lq))
        return image


def images_of(teachers: Iterable[nn.Module], lq: Tensor) -> Tensor:
    """Run teachers without gradient, except where the images themselves want one.

    Args:
        teachers: Networks in eval mode.
        lq: LR images (N, 3, H, W). A loss that shows the student's images to the teacher wants a gradient of them.

    Returns:
        Their images, one behind the other (N, 3·teachers, sH, sW).
    """
    with torch.set_grad_enabled(lq.requires_grad and torch.is_grad_enabled()):
        return torch.cat([teacher(lq) for teacher in teachers], dim=1)


def _built(options: Mapping[str, Any]) -> nn.Module:
    arguments = {key: value for key, value in options.items() if key != 'type'}
    net: nn.Module = ARCH_REGISTRY.get(options['type'])(**arguments)
    return net
