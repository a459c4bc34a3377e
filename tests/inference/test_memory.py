"""Peak memory: of a network whose peak is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mipkd_plugin.inference.memory import memory_for, peak_memory


class Known(nn.Module):
    """Has twice an image of four times the pixels at its peak, and less before and behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(5))

    def forward(self, lq: Tensor) -> Tensor:
        (lq + 1).sum()  # gone before the peak
        large = lq.repeat(1, 1, 2, 2)
        large = large + self.weight[0]
        return large[:, :, :1].clone()


def test_peak_of_a_network_on_a_cpu() -> None:
    image = 4 * 3 * 20 * 30
    for _ in range(2):
        assert peak_memory(Known(), (3, 20, 30)) == 4 * 5 + image + 2 * 4 * image
    assert memory_for(Known(), (3, 200, 300)) == 4 * 5 + 9 * 100 * image
