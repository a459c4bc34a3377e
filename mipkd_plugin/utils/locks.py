"""Locks that end with the process that holds them, however it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mipkd_plugin.utils.errors import MipkdError


class TakenError(MipkdError):
    """Another process holds the lock."""


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a lock inside the block.

    Args:
        path: The file to lock; created if needed, never removed: two processes could otherwise lock two files of this
            name.

    Raises:
        TakenError: Another process, or another thread of this one, holds it.
    """
    import fcntl  # Windows has no fcntl; only comparisons need it

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TakenError(f'{path} is locked') from error
        yield
