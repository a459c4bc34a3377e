"""Run BasicSR's training pipeline on options that were checked: alone, with whole saves, and with an orderly stop."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path

import basicsr.train as pipeline

from mipkd_plugin.checkpoints.exact_resume import exact_resume
from mipkd_plugin.checkpoints.safe_saves import saving
from mipkd_plugin.compat.workers import repaired_when_spawned
from mipkd_plugin.config import Checkpoint, Distillation, Options, absolute_imports, prepared, save_plan
from mipkd_plugin.config.handover import handed_over
from mipkd_plugin.models.gradients import writer_known
from mipkd_plugin.models.guard import guarded
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.launcher import is_first_rank
from mipkd_plugin.utils.locks import TakenError, alone, run_lock
from mipkd_plugin.utils.stopping import Stop

EXPERIMENTS = Path('experiments')


def train(opt: Options, distillation: Distillation | None, checkpoint: Checkpoint | None, stop: Stop, go_on: str,
          watching: AbstractContextManager[object] | None = None) -> None:
    """Train with BasicSR's own pipeline, in the working directory.

    Args:
        opt: The options, checked.
        distillation: Teacher and losses that the check has built.
        checkpoint: What the training resumes from.
        stop: What signals have asked for.
        go_on: What to type to continue a stopped run.
        watching: A block to train in, which may replace functions of ``basicsr.train`` once more.

    Raises:
        Stopped: A signal has stopped it; what was trained is saved.
        MipkdError: The run cannot go on, or a file cannot be written.
    """
    with ExitStack() as stack:
        stack.enter_context(writer_known(pipeline))
        stack.enter_context(saving(save_plan(opt, checkpoint)))
        stack.enter_context(exact_resume() if opt['train'].get('exact_resume') else nullcontext())
        stack.enter_context(prepared(opt, distillation))
        stack.enter_context(handed_over(opt))
        stack.enter_context(guarded(pipeline, stop, go_on))
        stack.enter_context(watching or nullcontext())
        pipeline.train_pipeline(os.getcwd())


@contextmanager
def as_basicsr(opt: Options, command: str, arguments: Sequence[str]) -> Iterator[None]:
    """Inside the block, this process is ``basicsr train`` or ``test``, and no other one trains a run of this name.

    Args:
        opt: The options.
        command: ``train`` or ``test``.
        arguments: What BasicSR's own parser reads.

    Raises:
        UsageError: Another process trains a run of this name.
    """
    before = sys.argv
    sys.argv = [f'basicsr {command}', *arguments]
    try:
        with _alone(opt, command == 'train'), repaired_when_spawned(absolute_imports(opt)):
            yield
    finally:
        sys.argv = before


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
