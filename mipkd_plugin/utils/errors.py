"""The base error of this package, and the errors that foreign code may raise."""

from __future__ import annotations

import re
import sys
import traceback
from pathlib import Path

FOREIGN_ERRORS = (ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError, MemoryError,
                  NameError, OSError, RuntimeError, StopIteration, TypeError, ValueError)
"""Errors that foreign constructors and forward passes raise, for a bad option or a bug."""

_COLOR = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')
_BYTES = re.compile(r'tried to allocate (\d+) bytes')
_LONGEST = 300


class MipkdError(ValueError):
    """Something that the user can fix; the message says what is wrong, where, and how to fix it.

    Every error class of this package derives from it. The commands print its message without a traceback. Its text
    has no control characters, wherever its parts come from: files of others reach the terminal as plain text.

    Attributes:
        exit_code: Of a command that ends with this error.
        of_one_rank: Whether a single rank of several may meet it; then that rank prints it, otherwise rank 0.
    """

    exit_code = 2
    of_one_rank = False

    def __str__(self) -> str:
        return plain(super().__str__())


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


def plain(text: str) -> str:
    """A text without colors and other control characters; lines stay."""
    text = _COLOR.sub('', text)
    return ''.join(letter if letter.isprintable() or letter == '\n' else ' ' if letter.isspace() else
                   letter.encode('unicode_escape').decode() for letter in text)


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory could not be had."""
    return isinstance(error, MemoryError) or _BYTES.search(str(error)) is not None


def reason(error: BaseException) -> str:
    """Kind and text of an error of foreign code, on one line of moderate length."""
    text = ' '.join(plain(str(error)).split())
    wanted = _BYTES.search(text)
    if wanted is not None or isinstance(error, MemoryError):
        return f'asks for {int(wanted[1]) / 1e9:.2f} GB of memory at once' if wanted else 'asks for too much memory'
    text = text if len(text) <= _LONGEST else f'{text[:_LONGEST]}…'
    return f'{type(error).__name__}: {text}' if text else type(error).__name__


def failure_of(error: BaseException) -> str:
    """Like :func:`reason`; an error without a text is described by the place where it was raised."""
    frame = (traceback.extract_tb(error.__traceback__) or [None])[-1]
    if str(error).strip() or frame is None:
        return reason(error)
    return f'{reason(error)} in {frame.name}(), line {frame.lineno} of {Path(frame.filename).name}'


def is_lost_worker(error: BaseException) -> bool:
    """Whether PyTorch says with this error that a data worker has died; its signal handler raises it anywhere."""
    return isinstance(error, RuntimeError) and str(error).startswith('DataLoader worker')


def crash(error: BaseException, cls: type) -> str:
    """Describe an error of a foreign class: its kind, text and line."""
    module = sys.modules.get(cls.__module__)
    return f'{reason(error)}{line_of(error, getattr(module, "__file__", None))}'
