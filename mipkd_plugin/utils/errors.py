"""The error that users see as one message and exit code 2, and the errors of other people's code that become one."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

FOREIGN_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
                  RuntimeError, TypeError, ValueError)
"""What other people's constructors and forward passes raise, for an option they cannot use or by a fault of theirs."""


class MipkdError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and how to fix it.

    Every error class of this package derives from it. The commands print its message without a traceback.
    """


class UsageError(MipkdError):
    """A command cannot run as it was typed."""


def line_of(error: BaseException, path: str | Path | None) -> str:
    """The line of a file in which an error was raised, as `` (line 7 of spkd.py)``; '' if it was raised elsewhere."""
    if path is None:
        return ''
    file = Path(path).resolve()
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if Path(frame.filename).resolve() == file]
    return f' (line {lines[-1]} of {file.name})' if lines else ''


def crash(error: BaseException, cls: type) -> str:
    """Kind and text of an error that a class of somebody else has raised, with the line of its file."""
    module = sys.modules.get(cls.__module__)
    return f'{type(error).__name__}: {error}{line_of(error, getattr(module, "__file__", None))}'
