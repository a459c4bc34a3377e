"""File names of a checkpoint in ``experiments/<name>/models``."""

from __future__ import annotations

import math
from pathlib import Path

LATEST = 'latest'


def label_of(iteration: int) -> str:
    """An iteration as BasicSR writes it in a file name; -1 stands for the end of training."""
    return LATEST if iteration == -1 else str(iteration)


def student_path(models: Path | str, label: str | int) -> Path:
    """``net_g_<iter>.pth``: the student, saved by BasicSR."""
    return Path(models) / f'net_g_{label}.pth'


def distill_state_path(models: Path | str, label: str | int) -> Path:
    """``distill_<iter>.pth``: the state of the distillation losses."""
    return Path(models) / f'distill_{label}.pth'


def random_state_path(models: Path | str, label: str | int) -> Path:
    """``random_<iter>.pth``: the random numbers, for a run with ``train.exact_resume``."""
    return Path(models) / f'random_{label}.pth'


def find_checkpoints(models: Path) -> dict[str, tuple[Path, Path]]:
    """Find the checkpoints whose student and distillation state both exist.

    Args:
        models: ``experiments/<name>/models``.

    Returns:
        (student, state of the distillation losses) by iteration, in ascending order; ``latest`` comes last.
    """
    found = {}
    for state in models.glob('distill_*.pth'):
        label = state.stem.removeprefix('distill_')
        student = student_path(models, label)
        if (label == LATEST or label.isdigit()) and student.is_file():
            found[label] = student, state
    return dict(sorted(found.items(), key=lambda item: math.inf if item[0] == LATEST else int(item[0])))
