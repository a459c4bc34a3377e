"""Time of one training step of several losses, as ratios to the first: measured in turn, in one process.

    OMP_NUM_THREADS=1 python tests/benchmarks/step_time.py options/train_KRNet_EDSR_x2_small.yml
    OMP_NUM_THREADS=1 python tests/benchmarks/step_time.py options/compare_EDSR_x2_small.yml
    OMP_NUM_THREADS=1 python tests/benchmarks/step_time.py options/demo_none_EDSR_x2.yml options/demo_MiPKD_EDSR_x2.yml

What is measured: the option files, when there are several; the methods of a comparison, the control first; or else
variants of KRNetLoss. Takes networks, teacher, batch and patch size from the (first) option file; the batch itself is
random. Mean of the rounds, the first of which is not counted.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.models import build_model
from mipkd_plugin import config
from mipkd_plugin.compare import read_comparison

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from helpers import as_parsed

LOGITS = {'type': 'LogitsKDLoss'}
LOSSES: dict[str, list[dict[str, Any]]] = {
    'logits': [LOGITS],
    'KRNet + logits, meta_every 0': [{'type': 'KRNetLoss', 'meta_every': 0}, LOGITS],
    'KRNet + logits, meta_every 10': [{'type': 'KRNetLoss', 'meta_every': 10}, LOGITS],
    'KRNet + logits, meta_every 5': [{'type': 'KRNetLoss', 'meta_every': 5}, LOGITS],
    'KRNet + logits, meta_every 1, first order': [{'type': 'KRNetLoss', 'meta_every': 1, 'first_order': True}, LOGITS],
    'KRNet + logits, meta_every 1, second order': [{'type': 'KRNetLoss', 'meta_every': 1}, LOGITS],
}


def variants(opt: config.Options, taps: int) -> dict[str, dict[str, Any]]:
    """Name → options of a run."""
    if 'compare' in opt:
        return {trial.method: trial.options for trial in read_comparison(opt, seeds=[0]).trials}
    found = {}
    for name, losses in LOSSES.items():
        found[name] = copy.deepcopy(dict(opt))
        found[name]['train']['distill_opt'] = [{**loss, 'taps': taps} if loss['type'] == 'KRNetLoss' else loss
                                               for loss in losses]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    parser.add_argument('--taps', type=int, default=3)
    parser.add_argument('--rounds', type=int, default=6)
    args = parser.parse_args()
    opt = config.read_options(args.option_files[0])
    named = ({Path(path).stem: config.read_options(path) for path in args.option_files} if len(args.option_files) > 1
             else variants(opt, args.taps))
    channels, height, width = config.probe_shape(opt)
    size, scale = opt['datasets']['train']['batch_size_per_gpu'], opt['scale']
    data = {'lq': torch.rand(size, channels, height, width), 'gt': torch.rand(size, channels, scale * height,
                                                                              scale * width)}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, own in named.items():
            own['num_gpu'] = min(torch.cuda.device_count(), 1)
            models[name] = build_model(as_parsed(own, Path(folder)))
            models[name].feed_data(data)
        logging.disable(logging.CRITICAL)
        spent = dict.fromkeys(models, 0.0)
        for turn in range(args.rounds + 1):
            for name, model in models.items():
                begin = time.perf_counter()
                for iteration in range(10 * turn + 1, 10 * turn + 11):
                    model.optimize_parameters(iteration)
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                spent[name] += (time.perf_counter() - begin) * (turn > 0)
    first = next(iter(spent.values()))
    for name, seconds in spent.items():
        sys.stdout.write(f'{name:44} {seconds / args.rounds / 10:8.4f} s  {seconds / first:5.2f}\n')


if __name__ == '__main__':
    main()
