"""Peak memory of a forward pass."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mipkd_plugin.inference.cost import image_for
from mipkd_plugin.networks.modes import evaluating

CONVENTION = ('Peak memory: the weights, one image, and all that is in use at once at the peak of its forward pass; on '
              "a GPU as max_memory_allocated counts it, on a CPU as the memory events of PyTorch's profiler say. The "
              'process grows by more, because freed memory stays with it')

LARGE = 1 << 19
"""Pixels; smaller images are not worth the look at the memory."""
_SMALL = 96


def peak_memory(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Measure the peak memory of one forward pass; see :data:`CONVENTION`.

    Args:
        net: The network; it is left as it is.
        shape: (C, H, W) of a low-resolution image.

    Returns:
        Bytes.
    """
    lq = image_for(net, shape)
    fixed = _bytes_of(net) + lq.numel() * lq.element_size()
    with evaluating(net):
        if lq.device.type == 'cuda':
            return fixed + _on_gpu(net, lq)
        return fixed + _on_cpu(net, lq)


def _bytes_of(net: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers()))


def _on_gpu(net: nn.Module, lq: torch.Tensor) -> int:
    net(lq)  # the libraries take their share at the first run
    torch.cuda.synchronize(lq.device)
    before = torch.cuda.memory_allocated(lq.device)
    torch.cuda.reset_peak_memory_stats(lq.device)
    net(lq)
    torch.cuda.synchronize(lq.device)
    return torch.cuda.max_memory_allocated(lq.device) - before


def _on_cpu(net: nn.Module, lq: torch.Tensor) -> int:
    os.environ.setdefault('KINETO_LOG_LEVEL', '99')  # it would tell stderr that it starts and stops
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        net(lq)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, 'trace.json')
        profiler.export_chrome_trace(str(file))
        events = json.loads(file.read_text(encoding='utf-8'))['traceEvents']
    changes = sorted((event['ts'], event['args']['Bytes']) for event in events
                     if event.get('name') == '[memory]' and event['args']['Device Type'] == 0)
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak


def memory_for(net: nn.Module, shape: tuple[int, int, int], multiple: int = 1) -> int:
    """Expect the peak memory of a forward pass on a large image, from a small one: it grows with the pixels.

    Args:
        net: The network; it is left as it is.
        shape: (C, H, W) of the large image.
        multiple: What both sides must be multiples of.

    Returns:
        Bytes.
    """
    side = -(-_SMALL // multiple) * multiple
    weights = _bytes_of(net)
    return weights + int((peak_memory(net, (shape[0], side, side)) - weights) * shape[1] * shape[2] / side ** 2)


def free_memory(device: torch.device) -> int | None:
    """Bytes that a program can still get; None where the system does not say."""
    if device.type == 'cuda':
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path('/proc/meminfo').read_text(encoding='ascii').splitlines()
        available = next(1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable'))
    except (OSError, StopIteration, ValueError):
        return None
    try:  # of a container
        limit, used = (int(Path('/sys/fs/cgroup', name).read_text()) for name in ('memory.max', 'memory.current'))
    except (OSError, ValueError):
        return available
    return min(available, limit - used)
