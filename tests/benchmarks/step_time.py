"""Time of a training step, as a ratio to that of the first: of several option files, or of variants of KRNetLoss.

    python tests/benchmarks/step_time.py options/train_KRNet_EDSR_x2_small.yml
    python tests/benchmarks/step_time.py options/demo_none_EDSR_x2.yml options/demo_MiPKD_EDSR_x2.yml

For the methods of a comparison there is a command: mipkd compare -opt options/compare_EDSR_x2_small.yml --times
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    parser.add_argument('--taps', type=int, default=3)
    args = parser.parse_args()
    named: dict[str, Any] = {Path(path).stem: config.read_options(path) for path in args.option_files}
    if len(named) == 1:
        named = variants(config.read_options(args.option_files[0]), args.taps)
    first = next(iter(named.values()))
    for name, own in named.items():
        found = measure(first, own)
        memory = '' if found.memory is None else f'{found.memory:8,d} MB'
        sys.stdout.write(f'{name:44} {found.distilling:6.2f}{memory}\n')


if __name__ == '__main__':
    main()
