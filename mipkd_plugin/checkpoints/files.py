"""File names of a checkpoint in ``experiments/<name>/models``."""

from __future__ import annotations

import math
import os
import re
import zipfile
from pathlib import Path

from mipkd_plugin.utils.files import remove

LATEST = 'latest'
_NUMBERED = re.compile(r'(?:net_\w+|distill|random)_(\d+)\.pth|(\d+)\.state')


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
        if (label == LATEST or label.isdigit()) and os.path.isfile(student):
            found[label] = student, state
    return dict(sorted(found.items(), key=lambda item: math.inf if item[0] == LATEST else int(item[0])))


def training_states(folder: Path) -> list[Path]:
    """The training states in ``experiments/<name>/training_states``, the newest first."""
    found = [path for path in folder.glob('*.state') if path.stem.isdigit()] if os.path.isdir(folder) else []
    return sorted(found, key=lambda path: int(path.stem), reverse=True)


def remove_older(models: Path, states: Path, keep: int, newest: int, needed: Path | None = None) -> list[int]:
    """Remove all but the last checkpoints of a run, each with all of its files; ``latest`` stays.

    Args:
        models: ``experiments/<name>/models``.
        states: ``experiments/<name>/training_states``.
        keep: How many checkpoints to keep, 1 or more.
        newest: Iteration of the checkpoint that was just saved; later ones, of an earlier run, stay.
        needed: A training state that stays with its files, because the option file names it.

    Returns:
        The iterations whose files were removed.
    """
    files: dict[int, list[Path]] = {}
    for path in [*states.iterdir(), *models.iterdir()]:  # the training state first: without it nobody takes the rest
        match = _NUMBERED.fullmatch(path.name)
        if match:
            files.setdefault(int(match[1] or match[2]), []).append(path)
    whole = [int(path.stem) for path in training_states(states) if int(path.stem) < newest
             and os.path.isfile(student_path(models, path.stem)) and zipfile.is_zipfile(path)]
    oldest = min([newest, *whole[:keep - 1]])
    stays = int(needed.stem) if needed is not None and needed.parent == states and needed.stem.isdigit() else None
    old = sorted(label for label in files if label < oldest and label != stays)
    for label in old:
        for path in files[label]:
            remove(path)
    return old
