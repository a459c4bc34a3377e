"""What to say about a component that could not be built."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.utils.bounds import TooLargeError
from mipkd_plugin.utils.errors import reason
from mipkd_plugin.utils.weight_files import WeightFileError


def failed_build(where: str, options: Mapping[str, Any], error: BaseException,
                 files: Iterable[str] = (), made: Any = None) -> tuple[str, str, str, dict[str, Any]]:
    """Describe why a component could not be built.

    Args:
        where: YAML path of its options.
        options: ``type`` and the arguments.
        error: What its constructor raised.
        files: The files that it read with ``torch.load``.
        made: Its class.

    Returns:
        YAML path, what is wrong, remedy in words, and as data.
    """
    name = options['type']
    if isinstance(error, TooLargeError):
        return where, f'{name} {error}', 'write smaller numbers for its size', {}
    named = next((key for key, value in options.items() if key != 'type' and isinstance(value, str) and value in
                  (getattr(error, 'path', None), getattr(error, 'filename', None), *files)), None)
    place = where if named is None else f'{where}.{named}'
    optional = named is not None and not _is_required(made, named)
    or_remove, gone = (', or remove this entry', {place: REMOVE}) if optional else ('', {})
    if isinstance(error, WeightFileError):
        return place, f'{error.path} {error.what}', error.remedy, {}
    if named is not None and isinstance(error, FileNotFoundError):
        return place, f'does not exist; looked for {error.filename}', f'fix the path{or_remove}', gone
    if named is not None:
        return (place, f'{options[named]} does not fit {name}: {reason(error)}',
                f'give the file that {name} was published with{or_remove}', gone)
    place = next((f'{where}.{key}' for key in options if str(error).startswith(f'{key} ')), where)
    return place, f'{name} cannot be built: {reason(error)}', 'fix the argument named in the message', {}


def other_argument(where: str, name: str, what: str, options: Mapping[str, Any],
                   made: Any) -> tuple[str, dict[str, Any]]:
    """The remedy for an argument that a constructor refuses: its default, if it has one and another value was given.

    Args:
        where: YAML path of the options.
        name: The argument, perhaps with the index of an entry of its list.
        what: What is wrong with it.
        options: ``type`` and the arguments.
        made: The class.

    Returns:
        In words and as data.
    """
    key = name.partition('[')[0]
    parameter = inspect.signature(made).parameters.get(key)
    if key in options and (parameter is None or what.startswith('goes with ')):  # no value of it would fit
        return 'remove it', {f'{where}.{key}': REMOVE}
    if parameter is None or parameter.default is parameter.empty:
        return f'fix this option of {options["type"]}', {}
    default = list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
    if options.get(key, default) == default:  # it is what is refused
        return f'write this option of {options["type"]}', {}
    fix = {f'{where}.{key}': default}
    return f'fix this option of {options["type"]}: {in_words(fix)}, the default, or another value that fits', fix


def _is_required(made: Any, name: str) -> bool:
    parameter = None if made is None else inspect.signature(made).parameters.get(name)
    return parameter is not None and parameter.default is parameter.empty
