"""Whether an LMDB can be opened: a file that is cut short kills the process that reads it (bus error)."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

_MAGIC = 0xBEEFC0DE
_META = struct.Struct('=16x II 16x 96s QQ')
"""A meta page: magic, version, two tables of 48 bytes (the first starts with the page size), last page, transaction."""

_READ_ALL = """
import sys, lmdb
with lmdb.open(sys.argv[1], readonly=True, lock=False) as environment, environment.begin(buffers=True) as transaction:
    for key, value in transaction.cursor():
        value[-1:].tobytes()
"""


def damage_of(folder: Path) -> str:
    """What is wrong with the file of an LMDB, found without opening it as one.

    Args:
        folder: Folder of the LMDB, with ``data.mdb``.

    Returns:
        For instance ``data.mdb is cut short: it has 4,096 of 12,288 bytes``; '' if nothing is wrong.
    """
    path = folder / 'data.mdb'
    try:
        size = path.stat().st_size
        with path.open('rb') as file:
            first = file.read(_META.size)
            page = _page_size(first)
            if page is None:
                return 'data.mdb is not the file of an LMDB'
            file.seek(page)
            metas = [first, file.read(_META.size)]
    except OSError as error:
        return f'data.mdb cannot be read ({error.strerror})'
    valid = [_META.unpack(meta) for meta in metas if _page_size(meta) == page]
    last_page = max(valid, key=lambda meta: int(meta[-1]))[-2]
    needed = (last_page + 1) * page
    if size >= needed or len(valid) == 2 and _can_be_read(folder):
        return ''
    return f'data.mdb is cut short: it has {size:,d} of {needed:,d} bytes'


def _page_size(meta: bytes) -> int | None:
    """The page size that a meta page names; None if this is no meta page."""
    if len(meta) < _META.size:
        return None
    magic, _, tables, _, _ = _META.unpack(meta)
    page = int.from_bytes(tables[:4], sys.byteorder)
    return page if magic == _MAGIC and page >= 512 and page & (page - 1) == 0 else None


def _can_be_read(folder: Path) -> bool:
    """Whether another process can read all entries; LMDB may leave out unused pages at the end of a good file."""
    done = subprocess.run([sys.executable, '-c', _READ_ALL, str(folder)], capture_output=True, check=False)
    return done.returncode == 0
