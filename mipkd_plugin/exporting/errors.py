"""The error of an export, and packages that only exports need."""

from __future__ import annotations

import importlib
from typing import Any

from mipkd_plugin.utils.errors import MipkdError

EXTRA = "pip install 'mipkd-plugin[export]'"


class ExportError(MipkdError):
    """A network cannot be exported as asked."""


def needed(package: str, what: str) -> Any:
    """Import a package of the extra ``[export]``.

    Args:
        package: Name of the module.
        what: What needs it, for the message.

    Returns:
        The module.

    Raises:
        ExportError: It is not installed, or cannot be imported.
    """
    name = package.partition('.')[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition('.')[0] != name:
            raise ExportError(f'{what} needs {name}, which lacks the package {error.name}; run: {EXTRA}') from error
        raise ExportError(f'{what} needs the package {name}, which is not installed; run: {EXTRA}') from error
    except ImportError as error:
        raise ExportError(f'{what} needs {name}, which cannot be imported: {error}; install it again: {EXTRA}'
                          ) from error
