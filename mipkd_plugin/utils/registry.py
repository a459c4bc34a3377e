"""Register classes with BasicSR, even if this package is imported twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from mipkd_plugin.utils.errors import MipkdError

if TYPE_CHECKING:
    from basicsr.utils.registry import Registry

Registered = TypeVar('Registered', bound=type)


class NameTakenError(MipkdError):
    """Another package has registered a class under this name."""


def register(registry: Registry) -> Callable[[Registered], Registered]:
    """Class decorator: like ``registry.register()``, but a second import of the same class replaces the first.

    Args:
        registry: ``ARCH_REGISTRY``, ``LOSS_REGISTRY`` or ``MODEL_REGISTRY``.

    Returns:
        The decorator.

    Raises:
        NameTakenError: Another package has taken the name.
    """
    def enter(cls: Registered) -> Registered:
        name = cls.__name__
        taken = registry._obj_map.get(name)
        if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise NameTakenError(f'the name {name!r} in the registry {registry._name!r} is taken by '
                                 f'{taken.__module__}; do not import that plug-in together with mipkd_plugin')
        registry._obj_map[name] = cls
        return cls

    return enter
