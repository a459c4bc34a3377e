"""What a control gains when it trains longer, and so at which cost of a step distillation still pays.

    python tests/benchmarks/break_even.py experiments/compare_EDSR_x2_small_60k/results.csv

Reads the curves of a comparison: mean over the seeds, linear in the logarithm of the iterations between two
validations. They are curves of whole runs: the learning rate falls late, and not at a share of each shorter training.
A dash: the curve ends before, or begins after.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from mipkd_plugin.compare.results import Row, read_rows

FACTORS = (1.5, 2, 3, 5, 10)
Curve = dict[int, float]
"""Iteration → PSNR."""


def curve_of(rows: Iterable[Row], method: str, testset: str) -> Curve:
    """The mean over the seeds, where all of them were validated."""
    curves = [{at: psnr for at, _, psnr in row.points()} for row in rows
              if (row.method, row.testset) == (method, testset)]
    if not curves:
        raise SystemExit(f'there are no rows of {method} on {testset}')
    return {at: sum(curve[at] for curve in curves) / len(curves)
            for at in sorted(set.intersection(*map(set, curves)))}


def psnr_at(curve: Curve, iteration: float) -> float:
    """PSNR between two validations; not a number outside of them."""
    points = list(curve.items())
    for (a, low), (b, high) in zip(points, points[1:]):
        if a <= iteration <= b:
            return low + (high - low) * math.log(iteration / a) / math.log(b / a)
    return math.nan


def first_at(curve: Curve, psnr: float) -> float:
    """First iteration that reaches a PSNR; not a number if none does, or if the first validation is above."""
    points = list(curve.items())
    for (a, low), (b, high) in zip(points, points[1:]):
        if low <= psnr <= high and low < high:
            return a * (b / a)**((psnr - low) / (high - low))
    return math.nan


def decimals(value: float) -> str:
    """Two decimals; a dash for what the curve does not say."""
    return '–' if math.isnan(value) else f'{value:.2f}'


def table(title: str, rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """Markdown; the first row is the head."""
    lines = [f'| {" | ".join([name, *cells])} |' for name, cells in rows]
    return '\n'.join([title, '', lines[0], '|' + '---|' * (len(rows[0][1]) + 1), *lines[1:], ''])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('results', type=Path)
    parser.add_argument('--testset', default='Kodak24')
    parser.add_argument('--control', default='none')
    parser.add_argument('--start', type=int, nargs='+', default=[5000], help='iterations N of the distillation')
    parser.add_argument('--gains', type=float, nargs='+', default=[0.1, 0.2, 0.38], help='in dB')
    args = parser.parse_args()
    rows = read_rows(args.results)
    control = curve_of(rows, args.control, args.testset)
    seeds = len({row.seed for row in rows if row.method == args.control})
    sys.stdout.write(table(
        f'PSNR gained by {args.control} trained as many times as long as N, {args.testset}, dB, {seeds} seed(s)',
        [('N', [f'{factor:g} ×' for factor in FACTORS]),
         *((f'{n:,d}', [decimals(psnr_at(control, factor * n) - psnr_at(control, n)) for factor in FACTORS])
           for n in args.start)]) + '\n')
    sys.stdout.write(table('Largest ratio of the steps at which a gain at N still pays', [
        ('N', [f'{gain:g} dB' for gain in args.gains]),
        *((f'{n:,d}', [decimals(first_at(control, psnr_at(control, n) + gain) / n) for gain in args.gains])
          for n in args.start)]) + '\n')
    for method in dict.fromkeys(row.method for row in rows if row.method != args.control):
        curve = curve_of(rows, method, args.testset)
        cells = [(f'{n:,d}', [decimals(psnr - psnr_at(control, n)), decimals(first_at(control, psnr) / n)])
                 for n, psnr in curve.items()]
        sys.stdout.write(table(f'{method}: its gain at N, and the ratio up to which that pays',
                               [('N', ['gain', 'ratio']), *cells]) + '\n')


if __name__ == '__main__':
    main()
