"""Remedies as data: which entries of an option file to write or to remove, so that a program can apply them too."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import yaml


class _Removed:
    """The type of :data:`REMOVE`."""

    def __repr__(self) -> str:
        return 'REMOVE'


REMOVE = _Removed()
"""The value of an entry that is to be removed."""

_STEP = re.compile(r'([^.\[\]]+)|\[(\d+)\]')


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
        parts.append(f'remove {key}' if value is REMOVE else f'write {key}: {_flow(value)}')
    return ', and '.join(parts)


def remedied(opt: Mapping[str, Any], fix: Mapping[str, Any]) -> dict[str, Any]:
    """Apply a remedy.

    Args:
        opt: The options; left unchanged.
        fix: Value by YAML path such as ``train.distill_opt[0].taps``, or ``REMOVE``.

    Returns:
        A copy of the options with the remedy.

    Raises:
        KeyError: A path leads through an entry that does not exist and cannot be made.
    """
    changed: dict[str, Any] = copy.deepcopy(dict(opt))
    for path, value in fix.items():
        steps: list[Any] = [name or int(index) for name, index in _STEP.findall(path)]
        target: Any = changed
        for step in steps[:-1]:
            if isinstance(target, dict) and not isinstance(target.get(step), (dict, list)):
                target[step] = {}
            target = target[step]
        if value is REMOVE:
            del target[steps[-1]]
        else:
            target[steps[-1]] = copy.deepcopy(value)
    return changed


def _flow(value: Any) -> str:
    """A value as one types it into a YAML file."""
    if value is None:
        return '~'
    if isinstance(value, float):
        return f'{value:g}' if 'e' not in f'{value:g}' else f'!!float {value:g}'
    text: str = yaml.safe_dump(value, default_flow_style=True, width=1000, sort_keys=False)
    return text.removesuffix('\n').removesuffix('...').removesuffix('\n')
