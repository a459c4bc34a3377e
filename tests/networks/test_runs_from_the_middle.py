"""What a run from the middle takes from the run before it, and what it leaves alone."""

from __future__ import annotations

import weakref

import pytest
import torch
from stand_ins import Dense, Net, conv
from torch import Tensor, nn

from mipkd_plugin.networks.dataflow import traced
from mipkd_plugin.networks.inspection import settle
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError

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


def test_answers_live_as_long_as_the_pass() -> None:
    with TappedNet(Dense(), ['B2', 'B4']) as tapped:
        tapped.prepare(LQ, ['B2', 'B4'])
        run = tapped(LQ)
        answers = [weakref.ref(answer.output) for answer in tapped._recorder.of(LQ).values()]
        assert len(answers) == 4
        tapped.finish(LQ, 'B4', run.features['B4']).mean().backward()
        assert all(answer() is not None for answer in answers)
        del run
        assert not any(answer() is not None for answer in answers)


class Unseen(Net):
    """Makes tensors behind PyTorch's back, in memory that a feature has had before."""

    def trunk(self, x: Tensor) -> Tensor:
        for block in self.body:
            features = [block(x) for _ in range(4)]
            x = features.pop()
            del features
            x = x + torch.frombuffer(bytearray(4), dtype=torch.float32)
        return x


def test_memory_that_is_used_again_is_not_taken_for_what_was_there_before() -> None:
    trace = traced(Unseen(), LQ[:1])
    joined = [sources for sources, maker in zip(trace.sources, trace.makers) if maker == 0 and len(sources) > 1]
    assert len(joined) == 1  # the skip around the trunk


class Careful(Net):
    """Goes on without its blocks where they fail."""

    def trunk(self, x: Tensor) -> Tensor:
        try:
            return self.body(x)
        except Exception:  # noqa: BLE001
            return x


def test_a_network_that_catches_errors() -> None:
    with TappedNet(Careful(), ['body.0', 'body.2'], frozen=True) as tapped:
        run = tapped(LQ)
        assert tapped.segment(run.features['body.0'], 'body.0', 'body.2', LQ).equal(run.features['body.2'])


class Leaping(Net):
    """Leaves out blocks."""

    leaps = False

    def trunk(self, x: Tensor) -> Tensor:
        for block in self.body[:1 if self.leaps else None]:
            x = block(x)
        return x


def test_a_module_that_does_not_run_is_no_image() -> None:
    net = Leaping()
    with TappedNet(net, ['body.0', 'body.2'], frozen=True) as tapped:
        run = tapped(LQ)
        tapped.prepare(LQ, ['body.0', 'body.2'])
        net.leaps = True
        with pytest.raises(TapError, match=r"'body.2' of Leaping did not run after 'body.0'"):
            tapped.segment(run.features['body.0'], 'body.0', 'body.2', LQ)
