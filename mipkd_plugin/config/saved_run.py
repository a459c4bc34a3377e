"""Load the student of a training run from its checkpoint, to inspect it after training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from mipkd_plugin.config.check import build_for_taps
from mipkd_plugin.config.problems import Context, OptionError, Problem, located
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
    name = opt.get('name')
    if not isinstance(name, str):
        raise OptionError(located([Problem('name', f'must be the name of a run, not {name!r}', 'write name: NAME')],
                                  opt), getattr(opt, 'source', None))
    return Path('experiments') / name / 'models'


def load_student(opt: Mapping[str, Any], weights: Path, state: Path) -> nn.Module:
    """Build the student with its trained weights (not their moving average), in eval mode.

    Args:
        opt: Options of the run.
        weights: ``net_g_<iter>.pth``.
        state: ``distill_<iter>.pth``. It must be readable; its content is not used here.

    Returns:
        The student.

    Raises:
        OptionError: The student cannot be built, its weights do not fit, or one of the files is damaged.
    """
    student = build_for_taps(opt).student
    ctx = Context(opt, is_train=True)
    remedy, damaged = 'restore it, or choose another --iter', 'a save was cut short: choose another --iter'
    content, saved = (read_file(ctx, '--iter', path, remedy, damaged) for path in (weights, state))
    own = content.get('params') if isinstance(content, Mapping) else None
    if content is not None and not isinstance(own, Mapping):
        ctx.add('--iter', f"{weights} holds no weights under 'params'", remedy)
    if saved is not None and not (isinstance(saved, Mapping) and set(saved) >= _STATE):
        ctx.add('--iter', f'{state} holds no distillation state', remedy)
    problem = misfit(student, own, 'network_g') if student is not None and isinstance(own, Mapping) else None
    if problem:
        ctx.add('network_g', f'{weights} {problem[0]}', 'give the option file that the run was trained with')
    if student is None or own is None or ctx.problems:
        raise OptionError(located(ctx.problems, opt), getattr(opt, 'source', None))
    student.load_state_dict(own)
    return student.eval()
