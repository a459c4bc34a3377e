"""The aggregator of MTKD: attention on DCT coefficients, the seam of the shift, image sizes, and frozen teachers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scipy.fft
import torch
from helpers import STUDENTS, TEACHERS
from torch import Tensor

from mipkd_plugin import ArgumentError
from mipkd_plugin.archs import AggregatedTeachers, KnowledgeAggregator
from mipkd_plugin.archs.knowledge_aggregator_arch import DCTWindowAttention, dct_matrix, images_of
from basicsr.archs import build_network
from basicsr.archs.swinir_arch import SwinTransformerBlock, WindowAttention

SMALL: dict[str, Any] = {'num_teachers': 2, 'upscale': 2, 'embed_dim': 8, 'depths': [2, 2], 'num_heads': 2,
                         'window_size': 4}


@pytest.mark.parametrize('size', [1, 4, 8])
def test_the_matrix_is_the_orthonormal_dct(size: int) -> None:
    x = np.random.default_rng(size).normal(size=(size, 5))
    np.testing.assert_allclose(dct_matrix(size).numpy() @ x, scipy.fft.dct(x, axis=0, norm='ortho'), atol=1e-6)
    np.testing.assert_allclose(dct_matrix(size) @ dct_matrix(size).T, np.eye(size), atol=1e-6)


def test_attention_runs_on_the_coefficients_of_each_window_and_channel() -> None:
    """Against BasicSR's own attention between a DCT and an inverse DCT of SciPy."""
    attention = DCTWindowAttention(6, (8, 8), 2)
    plain = WindowAttention(6, (8, 8), 2)
    plain.load_state_dict(attention.state_dict())
    x = torch.rand(3, 64, 6)
    coefficients = scipy.fft.dctn(x.numpy().reshape(3, 8, 8, 6), axes=(1, 2), norm='ortho')
    attended = plain(torch.from_numpy(coefficients).float().reshape(3, 64, 6)).detach().numpy()
    expected = scipy.fft.idctn(attended.reshape(3, 8, 8, 6), axes=(1, 2), norm='ortho').reshape(3, 64, 6)
    np.testing.assert_allclose(attention(x).detach(), expected, atol=1e-5)


# --------------------------------------------------------------------------------------------- the seam of the shift
def shifted_block() -> SwinTransformerBlock:
    """The second block of an aggregator: windows of 8, shifted by 4."""
    torch.manual_seed(3)
    net = KnowledgeAggregator(num_teachers=2, upscale=2, embed_dim=4, depths=[2], num_heads=2, window_size=8)
    block: SwinTransformerBlock = net.eval().layers[0].residual_group.blocks[1]
    assert block.shift_size == 4
    for parameter in block.attn.parameters():
        torch.nn.init.normal_(parameter)
    return block


def by_position(side: int, window: int) -> np.ndarray:
    """Which pairs of pixels of each shifted window lie on opposite sides of the feature: (windows, n², n²)."""
    rows = np.roll(np.arange(side), -(window // 2)).reshape(-1, window)
    apart = np.abs(rows[:, :, None] - rows[:, None, :]) >= window  # (windows along a side, n, n)
    both = apart[:, None, :, None, :, None] | apart[None, :, None, :, None, :]
    return both.reshape(len(rows)**2, window**2, window**2)


def test_the_mask_is_that_of_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pairs in windows at the edge 51.7 % are masked; a mask that went through a DCT would leave 15.6 %."""
    block, masks = shifted_block(), list[Tensor]()
    attend = WindowAttention.forward
    monkeypatch.setattr(WindowAttention, 'forward',
                        lambda self, x, mask=None: masks.append(mask) or attend(self, x, mask))
    block(torch.rand(1, 64 * 64, 4), (64, 64))
    masked = (masks[0] < 0).numpy()
    np.testing.assert_array_equal(masked, by_position(64, 8))
    at_edge = masked[masked.any((1, 2))]
    assert len(at_edge) == 15
    assert at_edge.mean() == pytest.approx(0.517, abs=5e-4)
    regions = np.arange(64)[:, None] >= np.array([0, 56, 60])  # as the released code: region numbers through the DCT
    numbers = 3.0 * (regions.sum(1) - 1)[:, None] + (regions.sum(1) - 1)
    windows = numbers.reshape(8, 8, 8, 8).transpose(0, 2, 1, 3)
    through = scipy.fft.dctn(windows, axes=(2, 3), norm=None).reshape(64, 64)
    lost = (np.abs(through[:, None] - through[:, :, None]) > 1e-9)[masked.any((1, 2))]
    assert lost.mean() == pytest.approx(0.156, abs=5e-4)


def leak(block: SwinTransformerBlock, side: int = 16) -> tuple[float, float]:
    """How far the output changes (before the seam, behind it) where the last rows of a feature change."""
    window = block.window_size // 2
    x = torch.rand(1, side, side, block.dim)
    other = x.clone()
    other[:, -window:] += torch.rand(1, window, side, block.dim)
    with torch.no_grad():
        one, two = (block(f.flatten(1, 2), (side, side)).unflatten(1, (side, side)) for f in (x, other))
    change = (one - two).abs().amax((0, 2, 3))
    return change[:-window].max().item(), change[-window:].min().item()


@pytest.mark.parametrize('side', [16, 24])
def test_pixels_on_the_two_sides_of_the_seam_do_not_mix(side: int) -> None:
    """The rows at the top share windows with those at the bottom, and must not see them; nor columns each other."""
    block = shifted_block()
    before, behind = leak(block, side)
    assert before == 0
    assert behind > 0.01


def test_a_dct_of_whole_windows_would_mix_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: DCTWindowAttention, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        matrices = self.transforms[-1:].expand(1 if mask is None else len(mask), -1, -1)
        return matrices, matrices

    monkeypatch.setattr(DCTWindowAttention, 'matrices', whole)
    assert leak(shifted_block())[0] > 0.01


def test_windows_without_a_seam_get_the_dct_of_the_whole_window() -> None:
    block = shifted_block()
    rows, columns = block.attn.matrices(block.calculate_mask((24, 32)))
    whole = torch.equal
    for number, (along_height, along_width) in enumerate(zip(rows, columns)):
        row, column = divmod(number, 4)
        split = torch.block_diag(dct_matrix(4), dct_matrix(4))
        assert whole(along_height, split if row == 2 else dct_matrix(8))
        assert whole(along_width, split if column == 3 else dct_matrix(8))


# --------------------------------------------------------------------------------------------- the network
@pytest.mark.parametrize('scale', [2, 3, 4])
def test_any_size_and_all_parameters_learn(scale: int) -> None:
    net = KnowledgeAggregator(**{**SMALL, 'upscale': scale, 'drop_path_rate': 0.0})
    images = torch.rand(2, 6, 9 * scale, 14 * scale + 1)
    out = net(images)
    assert out.shape == (2, 3, 9 * scale, 14 * scale + 1)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())
    mirrored = torch.nn.functional.pad(images, (0, 2 * scale - 1, 0, 3 * scale), mode='reflect')
    assert torch.equal(out, net(mirrored)[:, :, :9 * scale, :14 * scale + 1]), 'padded to whole windows by reflection'


def test_the_file_does_not_depend_on_the_size_of_images() -> None:
    """BasicSR's SwinIR saves the masks of its img_size."""
    net = KnowledgeAggregator(**SMALL)
    before = {name: value.shape for name, value in net.state_dict().items()}
    net(torch.rand(1, 6, 50, 38))
    assert {name: value.shape for name, value in net.state_dict().items()} == before
    assert not any('transforms' in name for name in before)


def test_the_papers_size() -> None:
    net = KnowledgeAggregator(num_teachers=3, upscale=4)
    assert [len(layer.residual_group.blocks) for layer in net.layers] == [4, 4]
    assert net.conv_first.weight.shape == (96, 9 * 16, 3, 3)
    assert net.conv_before_upsample[0].weight.shape == (64, 96, 3, 3)
    assert net.conv_last.weight.shape == (3, 64, 3, 3)
    assert {block.attn.num_heads for layer in net.layers for block in layer.residual_group.blocks} == {6}
    assert net.layers[0].residual_group.blocks[0].mlp.fc1.weight.shape == (192, 96)
    assert [block.shift_size for block in net.layers[1].residual_group.blocks] == [0, 4, 0, 4]


def test_golden_value() -> None:
    """Numbers of the whole network, with seams in its second blocks: a change of them changes trained aggregators."""
    torch.manual_seed(0)
    net = KnowledgeAggregator(**SMALL).eval()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.no_grad():
        out = net(torch.rand(1, 6, 24, 40))
    found = [out.mean().item(), out.std().item(), out[0, 1, 5, 7].item()]
    assert found == pytest.approx([5.01600, 26.89860, 24.54079], rel=1e-4)


def test_an_image_skip_starts_from_the_mean_of_the_teachers() -> None:
    images = torch.rand(1, 6, 20, 18)
    net = KnowledgeAggregator(**SMALL, image_skip=True).eval()
    assert torch.allclose(net(images), (images[:, :3] + images[:, 3:]) / 2, atol=1e-6)


@pytest.mark.parametrize(('options', 'says'), [
    ({'embed_dim': 7}, 'embed_dim must be a multiple of num_heads, 2, got 7'),
    ({'depths': []}, 'depths'), ({'depths': [2, 0]}, 'depths'), ({'num_teachers': 0}, 'num_teachers'),
    ({'window_size': 8.0}, 'window_size'), ({'mlp_ratio': 0}, 'mlp_ratio')])
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ArgumentError, match=says):
        KnowledgeAggregator(**{**SMALL, **options})


def test_other_numbers_of_images_are_refused() -> None:
    with pytest.raises(ValueError, match='it takes the images of its 2 teachers, 6 channels, and got 9'):
        KnowledgeAggregator(**SMALL)(torch.rand(1, 9, 8, 8))


# --------------------------------------------------------------------------------------------- the teachers
def aggregated() -> AggregatedTeachers:
    return AggregatedTeachers({'type': 'KnowledgeAggregator', **SMALL}, [TEACHERS['EDSR'], STUDENTS['RCAN']])


def test_teachers_stay_in_eval_mode_and_get_no_gradient() -> None:
    net = aggregated().train()
    assert net.aggregator.training
    assert not any(module.training for module in net.teachers.modules())
    state = copy.deepcopy(net.state_dict())
    net(torch.rand(1, 3, 8, 8)).mean().backward()
    assert all(p.grad is None for p in net.teachers.parameters())
    assert all(p.grad is not None for p in net.aggregator.parameters())
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_no_graph_is_built_over_the_teachers() -> None:
    """Their parameters want gradients, as the released code leaves them, and no graph holds their activations."""
    teachers = [build_network(TEACHERS['EDSR']).eval(), build_network(STUDENTS['RCAN']).eval()]
    lq = torch.rand(1, 3, 8, 8)
    images = images_of(teachers, lq)
    assert not images.requires_grad
    assert images.grad_fn is None
    assert torch.equal(images[:, 3:], teachers[1](lq))


def test_a_gradient_reaches_images_that_want_one() -> None:
    """DCKD shows the student's images to the teacher."""
    net = aggregated().eval().requires_grad_(False)
    images = torch.rand(1, 3, 8, 8, requires_grad=True)
    net(images).mean().backward()
    assert images.grad is not None
    assert images.grad.abs().min() > 0
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        assert not net(images).requires_grad
