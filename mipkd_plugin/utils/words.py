"""Numbers in words, for messages."""

from __future__ import annotations

from collections.abc import Iterable


def gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f'{size / 1e9:.2f} GB' if size >= 1e7 else f'{size / 1e6:.2f} MB'


def counted(number: int, thing: str) -> str:
    """A number of things: ``1 pair``, ``1,200 pairs``."""
    return f'{number:,d} {thing}' if number == 1 else f'{number:,d} {thing}s'


def some(names: Iterable[object], most: int = 3) -> str:
    """The first names, and how many follow."""
    listed = [str(name) for name in names]
    more = f' and {len(listed) - most:,d} more' if len(listed) > most else ''
    return ', '.join(listed[:most]) + more
