"""What to say about a component that could not be built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mipkd_plugin.utils.bounds import TooLargeError
from mipkd_plugin.utils.errors import reason
from mipkd_plugin.utils.weight_files import WeightFileError


def failed_build(where: str, options: Mapping[str, Any], error: BaseException,
                 files: Iterable[str] = ()) -> tuple[str, str, str]:
    """Describe why a component could not be built.

    Args:
        where: YAML path of its options.
        options: ``type`` and the arguments.
        error: What its constructor raised.
        files: The files that it read with ``torch.load``.

    Returns:
        YAML path, what is wrong, remedy.
    """
    name = options['type']
    if isinstance(error, TooLargeError):
        return where, f'{name} {error}', 'write smaller numbers for its size'
    named = next((key for key, value in options.items() if key != 'type' and isinstance(value, str) and value in
                  (getattr(error, 'path', None), getattr(error, 'filename', None), *files)), None)
    place = where if named is None else f'{where}.{named}'
    if isinstance(error, WeightFileError):
        return place, f'{error.path} {error.what}', error.remedy
    if named is not None and isinstance(error, FileNotFoundError):
        return place, f'does not exist; looked for {error.filename}', 'fix the path, or remove this entry'
    if named is not None:
        return (place, f'{options[named]} does not fit {name}: {reason(error)}',
                f'give the file that {name} was published with, or remove this entry')
    place = next((f'{where}.{key}' for key in options if str(error).startswith(f'{key} ')), where)
    return place, f'{name} cannot be built: {reason(error)}', 'fix the argument named in the message'
