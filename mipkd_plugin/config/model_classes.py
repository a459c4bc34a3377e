"""Which class gives a model class a method, and whether BasicSR's own classes are those of BasicSR 1.4.2."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from mipkd_plugin.compat.repositories import installed_basicsr
from mipkd_plugin.config.keys import PARTS


def owner(cls: type | None, method: str) -> str:
    """Name of the class that gives ``cls`` a method, if that class is BasicSR's ``SRModel`` or one of its parts; or ''.

    Args:
        cls: A model class.
        method: Name of the method.

    Returns:
        The name; '' for a method of somebody else's class.
    """
    # mixins of ours call the next class
    classes = [c for c in (cls.__mro__ if cls is not None else ()) if method in vars(c)]
    own = all(is_known(c) for c in classes)
    return next((c.__name__ for c in classes if not c.__module__.startswith('mipkd_plugin.')), '') if own else ''


def is_known(cls: type) -> bool:
    """Whether our tables hold every key that a class itself reads; a copy of BasicSR may have another ``SRModel``."""
    if cls.__module__.startswith('mipkd_plugin.models.'):
        return True
    return cls.__name__ in PARTS and _as_installed(cls.__module__)


@cache
def _as_installed(module: str) -> bool:
    installed, copy = installed_basicsr(), getattr(sys.modules.get(module), '__file__', None)
    if installed is None or copy is None or not module.startswith('basicsr.'):
        return True
    original = installed.joinpath(*module.split('.')[1:]).with_suffix('.py')
    return original.is_file() and original.read_bytes().split() == Path(copy).read_bytes().split()
