"""Where the student of a run starts: from random weights, or from a slice of the teacher."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor

from mipkd_plugin.compare.methods import is_plain
from mipkd_plugin.compare.run_folders import EXPERIMENTS, RunError
from mipkd_plugin.config.components import construct
from mipkd_plugin.config.keys import TEACHER_SLICE
from mipkd_plugin.config.patches import check_output
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.start import check_only_start, slice_of
from mipkd_plugin.config.teacher_weights import load_teacher
from mipkd_plugin.config.teachers import context_of, teachers_of
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, UsageError
from mipkd_plugin.utils.files import write_atomically


@dataclass(frozen=True)
class Start:
    """The weights that students start from, and the file that holds them during the runs.

    Attributes:
        path: The file, for BasicSR's ``path.pretrain_network_g``.
        state: Tensor by name.
    """

    path: Path
    state: Mapping[str, Tensor]

    def set_in(self, options: dict[str, Any]) -> None:
        """Let a run start from the file."""
        options['path'] = {**options['path'], 'pretrain_network_g': self.path.as_posix(), 'param_key_g': 'params',
                           'strict_load_g': True}

    def is_in(self, options: Mapping[str, Any]) -> bool:
        """Whether a run starts from the file."""
        return bool(options['path'].get('pretrain_network_g') == self.path.as_posix())

    def write(self) -> None:
        """Write the file, or check that it holds these weights: finished runs have started from it.

        Raises:
            RunError: It holds other weights.
            UsageError: It cannot be written.
        """
        if os.path.lexists(self.path):
            if not self._is_there():
                raise RunError(f'{self.path} holds other weights than a slice of the teacher has now; restore the '
                               'teacher, or move the file and the folders of the runs that started from it away')
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path, lambda part: torch.save({'params': dict(self.state)}, part))
        except (OSError, RuntimeError) as error:
            raise UsageError(f'{self.path} cannot be written: {getattr(error, "strerror", None) or error}') from error

    def _is_there(self) -> bool:
        try:
            found = torch.load(self.path, map_location='cpu', weights_only=True)['params']
            return bool(found.keys() == self.state.keys() and all(
                found[name].equal(tensor) for name, tensor in self.state.items()))
        except (*FOREIGN_ERRORS, pickle.UnpicklingError):
            return False


def _without(ctx: Context, places: list[str]) -> dict[str, Any]:
    """How a comparison does without a slice: no entry asks for it, and no method is left that was nothing but it."""
    bare = {f'compare.methods.{name}.init': f'compare.methods.{name}'
            for name, method in ctx.section('compare', 'methods').items() if is_plain(method)}
    return {bare.get(place, place): REMOVE for place in places if place.startswith('compare.')}


def find_start(ctx: Context, places: list[str]) -> Start | None:
    """Cut the start of the students out of the teacher, the first if there are several. Writes nothing.

    Args:
        ctx: Options without problems, and where problems go.
        places: YAML paths that ask for it; the first one gets the problems.

    Returns:
        The start; None if nobody asks for it, or it cannot be had.
    """
    if not places:
        return None
    check_only_start(ctx, places[0])
    if ctx.problems:
        return None
    student = construct(ctx, 'network_g', ctx.section('network_g'), ARCH_REGISTRY)
    teachers = teachers_of(ctx.opt)
    teacher = load_teacher(context_of(ctx, teachers[0])) if teachers else None
    if student is None or teacher is None:
        if not ctx.problems:
            ctx.add('teacher', f'is missing, and {places[0]} is {TEACHER_SLICE}', 'add teacher: {weights: ….pth}')
        return None
    where = f'{teachers[0].place}.network'
    if not check_output(ctx, {'network_g': student, where: teacher}, where):
        return None
    state = slice_of(ctx, places[0], student, teacher, _without(ctx, places))
    return None if state is None else Start(EXPERIMENTS / str(ctx.opt['name']) / f'{TEACHER_SLICE}.pth', state)
