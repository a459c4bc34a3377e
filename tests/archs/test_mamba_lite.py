"""MambaLite: the scan equals the recurrence, the block sees the whole image, and distillation works on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from torch import Tensor
from training import train, write_options

from mipkd_plugin.archs.mamba_lite_arch import MambaLite, StateSpaceBlock, selective_scan
from mipkd_plugin.utils.ranges import ArgumentError

TINY = {'type': 'MambaLite', 'num_feat': 4, 'num_block': 3, 'num_state': 2, 'upscale': 2}


def recurrence(u: Tensor, delta: Tensor, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Equation 2 of Mamba, one position after the other."""
    state, outputs = torch.zeros(u.shape[0], u.shape[2], a.shape[1], dtype=u.dtype), []
    for t in range(u.shape[1]):
        state = (delta[:, t, :, None] * a).exp() * state + (delta[:, t] * u[:, t])[..., None] * b[:, t, None]
        outputs.append((state * c[:, t, None]).sum(-1))
    return torch.stack(outputs, 1)


def inputs(length: int, largest_step: float = 2.0) -> list[Tensor]:
    found = [torch.randn(2, length, 3), torch.rand(2, length, 3) * largest_step, -torch.rand(3, 4) - 0.01,
             torch.randn(2, length, 4), torch.randn(2, length, 4)]
    return [x.double().requires_grad_() for x in found]


@pytest.mark.parametrize(('length', 'chunk'), [(1, 8), (7, 8), (8, 8), (29, 8), (29, 1), (29, 64)])
def test_the_scan_and_its_gradients_equal_the_recurrence(length: int, chunk: int) -> None:
    given = inputs(length)
    weights = torch.randn(2, length, 3).double()
    outputs = [selective_scan(*given, chunk=chunk), recurrence(*given)]
    torch.testing.assert_close(*outputs, rtol=1e-12, atol=1e-12)
    for ours, true in zip(*(torch.autograd.grad((y * weights).sum(), given) for y in outputs)):
        torch.testing.assert_close(ours, true, rtol=1e-10, atol=1e-12)


def test_large_steps_forget_and_do_not_overflow() -> None:
    given = [x.detach().float().requires_grad_() for x in inputs(40, largest_step=1e4)]
    output = selective_scan(*given)
    torch.testing.assert_close(output, recurrence(*given))
    assert all(bool(torch.isfinite(g).all()) for g in torch.autograd.grad(output.sum(), given))


def test_each_pixel_sees_the_whole_image_from_all_sides() -> None:
    block = StateSpaceBlock(4, 1, 2).double()
    x = torch.randn(1, 4, 9, 12, dtype=torch.double, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    gradient = torch.autograd.grad(y[0, :, 4, 6].sum(), x)[0].abs().sum((0, 1))
    assert bool((gradient > 0).all())


def test_scans_of_columns_are_those_of_the_turned_image() -> None:
    """With equal weights in all directions and a symmetric convolution, turning the image turns the output."""
    block = StateSpaceBlock(4, 1, 2).double()
    for scan in block.scans[1:]:
        scan.load_state_dict(block.scans[0].state_dict())
    weight = block.local.weight.data
    weight.copy_((weight + weight.mT) / 2)
    x = torch.randn(1, 4, 5, 8, dtype=torch.double)
    torch.testing.assert_close(block(x.mT).mT, block(x))


@pytest.mark.parametrize('size', [(1, 1), (7, 5), (16, 24)])
def test_images_of_any_size(size: tuple[int, int]) -> None:
    net = build_network(TINY)
    assert net(torch.rand(2, 3, *size)).shape == (2, 3, 2 * size[0], 2 * size[1])
    image = torch.rand(2, 3, *size)
    torch.testing.assert_close(net(image)[:1], net(image[:1]))


def test_arguments_out_of_range() -> None:
    with pytest.raises(ArgumentError):
        MambaLite(num_block=0)


@pytest.mark.parametrize('loss', [{'type': 'LogitsKDLoss'}, {'type': 'FitNetLoss', 'taps': 3},
                                  {'type': 'MiPKDLoss', 'taps': 3, 'latent_channels': 4}], ids=lambda o: o['type'])
def test_distillation_into_it(loss: dict[str, Any], train_options: Callable[..., dict[str, Any]],
                              tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = train_options(network_g=dict(TINY))
    opt['train'].update(total_iter=2, distill_opt=loss)
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    state = torch.load(tmp_path / 'experiments/tiny/models/net_g_2.pth', weights_only=True)['params']
    assert all(bool(torch.isfinite(value).all()) for value in state.values())
