"""Modes of a network: evaluation, and a training mode in which nothing is random and nothing is learned."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

_RANDOM = re.compile(r'drop.?(out|path|block)|stochastic.?depth', re.I)


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside the block: eval mode and no gradient; afterwards modes and buffers are as they were."""
    with _left_alone(net):
        net.eval()
        with torch.no_grad():
            yield


@contextmanager
def calmed(net: nn.Module) -> Iterator[None]:
    """Inside the block: the calm training mode; afterwards modes and buffers are as they were."""
    with _left_alone(net):
        calm(net)
        yield


def calm(net: nn.Module) -> None:
    """Set the calm training mode: all modules train but dropout, drop-path and normalization over the batch.

    Networks with two forms, one to train and one to run fast, are in the form that can be differentiated, and their
    images are those of eval mode.
    """
    for module in net.modules():
        module.training = not _is_random(module)


def random_modules(net: nn.Module) -> list[nn.Module]:
    """Modules that stay in eval mode in the calm training mode."""
    return [module for module in net.modules() if _is_random(module)]


def _is_random(module: nn.Module) -> bool:
    """Whether a module draws random numbers in training, or keeps statistics of the batch."""
    return isinstance(module, (_DropoutNd, _NormBase)) or _RANDOM.search(type(module).__name__) is not None


class Mode:
    """The mode that a wrapped network runs in: a student's is its trainer's business, a teacher's never changes.

    Args:
        net: The network.
        frozen: Whether it is a teacher: in eval mode, or in the calm training mode.
    """

    def __init__(self, net: nn.Module, frozen: bool) -> None:
        self._net = net
        self._frozen = frozen
        self._calms = False
        self._resting = random_modules(net)

    def calm(self, calms: bool) -> None:
        """Choose the calm training mode for a teacher, or eval mode."""
        self._calms = calms
        self.keep()

    def keep(self) -> None:
        """Set a teacher's mode again, where something has changed it."""
        if self._calms:
            if not self._net.training or any(module.training for module in self._resting):
                calm(self._net)
        elif self._frozen and self._net.training:
            self._net.eval()

    def at_rest(self) -> AbstractContextManager[None]:
        """Inside the block: a teacher's own mode; a student is calm."""
        return evaluating(self._net) if self._frozen and not self._calms else calmed(self._net)


@contextmanager
def _left_alone(net: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in net.modules()]
    try:
        with buffers_restored(net):
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def buffers_restored(net: nn.Module) -> Iterator[None]:
    """Afterwards all buffers are as they were: some networks learn in each run (CATANet the centers of its tokens)."""
    own = [(module, name, buffer, buffer.detach().clone()) for module in net.modules()
           for name, buffer in module._buffers.items() if buffer is not None and not is_lazy(buffer)]
    try:
        yield
    finally:
        for module, name, buffer, before in own:
            if not torch.equal(buffer, before):
                buffer.data.copy_(before)
            module._buffers[name] = buffer
