"""``mipkd prepare``: make LR images and LMDBs from HR images."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = 'make LR images and LMDBs from HR images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd prepare``."""
    add = parser.add_argument
    add('--hr', type=Path, nargs='+', required=True, metavar='DIR', help='folder(s) of HR images')
    add('--scale', type=int, required=True, help='scale factor: 2, 3, 4 or 8')
    add('--out', type=Path, required=True, metavar='DIR', help='folder to fill: HR and LRbicx<scale>')
    add('--lmdb', action='store_true', help='write HR.lmdb and LRbicx<scale>.lmdb instead of folders')
    add('--crop', type=int, help='cut HR into tiles of this side, a multiple of the scale')
    add('--step', type=int, help='distance between tiles, a multiple of the scale')
    add('--workers', type=int, help='number of processes (default: all cores)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd prepare``."""
    from mipkd_plugin.preparation.pairs import prepare
    from mipkd_plugin.preparation.sources import PrepareError

    try:
        summary = prepare(args.hr, args.scale, args.out, args.lmdb, args.crop, args.step, args.workers)
    except OSError as error:
        raise PrepareError(f'{error.filename or args.out}: {error.strerror or error}') from error
    sys.stdout.write(f'{summary}\n')
    return 0
