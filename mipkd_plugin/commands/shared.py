"""Arguments and steps that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipkd_plugin.utils.errors import UsageError

if TYPE_CHECKING:
    from mipkd_plugin.config import Options, Report


def add_option_file(parser: argparse.ArgumentParser, required: bool = True, **texts: str) -> None:
    """Declare ``-opt``, ``--force_yml`` and ``--import``.

    Args:
        parser: Of a command.
        required: Whether the command needs an option file.
        texts: Help for ``opt``, if it is more than an option file.
    """
    parser.add_argument('-opt', required=required, metavar='FILE.yml', help=texts.get('opt', 'option file'))
    parser.add_argument('--force_yml', nargs='+', metavar='A:B=VALUE',
                        help='change entries of it, as in train:ema_decay=0.999; numbers such as 1e-4 or -1 '
                        'as !!float1e-4, !!float-1')
    parser.add_argument('--import', dest='imports', action='append', default=[], metavar='FILE.py|MODULE',
                        help='import a file or module first, which registers your own networks, losses or models; '
                        'can be given several times; the same as imports: [...] in the option file')


def read(args: argparse.Namespace) -> Options:
    """Read the option file, and import all that registers classes of others.

    Raises:
        OptionError: The file cannot be read, or an import fails.
    """
    from mipkd_plugin import config

    opt = config.read_options(args.opt, args.force_yml)
    config.load_plugins(opt, args.imports)
    return opt


def read_checked(args: argparse.Namespace, is_train: bool | None, **flags: Any) -> tuple[Options, bool, Report]:
    """Read and check the option file.

    Args:
        args: With ``opt``, ``force_yml``, ``imports`` and perhaps ``debug``.
        is_train: Whether for ``basicsr train``; None: as the file looks.
        flags: For :func:`~mipkd_plugin.config.check.check_options`.

    Raises:
        OptionError: With all of its problems.
    """
    from mipkd_plugin import config

    opt = read(args)
    if is_train is None:
        is_train = config.is_training(opt)
    if getattr(args, 'debug', False) and not str(opt.get('name', '')).startswith('debug'):
        opt['name'] = f'debug_{opt.get("name")}'  # as BasicSR will
    return opt, is_train, config.check_options(opt, is_train=is_train, **flags).require_clean()


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that ``mipkd compare`` and ``mipkd ablate`` share."""
    add_option_file(parser, required=False, opt='option file with a block compare')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N', help='compare.seeds by default')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at the same time')
    parser.add_argument('--report', action='store_true', help='train nothing: make table and figure of results.csv')
    parser.add_argument('--results', type=Path, metavar='FILE.csv', help='results.csv to report on, without -opt')
    parser.add_argument('--into', type=Path, metavar='FILE.md', help='also put the table between the marks '
                        '<!-- NAME --> and <!-- /NAME --> of this file, NAME being the folder of results.csv')


def require_trainable(args: argparse.Namespace) -> None:
    """Check the arguments of a comparison that is to be trained.

    Raises:
        UsageError: There is no option file, or an argument does not go with training.
    """
    if args.jobs < 1:
        raise UsageError(f'--jobs must be 1 or more, got {args.jobs}')
    if args.opt is None or args.results is not None:
        raise UsageError('-opt FILE.yml is missing' if args.opt is None else '--results goes with --report')


def report_comparison(args: argparse.Namespace,
                      ablated: Callable[[Options, argparse.Namespace], str] | None = None) -> int:
    """Make table and figure of the results that are there; returns the exit code.

    Args:
        args: With ``opt`` or ``results``.
        ablated: For an ablation: the method that is varied.

    Raises:
        MipkdError: There are no results, or they cannot be written.
    """
    if (args.opt is None) == (args.results is None):
        raise UsageError('--report needs either -opt FILE.yml or --results FILE.csv')
    from mipkd_plugin.compare import results_folder
    from mipkd_plugin.compare.session import report, results_path

    path = args.results
    if path is None:
        opt = read(args)
        path = results_path(results_folder(opt, None if ablated is None else ablated(opt, args)))
    return report(path, args.into)
