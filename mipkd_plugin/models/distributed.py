"""Losses under torchrun: one process on each GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parallel import DistributedDataParallel

from mipkd_plugin.losses.base import DistillationLoss


def distributed(loss: DistillationLoss, device: torch.device) -> nn.Module:
    """Wrap a loss that has trainable parameters in DDP; random routes leave some parameters unused on a rank.

    DDP skips parameters that a loss trains itself. They start equal on all ranks.

    Args:
        loss: The loss.
        device: Where it is.

    Returns:
        The wrapped loss, or the loss itself if there is nothing to exchange.
    """
    own = loss.self_trained_parameters()
    if sum(p.requires_grad for p in loss.parameters()) == len(own):
        for tensor in (*loss.parameters(), *loss.buffers()):
            torch.distributed.broadcast(tensor.data, 0)
        return loss
    device_ids = [torch.cuda.current_device()] if device.type == 'cuda' else None
    for parameter in own:
        parameter.requires_grad_(False)
    runner = DistributedDataParallel(loss, device_ids=device_ids, find_unused_parameters=True)
    for parameter in own:
        parameter.requires_grad_(True)
    return runner


def with_fixed_buffers(net: nn.Module, wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """Wrap a network in DDP that broadcasts, of the buffers, only those of normalization layers: a step changes them.

    The others are those of the first rank from the begin on. Before each forward pass DDP would write them in place,
    with what they hold already. Where the student runs several times before one backward, the backward then refuses
    what earlier passes have read (PyTorch 2.11, the index of SwinIR's position bias).

    Args:
        net: The network.
        wrap: Puts it on the device and wraps it.

    Returns:
        The wrapped network.
    """
    fixed = {f'{path}.{name}' if path else name for path, module in net.named_modules()
             if not isinstance(module, _NormBase) for name, _ in module.named_buffers(recurse=False)}
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(net, fixed)  # type: ignore[no-untyped-call]
    wrapped = wrap(net)
    for name, buffer in net.named_buffers():
        if name in fixed:
            torch.distributed.broadcast(buffer, 0)
    return wrapped
