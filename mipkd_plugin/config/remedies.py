"""Remedies as data: which entries of an option file to write or to remove, so that a program can apply them too."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from mipkd_plugin.utils.yaml_text import flow, number


class _Removed:
    """The type of :data:`REMOVE`."""

    def __repr__(self) -> str:
        return 'REMOVE'


REMOVE = _Removed()
"""The value of an entry that is to be removed."""

_KEY = re.compile(r'[^.\[]+')


def in_words(fix: Mapping[str, Any]) -> str:
    """Describe a remedy.

    Args:
        fix: Value by YAML path, or ``REMOVE``.

    Returns:
        For instance ``write gt_size: 48``, with the name of the last key alone.
    """
    parts = []
    for path, value in fix.items():
        key = path.rpartition('.')[2]
        parts.append(f'remove {key}' if value is REMOVE else f'write {key}: {_typed(value)}')
    return ', and '.join(parts)


def remedied(opt: Mapping[str, Any], fix: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a remedy.

    Args:
        opt: The options; left unchanged.
        fix: Value by YAML path such as ``train.distill_opt[0].taps``, or ``REMOVE``.

    Returns:
        A copy of the options with the remedy. An entry to remove may be gone already.

    Raises:
        IndexError: A path leads through an entry of a list that does not exist.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(opt))
    for path, value in fix.items():
        target: Any = changed
        step, rest = _first(target, path)
        while rest:
            if isinstance(target, dict) and not isinstance(target.get(step), list if rest.startswith('[') else dict):
                if value is REMOVE:
                    break
                target[step] = {}
            target = target[step]
            step, rest = _first(target, rest)
        else:
            if value is not REMOVE:
                target[step] = copy.deepcopy(value)
            elif step in (target if isinstance(target, dict) else range(len(target))):
                del target[step]
    return changed


def _first(entries: Any, path: str) -> tuple[Any, str]:
    """The first key or index of a YAML path, and the rest of the path; keys that are there may hold dots."""
    if path.startswith('['):
        index, _, rest = path[1:].partition(']')
        return int(index), rest.removeprefix('.')
    there = [key for key in entries if path == str(key) or path.startswith((f'{key}.', f'{key}['))]
    found = _KEY.match(path)
    key = max(there, key=lambda key: len(str(key))) if there else found[0] if found else path
    return key, path[len(str(key)):].removeprefix('.')


def _typed(value: Any) -> str:
    """A value as one types it into a YAML file."""
    return number(value) if isinstance(value, float) else flow(value)
