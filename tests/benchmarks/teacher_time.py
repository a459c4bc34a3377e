"""Time and error of the teacher's full pass in each setting of teacher.dtype, channels_last and compile.

    OMP_NUM_THREADS=1 python tests/benchmarks/teacher_time.py options/compare_EDSR_x2_small.yml

All ratios are to float32, measured in turn in one process, the mean of the rounds. The errors are those of the output
(images in [0, 1]) and of each tapped feature, ‖a − b‖ / ‖b‖. Takes teacher, batch and patch size from the option file:
the teacher's own weights and training images where they exist, and else random ones. On a GPU also the peak of memory.
"""

from __future__ import annotations

import argparse
import copy
import sys
import time
from pathlib import Path

import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.data import build_dataset
from mipkd_plugin import Execution, TappedNet, config
from mipkd_plugin.networks.execution import PLAIN, difference
from mipkd_plugin.networks.trunk import trunk_of
from torch import Tensor, nn

BF16, FP16 = torch.bfloat16, torch.float16
SETTINGS = [PLAIN, Execution(channels_last=True), Execution(BF16), Execution(BF16, channels_last=True),
            Execution(FP16), Execution(FP16, channels_last=True)]


def teacher_and_images(opt: config.Options) -> tuple[nn.Module, Tensor, str]:
    """The teacher, a training batch (N, C, H, W), and what is real of them."""
    report = config.check_options(opt, is_train=True, probe='none')
    teacher, data = report.built.teacher, opt['datasets']['train']
    if teacher is None:
        raise SystemExit('\n'.join(map(str, report.problems)))
    trained = not any(problem.where.startswith('teacher') for problem in report.problems)
    size = data['batch_size_per_gpu']
    images = torch.rand(size, *config.probe_shape(opt))
    real = report.images.get('datasets.train', 0) >= size
    if real:
        dataset = build_dataset({**data, 'phase': 'train', 'scale': opt['scale']})
        images = torch.stack([dataset[index]['lq'] for index in range(size)])
    return teacher, images, f'{"own" if trained else "random"} weights, {"training" if real else "random"} images'


def pass_time(tapped: TappedNet, images: Tensor, calls: int) -> float:
    """Seconds of one pass."""
    begin = time.perf_counter()
    for _ in range(calls):
        tapped(images)
    if images.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - begin) / calls


def peak_memory(tapped: TappedNet, images: Tensor) -> str:
    """Peak of memory of one pass on a GPU, or ''."""
    if not images.is_cuda:
        return ''
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    tapped(images)
    return f'  +{(torch.cuda.max_memory_allocated() - before) / 2**20:.0f} MiB'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_file')
    parser.add_argument('--force_yml', nargs='+', help='change entries, as in teacher:weights=FILE')
    parser.add_argument('--taps', type=int, default=4)
    parser.add_argument('--rounds', type=int, default=10)
    parser.add_argument('--calls', type=int, default=10, help='passes a round')
    parser.add_argument('--no-compile', action='store_true', help='leave out the settings that take minutes to compile')
    parser.add_argument('--no-float16', action='store_true', help='leave out float16, which is slow on many CPUs')
    args = parser.parse_args()
    torch.manual_seed(0)
    teacher, images, real = teacher_and_images(config.read_options(args.option_file, args.force_yml))
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    images = images.to(device)
    chain = trunk_of(teacher, images)
    taps = chain.spaced(min(args.taps, len(chain.calls)))
    settings = [s for s in SETTINGS if s.dtype != FP16 or not args.no_float16]
    settings += [] if args.no_compile else [Execution(compile=True), Execution(BF16, channels_last=True, compile=True)]
    nets = {s: TappedNet(copy.deepcopy(teacher).to(device), taps, frozen=True, execution=s) for s in settings}
    spent = dict.fromkeys(nets, 0.0)
    for turn in range(-2, args.rounds):  # two rounds to warm up, and to compile
        for setting, tapped in nets.items():
            spent[setting] += pass_time(tapped, images, args.calls) * (turn >= 0)
    sys.stdout.write(f'{Path(args.option_file).name}: {type(teacher).__name__}, {real}, batch {tuple(images.shape)}, '
                     f'{device.type}, {torch.get_num_threads()} thread(s)\n')
    reference = nets[PLAIN](images)
    for setting, tapped in nets.items():
        found = difference(tapped(images), reference)
        sys.stdout.write(
            f'{setting!s:34} {1e3 * spent[setting] / args.rounds:8.1f} ms  {spent[setting] / spent[PLAIN]:6.2f}'
            f'{peak_memory(tapped, images)}  output: max {found.output_max:.1e}, mean {found.output_mean:.1e}, '
            f'{found.psnr:.1f} dB  features: '
            + ', '.join(f'{path} {100 * error:.2g} %' for path, error in found.features.items()) + '\n')


if __name__ == '__main__':
    main()
