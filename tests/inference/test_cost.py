"""Times of networks on a busy machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mipkd_plugin.inference.cost import milliseconds


class Delayed(nn.Module):
    """A network that something else holds up in each ``every``-th call."""

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.calls = every, 0

    def forward(self, lq: Tensor) -> Tensor:
        """Return the image."""
        self.calls += 1
        if self.calls % self.every == 0:
            time.sleep(0.04)
        return lq


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(('threads', 'every'), [(1, 1), (2, 2)])
def test_waiting_does_not_count(threads: int, every: int) -> None:
    """On one thread its own time is taken; on several the least of the rounds."""
    torch.set_num_threads(threads)
    taken, = milliseconds([Delayed(every)], (3, 8, 8), rounds=4)
    assert 0 < taken < 20


def test_no_round_begins_behind_the_limit() -> None:
    net = Delayed(1)
    milliseconds([net], (3, 8, 8), rounds=50, seconds=0.1)
    assert net.calls <= 4


def test_the_median_of_the_rounds_is_had_too() -> None:
    """Two rounds of five are held up: the least and the median do not see it, the greatest does."""
    torch.set_num_threads(2)
    least, median, most = (milliseconds([Delayed(3)], (3, 8, 8), of=of)[0] for of in (min, statistics.median, max))
    assert 0 < least < 20
    assert 0 < median < 20
    assert most > 30
