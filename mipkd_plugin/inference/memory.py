"""Peak memory of a forward pass."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from mipkd_plugin.inference.cost import image_for
from mipkd_plugin.networks.modes import evaluating

CONVENTION = ("Peak memory: weights, the image, and what PyTorch's allocator has given out at the peak of the forward "
              'pass for one image, on a GPU as max_memory_allocated counts it, on a CPU as the memory events of '
              "PyTorch's profiler say; without the program itself and what the allocator keeps for later")


def peak_memory(net: nn.Module, shape: tuple[int, int, int]) -> int:
    """Measure the peak memory of one forward pass; see :data:`CONVENTION`.

    Args:
        net: The network; it is left as it is.
        shape: (C, H, W) of a low-resolution image.

    Returns:
        Bytes.
    """
    lq = image_for(net, shape)
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in (*net.parameters(), *net.buffers(), lq))
    with evaluating(net):
        if lq.device.type == 'cuda':
            return fixed + _on_gpu(net, lq)
        return fixed + _on_cpu(net, lq)


def _on_gpu(net: nn.Module, lq: torch.Tensor) -> int:
    net(lq)  # the libraries take their share at the first run
    torch.cuda.synchronize(lq.device)
    before = torch.cuda.memory_allocated(lq.device)
    torch.cuda.reset_peak_memory_stats(lq.device)
    net(lq)
    torch.cuda.synchronize(lq.device)
    return torch.cuda.max_memory_allocated(lq.device) - before


def _on_cpu(net: nn.Module, lq: torch.Tensor) -> int:
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
