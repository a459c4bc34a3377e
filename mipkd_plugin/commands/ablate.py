"""``mipkd ablate``: compare one method with variants that change one option each."""

from __future__ import annotations

import argparse
import re
from typing import Any

from mipkd_plugin.commands.shared import add_comparison, carry_out, read, report_comparison, require_trainable
from mipkd_plugin.utils.errors import UsageError

HELP = 'compare one method with variants that change one option each; make table and figure'

_EXPONENT = re.compile(r'[+-]?\d+\.?\d*[eE][+-]?\d+')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd ablate``."""
    parser.add_argument('--method', metavar='NAME', help='method of compare.methods (default: compare.ablate.method)')
    parser.add_argument('--vary', nargs='+', action='append', default=[], metavar='OPTION VALUE',
                        help='option of one of its losses, and the values to try one by one; can be given '
                        'several times (default: compare.ablate.options)')
    add_comparison(parser)


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd ablate``."""
    vary: dict[str, list[Any]] = {}
    for option, *texts in args.vary:
        vary.setdefault(option, []).extend(_value(text) for text in texts)
    empty = [option for option, values in vary.items() if not values]
    if empty:
        raise UsageError(f'--vary {empty[0]}: has no values to try; write --vary {empty[0]} VALUE VALUE …')
    if args.report:
        if vary or args.seeds:
            raise UsageError('--report shows all rows of results.csv; leave out --vary and --seeds')
        return report_comparison(args, _ablated)
    require_trainable(args)
    from mipkd_plugin.compare import read_comparison

    return carry_out(read_comparison(read(args), None, args.seeds, ablate=(args.method, vary)), args)


def _ablated(opt: Any, args: argparse.Namespace) -> str:
    from mipkd_plugin.compare import ablated_method

    found = ablated_method(opt, args.method)
    if found is None:
        raise UsageError(f'{opt.source} has no compare.ablate.method; name the method with --method')
    return found


def _value(text: str) -> Any:
    """Read a value as in an option file, but accept 1e-4 as a number."""
    import yaml

    try:
        value = yaml.safe_load(text)
        return float(value) if _EXPONENT.fullmatch(str(value)) else value
    except yaml.YAMLError as error:
        raise UsageError(f'--vary: {text!r} cannot be read as a value: {error}') from error
