"""Small files of weights that would fill the memory: compressed archives, and tensors that repeat one number."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from os import path
from typing import Any

from mipkd_plugin.utils.words import gigabytes

_USUAL_LIMIT = 10**8  # bytes that any file may take in memory
_SHARED = 4  # times the size of a file: weights that two networks share are stored once


def packed(name: str) -> str:
    """What is wrong with an archive that unpacks to much more than its size; ``torch.save`` packs without compression.

    Args:
        name: The file.

    Returns:
        The rest of a sentence that starts with its name; '' if nothing is wrong.
    """
    try:
        with zipfile.ZipFile(name) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        size = path.getsize(name)
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, struct.error, NotImplementedError, LookupError):
        return ''  # torch says what is wrong with it
    if unpacked <= max(2 * size, _USUAL_LIMIT):
        return ''
    return (f'has {gigabytes(size)} and would take {gigabytes(unpacked)} of memory: it is compressed, as no file of '
            'torch.save is')


def stretched(name: str, content: Any) -> str:
    """What is wrong with a file whose tensors are far larger than it: views that repeat what is stored once.

    Args:
        name: The file.
        content: What was read from it.

    Returns:
        The rest of a sentence that starts with its name; '' if nothing is wrong.
    """
    size, taken = path.getsize(name), _bytes(content)
    if taken <= max(_SHARED * size, _USUAL_LIMIT):
        return ''
    return f'has {gigabytes(size)}, and its tensors would take {gigabytes(taken)} of memory: they repeat few numbers'


def _bytes(content: Any) -> int:
    """Bytes that all dense tensors inside would take if each were copied."""
    import torch

    if isinstance(content, torch.Tensor):
        return 0 if content.is_meta or content.layout is not torch.strided else content.numel() * content.element_size()
    children = content.values() if isinstance(content, Mapping) else content
    return sum(map(_bytes, children)) if isinstance(content, (Mapping, list, tuple)) else 0
