"""How fast students of other widths and depths are, measured in turn.

python tests/benchmarks/student_speed.py EDSR:64x4 EDSR:48x4 EDSR:32x4 --scale 2 --side 96
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time

import torch

from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.recipes.students_notation import read
from mipkd_plugin.recipes.students_work import measured


def main() -> None:
    """Measure the students that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('students', nargs='+', help='as EDSR:64x4')
    parser.add_argument('--scale', type=int, default=2)
    parser.add_argument('--side', type=int, default=96, help='side of the LR image')
    parser.add_argument('--rounds', type=int, default=9)
    args = parser.parse_args()
    nets = []
    for text in args.students:
        wanted = read(text)
        family = wanted.family
        if family is None or wanted.size is None:
            parser.error(f'{text} is no size')
        size = family.completed(wanted.size, family.size)
        nets.append(measured(family.network(size, family.base({}, args.scale, 3)), args.scale, 3))
    image, taken = torch.rand(1, 3, args.side, args.side), [list[float]() for _ in nets]
    for number in range(args.rounds + 2):
        for net, times in zip(nets, taken):
            with evaluating(net.net):
                start = time.perf_counter()
                net.net(image)
            if number > 1:
                times.append(time.perf_counter() - start)
    sys.stdout.write('| student | MMACs | ms, least | ms, median | GMACs in a second |\n|---|---|---|---|---|\n')
    for text, net, times in zip(args.students, nets, taken):
        work = net.work * args.side**2
        sys.stdout.write(f'| {text} | {work / 1e6:,.0f} | {1000 * min(times):,.1f} | '
                         f'{1000 * statistics.median(times):,.1f} | {work / min(times) / 1e9:.1f} |\n')


if __name__ == '__main__':
    main()
