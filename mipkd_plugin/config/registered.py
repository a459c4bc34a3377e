"""Look up a class by the name in an option file."""

from __future__ import annotations

from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, Registry

from mipkd_plugin.archs.supply import EXTRA, IN_SPANDREL, supplied, supplied_names
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, UsageError, reason


def lookup(registry: Registry, name: Any) -> Any:
    """The class or function of a name; None if there is none.

    Args:
        registry: The registry.
        name: A registered name, one that BasicSR registered as ``name_basicsr``, or a network that can be supplied.

    Returns:
        The class or function, or None.

    Raises:
        UsageError: The network is of an installed package that cannot be imported.
    """
    if not isinstance(name, str):
        return None
    entries = dict(iter(registry))
    found = entries.get(name, entries.get(f'{name}_basicsr'))
    if found is not None or registry is not ARCH_REGISTRY:
        return found
    try:
        return supplied(name)
    except (*FOREIGN_ERRORS, SyntaxError) as error:
        raise UsageError(f'the network {name} is in an installed package that cannot be imported: {reason(error)}; '
                         f'install what is missing, or the package again: {EXTRA}') from error


def names_in(registry: Registry) -> list[str]:
    """The names that :func:`lookup` finds."""
    names = [entry.removesuffix('_basicsr') for entry in dict(iter(registry))]
    return list(dict.fromkeys([*names, *(supplied_names() if registry is ARCH_REGISTRY else [])]))


def missing_package(registry: Registry, name: str) -> tuple[str, str] | None:
    """What is wrong with a name, and the remedy, if a package that is not installed has it."""
    if registry is not ARCH_REGISTRY or name not in IN_SPANDREL:
        return None
    return f'the network {name} is one of spandrel, which is not installed', f'install it: {EXTRA}'
