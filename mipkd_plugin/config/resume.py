"""Check before a resume that all files of the checkpoint exist and belong to these options."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mipkd_plugin.checkpoints.files import distill_state_path, random_state_path, student_path, training_states
from mipkd_plugin.checkpoints.proof import Summary, distill_fault, random_fault
from mipkd_plugin.config.builder import Built
from mipkd_plugin.config.checkpoints import (
    Checkpoint,
    changed_hyperparameters,
    needed_files,
    newest_complete,
    read_summary,
    run_folder,
)
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.resume_changes import changes, in_words, trained_with
from mipkd_plugin.config.weights import misfit, read_file, select_state

_AS_STARTED = 'resume with the option file the run was started with'


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


def check_resume(ctx: Context, found: Checkpoint, built: Built) -> None:
    """Check a checkpoint, and what has changed since it was saved.

    Args:
        ctx: Options, and where problems go.
        found: The checkpoint.
        built: Student, teacher and losses of these options.
    """
    before = len(ctx.problems)
    where = '--auto_resume' if ctx.auto_resume else 'path.resume_state'
    remedy, fix = _way_out(ctx, found)
    _check_name(ctx, where, found.state)
    if len(ctx.problems) == before:
        summary = read_summary(ctx, where, found.state, remedy)
        if summary is not None:
            _check_files(ctx, where, summary.iteration, built, remedy)
            if len(ctx.problems) == before:
                _check_optimizers(ctx, where, found.state, summary, built)
                _check_changes(ctx, found.state, summary)
    ctx.problems[before:] = [problem if problem.fix or problem.remedy != remedy else replace(problem, fix=fix)
                             for problem in ctx.problems[before:]]


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
    if summary is None or not all(path.is_file() for _, path in needed_files(ctx, summary.iteration)):
        ctx.add(where, f'{state} belongs to the run {other!r}, but name: is {ctx.opt["name"]!r}, and BasicSR looks for '
                f'its networks in {run_folder(ctx) / "models"}', fix={'name': other})


def _check_files(ctx: Context, where: str, iteration: int, built: Built, remedy: str) -> None:
    """Check the files beside the training state."""
    models = run_folder(ctx) / 'models'
    path = student_path(models, iteration)
    needed = dict(needed_files(ctx, iteration))
    if path.name in needed:
        content = read_file(ctx, where, path, remedy, remedy)
        weights = None if content is None else select_state(ctx, where, where, path, content, 'params')
        problem = misfit(built.student, weights, 'network_g') if built.student is not None and weights else None
        if problem:
            ctx.add(where, f'{path} {problem[0]}', _AS_STARTED)
        elif weights:
            check_weights(ctx, where, path, weights, built.student)
    own = random_state_path(models, iteration)
    if own.name in needed:
        hint = 'restore the file, or remove train.exact_resume'
        before = len(ctx.problems)
        content = read_file(ctx, where, own, hint, hint)
        fault = None if len(ctx.problems) > before else random_fault(content)
        if fault is not None:
            ctx.add(where, f'{own} holds no random numbers: {fault}', hint, fix={'train.exact_resume': False})
        elif len(ctx.problems) > before:
            ctx.problems[-1] = replace(ctx.problems[-1], fix={'train.exact_resume': False})
    if ctx.distills:
        _check_distillation_state(ctx, where, distill_state_path(models, iteration), built, remedy)
    for name, other in needed.items():
        if name.startswith('net_') and other != path:
            read_file(ctx, where, other, remedy, remedy)


def _check_optimizers(ctx: Context, where: str, state: Path, summary: Summary, built: Built) -> None:
    """Compare the number of trained tensors with the saved one, in a model with the usual optimizer."""
    setup = getattr(getattr(ctx.model_class, 'setup_optimizers', None), '__qualname__', '')
    if built.student is None or len(summary.groups) != 1 or not setup.startswith(('SRModel.', 'DistillMixin.')):
        return
    groups = summary.groups[0]
    count = sum(parameter.requires_grad for parameter in built.student.parameters())
    plain = setup.startswith('SRModel.')
    if groups[:1] != [count] or plain and len(groups) > 1:
        ctx.add(where, f'{state} holds an optimizer for {" + ".join(map(str, groups))} tensors, and this model trains '
                f'{count}{"" if plain else " and those of its losses"}', _AS_STARTED)


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


def _check_distillation_state(ctx: Context, where: str, path: Path, built: Built, remedy: str) -> None:
    before = len(ctx.problems)
    saved = read_file(ctx, where, path, remedy, remedy)
    fault = None if len(ctx.problems) > before else distill_fault(saved)
    if fault is not None:
        ctx.add(where, f'{path} holds no distillation state: {fault}', remedy)
    if len(ctx.problems) > before:
        return
    weights = ctx.section('teacher').get('weights')
    now = built.fingerprint
    if now is not None and ctx.clean('teacher') and saved['teacher'] != now:
        ctx.add('teacher.weights', f'{weights} (sha256 {now[:12]}…) is not the teacher that {path} was trained with '
                f'(sha256 {str(saved["teacher"])[:12]}…)',
                'name the old teacher, or start a new run under another name')
    types = [type(loss).__name__ for loss in built.losses.values()]
    if ctx.clean('train.distill_opt') and saved['types'] != types:
        ctx.add('train.distill_opt', f'asks for {types}, but {path} holds {list(saved["types"])}',
                _AS_STARTED)
        return
    _check_loss_state(ctx, path, saved, built)


def _check_loss_state(ctx: Context, path: Path, saved: Mapping[str, Any], built: Built) -> None:
    """Compare taps and tensor sizes of the losses with the saved ones, if all losses could be bound."""
    remedy = _AS_STARTED
    if not ctx.clean('train.distill_opt') or set(built.pairs) != set(built.losses):
        return
    pairs = [[list(pair.paths) for pair in built.pairs[where]] for where in built.losses]
    if saved.get('pairs', pairs) != pairs:
        ctx.add('train.distill_opt', f'has the taps {pairs}, but {path} was trained with {saved["pairs"]}', remedy)
        return
    problem = misfit(nn.ModuleList(built.losses.values()), saved['losses'], 'train.distill_opt')
    if problem:
        ctx.add('train.distill_opt', f'{path} {problem[0].replace("ModuleList", "the losses")}', remedy)
