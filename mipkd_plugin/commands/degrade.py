"""``mipkd degrade``: fixed pairs of photographs, degraded as a Real-ESRGAN training degrades them."""

from __future__ import annotations

import argparse
from pathlib import Path

from mipkd_plugin.commands.shared import add_option_file, read

HELP = 'degrade photographs once, as a Real-ESRGAN training does, to validate and measure on them'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd degrade``."""
    add_option_file(parser, opt='option file of a training on RealESRGANDataset, which says how strongly to degrade')
    parser.add_argument('--hr', type=Path, required=True, metavar='DIR', help='folder of high-resolution photographs')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='new folder: HR and LQ with equal names')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the degradation (default: 0)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd degrade``."""
    opt = read(args)
    from mipkd_plugin import config

    config.require_degradation(opt)
    from mipkd_plugin.preparation.degrade import HR, LQ, degrade
    from mipkd_plugin.preparation.sources import PrepareError
    from mipkd_plugin.utils.words import counted, some

    try:
        count, left_out = degrade(opt, args.hr, args.out, args.seed)
    except OSError as error:
        raise PrepareError(f'{error.filename or args.out}: {error.strerror or error}') from error
    if left_out:
        print(f'Left out, as only .png, .jpg, .jpeg and .bmp files are read, and no subfolders: {some(left_out)}')
    print(f'{counted(count, "pair")}: {args.out / HR} and {args.out / LQ} (seed {args.seed}).\n'
          'To validate on them, write as a block of datasets:\n'
          f'  val:\n    name: {args.out.name}\n    type: PairedImageDataset\n    dataroot_gt: {args.out / HR}\n'
          f'    dataroot_lq: {args.out / LQ}\n    io_backend: {{type: disk}}')
    return 0
