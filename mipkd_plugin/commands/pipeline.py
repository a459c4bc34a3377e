"""``basicsr train`` and ``basicsr test``: check the option file, then run BasicSR's own pipeline."""

from __future__ import annotations

import argparse
import gc
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from mipkd_plugin import compat
from mipkd_plugin.commands.shared import add_option_file, read_checked
from mipkd_plugin.compat.workers import repaired_when_spawned
from mipkd_plugin.utils import parent_watch
from mipkd_plugin.utils.errors import MipkdError, UsageError
from mipkd_plugin.utils.launcher import is_first_rank
from mipkd_plugin.utils.locks import TakenError, alone, run_lock
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
EXPERIMENTS = Path('experiments')


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
    from mipkd_plugin.config.plugins import absolute_imports

    before = sys.argv
    sys.argv = [f'basicsr {args.command}', *_for_basicsr(args)]  # BasicSR parses them itself
    try:
        with _alone(opt, is_train), repaired_when_spawned(absolute_imports(opt)):
            if is_train:
                _train(args, opt, distillation, checkpoint, stop)
            else:
                import basicsr.test as pipeline

                from mipkd_plugin.checkpoints.disk_errors import disk_errors
                from mipkd_plugin.config.handover import handed_over
                from mipkd_plugin.models.guard import guarded
                with disk_errors(), handed_over(opt), guarded(pipeline, stop):
                    pipeline.test_pipeline(os.getcwd())
    finally:
        sys.argv = before
    compat.leave_without_gpu()
    return 0


def _train(args: argparse.Namespace, opt: Options, distillation: Distillation | None, checkpoint: Checkpoint | None,
           stop: Stop) -> None:
    import basicsr.train as pipeline

    from mipkd_plugin.checkpoints.exact_resume import exact_resume
    from mipkd_plugin.checkpoints.safe_saves import saving
    from mipkd_plugin.config import prepared, save_plan
    from mipkd_plugin.config.handover import handed_over
    from mipkd_plugin.models.gradients import writer_known
    from mipkd_plugin.models.guard import guarded
    with ExitStack() as stack:
        stack.enter_context(writer_known(pipeline))
        stack.enter_context(saving(save_plan(opt, checkpoint)))
        stack.enter_context(exact_resume() if opt['train'].get('exact_resume') else nullcontext())
        stack.enter_context(prepared(opt, distillation))
        stack.enter_context(handed_over(opt))
        stack.enter_context(guarded(pipeline, stop, go_on(args)))
        pipeline.train_pipeline(os.getcwd())


def _check(args: argparse.Namespace, is_train: bool) -> tuple[Options, Distillation | None, Checkpoint | None]:
    """Check the options; return them with teacher, losses and checkpoint, and drop what else the check has built."""
    opt, _, report = read_checked(args, is_train, launcher=args.launcher, auto_resume=args.auto_resume, probe='full')
    return opt, report.built.distillation, report.checkpoint


@contextmanager
def _alone(opt: Options, is_train: bool) -> Iterator[None]:
    """Inside the block, no other process trains a run of this name; the first rank sees to it for all."""
    path = run_lock(EXPERIMENTS, str(opt['name']))
    with ExitStack() as stack:
        if is_train and is_first_rank():
            try:
                stack.enter_context(alone(path, keep=False))
            except TakenError as error:
                holder = f' ({error.holder})' if error.holder else ''
                raise UsageError(
                    f'another basicsr train is training {opt["name"]!r} in {EXPERIMENTS.resolve()}{holder}, and both '
                    'would write the same files; wait for it, stop it, or write another name: in the option file'
                    ) from error
            except OSError:  # the disk has no locks: train all the same
                pass
        yield


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
