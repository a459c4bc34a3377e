"""Restore random numbers after a block of code."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

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
