"""Numbers in words, for messages."""

from __future__ import annotations


def gigabytes(size: int) -> str:
    """A number of bytes, for people."""
    return f'{size / 1e9:.2f} GB' if size >= 1e7 else f'{size / 1e6:.2f} MB'
