"""``basicsr train`` and ``basicsr test``: check the option file, then run BasicSR's own pipeline."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING

from mipkd_plugin import compat
from mipkd_plugin.commands.shared import add_option_file, read_checked
from mipkd_plugin.utils import parent_watch

if TYPE_CHECKING:
    from mipkd_plugin.config import Distillation, Options

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
    parent_watch.watch_parent()
    is_train = args.command == 'train'
    opt, distillation = _check(args, is_train)
    before = sys.argv
    sys.argv = [f'basicsr {args.command}', *_for_basicsr(args)]  # BasicSR parses them itself
    try:
        if is_train:
            from basicsr.train import train_pipeline

            from mipkd_plugin.checkpoints.exact_resume import exact_resume
            from mipkd_plugin.checkpoints.safe_saves import saving
            from mipkd_plugin.config import prepared, save_plan
            from mipkd_plugin.config.handover import handed_over
            with saving(save_plan(opt)), (exact_resume() if opt['train'].get('exact_resume') else nullcontext()), \
                    prepared(opt, distillation), handed_over(opt):
                train_pipeline(os.getcwd())
        else:
            from basicsr.test import test_pipeline

            from mipkd_plugin.config.handover import handed_over
            with handed_over(opt):
                test_pipeline(os.getcwd())
    finally:
        sys.argv = before
    compat.leave_without_gpu()
    return 0


def _check(args: argparse.Namespace, is_train: bool) -> tuple[Options, Distillation | None]:
    """Check the options; return them with teacher and losses, and drop everything else that the check has built."""
    opt, _, report = read_checked(args, is_train, launcher=args.launcher, auto_resume=args.auto_resume, probe='full')
    return opt, report.built.distillation


def _for_basicsr(args: argparse.Namespace) -> list[str]:
    """The arguments that BasicSR knows."""
    arguments = ['-opt', args.opt]
    if args.launcher != 'none':
        arguments += ['--launcher', args.launcher, '--local_rank', str(args.local_rank)]
    arguments += [f'--{name}' for name in ('auto_resume', 'debug') if getattr(args, name)]
    return arguments + (['--force_yml', *args.force_yml] if args.force_yml else [])
