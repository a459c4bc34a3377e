"""VQGAN's encoder in DCKDLoss: layers by their published names, the class distribution, and files that are refused."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch, make_pair
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin import ArgumentError, DCKDLoss, bind
from mipkd_plugin.losses.base import LossError
from mipkd_plugin.losses.dckd_loss import LAYER_WEIGHTS
from mipkd_plugin.losses.vqgan_features import VQGANFeatures
from mipkd_plugin.testing import check_loss
from mipkd_plugin.utils.weight_files import WeightFileError

State = dict[str, Tensor]
WIDTHS = (32, 32, 64)
"""Of the levels: two blocks each, attention at the last one."""


def tiny_vqgan(widths: tuple[int, ...] = WIDTHS, entries: int = 6) -> State:
    """Random weights under the names of taming-transformers, of 3 levels instead of 5; with those that we leave out."""
    generator, state = torch.Generator().manual_seed(0), {}

    def conv(name: str, inner: int, outer: int, size: int) -> None:
        state[f'{name}.weight'] = torch.randn(outer, inner, size, size, generator=generator) / (inner * size**2) ** 0.5
        state[f'{name}.bias'] = 0.1 * torch.randn(outer, generator=generator)

    def norm(name: str, width: int) -> None:
        state[f'{name}.weight'] = 1 + 0.1 * torch.randn(width, generator=generator)
        state[f'{name}.bias'] = 0.1 * torch.randn(width, generator=generator)

    def block(name: str, inner: int, outer: int) -> None:
        norm(f'{name}.norm1', inner)
        conv(f'{name}.conv1', inner, outer, 3)
        norm(f'{name}.norm2', outer)
        conv(f'{name}.conv2', outer, outer, 3)
        if inner != outer:
            conv(f'{name}.nin_shortcut', inner, outer, 1)

    def attention(name: str, width: int) -> None:
        norm(f'{name}.norm', width)
        for part in ('q', 'k', 'v', 'proj_out'):
            conv(f'{name}.{part}', width, width, 1)

    conv('encoder.conv_in', 3, widths[0], 3)
    width = widths[0]
    for level, outer in enumerate(widths):
        for number in range(2):
            block(f'encoder.down.{level}.block.{number}', width, outer)
            width = outer
            if level == len(widths) - 1:
                attention(f'encoder.down.{level}.attn.{number}', width)
        if level < len(widths) - 1:
            conv(f'encoder.down.{level}.downsample.conv', width, width, 3)
    block('encoder.mid.block_1', width, width)
    attention('encoder.mid.attn_1', width)
    block('encoder.mid.block_2', width, width)
    norm('encoder.norm_out', width)
    conv('encoder.conv_out', width, 5, 3)
    conv('quant_conv', 5, 4, 1)
    state['quantize.embedding.weight'] = torch.randn(entries, 4, generator=generator)
    return {**state, 'decoder.conv_in.weight': torch.zeros(2), 'loss.discriminator.main.0.weight': torch.zeros(2)}


@pytest.fixture(scope='module')
def vqgan(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp('vqgan') / 'last.ckpt'
    torch.save({'state_dict': tiny_vqgan(), 'epoch': 3}, path)
    return str(path)


# --------------------------------------------------------------------------------------------- the encoder
class ByHand:
    """The encoder once more, from its state dict alone."""

    def __init__(self, state: State) -> None:
        self.state = state

    def conv(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.state[f'{name}.weight'], self.state[f'{name}.bias'], **how)

    def norm(self, name: str, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        groups = x.view(n, 32, -1)
        mean, var = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, correction=0)
        flat = ((groups - mean) / (var + 1e-6).sqrt()).view(n, c, h, w)
        return flat * self.state[f'{name}.weight'].view(1, c, 1, 1) + self.state[f'{name}.bias'].view(1, c, 1, 1)

    def swish(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def block(self, name: str, x: Tensor) -> Tensor:
        h = self.conv(f'{name}.conv1', self.swish(self.norm(f'{name}.norm1', x)), padding=1)
        h = self.conv(f'{name}.conv2', self.swish(self.norm(f'{name}.norm2', h)), padding=1)
        return h + (self.conv(f'{name}.nin_shortcut', x) if f'{name}.nin_shortcut.weight' in self.state else x)

    def attention(self, name: str, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        q, k, v = (self.conv(f'{name}.{part}', self.norm(f'{name}.norm', x)).view(n, c, h * w) for part in 'qkv')
        weights = torch.softmax(torch.einsum('nci,ncj->nij', q, k) / c**0.5, 2)
        return x + self.conv(f'{name}.proj_out', torch.einsum('nij,ncj->nci', weights, v).reshape(n, c, h, w))

    def run(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features of the levels, and z (positions, 4)."""
        h, found = self.conv('encoder.conv_in', images * 2 - 1, padding=1), []
        for level in range(3):
            for number in range(2):
                h = self.block(f'encoder.down.{level}.block.{number}', h)
                found += [h] if number == 0 else []
                h = self.attention(f'encoder.down.{level}.attn.{number}', h) if level == 2 else h
            if level < 2:
                h = self.conv(f'encoder.down.{level}.downsample.conv', F.pad(h, (0, 1, 0, 1)), stride=2)
        h = self.attention('encoder.mid.attn_1', self.block('encoder.mid.block_1', h))
        h = self.norm('encoder.norm_out', self.block('encoder.mid.block_2', h))
        z = self.conv('quant_conv', self.conv('encoder.conv_out', self.swish(h), padding=1))
        return found, torch.stack([z[n, :, y, x] for n in range(len(z)) for y in range(z.shape[2])
                                   for x in range(z.shape[3])])


def test_features_and_classes_are_those_of_the_published_layers(vqgan: str) -> None:
    images = torch.rand(2, 3, 20, 14)
    encoder = VQGANFeatures(vqgan)
    expected, z = ByHand(tiny_vqgan()).run(images)
    found = encoder(images)
    assert [tuple(feature.shape[1:]) for feature in found] == [(32, 20, 14), (32, 10, 7), (64, 5, 3)]
    for own, other in zip(found, expected):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-4)
    entries = tiny_vqgan()['quantize.embedding.weight']
    distances = ((z.numpy()[:, None] - entries.numpy()[None]) ** 2).sum(2)
    assert np.allclose(encoder.classify(found[-1]).numpy(), -distances, atol=1e-3)


def test_images_that_are_too_small_are_refused(vqgan: str) -> None:
    assert VQGANFeatures(vqgan)(torch.rand(1, 3, 8, 8))[-1].shape == (1, 64, 2, 2)
    with pytest.raises(LossError, match='the encoder of VQGAN takes images of 4×4 pixels or more, and these have 4×3'):
        VQGANFeatures(vqgan)(torch.rand(1, 3, 4, 3))


def test_terms_follow_the_formulas(vqgan: str) -> None:
    """The contrast over three levels, and the cross-entropy of two class distributions."""
    loss = DCKDLoss(encoder='vqgan', weights=vqgan, codebook_weight=0.5)
    student, teacher = make_pair('EDSR')
    lq, gt = batch('EDSR')
    step = bind([loss], student, teacher, lq[:1]).step(lq, gt, 1)
    hand, degraded = ByHand(tiny_vqgan()), copy.deepcopy(loss).degraded(lq).split(2)
    with torch.no_grad():
        (s, z_s), (t, z_t), *others = (hand.run(image) for image in (
            step.student.output, step.teacher.output, *map(student, (lq, *degraded))))
    toward = [(a - b).abs().sum() for a, b in zip(s, t)]
    away = [sum((a - negative[0][i]).abs().sum() for negative in others) for i, a in enumerate(s)]
    p_s, p_t = (np.exp(-((z.numpy()[:, None] - tiny_vqgan()['quantize.embedding.weight'].numpy()[None]) ** 2).sum(2))
                for z in (z_s, z_t))
    p_s, p_t = (p / p.sum(1, keepdims=True) for p in (p_s, p_t))
    terms = {name: value.item() for name, value in loss(step).items()}
    assert loss.layer_weights == list(LAYER_WEIGHTS[-3:])
    assert terms == pytest.approx({
        'l_dckd': 0.1 * sum(w * (a / b).item() for w, a, b in zip(loss.layer_weights, toward, away)),
        'l_codebook': -0.5 * (p_t * np.log(p_s)).sum(1).mean()}, rel=1e-3)


def test_a_codebook_weight_of_0_leaves_the_term_out(vqgan: str) -> None:
    loss = DCKDLoss(encoder='vqgan', weights=vqgan, codebook_weight=0)
    lq, gt = batch('EDSR')
    step = bind([loss], *make_pair('EDSR'), lq[:1]).step(lq, gt, 1)
    assert list(loss(step)) == ['l_dckd']
    assert not any('quant' in name or 'encoder' in name for name in loss.state_dict())


def test_contract(vqgan: str) -> None:
    check_loss(DCKDLoss, architectures=['EDSR'], encoder='vqgan', weights=vqgan)


# --------------------------------------------------------------------------------------------- files
def test_a_checkpoint_of_lightning_is_read_without_lightning(tmp_path: Path) -> None:
    """The published file holds classes of its callbacks. No code of them runs, and they need not be installed."""
    module = types.ModuleType('pytorch_lightning.callbacks')

    class ModelCheckpoint:
        def __setstate__(self, state: Any) -> None:
            raise AssertionError('code of the file has run')

    ModelCheckpoint.__module__, ModelCheckpoint.__qualname__ = module.__name__, 'ModelCheckpoint'
    module.ModelCheckpoint = ModelCheckpoint
    made = ModelCheckpoint()
    made.best = torch.ones(2)
    sys.modules.update({'pytorch_lightning': types.ModuleType('pytorch_lightning'), module.__name__: module})
    try:
        torch.save({'state_dict': tiny_vqgan(), 'callbacks': {ModelCheckpoint: {'best': 1.0}}, 'object': made},
                   tmp_path / 'last.ckpt')
        with pytest.raises(AssertionError, match='code of the file has run'):
            torch.load(tmp_path / 'last.ckpt', weights_only=False)
    finally:
        del sys.modules['pytorch_lightning'], sys.modules[module.__name__]
    assert len(VQGANFeatures(str(tmp_path / 'last.ckpt')).levels) == 3


def test_the_state_dict_alone_will_do(tmp_path: Path) -> None:
    torch.save(tiny_vqgan(), tmp_path / 'vqgan.pth')
    assert len(VQGANFeatures(str(tmp_path / 'vqgan.pth')).levels) == 3


def gumbel(state: State) -> None:
    state['quantize.embed.weight'] = state.pop('quantize.embedding.weight')


@pytest.mark.parametrize(('spoil', 'message'), [
    (lambda state: state.clear(), 'does not hold the encoder and the codebook of a VQGAN: it has no encoder.conv_in'),
    (gumbel, 'it has no quantize.embedding.weight'),
    (lambda state: state.update({'encoder.mid.attn_1.q.weight': torch.zeros(2)}),
     '1 tensors are missing or of another shape, the first is encoder.mid.attn_1.q.weight'),
    (lambda state: state.pop('encoder.norm_out.bias'), 'the first is encoder.norm_out.bias'),
    (lambda state: state.update({'encoder.conv_in.weight': torch.zeros(30, 3, 3, 3)}),
     'the shapes of its tensors do not go together'),
    (lambda state: state.update({'quant_conv.bias': torch.tensor([1, 2, 3, 4])}), 'quant_conv.bias is int64'),
    (lambda state: state['quant_conv.bias'].fill_(float('nan')), 'quant_conv.bias holds NaN or infinity'),
    (lambda state: state.update({'encoder.conv_in.weight': torch.zeros(())}), 'the shapes of its tensors do not go'),
    (lambda state: state.update({'quantize.embedding.weight': torch.zeros(5)}), 'the shapes of its tensors do not go'),
    (lambda state: state.update({'encoder.conv_in.weight': torch.zeros(0, 3, 3, 3)}), 'of a VQGAN'),
])
def test_files_of_something_else_are_refused(spoil: Any, message: str, tmp_path: Path) -> None:
    state = tiny_vqgan()
    spoil(state)
    torch.save({'state_dict': state}, tmp_path / 'last.ckpt')
    with pytest.raises(WeightFileError) as caught:
        VQGANFeatures(str(tmp_path / 'last.ckpt'))
    assert message in str(caught.value)
    assert 'give the path of last.ckpt of vqgan_imagenet_f16_1024' in str(caught.value)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for write, message in ((lambda path: None, 'does not exist'), (lambda path: path.mkdir(), 'is not a file'),
                           (lambda path: path.rmdir() or path.write_text('hello'), 'is a text file')):
        write(tmp_path / 'last.ckpt')
        with pytest.raises(WeightFileError, match=message):
            VQGANFeatures(str(tmp_path / 'last.ckpt'))


def test_more_levels_than_the_paper_has_weights(tmp_path: Path) -> None:
    torch.save(tiny_vqgan((32, ) * 6), tmp_path / 'last.ckpt')
    with pytest.raises(ArgumentError, match='layer_weights is missing: the paper has 5 numbers, and there are 6 feat'):
        DCKDLoss(encoder='vqgan', weights=str(tmp_path / 'last.ckpt'))
