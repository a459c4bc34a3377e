"""What it costs that no step is applied that is not finite: ``python tests/benchmarks/finite_check.py``, half a minute.

Blocks of iterations of a small training (EDSR x2 with 8 and with 64 channels, patches of 8×8 and of 24×24) with the
check and without it, in turn, in the CPU's own time; the median of the ratios.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from helpers import as_parsed, tiny_options  # noqa: E402

from mipkd_plugin.models.finite_steps import FiniteSteps  # noqa: E402
from basicsr.models import build_model  # noqa: E402

ROUNDS = 15


def build(channels: int, folder: Path) -> Any:
    opt = tiny_options(folder, model_type='SRModel')
    opt['network_g']['num_feat'] = channels
    opt['train']['ema_decay'] = 0
    return build_model(as_parsed(opt, folder))


def run(model: Any, batch: dict[str, torch.Tensor], count: int, steps: FiniteSteps | None) -> float:
    """CPU seconds of so many iterations."""
    begin = time.process_time()
    for iteration in range(count):
        model.feed_data(batch)
        if steps is not None:
            steps.begin()
        model.optimize_parameters(iteration)
        if steps is not None:
            steps.end(iteration)
    return time.process_time() - begin


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for channels, side, count in ((8, 8, 60), (64, 24, 4)):
            batch = {'lq': torch.rand(2, 3, side, side), 'gt': torch.rand(2, 3, 2 * side, 2 * side)}
            plain, checked = (build(channels, Path(name)) for _ in range(2))
            steps = FiniteSteps(checked, lambda: 0)
            seconds = [(run(plain, batch, count, None), run(checked, batch, count, steps)) for _ in range(ROUNDS)][1:]
            ratio = statistics.median(own / base for base, own in seconds)
            sys.stdout.write(f'EDSR, {channels} channels, 2 patches of {side}×{side}: a step takes '
                             f'{1000 * statistics.median(base for base, _ in seconds) / count:.2f} ms, the check '
                             f'{100 * (ratio - 1):+.1f} %\n')


if __name__ == '__main__':
    main()
