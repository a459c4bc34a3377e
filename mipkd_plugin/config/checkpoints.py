"""Find the checkpoint that a run resumes from: the newest that is complete, or the one that the option file names."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mipkd_plugin.checkpoints.files import distill_state_path, random_state_path, student_path, training_states
from mipkd_plugin.checkpoints.plan import Choice, SavePlan
from mipkd_plugin.checkpoints.proof import Summary, changed_files, summary_of
from mipkd_plugin.config.components import find_model
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.resume_changes import Change, changes, hyperparameters, in_words, trained_with
from mipkd_plugin.config.weights import read_file


class Checkpoint(NamedTuple):
    """The checkpoint of a resume.

    Attributes:
        state: The training state.
        passed: Newer checkpoints that are not complete: (training state, what is wrong), the newest first.
        complete: Whether it is known to be complete.
    """

    state: Path
    passed: list[tuple[Path, str]]
    complete: bool


def run_folder(ctx: Context) -> Path:
    """``experiments/<name>``."""
    return ctx.root / 'experiments' / str(ctx.opt['name'])


def find_checkpoint(ctx: Context) -> Checkpoint | None:
    """The checkpoint that a run of these options resumes from; None if it starts anew."""
    if not ctx.is_train or not isinstance(ctx.opt.get('name'), str):
        return None
    if not ctx.auto_resume:
        text = ctx.section('path').get('resume_state')
        return Checkpoint(ctx.path(text), [], False) if isinstance(text, str) and text else None
    states = training_states(run_folder(ctx) / 'training_states')
    found = newest_complete(ctx, states)
    return found if found is not None or not states else Checkpoint(states[0], [], False)


def newest_complete(ctx: Context, states: list[Path]) -> Checkpoint | None:
    """The first complete checkpoint of a list of training states."""
    passed: list[tuple[Path, str]] = []
    for state in states:
        fault = _fault(ctx, state)
        if fault is None:
            return Checkpoint(state, passed, True)
        passed.append((state, fault))
    return None


def _fault(ctx: Context, state: Path) -> str | None:
    """What a checkpoint lacks; None if it is complete."""
    scratch = Context({}, is_train=True)
    summary = read_summary(scratch, '', state, '')
    models = run_folder(ctx) / 'models'
    if summary is None:
        return scratch.problems[0].what.removeprefix(f'{state} ')
    changed = changed_files(summary.files, models)
    if changed:
        return '; '.join(changed)
    # a file that the state does not list was not wanted when it was saved: the check of the options says so
    for name, path in needed_files(ctx, summary.iteration) if not summary.files else ():
        if os.path.lexists(path) or name.startswith('net_'):
            read_file(scratch, '', path, '', 'x')
            if scratch.problems:
                return f'{name}: {scratch.problems[0].what}'
    if _holds_nan(student_path(models, summary.iteration)):
        return f'net_g_{summary.iteration}.pth holds NaN: the training had diverged'
    return None


def _holds_nan(path: Path) -> bool:
    """Whether a file of weights is readable and holds NaN."""
    content = read_file(Context({}, is_train=True), '', path, '', 'x') if os.path.isfile(path) else None
    weights = content.get('params') if isinstance(content, Mapping) else None
    return isinstance(weights, Mapping) and any(
        isinstance(value, Tensor) and value.is_floating_point() and bool(value.isnan().any())
        for value in weights.values())


def needed_files(ctx: Context, iteration: int) -> list[tuple[str, Path]]:
    """(Name, path) of the files that a resume reads besides the training state."""
    models = run_folder(ctx) / 'models'
    ignored = ctx.section('path').get('ignore_resume_networks')
    ignored = ignored if isinstance(ignored, (list, str)) else ()
    nets = [key.removeprefix('network_') for key in map(str, ctx.opt)
            if key.startswith('network_') and key not in ignored]
    paths = [models / f'net_{net}_{iteration}.pth' for net in nets
             if net == 'g' or next(models.glob(f'net_{net}_*.pth'), None) is not None]  # some models never save one
    if ctx.distills:
        paths.append(distill_state_path(models, iteration))
    if ctx.section('train').get('exact_resume') is True:
        paths.append(random_state_path(models, iteration))
    return [(path.name, path) for path in paths]


def read_summary(ctx: Context, where: str, state: Path, remedy: str) -> Summary | None:
    """Read a training state.

    Args:
        ctx: Where problems go.
        where: What names the state.
        state: The training state.
        remedy: What to do if it cannot be used.

    Returns:
        What is worth knowing of it; None with a problem noted.
    """
    if not os.path.isfile(state):
        read_file(ctx, where, state, remedy, remedy)
        return None
    status = os.stat(state)
    found = _read(state, (status.st_ino, status.st_mtime_ns, status.st_size))
    if isinstance(found, str):
        ctx.add(where, found, remedy)
        return None
    return found


@functools.lru_cache(maxsize=16)
def _read(state: Path, status: tuple[int, ...]) -> Summary | str:
    """The summary of a training state, or what is wrong; the second argument tells its versions apart."""
    scratch = Context({}, is_train=True)
    content = read_file(scratch, '', state, '', 'x')
    if scratch.problems:
        return scratch.problems[0].what
    return summary_of(content) or f'{state} is not a training state of BasicSR'


def changed_hyperparameters(ctx: Context, summary: Summary) -> list[Change]:
    """The hyper-parameters that differ from those that a checkpoint was saved with."""
    saved, now = saved_hyperparameters(ctx, summary), hyperparameters(ctx.opt)
    return changes(saved, {key: now[key] for key in now if key in saved or 'ema_decay' in saved}, 'train.')


def saved_hyperparameters(ctx: Context, summary: Summary) -> Mapping[str, Any]:
    """The hyper-parameters that a checkpoint was saved with; of an old checkpoint only what its optimizer tells."""
    found = summary.record.get('hyperparameters')
    if isinstance(found, Mapping):
        return found
    setup = getattr(ctx.model_class, 'setup_optimizers', None)  # other classes change the values of the option file
    plain = getattr(setup, '__qualname__', '') in ('SRModel.setup_optimizers', 'DistillMixin.setup_optimizers')
    return summary.options if plain else {}


def save_plan(opt: Mapping[str, Any], found: Checkpoint | None = None) -> SavePlan:
    """How a training run of checked options saves and resumes.

    Args:
        opt: The options, as the user has written them.
        found: The checkpoint that the check has chosen; None looks for it.

    Returns:
        The plan for :func:`~mipkd_plugin.checkpoints.safe_saves.saving`.
    """
    ctx = Context(opt, is_train=True)
    record = {'hyperparameters': hyperparameters(opt)}
    if ctx.section('train').get('exact_resume') is True:
        record['trained_with'] = trained_with(opt, ctx.root)
    return SavePlan(functools.partial(_choose, opt, found), record, ctx.section('logger').get('keep_last'))


def _choose(opt: Mapping[str, Any], found: Checkpoint | None, parsed: Mapping[str, Any]) -> Choice:
    ctx = Context(opt, is_train=True, auto_resume=parsed['auto_resume'])
    find_model(ctx)
    found = found or find_checkpoint(ctx)
    if found is None:
        if not ctx.auto_resume:
            return Choice()
        return Choice(notes=(f'--auto_resume: there is no checkpoint in {run_folder(ctx)}; a new run starts.', ))
    notes = [f'Passed over {state}: {what}.' for state, what in found.passed]
    summary = read_summary(ctx, 'path.resume_state', found.state, '')
    if summary is None:  # the check would have refused it; BasicSR's error says what has happened since
        return Choice(found.state, tuple(notes))
    if not found.complete:
        notes += [f'{found.state}: {what}.' for what in changed_files(summary.files, run_folder(ctx) / 'models')]
        notes += [f'{state} is newer than the checkpoint that this run resumes from; --auto_resume would take it '
                  'until this run has passed it.' for state in training_states(found.state.parent)[:1]
                  if int(state.stem) > summary.iteration]
    return _with_hyperparameters(ctx, Choice(found.state, tuple(notes)), summary)


def _with_hyperparameters(ctx: Context, choice: Choice, summary: Summary) -> Choice:
    found = changed_hyperparameters(ctx, summary)
    wanted = ctx.section('train').get('resume_hyperparameters')
    if not found or wanted not in ('keep', 'new'):
        return choice
    values = 'old' if wanted == 'keep' else 'new'
    note = f'Goes on with the {values} values (old -> new): {in_words(found)}.'
    keep = dict(saved_hyperparameters(ctx, summary)) if wanted == 'keep' else {}
    return replace(choice, notes=(*choice.notes, note), keep=keep, renew=wanted == 'new')
