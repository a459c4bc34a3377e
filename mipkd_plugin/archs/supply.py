"""Architectures that ARCH_REGISTRY lacks, imported when an option file names one.

Two sources: BasicSR 1.4.2 itself, where a repository's own copy of ``basicsr`` has fewer architectures; and spandrel
(the extra ``[teacher]``), which holds most published ones. What is registered always comes first. Nothing is imported,
and spandrel is not looked for, until a name is unknown.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.compat.repositories import installed_basicsr

EXTRA = "pip install 'mipkd-plugin[teacher]'"
IN_SPANDREL = (
    'ATD', 'CRAFT', 'Compact', 'DAT', 'DCTLSA', 'DITN', 'DRCT', 'ESRGAN', 'FDAT', 'GRL', 'HAT', 'IPT', 'MMRealSR',
    'MoESR', 'MoSR', 'NAFNet', 'OmniSR', 'PLKSR', 'RGT', 'RealPLKSR', 'SAFMN', 'SAFMNBCIE', 'SCUNet', 'SPAN',
    'SeemoRe', 'SwiftSRGAN', 'Swin2SR', 'UpCunet2x', 'UpCunet3x', 'UpCunet4x')
"""Networks of spandrel 0.4.2 for super-resolution, for the message where it is not installed."""


def supplied(name: str) -> type[nn.Module] | None:
    """The architecture of a name that ARCH_REGISTRY lacks.

    Args:
        name: Name of the class, as in ``network_g: {type: SPAN}``.

    Returns:
        The class, or None if no source has it.

    Raises:
        ImportError: The source has it but cannot be imported.
    """
    module = _modules().get(name)
    if module is None:
        return None
    importlib.import_module(module)
    if module.startswith('basicsr.'):  # the import has registered it
        return dict(iter(ARCH_REGISTRY)).get(name)
    found = getattr(importlib.import_module(module), name)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def supplied_names() -> list[str]:
    """The names that can be supplied here."""
    return sorted(_modules())


def supply_unknown_names() -> None:
    """Let ``ARCH_REGISTRY.get``, and so ``build_network``, find what :func:`supplied` has."""
    if hasattr(ARCH_REGISTRY.get, 'registered_only'):
        return
    registered_only: Callable[..., Any] = ARCH_REGISTRY.get

    def get(name: str, *arguments: Any, **options: Any) -> Any:
        known = name in ARCH_REGISTRY or f'{name}_basicsr' in ARCH_REGISTRY
        found = None if known else supplied(name)
        return registered_only(name, *arguments, **options) if found is None else found

    get.registered_only = registered_only  # type: ignore[attr-defined]  # marks the change
    ARCH_REGISTRY.get = get


@cache
def _modules() -> dict[str, str]:
    """The module of each name, read from the sources' files without importing them."""
    found: dict[str, str] = {}
    spec = importlib.util.find_spec('spandrel')
    for folder in (spec.submodule_search_locations or [] if spec is not None else []):
        for file in sorted(Path(folder, 'architectures').glob('*/__init__.py')):
            for name in _exported(file):
                found.setdefault(name, f'spandrel.architectures.{file.parent.name}')
    basicsr = installed_basicsr()
    for file in sorted(basicsr.glob('archs/*_arch.py')) if basicsr is not None else []:
        found.update(dict.fromkeys(_registered(file), f'basicsr.archs.{file.stem}'))
    return found


def _exported(file: Path) -> list[str]:
    """The names in ``__all__`` of a package of spandrel that are networks, not spandrel's description of them."""
    for node in ast.parse(file.read_text(encoding='utf-8')).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == '__all__':
            return [name for name in ast.literal_eval(node.value) if not name.endswith('Arch')]
    return []


def _registered(file: Path) -> list[str]:
    """The classes that a file of BasicSR registers."""
    return [node.name for node in ast.parse(file.read_text(encoding='utf-8')).body
            if isinstance(node, ast.ClassDef) and any('ARCH_REGISTRY' in ast.unparse(d) for d in node.decorator_list)]
