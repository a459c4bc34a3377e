"""Writing files so that an interruption leaves either the whole file or none."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Callable
from pathlib import Path


def part_of(path: Path) -> Path:
    """The file beside ``path`` that is written first, ``.NAME.part``. BasicSR skips hidden files in its folders."""
    return path.with_name(f'.{path.name}.part')


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then give it its name. If that fails, nothing is left beside it.

    Args:
        path: The file to make or to replace.
        write: Called with the file to write to, from :func:`part_of`.

    Raises:
        OSError: The file cannot be written.
    """
    part = part_of(path)
    try:
        write(part)
        os.replace(part, path)
    except BaseException as error:  # also Ctrl-C: a part is of no use to anybody
        remove(part)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_alone(path: Path, write: Callable[[Path], object], replaces: bool) -> None:
    """The same for a file that others may write meanwhile: each has a part of its own.

    Args:
        path: The file to make.
        write: Called with the file to write to.
        replaces: Whether a file of this name may be replaced.

    Raises:
        FileExistsError: There is a file of this name by now; it is left as it is.
        OSError: The file cannot be written.
    """
    part = path.with_name(f'.{path.name}.{uuid.uuid4().hex[:8]}.part')
    try:
        write(part)
        if replaces:
            os.replace(part, path)
        else:
            _name(part, path)
    finally:
        remove(part)


def _name(part: Path, path: Path) -> None:
    """Give a part its name, unless that is taken."""
    try:
        os.link(part, path)  # unlike a renaming, it replaces nothing
    except FileExistsError:
        raise
    except OSError as error:  # a disk without hard links
        if not os.path.lexists(part):
            raise
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error
        os.rename(part, path)


def remove(path: Path) -> None:
    """Remove a file if it is there; a folder that is gone or cannot be changed is no error."""
    try:
        path.unlink()
    except OSError:
        return


def flush_folder(folder: Path) -> None:
    """Make sure that the names in a folder outlive a power failure, where the system can do so.

    Raises:
        OSError: The folder does not exist.
    """
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems cannot flush a folder
        return
    finally:
        os.close(handle)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one go.

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(path, lambda part: part.write_bytes(data))


def write_text(path: Path, text: str) -> None:
    """Write a text file in one go (UTF-8).

    Raises:
        OSError: The file cannot be written.
    """
    write_atomically(path, lambda part: part.write_text(text, encoding='utf-8'))
