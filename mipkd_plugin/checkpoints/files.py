"""Names of the files of a checkpoint, in ``experiments/<name>/models``."""

from __future__ import annotations

import math
from pathlib import Path

LATEST = 'latest'


def label_of(iteration: int) -> str:
    """How BasicSR writes an iteration in a file name: -1 is the end of the training."""
    return LATEST if iteration == -1 else str(iteration)


def student_path(models: Path | str, label: str | int) -> Path:
    """``net_g_<iter>.pth``: the student, written by BasicSR."""
    return Path(models) / f'net_g_{label}.pth'


def distill_state_path(models: Path | str, label: str | int) -> Path:
    """``distill_<iter>.pth``: the state of the distillation losses."""
    return Path(models) / f'distill_{label}.pth'


def random_state_path(models: Path | str, label: str | int) -> Path:
    """``random_<iter>.pth``: the random numbers, for a run with ``train.exact_resume``."""
    return Path(models) / f'random_{label}.pth'


def find_checkpoints(models: Path) -> dict[str, tuple[Path, Path]]:
    """Iteration, or ``latest`` → (student, state of the distillation losses), where both files exist.

    The iterations in ascending order, then ``latest``.
    """
    found = {}
    for state in models.glob('distill_*.pth'):
        label = state.stem.removeprefix('distill_')
        student = student_path(models, label)
        if (label == LATEST or label.isdigit()) and student.is_file():
            found[label] = student, state
    return dict(sorted(found.items(), key=lambda item: math.inf if item[0] == LATEST else int(item[0])))
