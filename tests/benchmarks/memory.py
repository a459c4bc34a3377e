"""Whether the memory of a training grows: ``python tests/benchmarks/memory.py [ITERATIONS]``; 20,000 take 10 minutes.

A tiny MiPKD run (EDSR x2, patches of 8×8) by ``basicsr train`` in this process, with validations and checkpoints. The
resident memory of this process is read each 100 iterations; the slope is that of a line through the last three
quarters of the readings, with its standard error.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import tiny_options, write_image_pairs  # noqa: E402
from training import train, write_options  # noqa: E402

from mipkd_plugin.models import DistillModel  # noqa: E402

EVERY = 100
PASSED = 0.25


def options(folder: Path, iterations: int) -> dict[str, Any]:
    """The training to watch."""
    opt = tiny_options(folder, name='memory')
    opt['datasets']['train']['dataset_enlarge_ratio'] = 500
    opt['train'].update(total_iter=iterations)
    opt['val']['val_freq'] = max(iterations // 8, 1)
    opt['logger'].update(print_freq=iterations, save_checkpoint_freq=max(iterations // 8, 1), use_tb_logger=False)
    return opt


def readings(iterations: int) -> list[tuple[int, int]]:
    """(iteration, resident memory in bytes) while it trains."""
    process, found = psutil.Process(), []

    class Watched(DistillModel):
        def feed_data(self, data: dict[str, Any]) -> None:
            super().feed_data(data)
            self.fed = getattr(self, 'fed', 0) + 1
            if self.fed % EVERY == 0:
                found.append((self.fed, process.memory_info().rss))

    from basicsr.utils.registry import MODEL_REGISTRY

    MODEL_REGISTRY._obj_map['Watched'] = Watched
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        opt = options(write_image_pairs(folder), iterations)
        code = train(write_options({**opt, 'model_type': 'Watched'}, folder / 'memory.yml'))
        os.chdir('/')
    if code:
        sys.exit(code)
    return found


def slope(found: list[tuple[int, int]]) -> tuple[float, float]:
    """Bytes for each 1,000 iterations, and their standard error, after the first quarter."""
    x, y = np.array(found[int(PASSED * len(found)):], dtype=float).T
    (value, _), covariance = np.polyfit(x, y, 1, cov=True)
    return 1000 * float(value), 1000 * float(covariance[0, 0]) ** 0.5


def main(iterations: int) -> None:
    torch.set_num_threads(1)
    found = readings(iterations)
    value, error = slope(found)
    first, last = found[int(PASSED * len(found))], found[-1]
    sys.stdout.write(f'memory: {first[1] / 2**20:.1f} MiB at step {first[0]:,d}, {last[1] / 2**20:.1f} MiB at step '
                     f'{last[0]:,d}; slope {value / 2**10:+.1f} ± {error / 2**10:.1f} KiB for each 1,000 steps\n')


if __name__ == '__main__':
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
