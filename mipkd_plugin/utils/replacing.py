"""Replacing functions of BasicSR, for a while or for good."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(place: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Inside the block, attributes of a module or a class have other values.

    Args:
        place: The module or class.
        values: New value by name; those that the place lacks are left out.
    """
    before = {name: getattr(place, name) for name in values if hasattr(place, name)}
    try:
        for name in before:
            setattr(place, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(place, name, value)


def replace_everywhere(package: str, name: str, old: Any, new: Any) -> None:
    """Replace a function in all modules of a package that have imported it by its name.

    Args:
        package: Name of the package.
        name: Name of the function.
        old: The function to replace.
        new: What to put in its place.
    """
    for module_name, module in list(sys.modules.items()):
        if module_name.partition('.')[0] == package and vars(module).get(name) is old:
            setattr(module, name, new)
