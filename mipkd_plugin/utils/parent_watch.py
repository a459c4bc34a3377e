"""A process that ends with its parent, even if the parent is killed.

The parent passes on the reading end of a pipe and never writes to it: when the parent is gone, the pipe ends. The
process then gets SIGTERM from itself, so that a training saves first.
"""

from __future__ import annotations

import os
import signal
import threading
import time

_VARIABLE = 'MIPKD_PARENT_WATCH'
EXIT_CODE = 143
"""Exit code of a process whose parent is gone; the same as after SIGTERM."""
PATIENCE = 60.0
"""Seconds that such a process has to finish its step and to save."""


def environment(descriptor: int) -> dict[str, str]:
    """Environment variables that tell a child process to watch the reading end ``descriptor``."""
    return {_VARIABLE: str(descriptor)}


def is_asked() -> bool:
    """Whether the parent of this process asks it to watch, before :func:`watch_parent`."""
    return os.environ.get(_VARIABLE, '').isdigit()


def watch_parent() -> None:
    """End this process as soon as its parent is gone; does nothing where nobody asked for it."""
    text = os.environ.pop(_VARIABLE, '')
    if text.isdigit():
        threading.Thread(target=_wait, args=(int(text), ), daemon=True).start()


def _wait(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(EXIT_CODE)
