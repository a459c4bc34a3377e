"""Arguments and steps that several commands share."""

from __future__ import annotations

import argparse
import importlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipkd_plugin.utils.errors import UsageError

if TYPE_CHECKING:
    from mipkd_plugin.compare import Comparison
    from mipkd_plugin.config import Options, Report


def add_option_file(parser: argparse.ArgumentParser, required: bool = True, **texts: str) -> None:
    """Declare ``-opt``, ``--force_yml`` and ``--import``.

    Args:
        parser: Parser of a command.
        required: Whether the command needs an option file.
        texts: Another help text for ``opt``.
    """
    parser.add_argument('-opt', required=required, metavar='FILE.yml', help=texts.get('opt', 'option file'))
    parser.add_argument('--force_yml', nargs='+', metavar='A:B=VALUE',
                        help='change entries of the option file, as in train:ema_decay=0.999; write 1e-4 and -1 as '
                        '!!float1e-4 and !!float-1')
    parser.add_argument('--import', dest='imports', action='append', default=[], metavar='FILE.py|MODULE',
                        help='first import a file or module that registers your own networks, losses or models; can '
                        'be given several times; same as imports: [...] in the option file')


def read(args: argparse.Namespace) -> Options:
    """Read the option file and import the plug-ins that it or the command line names.

    Args:
        args: With ``opt``, ``force_yml`` and ``imports``.

    Returns:
        The options.

    Raises:
        OptionError: The file cannot be read, or an import fails.
        UsageError: The repository's own copy of BasicSR cannot be imported.
    """
    _import_basicsr()
    from mipkd_plugin import config

    if getattr(args, 'options', None) is None:  # a command reads the file once: it may be a pipe
        args.options = config.read_options(args.opt, args.force_yml)
        config.load_plugins(args.options, args.imports)
        config.fill_teacher(args.options)
    opt: Options = args.options
    return opt


def import_plugins(args: argparse.Namespace) -> list[str]:
    """Import plug-ins without checking an option file; there may be none.

    Args:
        args: With ``imports``, and ``opt`` and ``force_yml`` or None.

    Returns:
        The entries that were imported, as an option file would name them.
    """
    if args.opt is not None:
        return [entry for entry in [*(read(args).get('imports') or []), *args.imports] if isinstance(entry, str)]
    _import_basicsr()
    from mipkd_plugin import config

    config.load_plugins(None, args.imports)
    return list(args.imports)


def _import_basicsr() -> None:
    """Import BasicSR; the copy of a repository in PYTHONPATH may need packages that are not installed."""
    from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason

    try:
        importlib.import_module('basicsr')
    except (*FOREIGN_ERRORS, SyntaxError) as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if 'basicsr' in Path(f.filename).parts]
        place = f' ({frames[-1].filename}, line {frames[-1].lineno})' if frames else ''
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        remedy = (f'install {missing.partition(".")[0]}' if missing and not missing.startswith('basicsr')
                  else 'fix that file, or take its folder out of PYTHONPATH')
        raise UsageError(f'basicsr cannot be imported: {reason(error)}{place}; {remedy}') from error


def read_checked(args: argparse.Namespace, is_train: bool | None, **flags: Any) -> tuple[Options, bool, Report]:
    """Read and check the option file.

    Args:
        args: With ``opt``, ``force_yml``, ``imports`` and perhaps ``debug``.
        is_train: Whether to check for ``basicsr train``; None guesses from the file.
        flags: Further arguments of :func:`~mipkd_plugin.config.check.check_options`.

    Returns:
        The options, whether they are for training, and the report of the check.

    Raises:
        OptionError: The file has problems; the message lists all of them.
    """
    opt = read(args)
    from mipkd_plugin import config

    if is_train is None:
        is_train = config.is_training(opt)
    if getattr(args, 'debug', False) and not str(opt.get('name', '')).startswith('debug'):
        opt['name'] = f'debug_{opt.get("name")}'  # as BasicSR does
    report = config.check_options(opt, is_train=is_train, **flags)
    config.require_clean(report.problems, opt)
    return opt, is_train, report


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments that ``mipkd compare`` and ``mipkd ablate`` share."""
    add_option_file(parser, required=False, opt='option file with a block compare')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N',
                        help='values of manual_seed (default: compare.seeds)')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='number of runs at the same time (default: 1)')
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument('--report', action='store_true',
                         help='do not train; only make table and figure from results.csv')
    instead.add_argument('--times', action='store_true',
                         help='do not train; only measure what a training step of each method costs, for times.csv')
    parser.add_argument('--results', type=Path, metavar='FILE.csv', help='results.csv for --report, instead of -opt')
    parser.add_argument('--into', type=Path, metavar='FILE.md', help='also put the table between the marks '
                        '<!-- NAME --> and <!-- /NAME --> of this file; NAME is the folder of results.csv')


def require_trainable(args: argparse.Namespace) -> None:
    """Check the arguments of a command that trains a comparison.

    Args:
        args: The parsed arguments.

    Raises:
        UsageError: There is no option file, or an argument does not fit training.
    """
    if args.jobs < 1:
        raise UsageError(f'--jobs must be 1 or more, got {args.jobs}')
    if args.opt is None or args.results is not None:
        raise UsageError('-opt FILE.yml is missing' if args.opt is None else '--results needs --report')
    if args.times and args.into is not None:
        raise UsageError('--into takes a table of results; leave it out with --times')


def carry_out(comparison: Comparison, args: argparse.Namespace) -> int:
    """Train a comparison, or only measure its step times.

    Args:
        comparison: The comparison.
        args: With ``times``, ``jobs`` and ``into``.

    Returns:
        Exit code.

    Raises:
        MipkdError: Results, times or folders do not fit, or a file cannot be written.
    """
    from mipkd_plugin.compare.session import measure_times, train

    return measure_times(comparison) if args.times else train(comparison, args.jobs, args.into)


def report_comparison(args: argparse.Namespace,
                      ablated: Callable[[Options, argparse.Namespace], str] | None = None) -> int:
    """Make table and figure of the existing results.

    Args:
        args: With ``opt`` or ``results``.
        ablated: Function that returns the varied method; only for an ablation.

    Returns:
        Exit code 0.

    Raises:
        MipkdError: There are no results, or table and figure cannot be written.
        UsageError: The arguments do not fit together.
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
