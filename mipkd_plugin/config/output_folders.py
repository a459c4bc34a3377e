"""Check that a run can write where BasicSR writes, and that there is room for a checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from torch import nn

from mipkd_plugin.config.keys import is_number
from mipkd_plugin.config.problems import Context


def check_output_folders(ctx: Context, student: nn.Module | None, resumes: bool) -> None:
    """Check the folders that a run makes or fills.

    Args:
        ctx: Options, and where problems go.
        student: The network that a checkpoint holds; None leaves its size unchecked.
        resumes: Whether the run goes on in its folder; if not, BasicSR first renames what is there.
    """
    name = ctx.opt.get('name')
    if not isinstance(name, str) or not name or not ctx.clean('name'):
        return
    run = ctx.root / ('experiments' if ctx.is_train else 'results') / name
    inner = [run / folder for folder in ('models', 'training_states')] if resumes or ctx.auto_resume else []
    needed = [run if resumes else run.parent, *(folder for folder in inner if os.path.exists(folder))]
    if ctx.is_train and ctx.section('logger').get('use_tb_logger') is True:
        needed.append(ctx.root / 'tb_logger')
    if all(_check_folder(ctx, folder) for folder in needed) and ctx.is_train and student is not None:
        _check_room(ctx, needed[0], student)


def _check_folder(ctx: Context, folder: Path) -> bool:
    """Check that a folder can be written, or made; return whether it can."""
    there = next((path for path in (folder, *folder.absolute().parents) if os.path.lexists(path)), None)
    if there is None:
        return True
    if not os.path.isdir(there):
        what = 'is a link that leads nowhere' if os.path.islink(there) and not os.path.exists(there) else 'is a file'
        ctx.add(str(there), f'{what}, and BasicSR writes to a folder of that name', f'move {there} away')
    elif not os.access(there, os.R_OK | os.W_OK | os.X_OK):
        read_only = hasattr(os, 'statvfs') and os.statvfs(there).f_flag & getattr(os, 'ST_RDONLY', 1)
        ctx.add(str(there), 'is on a read-only disk, and BasicSR writes there' if read_only else
                'cannot be written: you have no right to, and BasicSR writes there',
                'start in a folder that can be written' if read_only else f'chmod u+rwx {there}')
    else:
        return True
    return False


def _check_room(ctx: Context, folder: Path, student: nn.Module) -> None:
    """Check that one checkpoint of the student fits on the disk: weights, their average and Adam's two moments."""
    decay = ctx.section('train').get('ema_decay', 0)
    copies = 4 if is_number(decay) and decay > 0 else 3
    size = copies * sum(p.numel() * p.element_size() for p in student.parameters())
    there = next(path for path in (folder, *folder.absolute().parents) if os.path.exists(path))
    free = shutil.disk_usage(there).free
    if free < size:
        ctx.add(str(folder), f'has no room: a checkpoint takes about {size:,d} bytes, and {free:,d} are free on this '
                'disk', 'free some space, or start in a folder on another disk')
