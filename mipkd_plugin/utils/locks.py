"""Locks that end with the process that holds them, however it ends.

Of the ``filelock`` package, some versions leave a marker file where a disk has no locks, and a killed process then
locks out all that follow it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import quote

from mipkd_plugin.utils.errors import MipkdError

_PLACE = 1 << 30  # of the locked byte on Windows, where nobody else can read it
_TRIES = 20
_held: set[IO[str]] = set()


class TakenError(MipkdError):
    """Another process holds the lock.

    Attributes:
        holder: Who, as ``process 1234 on HOST``; '' if unknown.
    """

    def __init__(self, message: str, holder: str = '') -> None:
        super().__init__(message)
        self.holder = holder


@contextmanager
def alone(path: Path, keep: bool = True) -> Iterator[None]:
    """Hold a lock inside the block.

    Args:
        path: The file to lock; created if needed.
        keep: Whether the file stays afterwards. If not, its folder goes too as soon as it is empty.

    Raises:
        TakenError: Another process, or another thread of this one, holds it.
        OSError: The file cannot be made, or its disk has no locks.
    """
    lock = _taken(path)
    _held.add(lock)
    try:
        yield
    finally:
        _held.discard(lock)
        if not keep:
            with suppress(OSError):  # Windows removes no open file; the folder may hold other locks
                path.unlink()
                path.parent.rmdir()
        lock.close()


def run_lock(experiments: Path, name: str) -> Path:
    """The lock of the process that trains the run ``experiments/<name>``."""
    return experiments / '.locks' / f'{quote(name, safe=" ")}.run'


def _let_go() -> None:
    """In a forked process: its copies of the open files would hold the locks after the process that took them."""
    for lock in _held:
        lock.close()
    _held.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_let_go)


def _taken(path: Path) -> IO[str]:
    """The locked file, open."""
    for _ in range(_TRIES):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = path.open('a+', encoding='utf-8', errors='replace')
        except FileNotFoundError:  # another process has just removed the empty folder
            continue
        try:
            if not _lock(lock):
                lock.seek(0)
                raise TakenError(f'{path} is locked', lock.read(200).strip())
            if _is(lock, path):
                lock.truncate(0)
                lock.write(f'process {os.getpid()} on {socket.gethostname()}')
                lock.flush()
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()  # another process has removed this file since
    raise TakenError(f'{path} is locked')


def _is(lock: IO[str], path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(lock.fileno()), path.stat())
    except FileNotFoundError:
        return False


if sys.platform == 'win32':
    import msvcrt

    def _lock(lock: IO[str]) -> bool:
        lock.seek(_PLACE)
        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True
else:
    import fcntl

    def _lock(lock: IO[str]) -> bool:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
