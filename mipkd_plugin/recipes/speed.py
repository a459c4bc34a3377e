"""How long an iteration of a run takes on this machine, before the run begins."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from typing import Any

import torch

from mipkd_plugin.compare.step_times import Bench, quietly

_ENOUGH = 3.0
_MOST = 20


def step_seconds(options: Mapping[str, Any], threads: int) -> float:
    """Measure the mean time of an iteration, without the data loader, on random images of the size of the training's.

    Args:
        options: The options; the images that they name are not read.
        threads: CPU threads; 0 leaves them as they are.

    Returns:
        Seconds of one iteration.
    """
    with quietly(threads), tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        bench.run(2)
        taken, count, begin = 0.0, 0, time.perf_counter()
        while count < 2 or taken < _ENOUGH and count < _MOST:
            bench.run(2)
            count, taken = count + 2, time.perf_counter() - begin
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return taken / count
