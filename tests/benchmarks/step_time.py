"""Time of a training step, as a ratio to that of the first: of several option files, or of variants of KRNetLoss.

    python tests/benchmarks/step_time.py options/train_KRNet_EDSR_x2_small.yml
    python tests/benchmarks/step_time.py options/demo_none_EDSR_x2.yml options/demo_MiPKD_EDSR_x2.yml
    python tests/benchmarks/step_time.py --methods options/train_MiPKD_EDSR_x2.yml options/train_MiPKD_SwinIR_x4.yml

The last form measures four methods on the pair of each file, over plain training; the teacher's weights are random.
For the methods of a comparison there is a command: mipkd compare -opt options/compare_EDSR_x2_small.yml --times
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.archs import build_network
from mipkd_plugin import config
from mipkd_plugin.compare.step_times import measure

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
    found = {}
    for name, losses in LOSSES.items():
        found[name] = copy.deepcopy(dict(opt))
        found[name]['train']['distill_opt'] = [{**loss, 'taps': taps} if loss['type'] == 'KRNetLoss' else loss
                                               for loss in losses]
    return found


def methods(opt: config.Options, taps: int, folder: str) -> dict[str, dict[str, Any]]:
    """Name → options of a run, the plain one first."""
    path = Path(folder, 'teacher.pth')
    torch.save({'params': build_network(copy.deepcopy(opt['teacher']['network'])).state_dict()}, path)
    base = {name: value for name, value in opt.items() if name not in ('compare', 'teacher')}
    base['train'] = {name: value for name, value in opt['train'].items() if name != 'distill_opt'}
    family = opt['model_type'].removesuffix('DistillModel') or 'SR'
    found: dict[str, dict[str, Any]] = {'none': copy.deepcopy({**base, 'model_type': f'{family}Model'})}
    for name, losses in {'logits': [LOGITS], 'fitnet': [{'type': 'FitNetLoss', 'taps': taps}, LOGITS],
                         'mipkd': [{'type': 'MiPKDLoss', 'taps': taps}],
                         'krnet': [{'type': 'KRNetLoss', 'taps': taps}, LOGITS]}.items():
        teacher = {'network': opt['teacher']['network'], 'weights': str(path), 'param_key': 'params'}
        found[name] = copy.deepcopy({**base, 'teacher': teacher, 'train': {**base['train'], 'distill_opt': losses}})
    return found


def show(named: dict[str, Any]) -> None:
    """Measure and print a line for each."""
    first = next(iter(named.values()))
    for name, own in named.items():
        found = measure(first, own)
        memory = '' if found.memory is None else f'{found.memory:8,d} MB'
        sys.stdout.write(f'{name:44} {found.distilling:6.2f}{memory}\n')
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    parser.add_argument('--taps', type=int, default=3)
    parser.add_argument('--methods', action='store_true')
    args = parser.parse_args()
    if args.methods:
        for path in args.option_files:
            sys.stdout.write(f'{path}\n')
            with tempfile.TemporaryDirectory() as folder:
                show(methods(config.read_options(path), args.taps, folder))
        return
    named: dict[str, Any] = {Path(path).stem: config.read_options(path) for path in args.option_files}
    if len(named) == 1:
        named = variants(config.read_options(args.option_files[0]), args.taps)
    show(named)


if __name__ == '__main__':
    main()
