"""What is wrong with taps, at the places of the option file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.teachers import teachers_of
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import BindError
from mipkd_plugin.networks.trunk import missing_taps


def check_names_of_taps(ctx: Context, losses: Mapping[str, DistillationLoss], student: nn.Module,
                        teachers: Mapping[str, nn.Module]) -> None:
    """Note taps that do not exist: they can be named also where the networks do not fit.

    Args:
        ctx: Gets the problems.
        losses: YAML path → loss.
        student: The student.
        teachers: YAML path of each loss → its teacher.
    """
    for where, loss in losses.items():
        if loss.taps is not None and not isinstance(loss.taps, int):
            for problem in missing_taps(loss.taps, student, teachers[where]):
                ctx.add(f'{where}.taps', problem, _list_taps(ctx))


def add_bind_problems(ctx: Context, places: Sequence[str], error: BindError) -> None:
    """Note why losses cannot be bound.

    Args:
        ctx: Gets the problems.
        places: YAML path of each loss.
        error: What binding has found.
    """
    networks = {teacher.name: f'{teacher.place}.network' for teacher in teachers_of(ctx.opt)}
    for problem in error.problems:
        if problem.loss is None:
            where = networks.get(problem.teacher, 'teacher.network')
            ctx.add('network_g' if problem.role == 'student' else where, problem.what, problem.remedy)
        elif problem.options:
            ctx.add(f'{places[problem.loss]}.taps', problem.what, problem.remedy, {
                f'{places[problem.loss]}.{name}': value for name, value in problem.options})
        elif problem.about_taps:
            ctx.add(f'{places[problem.loss]}.taps', problem.what.removeprefix('taps: '), _list_taps(ctx))
        else:
            ctx.add(places[problem.loss], problem.what, problem.remedy)


def _list_taps(ctx: Context) -> str:
    source = getattr(ctx.opt, 'source', None) or 'FILE.yml'
    return f'list the modules that can be tapped: mipkd taps -opt {source}'
