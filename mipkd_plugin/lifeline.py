"""A process that ends with the one that started it, even if that one is killed.

The parent hands over the reading end of a pipe and never writes to it: when it is gone, the pipe ends.
"""

from __future__ import annotations

import os
import threading

_VARIABLE = 'MIPKD_LIFELINE'
EXIT_CODE = 143
"""Of a process whose parent is gone; that of SIGTERM."""


def environment(descriptor: int) -> dict[str, str]:
    """Environment variables that tell a child process to hold on to the reading end ``descriptor``."""
    return {_VARIABLE: str(descriptor)}


def hold() -> None:
    """End this process as soon as its parent is gone; does nothing in a process that was not asked to."""
    text = os.environ.pop(_VARIABLE, '')
    if text.isdigit():
        threading.Thread(target=_wait, args=(int(text), ), daemon=True).start()


def _wait(descriptor: int) -> None:
    while os.read(descriptor, 1):
        pass
    os._exit(EXIT_CODE)
