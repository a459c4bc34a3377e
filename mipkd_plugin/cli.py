"""The programs ``basicsr train|test`` (BasicSR's own pipelines) and ``mipkd``: parse arguments and run a command.

Heavy imports wait until a command runs, so ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version

from mipkd_plugin import compat
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.launcher import started_by
from mipkd_plugin.utils.stopping import Stopped, listening, report
from mipkd_plugin.utils.weight_files import only_tensors
from mipkd_plugin.version import __version__

BASICSR_COMMANDS = {'train': 'pipeline', 'test': 'pipeline'}
MIPKD_COMMANDS = {name: name for name in (
    'distill', 'check', 'report', 'upscale', 'show', 'export', 'taps', 'prepare', 'degrade', 'compare', 'ablate',
    'textures', 'demo')}
"""Module in ``mipkd_plugin.commands`` by command; it has ``HELP``, ``add_arguments(parser)`` and ``run(args)``."""


def basicsr_main(argv: Sequence[str] | None = None) -> int:
    """Run ``basicsr``.

    Args:
        argv: Command line arguments; default: the arguments of this process.

    Returns:
        Exit code: 0; 1 if the run has broken off, by an image that cannot be read or a process that has died; 2 if the
        options are refused (nothing was written); 3 if the training or a weights file is not finite; 4 if a file
        cannot be written; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    arguments = compat.accept_dashed_local_rank(list(sys.argv[1:] if argv is None else argv))
    args = basicsr_parser().parse_args(arguments)
    started_by(args.launcher)
    return _guarded(lambda: int(args.run(args)))


def mipkd_main(argv: Sequence[str] | None = None) -> int:
    """Run ``mipkd``.

    Args:
        argv: Command line arguments; default: the arguments of this process.

    Returns:
        Exit code: 0; 1 if a run of a comparison failed; 2 if the command refuses its input; 130 after Ctrl-C, 143
        after SIGTERM, 129 after SIGHUP.
    """
    args = mipkd_parser().parse_args(argv)
    return _guarded(lambda: _listening(args))


def _listening(args: argparse.Namespace) -> int:
    with listening():
        return int(args.run(args))


def basicsr_parser() -> argparse.ArgumentParser:
    """The parser of ``basicsr``."""
    return _parser('basicsr', 'Check an option file, then train or test with BasicSR. Results go to experiments/ or '
                   'results/ in the working directory.', BASICSR_COMMANDS)


def mipkd_parser() -> argparse.ArgumentParser:
    """The parser of ``mipkd``."""
    return _parser('mipkd', 'Tools for distilling super-resolution networks.', MIPKD_COMMANDS)


def _parser(program: str, description: str, commands: dict[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=program, description=description)
    parser.add_argument('--version', action='version',
                        version=f'mipkd-plugin {__version__}, basicsr {version("basicsr")}')
    subparsers = parser.add_subparsers(dest='command', metavar='|'.join(commands), required=True)
    for name, module_name in commands.items():
        module = importlib.import_module(f'mipkd_plugin.commands.{module_name}')
        text = module.HELP[name] if isinstance(module.HELP, dict) else module.HELP
        command = subparsers.add_parser(name, help=text, description=f'{text[0].upper()}{text[1:]}.')
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def _guarded(command: Callable[[], int]) -> int:
    """Turn our own errors into one message and their exit code; under torchrun only rank 0 prints what all meet."""
    warnings.filterwarnings('ignore', 'torch.meshgrid')  # BasicSR's SwinIR warns at every start
    try:
        with only_tensors():
            return command()
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        report(stopped)
        return stopped.exit_code
    except BrokenPipeError:  # the reader of our output, such as head, has stopped
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except MipkdError as error:
        report(error)
        return error.exit_code
