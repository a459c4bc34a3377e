"""Repairs for repositories that build on BasicSR: those written for another version, and those with a copy of it.

With ``PYTHONPATH=repository`` the folder ``basicsr/`` of a repository comes before the installed BasicSR 1.4.2. Such a
copy is often an older one, and lacks what it does not need.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

COLOR_FUNCTIONS = ('rgb2ycbcr', 'bgr2ycbcr', 'ycbcr2rgb', 'ycbcr2bgr')


def matlab_functions_convert_colors() -> bool:
    """Supply ``rgb2ycbcr`` and its kin in ``basicsr.utils.matlab_functions``.

    BasicSR 1.4 moved them to ``basicsr.utils.color_util``; HAT, DRCT, SwinFIR and others still import them from the
    old place (no BasicSR issue known). The functions are the same.

    Returns:
        Whether a function was missing.
    """
    from basicsr.utils import matlab_functions

    missing = [name for name in COLOR_FUNCTIONS if not hasattr(matlab_functions, name)]
    if missing:
        from basicsr.utils import color_util

        for name in missing:
            setattr(matlab_functions, name, getattr(color_util, name))
    return bool(missing)


def missing_modules_from_installed_basicsr() -> bool:
    """Supply modules that a copy of BasicSR lacks, such as ``basicsr.models.swinir_model``, from the installed one.

    Copies lack what the repository does not need (SwinIRModel came with BasicSR 1.3.5), and ``basicsr/version.py``,
    which the installation makes (no BasicSR issue known). What the copy has is taken from the copy. SwinFIR and others
    import ``basicsr.losses.losses``, which BasicSR 1.4 split in two: it is put together again.

    Returns:
        Whether this is the first call.
    """
    if any(isinstance(finder, _InstalledBasicSR) for finder in sys.meta_path):
        return False
    sys.meta_path.append(_InstalledBasicSR())
    return True


class _InstalledBasicSR(importlib.abc.MetaPathFinder):
    """Finds a missing module of BasicSR after all other finders have failed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname == 'basicsr.losses.losses':
            return importlib.machinery.ModuleSpec(fullname, _OldLosses())
        installed = installed_basicsr() if fullname.startswith('basicsr.') else None
        if installed is None:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [str(installed.joinpath(*fullname.split('.')[1:-1]))])


class _OldLosses(importlib.abc.Loader):
    """Makes ``basicsr.losses.losses``, which BasicSR 1.4 split into ``basic_loss`` and ``gan_loss``."""

    def exec_module(self, module: ModuleType) -> None:
        from basicsr.losses import basic_loss, gan_loss

        module.__doc__ = 'Stand-in for a module that BasicSR 1.4 split.'
        for part in (basic_loss, gan_loss):
            vars(module).update({name: value for name, value in vars(part).items() if not name.startswith('__')})


def installed_basicsr() -> Path | None:
    """Folder of the installed BasicSR, if the imported ``basicsr`` is another one: a copy in a repository."""
    imported = getattr(sys.modules.get('basicsr'), '__file__', None)
    return None if imported is None else _installed(str(imported))


@cache
def _installed(imported: str) -> Path | None:
    """Folder of the installed BasicSR, if it is another one than the imported file ``basicsr/__init__.py``."""
    for found in distributions(name='basicsr'):
        folder = Path(str(found.locate_file('basicsr'))).resolve()
        if folder.is_dir() and folder != Path(imported).resolve().parent:
            return folder
    return None
