"""The folder of a run, ``experiments/<name>``: what it was started with, and whether it can go on."""

from __future__ import annotations

import os
import re
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from mipkd_plugin.compare.methods import same_method
from mipkd_plugin.compare.trials import Trial
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.files import write_text

EXPERIMENTS = Path('experiments')
_NOTE = re.compile(r'^# (commit|protocol|losses|hardware) (.+)$', re.MULTILINE)
_MAY_DIFFER = ('logger', 'num_gpu', 'imports')


class RunError(MipkdError):
    """A run failed or cannot start; the message says why and what to do."""


def run_folder(trial: Trial) -> Path:
    """``experiments/<name>``, where BasicSR writes."""
    return EXPERIMENTS / trial.name


def code_version() -> str:
    """The commit of this package's checkout, with ``+`` if its code has changes; without a checkout, the version."""
    from mipkd_plugin.version import __version__

    git, here = ['git', '-C', str(Path(__file__).parents[1])], 'compare/run_folders.py'
    try:
        _, commit, changed = (
            subprocess.run([*git, *arguments], capture_output=True, text=True, check=True).stdout.strip()
            for arguments in (['ls-files', '--error-unmatch', here], ['rev-parse', '--short', 'HEAD'],
                              ['status', '--porcelain', '--untracked-files=no', '.']))
    except (OSError, subprocess.CalledProcessError):  # installed: a repository around it belongs to another project
        return __version__
    return f'{commit}+' if changed else commit


def hardware(trial: Trial) -> str:
    """``CPU``, or the name of the GPU that a run trains on here."""
    if torch.cuda.is_available() and trial.options.get('num_gpu') != 0:
        return torch.cuda.get_device_name(0)
    return 'CPU'


def commit_of(trial: Trial) -> str:
    """The version of the code that started a run."""
    return _notes(trial).get('commit') or code_version()


def hardware_of(trial: Trial) -> str:
    """The hardware that a run started on."""
    return _notes(trial).get('hardware') or hardware(trial)


def _notes(trial: Trial) -> dict[str, str]:
    """The notes of :func:`write_options` in the option file that a run started with."""
    path = run_folder(trial) / f'{trial.name}.yml'
    return dict(_NOTE.findall(path.read_text(encoding='utf-8'))) if os.path.isfile(path) else {}


def started_length(folder: Path) -> int | None:
    """``total_iter`` of the option file that a run started with; None if the folder holds no such file."""
    path = folder / f'{folder.name}.yml'
    try:
        return int(yaml.safe_load(path.read_text(encoding='utf-8'))['train']['total_iter'])
    except (OSError, ValueError, TypeError, LookupError, yaml.YAMLError):
        return None


def refuse_other_options(trial: Trial, protocol_hash: str) -> None:
    """Refuse a folder that was made with other options, instead of resuming or overwriting its run.

    Args:
        trial: The run.
        protocol_hash: Protocol hash of the comparison; it also covers the teacher's weights and the number of images.

    Raises:
        RunError: The options differ; the message names the first difference.
    """
    path = run_folder(trial) / f'{trial.name}.yml'
    if not os.path.isfile(path) or (
            not _states(trial) and not path.read_text(encoding='utf-8', errors='replace').strip()):
        return  # the run was killed before BasicSR copied the option file
    remedy = 'restore them, give the comparison another name, or move the folder away'
    try:
        before = yaml.safe_load(path.read_text(encoding='utf-8'))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RunError(f'{path}, the options that the run started with, cannot be read: {error}; {remedy}') from error
    before, now = ({key: value for key, value in options.items() if key not in _MAY_DIFFER}
                   for options in (before if isinstance(before, dict) else {}, trial.options))
    where = difference(before, now)
    if where is not None:
        raise RunError(f'{run_folder(trial)} was trained with other options: {where[0]} was {where[1]!r}, now it is '
                       f'{where[2]!r}; {remedy}')
    noted = _notes(trial).get('protocol', protocol_hash)
    if noted != protocol_hash:
        raise RunError(f'{run_folder(trial)} was trained with the same options but another protocol ({noted}, now '
                       f"{protocol_hash}): the teacher's weights or the number of images have changed; {remedy}")
    losses = _notes(trial).get('losses', trial.losses)
    if not same_method(losses, trial.losses):
        raise RunError(f'{run_folder(trial)} was trained with other defaults of the losses: {losses}, now '
                       f'{trial.losses}; write the old values into the option file, or move the folder away')


def difference(before: Any, now: Any, path: str = '') -> tuple[str, Any, Any] | None:
    """(YAML path, old value, new value) of the first difference, or None."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            found = difference(before.get(key), now.get(key), f'{path}.{key}' if path else str(key))
            if found is not None:
                return found
        return None
    return None if before == now else (path, before, now)


def can_resume(trial: Trial) -> bool:
    """Whether there is a training state to resume from. Deletes training states whose save was cut short.

    A file of torch is a zip archive with its table at the end; without the table nobody can read the file.

    Args:
        trial: The run.

    Returns:
        Whether a usable training state exists.
    """
    for path in _states(trial):
        if zipfile.is_zipfile(path):
            return True
        path.unlink()
    return False


def _states(trial: Trial) -> list[Path]:
    """The training states of a run, the newest first."""
    folder = run_folder(trial) / 'training_states'
    states = [path for path in folder.glob('*.state') if path.stem.isdigit()] if os.path.isdir(folder) else []
    return sorted(states, key=lambda path: int(path.stem), reverse=True)


def write_options(trial: Trial, folder: Path, commit: str, protocol_hash: str) -> Path:
    """Write the option file of a run to ``folder/options``. ``basicsr train`` also accepts it by hand."""
    path = folder / 'options' / f'{trial.name}.yml'
    path.parent.mkdir(parents=True, exist_ok=True)
    notes = {'commit': commit, 'protocol': protocol_hash, 'losses': trial.losses, 'hardware': hardware(trial)}
    text = (f'# {trial.method}, seed {trial.seed}; written by mipkd\n# basicsr train -opt {path}\n'
            + ''.join(f'# {name} {value}\n' for name, value in notes.items())
            + yaml.safe_dump(trial.options, sort_keys=False))
    write_text(path, text)
    return path
