"""Which class gives a model class a method."""

from __future__ import annotations

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
    own = all(c.__name__ in PARTS for c in classes)
    return next((c.__name__ for c in classes if c.__name__ not in ('DistillMixin', 'StudentMixin')), '') if own else ''
