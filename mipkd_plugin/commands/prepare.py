"""``mipkd prepare``: make LR images and LMDBs from HR images, or HR images alone for Real-ESRGAN."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = 'make LR images and LMDBs from HR images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd prepare``."""
    add = parser.add_argument
    add('--hr', type=Path, nargs='+', required=True, metavar='DIR', help='folder(s) of HR images')
    add('--scale', type=int, help='scale factor: 2, 3, 4 or 8; needed except with --gt-only')
    add('--gt-only', action='store_true', help='HR images alone, for RealESRGANDataset')
    add('--multiscale', action='store_true', help='with --gt-only: smaller versions of each image too')
    add('--out', type=Path, required=True, metavar='DIR', help='folder to fill: HR and LRbicx<scale>')
    add('--lmdb', action='store_true', help='write HR.lmdb and LRbicx<scale>.lmdb instead of folders')
    add('--crop', type=int, help='cut HR into tiles of this side, a multiple of the scale')
    add('--step', type=int, help='distance between tiles, a multiple of the scale')
    add('--min-side', type=int, default=1, metavar='PIXELS', help='leave out images whose shorter side is below this')
    add('--workers', type=int, help='number of processes (default: all cores)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd prepare``."""
    from mipkd_plugin.preparation.pairs import prepare, prepare_gt_only
    from mipkd_plugin.preparation.sources import PrepareError

    if args.gt_only and args.scale is not None:
        raise PrepareError(f'--scale {args.scale}: does not go with --gt-only, as training makes the LR images, for '
                           'the scale of the option file; leave out one of the two.')
    if not args.gt_only and args.scale is None:
        raise PrepareError('--scale: is missing; give 2, 3, 4 or 8 to make pairs, or --gt-only for HR images alone.')
    if args.multiscale and not args.gt_only:
        raise PrepareError('--multiscale: is for HR images alone; add --gt-only and leave out --scale, or leave out '
                           '--multiscale.')
    try:
        summary = (prepare_gt_only(args.hr, args.out, args.lmdb, args.crop, args.step, args.workers, args.multiscale,
                                   args.min_side)
                   if args.gt_only else
                   prepare(args.hr, args.scale, args.out, args.lmdb, args.crop, args.step, args.workers,
                           min_side=args.min_side))
    except OSError as error:
        raise PrepareError(f'{error.filename or args.out}: {error.strerror or error}') from error
    sys.stdout.write(f'{summary}\n')
    return 0
