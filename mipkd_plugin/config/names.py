"""Check names that become files and folders: none leads out of ``experiments/`` or ``results/``, or hits other data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mipkd_plugin.config.problems import Context

LONGEST = 150
"""Characters of a name; BasicSR puts it into names of files, whose limit is 255 bytes."""
_RESERVED = ('pretrained_models', )
_UNSAFE = re.compile(r'[^\w.+-]+')


def check_names(ctx: Context, resumes: bool = False) -> None:
    """Check the names of the run, of the data sets, and of saved images.

    Args:
        ctx: Options, and where problems go.
        resumes: Whether the run goes on in its own folder.
    """
    name = ctx.opt.get('name')
    if isinstance(name, str) and name and ctx.clean('name'):
        problem = run_name_problem(name)
        if problem:
            ctx.add('name', problem, fix={'name': safe_name(name)})
        elif ctx.files and not resumes:
            _check_folder_is_a_run(ctx, name)
    for phase, options in ctx.section('datasets').items():
        own = options.get('name') if isinstance(options, Mapping) else None
        if isinstance(own, str) and own:
            problem = _leads_out(own)
            if problem:
                ctx.add(f'datasets.{phase}.name', problem, fix={f'datasets.{phase}.name': safe_name(own)})
    suffix = ctx.section('val').get('suffix')
    if isinstance(suffix, str) and suffix and _file_name_problem(suffix):
        ctx.add('val.suffix', f'{_short(suffix)} {_file_name_problem(suffix)}, and it becomes part of the names of '
                'images', fix={'val.suffix': safe_name(suffix)})


def run_name_problem(name: str) -> str:
    """Why a run cannot have this name; '' if it can."""
    what = _file_name_problem(name)
    if not what and (name.startswith('.') or name in _RESERVED):
        what = 'names a folder that is no run'
    if not what and (name.startswith('-') or name != name.strip()):
        what = 'begins with a dash, or begins or ends with a blank'
    return f'{_short(name)} {what}, and a run is one folder in experiments/ or results/' if what else ''


def _file_name_problem(text: str) -> str:
    if any(mark in text for mark in '/\\'):
        return 'has a slash'
    if not text.isprintable():
        return 'has a character that is not printed'
    return f'has {len(text)} characters, more than {LONGEST}' if len(text.encode()) > LONGEST else ''


def _leads_out(name: str) -> str:
    """Why the images of a data set of this name would not come into a folder of the run; '' if they would."""
    parts = re.split(r'[/\\]', name)
    if '..' in parts or name[0] in '/\\' or os.path.isabs(name):
        return f'{_short(name)} leads out of the folder of the run, where images are saved under this name'
    problem = next((found for found in map(_file_name_problem, parts) if found), '')
    return f'{_short(name)} {problem}, and images are saved under this name' if problem else ''


def safe_name(name: str) -> str:
    """A name like this one that any folder can have."""
    found = _UNSAFE.sub('_', name).strip('._-')[:40]
    return f'{found}_run' if found in _RESERVED else found or 'run'


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f'{text[:40]!r}…'


def _check_folder_is_a_run(ctx: Context, name: str) -> None:
    """Refuse a name whose folder is there and is no run: BasicSR would rename that folder into an archive."""
    folders = [ctx.root / ('experiments' if ctx.is_train else 'results') / name]
    if ctx.is_train and ctx.section('logger').get('use_tb_logger') is True and 'debug' not in name:
        folders.append(ctx.root / 'tb_logger' / name)
    for folder in folders:
        if os.path.exists(folder) and not _is_run(folder):
            ctx.add('name', f'{folder} exists and is no run: BasicSR would rename it to {folder.name}_archived_…',
                    fix={'name': _free_name(name, [place.parent for place in folders])})
            return


def _is_run(folder: Path) -> bool:
    """Whether BasicSR made a folder, in ``experiments/``, ``results/`` or ``tb_logger/``, or nothing is in it."""
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    return (not names or {'models', 'training_states'} <= set(names) or 'visualization' in names
            or any(re.fullmatch(r'(train|test)_.*\.log|events\.out\.tfevents.*', name) for name in names))


def _free_name(name: str, parents: list[Path]) -> str:
    return next(free for free in (f'{name}_{number}' for number in range(1, 10_000))
                if not any(os.path.exists(parent / free) for parent in parents))


def folder_of_run(parent: str, name: Any) -> Path | None:
    """The folder of a run, relative to the working directory; None if no run can have this name."""
    return Path(parent) / name if isinstance(name, str) and name and not run_name_problem(name) else None
