"""The encoder of VQGAN (CVPR 2021, arXiv 2012.09841) as a frozen encoder of images, from a published checkpoint.

Names of layers, their order and the range of the images are those of github.com/CompVis/taming-transformers at 3ba01b2;
which features DCKD takes is as in github.com/super-SSS/DCKD at 66fe400.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.losses.vgg_features import require_size
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.lightning_files import read_checkpoint
from mipkd_plugin.utils.weight_files import WeightFileError, unusable

_GROUPS = 32
_PARTS = ('encoder.', 'quant_conv.', 'quantize.')
_REMEDY = ('give the path of last.ckpt of vqgan_imagenet_f16_1024, from '
           'https://github.com/CompVis/taming-transformers')


class _Block(nn.Module):
    """Two convolutions and a skip."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inner), nn.Conv2d(inner, outer, 3, padding=1)
        self.norm2, self.conv2 = _norm(outer), nn.Conv2d(outer, outer, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(inner, outer, 1) if inner != outer else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return cast(Tensor, h + self.nin_shortcut(x))


class _Attention(nn.Module):
    """Each position looks at all others: one head."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = _norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (layer(h).flatten(2).transpose(1, 2) for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)
        return cast(Tensor, x + self.proj_out(seen.transpose(1, 2).reshape(x.shape)))


class _Halving(nn.Module):
    """A strided convolution, padded at the right and below alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.conv(F.pad(x, (0, 1, 0, 1))))


class _Level(nn.Module):
    """Blocks at one resolution, each with an attention behind it where the checkpoint has one."""

    def __init__(self, widths: Sequence[int], attends: bool, halves: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(_Block(a, b) for a, b in zip(widths, widths[1:]))
        self.attn = nn.ModuleList(_Attention(width) for width in widths[1:] if attends)
        self.downsample = _Halving(widths[-1]) if halves else nn.Identity()

    def rest(self, h: Tensor) -> Tensor:
        """What follows the first block."""
        for number, block in enumerate(self.block):
            h = block(h) if number else h
            h = self.attn[number](h) if self.attn else h
        return cast(Tensor, self.downsample(h))


class _Encoder(nn.Module):
    """The layers by their published names."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = len(state['encoder.conv_in.weight'])
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        levels, number = [], 0
        while f'encoder.down.{number}.block.0.conv1.weight' in state:
            at = f'encoder.down.{number}'
            widths = [width, *_widths(state, at)]
            halves = f'encoder.down.{number + 1}.block.0.conv1.weight' in state
            levels.append(_Level(widths, f'{at}.attn.0.norm.weight' in state, halves))
            width, number = widths[-1], number + 1
        self.down = nn.ModuleList(levels)
        self.mid = nn.ModuleDict({'block_1': _Block(width, width), 'attn_1': _Attention(width),
                                  'block_2': _Block(width, width)})
        self.norm_out = _norm(width)
        self.conv_out = nn.Conv2d(width, len(state['encoder.conv_out.weight']), 3, padding=1)


class _VQGAN(nn.Module):
    """Encoder and codebook."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.encoder = _Encoder(state)
        entries, width = state['quantize.embedding.weight'].shape
        self.quant_conv = nn.Conv2d(len(state['encoder.conv_out.weight']), width, 1)
        self.quantize = nn.ModuleDict({'embedding': nn.Embedding(entries, width)})


class VQGANFeatures:
    """f_1..f_L of VQGAN's frozen encoder, behind the first block of each of its L resolutions (5 in f16).

    No module: weights that do not train stay out of checkpoints. Sizes follow from the file.

    Args:
        weights: Checkpoint of taming-transformers, or its ``state_dict`` alone.

    Raises:
        WeightFileError: It is missing or of something else; the message says what to do.
    """

    def __init__(self, weights: str) -> None:
        state = _read(weights)
        try:
            with torch.device('meta'):
                net = _VQGAN(state)
        except FOREIGN_ERRORS as error:
            what = (f'it has no {error.args[0]}' if isinstance(error, KeyError) else
                    f'the shapes of its tensors do not go together ({reason(error)})')
            raise WeightFileError(weights, f'does not hold the encoder and the codebook of a VQGAN: {what}',
                                  _REMEDY) from error
        wanted = net.state_dict()
        wrong = [name for name, value in wanted.items() if name not in state or state[name].shape != value.shape]
        if wrong:
            raise WeightFileError(weights, 'does not hold the encoder and the codebook of a VQGAN: '
                                  f'{len(wrong)} tensors are missing or of another shape, the first is {wrong[0]}',
                                  _REMEDY)
        spoiled = [f'{name} {what}' for name in wanted if (what := unusable(state[name], torch.zeros(())))]
        spoiled += [f'{name} holds NaN or infinity' for name in wanted
                    if not spoiled and not torch.isfinite(state[name]).all()]
        if spoiled:
            raise WeightFileError(weights, f'has values that VQGAN cannot use: {spoiled[0]}', _REMEDY)
        net.load_state_dict({name: state[name].float() for name in wanted}, assign=True)
        self.net = net.eval().requires_grad_(False)

    @property
    def levels(self) -> Sequence[_Level]:
        """The layers at each of the L resolutions."""
        return cast(Sequence[_Level], self.net.encoder.down)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """f_1..f_L of RGB images (N, 3, H, W) in [0, 1]; raises a LossError below 2^(L − 1) pixels a side."""
        require_size('the encoder of VQGAN', images, 2 ** (len(self.levels) - 1))
        found: list[Tensor] = []
        h = self.net.to(images.device).encoder.conv_in(2 * images - 1)
        for level in self.levels:
            h = level.block[0](self.levels[len(found) - 1].rest(h) if found else h)
            found.append(h)
        return found

    def classify(self, deepest: Tensor) -> Tensor:
        """Compare each position with the entries of the codebook.

        Args:
            deepest: f_L of some images.

        Returns:
            −‖z − e_k‖² for each position and entry, (positions, entries): its softmax is the class distribution.
        """
        encoder, entries = self.net.encoder, cast(nn.Embedding, self.net.quantize['embedding']).weight
        h = self.levels[-1].rest(deepest)
        for name in ('block_1', 'attn_1', 'block_2'):
            h = encoder.mid[name](h)
        h = self.net.quant_conv(encoder.conv_out(F.silu(encoder.norm_out(h))))
        z: Tensor = h.permute(0, 2, 3, 1).flatten(0, 2)
        return 2 * z @ entries.T - z.square().sum(1, keepdim=True) - entries.square().sum(1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(_GROUPS, channels, eps=1e-6)


def _widths(state: Mapping[str, Tensor], at: str) -> Iterator[int]:
    """Widths of the blocks of a level."""
    number = 0
    while f'{at}.block.{number}.conv1.weight' in state:
        yield len(state[f'{at}.block.{number}.conv1.weight'])
        number += 1


def _read(weights: str) -> dict[str, Tensor]:
    if not os.path.isfile(weights):
        raise WeightFileError(weights, 'is not a file' if os.path.exists(weights) else 'does not exist', _REMEDY)
    try:
        content = read_checkpoint(weights)
    except WeightFileError as error:
        raise WeightFileError(weights, error.what, _REMEDY) from error
    inner = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    return {name: value for name, value in (inner.items() if isinstance(inner, Mapping) else ())
            if isinstance(name, str) and isinstance(value, Tensor) and name.startswith(_PARTS)}


def codebook_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute −Σ_k p_T(k) log p_S(k), mean over positions: one softmax on either side.

    Args:
        student: Logits of the classes (positions, K), not yet a distribution.
        teacher: Those of the teacher, of the same shape; no gradient reaches them.

    Returns:
        A scalar.
    """
    return F.cross_entropy(student, teacher.detach().softmax(1))
