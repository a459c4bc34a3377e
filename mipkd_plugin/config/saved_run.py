"""Load the student of a training run from its checkpoint, to inspect it after training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.config.builder import build
from mipkd_plugin.config.built import Built
from mipkd_plugin.config.components import (
    check_component,
    check_distillation_losses,
    check_teacher_network,
    construct,
)
from mipkd_plugin.config.distillation import Distillation
from mipkd_plugin.config.names import folder_of_run
from mipkd_plugin.config.problems import Context, OptionError, Problem
from mipkd_plugin.config.teacher_file import with_teacher
from mipkd_plugin.config.weights import misfit, read_file

_STATE = {'teacher', 'types', 'pairs', 'losses', 'random'}


def models_folder(opt: Mapping[str, Any]) -> Path:
    """The folder where the run of these options saves its networks.

    Args:
        opt: The options.

    Returns:
        The folder, relative to the working directory.

    Raises:
        OptionError: The options do not name a run.
    """
    folder = folder_of_run('experiments', opt.get('name'))
    if folder is None:
        raise OptionError([Problem('name', f'must be the name of a run, not {opt.get("name")!r}',
                                   'write the name of a run')], opt)
    return folder / 'models'


def load_run(opt: Mapping[str, Any], weights: Path, state: Path) -> tuple[nn.Module, Distillation]:
    """Build what a run has trained with, and load the student's trained weights (not their moving average).

    Keys of the option file that have nothing to do with this are not checked.

    Args:
        opt: Options of the run.
        weights: ``net_g_<iter>.pth``.
        state: ``distill_<iter>.pth``. It must be readable; its content is not used here.

    Returns:
        The student in eval mode, and teacher and losses as they were before the training.

    Raises:
        OptionError: Student, teacher or losses cannot be built, weights do not fit, or a file is damaged.
    """
    opt = with_teacher(opt)
    ctx = Context(opt, is_train=True, always_distills=True)
    check_component(ctx, 'network_g', opt.get('network_g'), ARCH_REGISTRY)
    check_teacher_network(ctx)
    check_distillation_losses(ctx)
    student = construct(ctx, 'network_g', opt['network_g'], ARCH_REGISTRY) if ctx.clean('network_g') else None
    if student is not None:
        _load_weights(ctx, student, weights, state)
    built = Built() if ctx.problems else build(ctx, 'full', student, trial=False)
    if student is None or built.distillation is None:
        raise OptionError(ctx.problems, opt)
    return student.eval(), built.distillation


def _load_weights(ctx: Context, student: nn.Module, weights: Path, state: Path) -> None:
    remedy, damaged = 'restore it, or choose another --iter', 'a save was cut short: choose another --iter'
    content, saved = (read_file(ctx, '--iter', path, remedy, damaged) for path in (weights, state))
    own = content.get('params') if isinstance(content, Mapping) else None
    if content is not None and not isinstance(own, Mapping):
        ctx.add('--iter', f"{weights} holds no weights under 'params'", remedy)
    if saved is not None and not (isinstance(saved, Mapping) and set(saved) >= _STATE):
        ctx.add('--iter', f'{state} holds no distillation state', remedy)
    problem = misfit(student, own, 'network_g') if isinstance(own, Mapping) else None
    if problem:
        ctx.add('network_g', f'{weights} {problem[0]}', 'give the option file that the run was trained with')
    elif isinstance(own, Mapping):
        student.load_state_dict(own)
