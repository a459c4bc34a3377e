"""The commands ``basicsr train|test`` (the toolbox's own pipelines) and ``mipkd``."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from mipkd_plugin import compat, lifeline
from mipkd_plugin.version import __version__

if TYPE_CHECKING:
    from mipkd_plugin.config import Options, Report

PLUGIN_GROUP = 'basicsr.plugins'
_IMPORT_ERRORS = (ImportError, SyntaxError, ArithmeticError, AssertionError, AttributeError, LookupError,
                  NameError, OSError, RuntimeError, TypeError, ValueError)


class UsageError(ValueError):
    """The command cannot be carried out; the message says why, and what to do."""


def basicsr_main(argv: Sequence[str] | None = None) -> int:
    """Run ``basicsr``.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit code: 0, 2 if the options are refused (then nothing was written), 130 if interrupted.
    """
    arguments = compat.accept_dashed_local_rank(list(sys.argv[1:] if argv is None else argv))
    args = _basicsr_parser().parse_args(arguments)
    return _guarded(lambda: _run_pipeline(args, arguments[1:]))


def mipkd_main(argv: Sequence[str] | None = None) -> int:
    """Run ``mipkd``.

    Args:
        argv: Arguments; those of the process by default.

    Returns:
        Exit code: 0, 2 if something is refused, 130 if interrupted.
    """
    args = _mipkd_parser().parse_args(argv)
    return _guarded(lambda: args.run(args))


def _guarded(command: Callable[[], int]) -> int:
    """Our own errors become one message and exit code 2; under torchrun rank 0 speaks for all."""
    warnings.filterwarnings('ignore', 'torch.meshgrid')  # of the toolbox's SwinIR, at every start
    try:
        return command()
    except KeyboardInterrupt:
        sys.stderr.write('interrupted\n')
        return 130
    except BrokenPipeError:  # the reader of our output, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ValueError as error:
        if not type(error).__module__.startswith(__package__):
            raise
        if os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0')) == '0':
            sys.stderr.write(f'{error}\n')
        return 2


def _basicsr_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='basicsr', description='Train or test with BasicSR, after checking the option file. Results go '
        'to experiments/ or results/ of the working directory.')
    parser.add_argument('--version', action='version', version=_versions())
    commands = parser.add_subparsers(dest='command', metavar='train|test', required=True)
    for name in ('train', 'test'):
        command = commands.add_parser(name, help=f"the toolbox's own {name} pipeline",
                                      description=f'Check the option file, then {name} with the toolbox.')
        _add_option_file(command)
        command.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
                             help='job launcher; pytorch under torchrun')
        command.add_argument('--auto_resume', action='store_true', help='go on from the last training state')
        command.add_argument('--debug', action='store_true', help='short intervals, a run named debug_…')
        command.add_argument('--local_rank', type=int, default=0, help='set by the launcher')
    return parser


def _add_option_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('-opt', required=True, metavar='FILE.yml', help='option file')
    parser.add_argument('--force_yml', nargs='+', metavar='A:B=VALUE',
                        help='change entries of it, as in train:ema_decay=0.999; numbers such as 1e-4 or -1 '
                        'as !!float1e-4, !!float-1')


def _mipkd_parser() -> argparse.ArgumentParser:
    from mipkd_plugin import prepare, textures

    parser = argparse.ArgumentParser(prog='mipkd', description='Tools for distilling SR networks.')
    parser.add_argument('--version', action='version', version=_versions())
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)

    check = commands.add_parser('check', help='check an option file and show what it describes')
    _add_option_file(check)
    mode = check.add_mutually_exclusive_group()
    for name in ('train', 'test'):
        mode.add_argument(f'--{name}', dest='mode', action='store_const', const=name,
                          help=f'for basicsr {name}, whatever the file looks like')
    check.set_defaults(run=_check)

    taps = commands.add_parser('taps', help='list the modules whose features can be distilled')
    _add_option_file(taps)
    taps.add_argument('--teacher', action='store_true', help='only the teacher')
    taps.add_argument('--all', action='store_true', help='all modules, not only trunk blocks and top level')
    taps.set_defaults(run=_taps)

    command = commands.add_parser('textures', help='draw what the KRNets of a training run see in an image')
    _add_option_file(command)
    textures.add_arguments(command)
    command.set_defaults(run=_textures)

    command = commands.add_parser('prepare', help='make LR images and LMDBs from HR images')
    prepare.add_arguments(command)
    command.set_defaults(run=prepare.run)
    _add_experiments(commands)
    return parser


def _add_experiments(commands: Any) -> None:
    from mipkd_plugin import demo
    from mipkd_plugin.compare import command as comparing

    command = commands.add_parser('compare', help='train with several methods and seeds; table and figure')
    comparing.add_compare(command)
    command.set_defaults(run=_with_plugins(comparing.run_compare))

    command = commands.add_parser('ablate', help='the same with one method and one option of it changed at a time')
    comparing.add_ablate(command)
    command.set_defaults(run=_with_plugins(comparing.run_ablate))

    command = commands.add_parser('demo', help='a complete small distillation, with a table and a picture')
    demo.add_arguments(command)
    command.set_defaults(run=demo.run)


def _with_plugins(run: Callable[[argparse.Namespace], int]) -> Callable[[argparse.Namespace], int]:
    def run_with_plugins(args: argparse.Namespace) -> int:
        load_plugins()
        return run(args)

    return run_with_plugins


def _versions() -> str:
    from basicsr.version import __version__ as toolbox

    return f'mipkd-plugin {__version__}, basicsr {toolbox}'


def load_plugins() -> None:
    """Import every package in the entry-point group ``basicsr.plugins``, which registers its classes.

    Raises:
        UsageError: One of them cannot be imported.
    """
    for plugin in entry_points(group=PLUGIN_GROUP):
        try:
            plugin.load()
        except _IMPORT_ERRORS as error:
            package = f' of {plugin.dist.name} {plugin.dist.version}' if plugin.dist is not None else ''
            raise UsageError(f'the BasicSR plug-in {plugin.value!r}{package} cannot be imported: '
                             f'{type(error).__name__}: {error}; mend or uninstall that package') from error


def _checked(args: argparse.Namespace, is_train: bool | None, **flags: Any) -> tuple[Options, bool, Report]:
    """Read and check an option file.

    Raises:
        OptionError: With all of its problems.
    """
    from mipkd_plugin import config

    load_plugins()
    opt = config.read_options(args.opt, args.force_yml)
    if is_train is None:
        is_train = config.is_training(opt)
    if getattr(args, 'debug', False) and not str(opt.get('name', '')).startswith('debug'):
        opt['name'] = f'debug_{opt.get("name")}'  # as the toolbox will
    report = config.run_checks(opt, is_train=is_train, **flags)
    if report.problems:
        raise config.OptionError(report.problems, opt.source)
    return opt, is_train, report


def _run_pipeline(args: argparse.Namespace, arguments: list[str]) -> int:
    is_train = args.command == 'train'
    lifeline.hold()
    opt = _checked(args, is_train, launcher=args.launcher, auto_resume=args.auto_resume)[0]
    before = sys.argv
    sys.argv = [f'basicsr {args.command}', *arguments]  # the toolbox parses them itself
    try:
        if is_train:
            from basicsr.train import train_pipeline

            from mipkd_plugin.replay import exact_resume
            with exact_resume() if opt['train'].get('exact_resume') else nullcontext():
                train_pipeline(os.getcwd())
        else:
            from basicsr.test import test_pipeline
            test_pipeline(os.getcwd())
    finally:
        sys.argv = before
    compat.leave_without_gpu()
    return 0


def _check(args: argparse.Namespace) -> int:
    from mipkd_plugin import config, inspection

    opt = config.read_options(args.opt, args.force_yml)
    if 'compare' in opt and args.mode is None:
        load_plugins()
        return inspection.check_comparison(opt)
    is_train = None if args.mode is None else args.mode == 'train'
    opt, is_train, report = _checked(args, is_train, probe='full')
    return inspection.show_report(opt, 'train' if is_train else 'test', report)


def _taps(args: argparse.Namespace) -> int:
    from mipkd_plugin import config, inspection

    load_plugins()
    return inspection.show_taps(config.read_options(args.opt, args.force_yml), args)


def _textures(args: argparse.Namespace) -> int:
    from mipkd_plugin import config, textures

    load_plugins()
    return textures.run(config.load_options(args.opt, args.force_yml), args)
