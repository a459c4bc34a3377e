"""``mipkd demo``: a complete small distillation, with a table and a picture."""

from __future__ import annotations

import argparse

HELP = 'a complete small distillation, with a table and a picture'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd demo``."""
    parser.add_argument('--iterations', type=int,
                        help='train this long instead of as the option files say (the run of equal time: longer by the '
                        'same factor as there)')


def run(args: argparse.Namespace) -> int:
    """Carry out ``mipkd demo``."""
    from mipkd_plugin.commands.demo.stages import show

    return show(args.iterations)
