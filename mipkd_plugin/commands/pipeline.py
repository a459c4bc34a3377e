"""``basicsr train`` and ``basicsr test``: check the option file, then run BasicSR's own pipeline."""

from __future__ import annotations

import argparse
import gc
import os
import shlex
from typing import TYPE_CHECKING

from mipkd_plugin import compat
from mipkd_plugin.commands.shared import add_option_file, read_checked
from mipkd_plugin.utils import parent_watch
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.stopping import (
    TOGETHER,
    TOGETHER_FROM_A_LAUNCHER,
    Stop,
    Stopped,
    listening,
    report,
)

if TYPE_CHECKING:
    from mipkd_plugin.config import Checkpoint, Distillation, Options

HELP = {'train': "check an option file, then train with BasicSR's own pipeline",
        'test': "check an option file, then test with BasicSR's own pipeline"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of both commands: BasicSR's own and ``--import``."""
    add_option_file(parser)
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm'], default='none',
                        help='job launcher; write pytorch under torchrun')
    parser.add_argument('--auto_resume', action='store_true', help='continue from the last training state')
    parser.add_argument('--debug', action='store_true', help='short intervals; names the run debug_…')
    parser.add_argument('--local_rank', type=int, default=0, help='set by the launcher')


def run(args: argparse.Namespace) -> int:
    """Check the option file, then run BasicSR with the teacher and losses that the check has built."""
    told_twice = args.launcher != 'none' or parent_watch.is_asked()
    with listening(TOGETHER_FROM_A_LAUNCHER if told_twice else TOGETHER) as stop:
        parent_watch.watch_parent()
        try:
            return _run(args, stop)
        except (Stopped, MipkdError) as error:
            if not compat.has_gloo():
                raise
            report(error)
            code = error.exit_code
        gc.collect()  # data workers end with the frames of the error
        compat.leave_without_gpu(code)
        return code


def _run(args: argparse.Namespace, stop: Stop) -> int:
    is_train = args.command == 'train'
    opt, distillation, checkpoint = _check(args, is_train)
    from mipkd_plugin.models import running

    with running.as_basicsr(opt, args.command, _for_basicsr(args)):
        if is_train:
            running.train(opt, distillation, checkpoint, stop, go_on(args))
        else:
            import basicsr.test as pipeline

            from mipkd_plugin.checkpoints.disk_errors import disk_errors
            from mipkd_plugin.config.handover import handed_over
            from mipkd_plugin.models.guard import guarded
            with disk_errors(), handed_over(opt), guarded(pipeline, stop):
                pipeline.test_pipeline(os.getcwd())
    compat.leave_without_gpu()
    return 0


def _check(args: argparse.Namespace, is_train: bool) -> tuple[Options, Distillation | None, Checkpoint | None]:
    """Check the options; return them with teacher, losses and checkpoint, and drop what else the check has built."""
    opt, _, report = read_checked(args, is_train, launcher=args.launcher, auto_resume=args.auto_resume, probe='full')
    return opt, report.built.distillation, report.checkpoint


def go_on(args: argparse.Namespace) -> str:
    """What to type to continue a stopped run."""
    if args.launcher != 'none':
        return 'the same command with --auto_resume'
    own = [*_for_basicsr(args), *(f'--import={entry}' for entry in args.imports)]
    own = own if args.auto_resume else [*own[:2], '--auto_resume', *own[2:]]
    return shlex.join(['basicsr', 'train', *own])


def _for_basicsr(args: argparse.Namespace) -> list[str]:
    """The arguments that BasicSR knows."""
    arguments = ['-opt', args.opt]
    if args.launcher != 'none':
        arguments += ['--launcher', args.launcher, '--local_rank', str(args.local_rank)]
    arguments += [f'--{name}' for name in ('auto_resume', 'debug') if getattr(args, name)]
    return arguments + (['--force_yml', *args.force_yml] if args.force_yml else [])
