"""What a run from the middle takes from the run before it, and what it leaves alone."""

from __future__ import annotations

import torch
from stand_ins import SCALE, Net, conv
from torch import Tensor, nn

from mipkd_plugin.networks.inspection import settle
from mipkd_plugin.networks.tapped_net import TappedNet

LQ = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Position(nn.Module):
    """A feature that does not depend on the images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start, self.mix = nn.Parameter(torch.randn(1, width, 1, 1)), conv(width, width, 1)

    def forward(self) -> Tensor:
        return self.mix(self.start)


class Positions(Net):
    """Computes it before the blocks, and adds it behind each of them."""

    def make_trunk(self, width: int) -> None:
        super().make_trunk(width)
        self.position = Position(width)

    def trunk(self, x: Tensor) -> Tensor:
        position = self.position()
        for block in self.body:
            x = block(x) + position
        return x


def test_what_does_not_see_the_images_is_run_again() -> None:
    with TappedNet(Positions(), ['body.0', 'body.2'], frozen=True) as tapped:
        assert settle(tapped, LQ, ['body.0', 'body.2']) == ''
        run = tapped(LQ)
        assert tapped.finish(LQ, 'body.0', run.features['body.0']).equal(run.output)
