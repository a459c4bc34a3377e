"""The doors for classes of others: entry points, ``imports`` in an option file, ``--import`` on the command line.

Importing runs code, as any Python import does: name only files that you trust.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path

from mipkd_plugin.config.problems import Options, Problem, require_clean
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError

GROUP = 'basicsr.plugins'
_PACKAGE = Path(__file__).resolve().parents[1]
_IMPORT_ERRORS = (*FOREIGN_ERRORS, SyntaxError, SystemExit)  # a script without its main guard ends the process


class PluginError(MipkdError):
    """An installed plug-in cannot be imported."""


def load_plugins(opt: Options | None = None, named: Sequence[str] = ()) -> None:
    """Import all plug-ins. Writes nothing, not even ``__pycache__``.

    Args:
        opt: Options; their ``imports`` are files beside the option file, files in the working directory, or modules.
            ``named`` joins them, so that option files derived from these import the same.
        named: Files in the working directory, files beside the option file, or modules: from the command line.

    Raises:
        PluginError: An installed package of the entry-point group ``basicsr.plugins`` cannot be imported.
        OptionError: An entry of ``imports`` or ``--import`` cannot be imported; all of them are named.
    """
    _load_entry_points()
    folders = _folders(opt)
    problems = [_load(f'--import {entry}', entry, folders[::-1]) for entry in named]
    if opt is not None:
        found = opt.get('imports')
        if found is not None and not isinstance(found, list):
            named_one = isinstance(found, str) and found != ''
            remedy = f'write imports: [{found}]' if named_one else 'remove it, or write imports: [my_method.py]'
            problems.append(Problem('imports', f'must be a list of files or modules, not {found!r}', remedy,
                                    fix={'imports': [found] if named_one else REMOVE}))
            found = []
        problems += [_load(f'imports[{index}]', entry, folders) for index, entry in enumerate(found or [])]
    require_clean([problem for problem in problems if problem is not None], {} if opt is None else opt)
    if opt is not None and named:
        opt['imports'] = [*(_absolute(entry, folders[::-1]) for entry in named), *(opt.get('imports') or [])]


def absolute_imports(opt: Options) -> list[str]:
    """``imports`` of options whose plug-ins are loaded, as an option file in another folder must name them."""
    entries = opt.get('imports')
    return list(dict.fromkeys(_absolute(entry, _folders(opt)) for entry in entries or [] if isinstance(entry, str)))


def _folders(opt: Options | None) -> list[Path]:
    """Where files are looked for: the folder of the option file, then the working directory."""
    beside = [opt.source.resolve().parent] if opt is not None and opt.source is not None else []
    return list(dict.fromkeys([*beside, Path.cwd()]))


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
    return next((path.resolve() for path in (folder / os.path.expanduser(entry) for folder in folders)
                 if os.path.isfile(path)), None)


def _module_of(path: Path) -> tuple[str, Path]:
    """Name of a file as a module, and the folder to look for it: a file in a package keeps the package's name."""
    names, folder = [] if path.stem == '__init__' else [path.stem], path.parent
    while os.path.isfile(folder / '__init__.py') and folder.name.isidentifier():
        names.insert(0, folder.name)
        folder = folder.parent
    return '.'.join(names), folder


def _absolute(entry: str, folders: Sequence[Path]) -> str:
    """An entry as it can be named from elsewhere: the path of a file, or of a module in one of the folders."""
    path = _find(entry, folders)
    if path is None:
        file = getattr(sys.modules.get(entry), '__file__', None)
        if isinstance(file, str) and file.endswith('.py'):
            name, folder = _module_of(Path(file).resolve())
            path = Path(file).resolve() if name == entry and folder in folders else None
    return entry if path is None else str(path)


def _load(where: str, entry: object, folders: Sequence[Path]) -> Problem | None:
    if not isinstance(entry, str) or not entry:
        return Problem(where, f'must be a file or a module, not {entry!r}', 'write my_method.py or my_package.archs',
                       fix={where: REMOVE} if where.startswith('imports') else {})
    path = _find(entry, folders)
    if path is None and entry.endswith('.py'):
        return Problem(where, f'{entry} does not exist; looked in {" and in ".join(map(str, folders))}',
                       'fix the path, or put the file there')
    if path is not None and '.' in path.stem:
        return Problem(where, f'{entry} has a dot in its name, so that Python cannot import it',
                       f'rename it to {path.stem.replace(".", "_")}.py')
    # by name and with its folder in the path, as Python runs a script: worker processes must find the module too
    name, searched = (entry, list(folders)) if path is None else (_module_of(path)[0], [_module_of(path)[1]])
    sys.path += [str(folder) for folder in searched if str(folder) not in sys.path]
    importlib.invalidate_caches()
    try:
        with _nothing_compiled():
            name = name if path is None else _name_from_above(name, path)
            other = None if path is None else _other_module(name, path)
            if other is not None:
                return Problem(where, f'{entry} has the name of another module, {other}', f'rename {path}')
            module = importlib.import_module(name)
    except _IMPORT_ERRORS as error:
        what = f'{entry} cannot be imported: {type(error).__name__}: {error}{_place(error, searched)}'
        return Problem(where, what, _remedy(error, entry))
    if getattr(module, '__file__', None) is None and hasattr(module, '__path__'):
        return Problem(where, f'{entry} is a folder without __init__.py: nothing in it was imported',
                       'name a file in it, or add __init__.py')
    return None


def _name_from_above(name: str, path: Path) -> str:
    """``archs.x_arch`` as ``plksr.archs.x_arch``, if the package ``archs`` imports itself under that name."""
    try:
        importlib.util.find_spec(name)  # imports the packages around the file
    except ModuleNotFoundError as error:
        above = next((folder for folder in path.parents if folder.name == error.name), None)
        if above is not None and name.partition('.')[0] != error.name:
            sys.path += [str(above.parent)] if str(above.parent) not in sys.path else []
            return '.'.join(path.relative_to(above.parent).with_suffix('').parts)
    return name


def _other_module(name: str, path: Path) -> str | None:
    """The file (or the built-in module) that Python would import under the name of a file, if it is another one."""
    if name in sys.modules:
        origin = getattr(sys.modules[name], '__file__', None)
    else:
        spec = importlib.util.find_spec(name)
        origin = None if spec is None else spec.origin
    if origin is None or not os.path.isfile(origin):
        return name
    return None if Path(origin).resolve() == path else origin


@contextmanager
def _nothing_compiled() -> Iterator[None]:
    """Inside the block, Python writes no ``__pycache__`` beside what it imports; the working directory stays."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    folder = Path.cwd()
    try:
        yield
    finally:
        sys.dont_write_bytecode = before
        os.chdir(folder)


def _place(error: BaseException, folders: Sequence[Path]) -> str:
    """Where in the files of these folders an error was raised, as `` (spkd.py, line 7)``."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename).resolve()
        if (any(file.is_relative_to(folder) for folder in folders) and not file.is_relative_to(_PACKAGE)
                and 'site-packages' not in file.parts and os.path.isfile(file)):  # Python's own importlib has no file
            return f' ({file.name}, line {frame.lineno})'
    return ''


def _remedy(error: BaseException, entry: str) -> str:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing and f'{entry}.'.startswith(f'{missing}.'):
        return 'fix the name, install the package, or name a file: my_method.py'
    if missing:
        return f'install {missing.partition(".")[0]}, or do without it in {entry}'
    if isinstance(error, SystemExit):
        return f"move the program part of {entry} under if __name__ == '__main__':"
    return f'fix {entry}, or take it out'
