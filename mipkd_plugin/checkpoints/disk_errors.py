"""Errors of the disk in a run: a log, an image or any other file that cannot be written is one message."""

from __future__ import annotations

import errno
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mipkd_plugin.checkpoints.errors import SaveError, save_error
from mipkd_plugin.utils.replacing import replaced

_OUTPUTS = ('experiments', 'results', 'tb_logger')
"""Where BasicSR writes."""
_DISK = {errno.ENOSPC, getattr(errno, 'EDQUOT', errno.ENOSPC), errno.EFBIG, errno.EROFS, errno.EIO}


def _handle_log_error(original: Callable[..., None], handler: logging.Handler, record: logging.LogRecord) -> None:
    """A log that cannot be written is no traceback for each line: the next checkpoint says that the disk is full."""
    if not isinstance(sys.exc_info()[1], OSError):
        original(handler, record)


def _with_remedy(error: SaveError) -> SaveError:
    return SaveError(f'{error}\n   -> {error.remedy}')


@contextmanager
def disk_errors(told: Callable[[SaveError], SaveError] = _with_remedy) -> Iterator[None]:
    """Inside the block, a log, an image or any other file of a run that cannot be written is one message.

    Args:
        told: Adds how to go on.

    Raises:
        SaveError: A file cannot be written.
        OSError: An error that has nothing to do with the files of a run.
    """
    handle_error = logging.Handler.handleError
    handler = {'handleError': lambda self, record: _handle_log_error(handle_error, self, record)}
    try:
        with replaced(logging.Handler, handler):
            yield
    except OSError as error:
        path = Path(error.filename) if isinstance(error.filename, str) else None
        if error.errno not in _DISK and not (path is not None and _is_of_a_run(path)):
            raise
        raise told(save_error(error, path or Path.cwd() / 'a file of this run')) from error


def _is_of_a_run(path: Path) -> bool:
    return any((Path.cwd() / folder) in (Path.cwd() / path).parents for folder in _OUTPUTS)
