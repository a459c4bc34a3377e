"""The history student: a slow copy of the student, whose images are what the student leaves behind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.copies import frozen_copy


class HistoryStudent(nn.Module):
    """θ_h ← α θ_h + (1 − α) θ_s every s iterations, in eval mode and without gradient.

    It begins as a copy of θ_s. Buffers, such as the statistics of BatchNorm, are always the student's own, on each rank
    those of its share of the batch. Its weights and the iteration of its last change are part of the state of the loss
    that holds it, the same on all ranks.

    Args:
        every: s; a list holds s of one period after another, the last one to the end.
        period: Iterations of a period.
        decay: α.
    """

    def __init__(self, every: int | Sequence[int], period: int, decay: float) -> None:
        super().__init__()
        self.every = [every] if isinstance(every, int) else list(every)
        self.period = period
        self.decay = decay
        self.net: nn.Module | None = None
        self.changed = -1  # the iteration up to which it has followed; −1: it holds no student's weights yet

    def copy_from(self, student: nn.Module) -> None:
        """Take the student's architecture. The weights come with the first call of :meth:`follow`.

        Raises:
            RuntimeError: The student cannot be copied.
        """
        self.changed = -1
        self.net = None  # binding twice must not copy a copy
        self.net = frozen_copy(student)

    def train(self, mode: bool = True) -> HistoryStudent:
        """Stay in eval mode."""
        return super().train(False)

    def due(self, iteration: int) -> int:
        """The last iteration up to this one in which a change was due; 0 if none was."""
        for number in reversed(range(len(self.every))):
            before = number * self.period
            if iteration > before:
                last = iteration // self.every[number] * self.every[number]
                if last > before:
                    return last
                iteration = before
        return 0

    @property
    def first(self) -> int:
        """The iteration of the first change."""
        number = 0
        while True:
            before, every = number * self.period, self.every[number]
            first = (before // every + 1) * every
            number += 1
            if number == len(self.every) or first <= before + self.period:
                return first

    @torch.no_grad()
    def follow(self, iteration: int, student: nn.Module, averaged: nn.Module | None) -> None:
        """Change the weights, if that is due in this iteration or was in one that has been left out.

        Args:
            iteration: Number of the iteration, from 1.
            student: The student, before the step of this iteration; gives the buffers.
            averaged: Its moving average, which gives θ_s; None: the student itself gives it.

        Raises:
            RuntimeError: The student is of another architecture.
        """
        due = self.due(iteration)
        if self.changed >= 0 and due <= self.changed:
            return
        decay = self.decay if self.changed >= 0 else 0.0
        net, source = cast(nn.Module, self.net), student if averaged is None else averaged
        for old, new in _matched(net.named_parameters(), source.named_parameters()):
            old.mul_(decay).add_(new.to(old.device, old.dtype), alpha=1 - decay) if decay else old.copy_(new)
        buffers = dict(student.named_buffers())
        for name, buffer in net.named_buffers():
            if name in buffers and buffers[name].shape == buffer.shape:
                buffer.copy_(buffers[name])
        self.changed = due

    @torch.no_grad()
    def forward(self, lq: Tensor) -> Tensor:
        """Images (N, C, sH, sW) of the history student for LR images (N, C, H, W)."""
        return cast(Tensor, cast(nn.Module, self.net)(lq))

    def get_extra_state(self) -> dict[str, int]:
        """How far it has followed."""
        return {'changed': self.changed}

    def set_extra_state(self, state: Any) -> None:
        """Restore how far it has followed.

        Raises:
            ValueError: The state holds no iteration.
        """
        if not isinstance(state, dict) or type(state.get('changed')) is not int or state['changed'] < -1:
            raise ValueError(f'the history student has no iteration of its last change: {state!r}')
        self.changed = state['changed']


def _matched(own: Iterable[tuple[str, Tensor]], others: Iterable[tuple[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Tensors of two networks by name."""
    first, second = dict(own), dict(others)
    wrong = [name for name in {**first, **second}
             if name not in first or name not in second or first[name].shape != second[name].shape]
    if wrong:
        raise RuntimeError(f'the history student is a copy of another student: they differ in {wrong[0]!r}; bind the '
                           'loss again')
    return [(tensor, second[name]) for name, tensor in first.items()]
