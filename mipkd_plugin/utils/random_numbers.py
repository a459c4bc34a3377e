"""Restore random numbers after a block of code."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def random_numbers_restored(devices: Sequence[torch.device | int] = ()) -> Iterator[None]:
    """Inside the block anybody may draw or seed; afterwards Python, NumPy and torch go on as if nobody had.

    Args:
        devices: The GPUs whose random numbers are restored too.
    """
    before = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def random_states() -> tuple[Any, ...]:
    """Where the random numbers of Python, NumPy and torch are, on the current GPU too."""
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def restore_random_states(states: tuple[Any, ...]) -> None:
    """Go back to a place that :func:`random_states` has returned."""
    python, numpy, cpu, cuda = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)


class Draws:
    """Is true once anybody has drawn random numbers of Python, NumPy or torch, on the CPU or on one device.

    Args:
        device: A device; a GPU is asked only if it is one.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before = self._now()

    def __bool__(self) -> bool:
        return self._now() != self._before

    def _now(self) -> tuple[object, ...]:
        numpy: Any = np.random.get_state()
        gpu = torch.cuda.get_rng_state(self._device).tolist() if self._device.type == 'cuda' else None
        return random.getstate(), bytes(numpy[1]), numpy[2:], torch.get_rng_state().tolist(), gpu
