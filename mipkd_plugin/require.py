"""Checks of what an option file gives to our constructors: each raises ValueError, its message begins with the name."""

from __future__ import annotations

import math
from collections.abc import Sequence


def whole(least: int = 1, **options: object) -> None:
    """Refuse options that are no whole number of at least ``least``."""
    for name, number in options.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise ValueError(f'{name} must be a whole number of at least {least}, got {number!r}')


def odd(least: int = 1, **options: object) -> None:
    """Refuse kernel sizes that are not odd, or smaller than ``least``."""
    for name, size in options.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < least or size % 2 == 0:
            raise ValueError(f'{name} must be odd and at least {least}, got {size!r}')


def between(low: float, high: float, **options: object) -> None:
    """Refuse options that are no number from ``low`` to ``high``."""
    for name, number in options.items():
        if not _is_number(number) or not low <= number <= high:  # type: ignore[operator]
            raise ValueError(f'{name} must lie between {low} and {high}, got {number!r}')


def positive(**options: object) -> None:
    """Refuse options that are no finite number above 0."""
    for name, number in options.items():
        if not _is_number(number) or not 0 < number < math.inf:  # type: ignore[operator]
            raise ValueError(f'{name} must be a number above 0, got {number!r}')


def one_of(choices: Sequence[str], **options: object) -> None:
    """Refuse options that are none of ``choices``."""
    for name, value in options.items():
        if value not in choices:
            raise ValueError(f'{name} must be one of {", ".join(choices)}, got {value!r}')


def flag(**options: object) -> None:
    """Refuse options that are neither true nor false."""
    for name, value in options.items():
        if not isinstance(value, bool):
            raise ValueError(f'{name} must be true or false, got {value!r}')


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
