"""Check before a resume that all files of the checkpoint exist and belong to these options."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mipkd_plugin.checkpoints.files import distill_state_path, random_state_path, student_path
from mipkd_plugin.config.builder import Built
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.weights import misfit, read_file, select_state


def find_resume_state(ctx: Context) -> Path | None:
    """The training state that ``basicsr.train.load_resume_state`` will pick, or None."""
    if not ctx.is_train or not isinstance(ctx.opt.get('name'), str):
        return None
    if not ctx.auto_resume:
        text = ctx.section('path').get('resume_state')
        return ctx.path(text) if isinstance(text, str) and text else None
    folder = ctx.root / 'experiments' / ctx.opt['name'] / 'training_states'
    names = [path.name.split('.state')[0] for path in folder.glob('*.state')] if folder.is_dir() else []
    numbers = [int(name) for name in names if name.isdigit()]
    return folder / f'{max(numbers)}.state' if numbers else None


def check_exact_resume(ctx: Context) -> None:
    """Check that ``train.exact_resume`` works here: it must save every source of random numbers."""
    data = ctx.section('datasets', 'train')
    if ctx.section('train').get('exact_resume') is not True:
        return
    if ctx.launcher != 'none':
        ctx.add('train.exact_resume', f'works with one process, and --launcher {ctx.launcher} starts several',
                'remove it; the run then resumes as BasicSR resumes it')
    if ctx.opt.get('manual_seed') is None:
        ctx.add('manual_seed', 'is missing: BasicSR draws a new seed at each start, and train.exact_resume needs the '
                'same one', 'write manual_seed: 0')
    workers = data.get('num_worker_per_gpu')
    if data.get('persistent_workers') is True and workers != 0:
        ctx.add('datasets.train.persistent_workers', 'must be false for train.exact_resume',
                'write persistent_workers: false')
    if workers == 0 and data.get('prefetch_mode') is not None:
        ctx.add('datasets.train.prefetch_mode', 'must be ~ for train.exact_resume if num_worker_per_gpu is 0: it reads '
                'ahead with the random numbers of the training',
                'write num_worker_per_gpu: 1, or prefetch_mode: ~')


def check_resume(ctx: Context, state_path: Path, built: Built) -> None:
    """Check the checkpoint that belongs to a training state.

    Args:
        ctx: Options, and where problems go.
        state_path: The training state.
        built: Student, teacher and losses of these options.
    """
    where = '--auto_resume' if ctx.auto_resume else 'path.resume_state'
    damaged = f'a save was cut short: delete {state_path} to resume from the previous training state'
    state = read_file(ctx, where, state_path, 'fix the path, or write ~ to start a new run', damaged)
    if state is None:
        return
    if not isinstance(state, Mapping) or not {'iter', 'epoch', 'optimizers', 'schedulers'} <= set(state):
        ctx.add(where, f'{state_path} is not a training state of BasicSR', 'name a file in training_states/')
        return
    models = ctx.root / 'experiments' / ctx.opt['name'] / 'models'
    path = student_path(models, state['iter'])
    content = read_file(ctx, where, path,
                        f'without it {state_path} cannot be resumed; restore it, or start a new run', damaged)
    weights = None if content is None else select_state(ctx, where, where, path, content, 'params')
    problem = misfit(built.student, weights, 'network_g') if built.student is not None and weights else None
    if problem:
        ctx.add(where, f'{path} {problem[0]}', 'resume with the option file the run was started with')
    elif weights:
        check_weights(ctx, where, path, weights, built.student)
    if ctx.section('train').get('exact_resume') is True:
        read_file(ctx, where, random_state_path(models, state['iter']),
                  'without its random numbers the run cannot resume exactly; restore the file, or remove '
                  'train.exact_resume', damaged)
    if ctx.distills:
        _check_distillation_state(ctx, where, distill_state_path(models, state['iter']), built, damaged)


def _check_distillation_state(ctx: Context, where: str, path: Path, built: Built, damaged: str) -> None:
    saved = read_file(ctx, where, path, 'without the state of the distillation losses training cannot '
                      'resume; restore it, or start a new run', damaged)
    if saved is None:
        return
    if not isinstance(saved, Mapping) or not {'teacher', 'losses', 'types'} <= set(saved):
        ctx.add(where, f'{path} holds no distillation state', 'restore the file, or start a new run')
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
                'resume with the option file the run was started with')
        return
    _check_loss_state(ctx, path, saved, built)


def _check_loss_state(ctx: Context, path: Path, saved: Mapping[str, Any], built: Built) -> None:
    """Compare taps and tensor sizes of the losses with the saved ones, if all losses could be bound."""
    remedy = 'resume with the option file the run was started with'
    if not ctx.clean('train.distill_opt') or set(built.pairs) != set(built.losses):
        return
    pairs = [[list(pair.paths) for pair in built.pairs[where]] for where in built.losses]
    if saved.get('pairs', pairs) != pairs:
        ctx.add('train.distill_opt', f'has the taps {pairs}, but {path} was trained with {saved["pairs"]}', remedy)
        return
    problem = misfit(nn.ModuleList(built.losses.values()), saved['losses'], 'train.distill_opt')
    if problem:
        ctx.add('train.distill_opt', f'{path} {problem[0].replace("ModuleList", "the losses")}', remedy)
