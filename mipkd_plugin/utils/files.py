"""Writing files so that an interruption leaves either the whole file or none."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then give it its name.

    Args:
        path: The file to make or to replace.
        write: Called with the file to write to, ``.NAME.part``. BasicSR skips hidden files when it lists a folder.

    Raises:
        OSError: The file cannot be written.
    """
    part = path.with_name(f'.{path.name}.part')
    write(part)
    os.replace(part, path)


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
