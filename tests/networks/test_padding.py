"""Which image sizes a network takes, and padding to them."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from helpers import STUDENTS
from torch import Tensor, nn

from mipkd_plugin.networks.padding import needed_multiple, padded


class Windows(nn.Module):
    """Takes whole windows alone, and says so only by failing."""

    def __init__(self, height: int, width: int, smallest: int = 1) -> None:
        super().__init__()
        self.window, self.smallest = (height, width), smallest
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, lq: Tensor) -> Tensor:
        n, c, height, width = lq.shape
        self.seen.append((height, width))
        if min(height, width) < self.smallest:
            raise RuntimeError('too small')
        a, b = self.window
        lq.view(n, c, height // a, a, width // b, b)
        torch.rand(1)
        return nn.functional.pixel_shuffle(self.conv(lq), 2)


class Halving(nn.Module):
    """Runs at any size, but returns another one for odd sides."""

    def forward(self, lq: Tensor) -> Tensor:
        return nn.functional.interpolate(nn.functional.avg_pool2d(lq, 2), scale_factor=4)


@pytest.mark.parametrize(('net', 'multiple'), [
    (Windows(8, 8), 8), (Windows(12, 12), 12), (Windows(24, 24), 24), (Windows(8, 32), 32), (Windows(6, 4), 12),
    (Windows(7, 7), 7), (Windows(64, 64), 64), (Windows(1, 1), 1), (Halving(), 2), (Windows(1, 1, smallest=40), 1),
    (nn.Identity(), 1)], ids=str)
def test_the_multiple_is_found_by_trying(net: nn.Module, multiple: int) -> None:
    before = torch.get_rng_state()
    assert needed_multiple(net, 3, 2) == multiple
    assert torch.equal(torch.get_rng_state(), before)
    assert net.training


@pytest.mark.parametrize(('arch', 'multiple'), [('EDSR', 1), ('RCAN', 1), ('RRDBNet', 1), ('SwinIR', 4)])
def test_the_multiple_of_basicsrs_networks(arch: str, multiple: int) -> None:
    assert needed_multiple(build_network(STUDENTS[arch]), 3, 2) == multiple


def test_a_network_that_takes_any_size_is_tried_once() -> None:
    net = Windows(1, 1)
    needed_multiple(net, 3, 2)
    assert net.seen == [(13, 11)]


@pytest.mark.parametrize('size', [(23, 25), (9, 16), (5, 31)], ids=str)
def test_padding_is_that_of_basicsr(size: tuple[int, int]) -> None:
    lq = torch.rand(2, 3, *size)
    bottom, right = (-side % 8 for side in size)
    assert torch.equal(padded(lq, 8), nn.functional.pad(lq, (0, right, 0, bottom), 'reflect'))


def test_nothing_is_padded_where_nothing_is_needed() -> None:
    lq = torch.rand(1, 3, 16, 8)
    assert padded(lq, 8) is lq
    assert padded(lq, 1) is lq


def test_an_image_smaller_than_its_padding_is_reflected_more_than_once() -> None:
    row = torch.tensor([[[[1., 2., 3.]]]])
    assert padded(row, 8)[0, 0].tolist() == [[1, 2, 3, 2, 1, 2, 3, 2]] * 8
