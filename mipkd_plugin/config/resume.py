"""Check before a resume that all files of the checkpoint exist and belong to these options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mipkd_plugin.checkpoints.files import training_states
from mipkd_plugin.checkpoints.proof import Summary
from mipkd_plugin.config.built import Built
from mipkd_plugin.config.checkpoints import (
    Checkpoint,
    changed_hyperparameters,
    needed_files,
    newest_complete,
    read_summary,
    run_folder,
)
from mipkd_plugin.config.problems import Context, Problem
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.resume_changes import changes, in_words, trained_with
from mipkd_plugin.config.resume_files import check_files

_TRIES = 5  # checkpoints to look at before the problems of the newest are told


def check_exact_resume(ctx: Context) -> None:
    """Check that ``train.exact_resume`` works here: it must save every source of random numbers."""
    data = ctx.section('datasets', 'train')
    if ctx.section('train').get('exact_resume') is not True:
        return
    if ctx.launcher != 'none':
        ctx.add('train.exact_resume', f'works with one process, and --launcher {ctx.launcher} starts several',
                'remove it; the run then resumes as BasicSR resumes it', {'train.exact_resume': REMOVE})
    if ctx.opt.get('manual_seed') is None:
        ctx.add('manual_seed', 'is missing: BasicSR draws a new seed at each start, and train.exact_resume needs the '
                'same one', fix={'manual_seed': 0})
    workers = data.get('num_worker_per_gpu')
    if data.get('persistent_workers') is True and workers != 0:
        ctx.add('datasets.train.persistent_workers', 'must be false for train.exact_resume',
                fix={'datasets.train.persistent_workers': False})
    if workers == 0 and data.get('prefetch_mode') is not None:
        ctx.add('datasets.train.prefetch_mode', 'must be ~ for train.exact_resume if num_worker_per_gpu is 0: it reads '
                'ahead with the random numbers of the training',
                'write num_worker_per_gpu: 1, or prefetch_mode: ~', {'datasets.train.num_worker_per_gpu': 1})


def check_resume(ctx: Context, found: Checkpoint, built: Built) -> Checkpoint:
    """Check a checkpoint, and what has changed since it was saved.

    ``--auto_resume`` passes over a checkpoint with files that do not fit, if there is an older one whose files do, and
    nobody knows that they are as they were saved. If they are, the options have changed: to go back would lose work.

    Args:
        ctx: Options, and where problems go.
        found: The checkpoint.
        built: Student, teacher and losses of these options.

    Returns:
        The checkpoint to resume from.
    """
    where = '--auto_resume' if ctx.auto_resume else 'path.resume_state'
    remedy, fix = _way_out(ctx, found)
    before = len(ctx.problems)
    _check_name(ctx, where, found.state)
    summary = _checked_files(ctx, where, found, built, remedy) if len(ctx.problems) == before else None
    if summary is None and ctx.auto_resume and not _is_as_saved(found):
        newest, own = found, ctx.problems[before:]
        found = _older(ctx, where, found, built, own)
        if found is not newest:
            del ctx.problems[before:]
            summary = read_summary(ctx, where, found.state, remedy)
    if summary is not None:
        _check_changes(ctx, found.state, summary)
    ctx.problems[before:] = [problem if problem.fix or problem.remedy != remedy else replace(problem, fix=fix)
                             for problem in ctx.problems[before:]]
    return found


def _checked_files(ctx: Context, where: str, found: Checkpoint, built: Built, remedy: str) -> Summary | None:
    """The summary of a checkpoint whose files fit; None with problems noted."""
    before = len(ctx.problems)
    summary = read_summary(ctx, where, found.state, remedy)
    if summary is not None:
        check_files(ctx, where, found.state, summary, built, remedy)
    return summary if len(ctx.problems) == before else None


def _is_as_saved(found: Checkpoint) -> bool:
    """Whether the files of a checkpoint have been compared with those that were saved."""
    summary = read_summary(Context({}, is_train=True), '', found.state, '')
    return found.complete and summary is not None and bool(summary.files)


def _older(ctx: Context, where: str, found: Checkpoint, built: Built, problems: list[Problem]) -> Checkpoint:
    """The newest older checkpoint whose files fit; the same if there is none."""
    before, passed, older = len(ctx.problems), list(found.passed), found
    for _ in range(_TRIES):
        passed.append((older.state, problems[0].what.removeprefix(f'{older.state} ')))
        states = training_states(found.state.parent)
        next_one = newest_complete(ctx, [state for state in states if int(state.stem) < int(older.state.stem)])
        if next_one is None:
            break
        older, passed = next_one, passed + next_one.passed
        summary = _checked_files(ctx, where, older, built, '')
        problems = ctx.problems[before:]
        del ctx.problems[before:]
        if summary is not None:
            return older._replace(passed=passed)
    return found


def _way_out(ctx: Context, found: Checkpoint) -> tuple[str, dict[str, Any]]:
    """What to do about a checkpoint that cannot be used: in words, and as data."""
    name = ctx.opt['name']
    anew = (f'the run then starts anew, and experiments/{name} is kept as experiments/{name}_archived_<time>')
    if ctx.auto_resume:
        return f'restore the file, or leave out --auto_resume: {anew}', {}
    other = newest_complete(ctx, [state for state in training_states(run_folder(ctx) / 'training_states')
                                  if state.name != found.state.name])
    if other is None:
        return f'restore the file, or write resume_state: ~ ({anew})', {'path.resume_state': None}
    return f'write resume_state: {other.state}', {'path.resume_state': str(other.state)}


def _check_name(ctx: Context, where: str, state: Path) -> None:
    """Check that a training state belongs to the run of this name, where BasicSR looks for its networks."""
    folder = state.absolute().parent.parent
    other = folder.name
    if (ctx.auto_resume or state.parent.name != 'training_states' or not os.path.isfile(state)
            or folder.parent.resolve() != (ctx.root / 'experiments').resolve()
            or folder.resolve() == run_folder(ctx).resolve()):
        return
    summary = read_summary(Context({}, is_train=True), where, state, '')
    if summary is None or not all(os.path.isfile(path) for _, path in needed_files(ctx, summary.iteration)):
        ctx.add(where, f'{state} belongs to the run {other!r}, but name: is {ctx.opt["name"]!r}, and BasicSR looks for '
                f'its networks in {run_folder(ctx) / "models"}', fix={'name': other})


def _check_changes(ctx: Context, state: Path, summary: Summary) -> None:
    """Refuse changes that would be ignored, and those after which exact resume cannot be exact."""
    found = changed_hyperparameters(ctx, summary)
    if found and ctx.section('train').get('resume_hyperparameters') is None:
        ctx.add(found[0][0], f'changed since {state} (old -> new): {in_words(found)}',
                'write train.resume_hyperparameters: new to go on with the new values, or keep to go on with the old '
                'ones', fix={'train.resume_hyperparameters': 'new'})
    saved = summary.record.get('trained_with')
    if ctx.section('train').get('exact_resume') is not True or not isinstance(saved, Mapping):
        return
    found = changes(saved, trained_with(ctx.opt, ctx.root))
    if found:
        ctx.add(found[0][0], f'changed since {state} (old -> new): {in_words(found)}; the run cannot end like one that '
                'was not interrupted', 'write the old values, or exact_resume: false to go on with the new ones',
                fix={'train.exact_resume': False})
