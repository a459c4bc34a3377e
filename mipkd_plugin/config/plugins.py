"""The doors for classes of others: entry points, ``imports`` in an option file, ``--import`` on the command line.

Importing runs code, as any Python import does: name only files that you trust.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path

from mipkd_plugin.config.problems import OptionError, Options, Problem, located
from mipkd_plugin.utils.errors import MipkdError

GROUP = 'basicsr.plugins'
_IMPORT_ERRORS = (ImportError, SyntaxError, ArithmeticError, AssertionError, AttributeError, LookupError,
                  NameError, OSError, RuntimeError, TypeError, ValueError)


class PluginError(MipkdError):
    """An installed plug-in cannot be imported."""


def load_plugins(opt: Options | None = None, named: Sequence[str] = ()) -> None:
    """Import everything that registers classes of others.

    Args:
        opt: Options; their ``imports`` are files beside the option file, files in the working directory, or modules.
        named: The same, from the command line.

    Raises:
        PluginError: An installed package of the entry-point group ``basicsr.plugins`` cannot be imported.
        OptionError: An entry of ``imports`` or ``--import`` cannot be imported; all of them are named.
    """
    _load_entry_points()
    entries = [(f'--import {entry}', entry) for entry in named]
    folders = [Path.cwd()]
    if opt is not None:
        if opt.source is not None:
            folders.insert(0, opt.source.resolve().parent)
        found = opt.get('imports')
        if found is not None and not isinstance(found, list):
            raise OptionError(located([Problem('imports', f'must be a list of files or modules, not {found!r}',
                                               'write imports: [my_method.py]')], opt), opt.source)
        entries += [(f'imports[{index}]', entry) for index, entry in enumerate(found or [])]
    problems = [problem for where, entry in entries for problem in [_load(where, entry, folders)] if problem]
    if problems:
        raise OptionError(problems if opt is None else located(problems, opt), None if opt is None else opt.source)


def absolute_imports(opt: Options, named: Sequence[str] = ()) -> list[str]:
    """``imports`` and ``--import`` as an option file in another folder must name them."""
    folders = [*([opt.source.resolve().parent] if opt.source is not None else []), Path.cwd()]
    entries = [*named, *(opt.get('imports') or [])]
    return list(dict.fromkeys(str(_find(entry, folders) or entry) for entry in entries))


def _load_entry_points() -> None:
    for plugin in entry_points(group=GROUP):
        try:
            plugin.load()
        except _IMPORT_ERRORS as error:
            package = f' of {plugin.dist.name} {plugin.dist.version}' if plugin.dist is not None else ''
            raise PluginError(f'the BasicSR plug-in {plugin.value!r}{package} cannot be imported: '
                              f'{type(error).__name__}: {error}; fix or uninstall that package') from error


def _find(entry: str, folders: Sequence[Path]) -> Path | None:
    """The file that an entry names, or None if it names a module."""
    if not entry.endswith('.py'):
        return None
    return next((path.resolve() for path in (folder / Path(entry).expanduser() for folder in folders)
                 if path.is_file()), None)


def _load(where: str, entry: object, folders: Sequence[Path]) -> Problem | None:
    if not isinstance(entry, str) or not entry:
        return Problem(where, f'must be a file or a module, not {entry!r}', 'write my_method.py or my_package.archs')
    path = _find(entry, folders)
    if path is None and entry.endswith('.py'):
        looked = ' and in '.join(map(str, dict.fromkeys(folders)))
        return Problem(where, f'{entry} does not exist; looked in {looked}', 'fix the path, or put the file there')
    # by name and with its folder in the path, as Python runs a script: worker processes must find the module too
    name = entry if path is None else path.stem
    folder = str(folders[0] if path is None else path.parent)
    if folder not in sys.path:
        sys.path.append(folder)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
    except _IMPORT_ERRORS as error:
        return Problem(where, f'{entry} cannot be imported: {type(error).__name__}: {error}{_line(error, path)}',
                       'fix the file, or take it out' if path else 'install it, or name a file: my_method.py')
    other = getattr(module, '__file__', None)
    if path is not None and (other is None or Path(other).resolve() != path):
        return Problem(where, f'{entry} has the name of another module, {other or name}', f'rename {path}')
    return None


def _line(error: BaseException, path: Path | None) -> str:
    """Where in the file the error was raised, as ' (line 7)'."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)
             if path is not None and Path(frame.filename) == path]
    return f' (line {lines[-1]})' if lines else ''
