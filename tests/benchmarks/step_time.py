"""Time of a training step, as a ratio to that of the first: of several option files, or of variants of KRNetLoss.

    python tests/benchmarks/step_time.py options/train_KRNet_EDSR_x2_small.yml
    python tests/benchmarks/step_time.py options/demo_none_EDSR_x2.yml options/demo_MiPKD_EDSR_x2.yml
    python tests/benchmarks/step_time.py --methods options/train_MiPKD_EDSR_x2.yml options/train_MiPKD_SwinIR_x4.yml
    python tests/benchmarks/step_time.py --eco options/train_MiPKD_EDSR_x2_small.yml

The third form measures four methods on the pair of each file, over plain training; the teacher's weights are random.
The last one measures ECO on such a pair, over logits-KD, while it blends. It also takes the batched bicubic and the
loop over imresize. It and the second form add what a process needs in memory for the steps, over what it had before,
where there is no GPU.
For the methods of a comparison there is a command: mipkd compare -opt options/compare_EDSR_x2_small.yml --times
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.archs import build_network
from basicsr.utils.matlab_functions import imresize
from mipkd_plugin import config
from mipkd_plugin.compare.step_times import Bench, measure, quietly, random_batch
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample_batch

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


def with_eco(opt: config.Options, folder: str) -> dict[str, dict[str, Any]]:
    """Name → options of a run with and without ECO, logits-KD first."""
    logits = methods(opt, 1, folder)['logits']
    found = {'logits': logits}
    for mode in ('full', 'hr_only'):
        for losses in (logits['train']['distill_opt'], None):
            own = copy.deepcopy(logits)
            own['train'].update(eco={'end_ratio': 1.0, 'mode': mode}, distill_opt=losses)
            if losses is None:
                del own['train']['distill_opt']
            found[f'{"logits + " if losses else ""}eco, {mode}'] = own
    return found


def bicubic(opt: config.Options) -> str:
    """Milliseconds of one batch of the pair: two products, and the loop."""
    hr, scale = random_batch(opt)['gt'], opt['scale']
    times = []
    with quietly(1):
        for shrink in (lambda: bicubic_downsample_batch(hr, scale, clips=True),
                       lambda: torch.stack([imresize(image, 1 / scale) for image in hr])):
            shrink()
            rounds = []
            for _ in range(9):
                begin = time.thread_time()
                shrink()
                rounds.append(1000 * (time.thread_time() - begin))
            times.append(statistics.median(rounds))
    return f'bicubic of {tuple(hr.shape)}: {times[0]:.2f} ms batched, {times[1]:.1f} ms with a loop over imresize'


def peak(own: dict[str, Any], results: Any) -> None:
    """Peak memory of a process that takes steps of one model only, in MB."""
    with quietly(1), tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        Bench(own, folder).run(3)
        results.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def memory_of(own: dict[str, Any]) -> int:
    """The same, in a process of its own."""
    context = multiprocessing.get_context('fork')
    results = context.SimpleQueue()
    process = context.Process(target=peak, args=(own, results))
    process.start()
    process.join()
    return round(results.get())


def show(named: dict[str, Any], has_memory: bool = False) -> None:
    """Measure and print a line for each."""
    first = next(iter(named.values()))
    taken = {name: memory_of(own) for name, own in named.items()} if has_memory else {}
    for name, own in named.items():
        found = measure(first, own)
        megabytes = taken.get(name, found.memory)
        memory = '' if megabytes is None else f'{megabytes:8,d} MB'
        sys.stdout.write(f'{name:44} {found.distilling:6.2f}{memory}\n')
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    parser.add_argument('--taps', type=int, default=3)
    parser.add_argument('--methods', action='store_true')
    parser.add_argument('--eco', action='store_true')
    args = parser.parse_args()
    if args.methods or args.eco:
        for path in args.option_files:
            opt = config.read_options(path)
            sys.stdout.write(f'{path}\n')
            with tempfile.TemporaryDirectory() as folder:
                show(with_eco(opt, folder) if args.eco else methods(opt, args.taps, folder),
                     args.eco and not torch.cuda.is_available())
            if args.eco:
                sys.stdout.write(f'{bicubic(opt)}\n')
        return
    named: dict[str, Any] = {Path(path).stem: config.read_options(path) for path in args.option_files}
    if len(named) == 1:
        named = variants(config.read_options(args.option_files[0]), args.taps)
    show(named, len(args.option_files) > 1 and not torch.cuda.is_available())


if __name__ == '__main__':
    main()
