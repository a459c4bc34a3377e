"""How long an iteration of a run takes on this machine, before the run begins."""

from __future__ import annotations

import copy
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

    An iteration that distills is measured, so that a run which stops distilling is told a longer time than it takes.
    Where one iteration takes long, only one is measured, after another one that does not count.

    Args:
        options: The options; the images that they name are not read.
        threads: CPU threads; 0 leaves them as they are.

    Returns:
        Seconds of one iteration.
    """
    with quietly(threads), tempfile.TemporaryDirectory() as folder:
        bench = Bench(_endless(options), folder)
        bench.run(1)
        taken, count, begin = 0.0, 0, time.perf_counter()
        while not count or taken < _ENOUGH and count < _MOST:
            bench.run(1)
            count, taken = count + 1, time.perf_counter() - begin
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return taken / count


def _endless(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that distills in each iteration that is measured: behind the end its networks are closed."""
    found = copy.deepcopy(dict(options))
    train = found['train']
    train['total_iter'] = max(int(train['total_iter']), 10 * _MOST)
    if isinstance(train.get('distill'), dict):
        train['distill'] = {key: value for key, value in train['distill'].items() if key not in ('until', 'fade')}
    return found
