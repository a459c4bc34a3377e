"""What a network costs: parameters, multiply-accumulates, and time on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.utils.errors import FOREIGN_ERRORS

CONVENTION = ("MACs: multiply-accumulates of convolutions, linear layers and attention for one image, as PyTorch's "
              'flop counter counts them, divided by two; additions, normalization and activations are not counted')

IN_SHORT = ('GMACs: billions of multiply-accumulates (convolutions, linear layers, attention) for an output of '
            '1280×720')


@dataclass(frozen=True)
class Cost:
    """Parameters and work of a network.

    Attributes:
        parameters: Number of trainable and fixed parameters, without buffers.
        macs: Multiply-accumulates for one image of the size asked for; see :data:`CONVENTION`.
    """

    parameters: int
    macs: int


def cost(net: nn.Module, shape: tuple[int, int, int]) -> Cost:
    """Count parameters and multiply-accumulates.

    The shapes alone run through a copy of the network, which takes no time, if it lets them; otherwise an image.

    Args:
        net: The network; it is left as it is.
        shape: (C, H, W) of a low-resolution image that the network takes.

    Returns:
        The cost of one image.
    """
    parameters = sum(parameter.numel() for parameter in net.parameters())
    counter = FlopCounterMode(display=False)
    try:
        shapes = copy.deepcopy(net).to('meta').eval()
        with torch.no_grad(), counter:
            shapes(torch.empty(1, *shape, device='meta'))
    except FOREIGN_ERRORS:  # its way depends on values
        with evaluating(net), counter:
            net(image_for(net, shape))
    return Cost(parameters, counter.get_total_flops() // 2)


def milliseconds(nets: list[nn.Module], shape: tuple[int, int, int], rounds: int = 5,
                 seconds: float | None = None, of: Callable[[Sequence[float]], float] = min) -> list[float]:
    """Measure how long networks take for one image, in turn, in several rounds.

    The least time belongs to the network alone. On a busy machine mean and median also count what else was running.
    On one CPU thread the thread's own time is taken, so that waiting for a core does not count.

    Args:
        nets: The networks; they are left as they are.
        shape: (C, H, W) of a low-resolution image.
        rounds: Number of rounds; each runs every network once, after one round that does not count.
        seconds: Begin no further round behind this time, but for the first that counts; None for no limit.
        of: What to take of the times of a network: ``min``, or ``statistics.median`` for what is usual here.

    Returns:
        The time of each network, in milliseconds.
    """
    taken: list[list[float]] = [[] for _ in nets]
    began = time.perf_counter()
    on_gpu = any(parameter.is_cuda for net in nets for parameter in net.parameters())
    clock = time.perf_counter if on_gpu or torch.get_num_threads() > 1 else time.thread_time
    for number in range(rounds + 1):
        if number > 1 and seconds is not None and time.perf_counter() - began > seconds:
            break
        for net, times in zip(nets, taken):
            lq = image_for(net, shape)
            with evaluating(net):
                _wait(lq.device)
                start = clock()
                net(lq)
                _wait(lq.device)
            if number:
                times.append(1000 * (clock() - start))
    return [max(of(times), 1e-3) for times in taken]


def image_for(net: nn.Module, shape: tuple[int, int, int]) -> torch.Tensor:
    """A random image (1, C, H, W) where the network runs, in its precision; always the same."""
    parameter = next(net.parameters(), torch.empty(0))
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0)).to(parameter)


def _wait(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
