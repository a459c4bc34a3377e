"""Errors of checkpoints: one that cannot be saved, and one that cannot be resumed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

from mipkd_plugin.utils.errors import MipkdError


class StateError(MipkdError):
    """A run cannot be resumed: a file of its checkpoint is missing, or belongs to another run."""


class SaveError(MipkdError):
    """A checkpoint cannot be saved; the message says which file, and why.

    Args:
        message: What failed.
        remedy: What to do about it.

    Attributes:
        remedy: What to do about it.
    """

    exit_code = 4

    def __init__(self, message: str, remedy: str = 'fix this') -> None:
        super().__init__(message)
        self.remedy = remedy


def save_error(error: OSError, path: Path, size: int | None = None) -> SaveError:
    """Say in words why a file cannot be written, and what to do.

    Args:
        error: The error.
        path: The file.
        size: Its size in bytes, if it is known.

    Returns:
        The error to raise.
    """
    folder, needs = path.parent, '' if size is None else f': it needs {size:,d} bytes'
    if not os.path.isdir(folder):
        what, remedy = (f'{folder} is not a folder' if os.path.exists(folder) else f'the folder {folder} is gone',
                        'leave the folders of a training alone while it runs')
    elif error.errno == errno.ENOSPC:
        free = f', and {shutil.disk_usage(folder).free:,d} are free' if needs else ''
        what, remedy = f'the disk is full{needs}{free}', ('free some space (with logger.keep_last: 2 a run keeps '
                                                          'only its last two checkpoints)')
    elif error.errno == getattr(errno, 'EDQUOT', errno.ENOSPC):
        what, remedy = f'your quota on this disk is used up{needs}', 'free some space'
    elif error.errno == errno.EFBIG:
        what, remedy = f'the file would be too large here{needs}{_limit()}', 'raise the limit: ulimit -f unlimited'
    elif error.errno == errno.EROFS:
        what, remedy = f'the disk of {folder} is read-only', 'make it writable'
    elif error.errno in (errno.EACCES, errno.EPERM):
        what, remedy = f'you have no right to write into {folder}', 'give yourself that right: chmod u+rwx'
    else:
        what, remedy = str(error.strerror or error), 'find out what is wrong with this disk'
    return SaveError(f'cannot save {path}: {what}', remedy)


def _limit() -> str:
    try:
        import resource
    except ImportError:  # Windows
        return ''
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return '' if limit == resource.RLIM_INFINITY else f', and the limit of this shell (ulimit -f) is {limit:,d}'
