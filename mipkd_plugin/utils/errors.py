"""The base error of this package, and the errors that foreign code may raise."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

FOREIGN_ERRORS = (ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, NameError, OSError,
                  RuntimeError, TypeError, ValueError)
"""Errors that foreign constructors and forward passes raise, for a bad option or a bug."""


class MipkdError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and how to fix it.

    Every error class of this package derives from it. The commands print its message without a traceback, and end with
    its exit code.
    """

    exit_code = 2


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
    """Describe an error of a foreign class: its kind, text and line."""
    module = sys.modules.get(cls.__module__)
    return f'{type(error).__name__}: {error}{line_of(error, getattr(module, "__file__", None))}'
