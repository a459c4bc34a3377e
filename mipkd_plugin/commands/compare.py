"""``mipkd compare``: train with several methods and seeds under equal conditions; make table and figure."""

from __future__ import annotations

import argparse

from mipkd_plugin.commands.shared import add_comparison, carry_out, read, report_comparison, require_trainable
from mipkd_plugin.utils.errors import UsageError

HELP = 'train with several methods and seeds; make table and figure'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd compare``."""
    parser.add_argument('--methods', nargs='+', metavar='NAME', help='methods of compare.methods (default: all). The '
                        'control, none, always takes part, and with another method the control of equal time')
    add_comparison(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd compare``."""
    if args.report:
        if args.methods or args.seeds:
            raise UsageError('--report shows all rows of results.csv; leave out --methods and --seeds')
        return report_comparison(args)
    require_trainable(args)
    from mipkd_plugin.compare import read_comparison

    return carry_out(read_comparison(read(args), args.methods, args.seeds), args)
