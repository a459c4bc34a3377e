"""Images of any size: padded to what a network takes, and in tiles that come out as in the whole image."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from helpers import TEACHERS
from torch import Tensor, nn

from mipkd_plugin.testing.tiny import scale_of
from mipkd_plugin.inference.memory import memory_for, peak_memory
from mipkd_plugin.inference.tiles import Enlarger, EnlargeError

CONVOLUTIONAL = {
    'EDSR': TEACHERS['EDSR'], 'RRDBNet': TEACHERS['RRDBNet'],
    'SRVGGNetCompact': {'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_conv': 3,
                        'upscale': 2},
    'MSRResNet': {'type': 'MSRResNet', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2, 'upscale': 2}}
LOOKING_FURTHER = {name: TEACHERS[name] for name in ('RCAN', 'SwinIR')}


def built(options: dict[str, Any]) -> nn.Module:
    """A network whose blocks all have something to say, unlike those of a network that begins its training."""
    torch.manual_seed(3)
    net = build_network(dict(options)).eval()
    for name, parameter in net.named_parameters():
        if parameter.dim() == 4:
            nn.init.kaiming_normal_(parameter, a=0.2)
            parameter.data *= 0.5 if 'body' in name else 1
    return net


def picture(height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize('name', CONVOLUTIONAL)
@pytest.mark.parametrize('size', [(61, 83), (1, 90), (33, 32)])
def test_tiles_of_convolutional_networks_equal_the_whole_image(name: str, size: tuple[int, int]) -> None:
    net, lq, scale = built(CONVOLUTIONAL[name]), picture(*size), scale_of(name)
    with torch.no_grad():
        expected = net(lq)
    tiled = Enlarger(net, scale, tile=16)
    assert tiled.reach.is_local
    counted: list[tuple[int, int]] = []
    found = tiled(lq, lambda done, total: counted.append((done, total)))
    assert float((found - expected).abs().max()) <= 1e-5
    assert counted == [(number, len(counted)) for number in range(1, len(counted) + 1)]
    assert len(counted) == math.prod(-(-side // 16) for side in size)
    assert torch.allclose(Enlarger(net, scale)(lq), expected, atol=1e-6)


@pytest.mark.parametrize('name', CONVOLUTIONAL)
def test_less_context_than_measured_is_seen(name: str) -> None:
    net, lq, scale = built(CONVOLUTIONAL[name]), picture(40, 40), scale_of(name)
    with torch.no_grad():
        expected = net(lq)
    assert float((Enlarger(net, scale, tile=16, context=0)(lq) - expected).abs().max()) > 1e-3
    assert Enlarger(net, scale, tile=16).context > 2


@pytest.mark.parametrize('name', LOOKING_FURTHER)
def test_networks_that_look_at_all_of_the_image_say_how_far_tiles_are_off(name: str) -> None:
    net, lq = built(LOOKING_FURTHER[name]), picture(64, 64)
    whole, tiled = Enlarger(net, 2), Enlarger(net, 2, tile=24)
    off = float((tiled(lq) - whole(lq)).abs().max())
    if name == 'RCAN':
        assert not tiled.reach.is_local
        assert 1e-5 < off < 20 * tiled.reach.difference
    else:  # four windows in a row look no further than four windows
        assert tiled.tile % tiled.multiple == 0
        assert tiled.context % tiled.multiple == 0
        assert off <= 1e-5


@pytest.mark.parametrize('size', [(1, 1), (3, 50), (17, 8), (25, 31)])
@pytest.mark.parametrize('name', ['EDSR', 'SwinIR'])
def test_any_size(name: str, size: tuple[int, int]) -> None:
    enlarger = Enlarger(built(TEACHERS[name]), 2)
    found = enlarger(picture(*size))
    assert found.shape == (1, 3, 2 * size[0], 2 * size[1])
    assert bool(torch.isfinite(found).all())


class Pooling(nn.Module):
    """Needs ten pixels or more, like a network whose attention shrinks its features."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Any:
        if min(x.shape[2:]) < 10:
            raise RuntimeError('too small')
        return self.conv(x).repeat_interleave(2, 2).repeat_interleave(2, 3)


def test_images_smaller_than_a_network_needs_are_padded() -> None:
    net = Pooling()
    found = Enlarger(net, 2, tile=4, context=0)(picture(2, 21))
    with torch.no_grad():
        expected = net(picture(2, 21).expand(1, 3, 2, 21).repeat(1, 1, 8, 1))[:, :, :4]
    assert torch.allclose(found, expected)


def test_one_channel_is_seen() -> None:
    enlarger = Enlarger(Pooling(channels=1), 2)
    assert enlarger.channels == 1
    assert enlarger(picture(20, 20, 1)).shape == (1, 1, 40, 40)


class Pair(Pooling):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x), x


@pytest.mark.parametrize(('net', 'scale', 'message'), [
    (Pooling(), 3, 'Pooling returns a tensor of 1×3×128×128 for an image of 64×64, and not the image enlarged 3 times'),
    (Pair(), 2, 'Pair returns a tuple of 2'), (Pooling(5), 2, 'Pooling fails on an image of 64×64: RuntimeError')])
def test_networks_that_make_no_image_are_refused(net: nn.Module, scale: int, message: str) -> None:
    with pytest.raises(EnlargeError, match=message):
        Enlarger(net, scale)


def test_half_precision_needs_a_gpu() -> None:
    with pytest.raises(EnlargeError, match='half precision needs a GPU'):
        Enlarger(Pooling(), 2, half=True)


def test_the_network_is_left_as_it_was() -> None:
    net = built(TEACHERS['EDSR']).train()
    Enlarger(net, 2, tile=8)(picture(20, 20))
    assert net.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_memory_falls_with_the_tile() -> None:
    net = built(TEACHERS['EDSR'])
    small, large = (peak_memory(net, (3, side, side)) for side in (32, 64))
    assert peak_memory(net, (3, 64, 64)) == large  # the same again
    weights = sum(parameter.numel() * 4 for parameter in net.parameters())
    assert 3 < (large - weights) / (small - weights) < 4.2
    expected = peak_memory(net, (3, 200, 220))
    assert memory_for(net, (3, 200, 220)) == pytest.approx(expected, rel=0.1)
