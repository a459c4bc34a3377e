"""The house rules: imports go one way without a circle, siblings stay apart, files and functions stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers import MODULES, PACKAGE, REPO

FILES = list(MODULES.values())
ORDER = ['__main__', 'cli', 'commands', 'recipes', 'pages', 'compare', 'preparation', 'models', 'config', 'checkpoints',
         'exporting', 'testing', 'losses', 'inference', 'recognition', 'archs', 'networks', 'data', 'utils']
"""The rooms. A room imports from the rooms behind it, never from those before it."""
FREE = {'compat', 'version'}
"""They import nothing of ours, and every room may import them."""


def room(module: str) -> str:
    return module.split('.')[1] if '.' in module else ''


def nodes(tree: ast.AST, everywhere: bool) -> Iterator[ast.AST]:
    """All nodes that run; at import time only, unless ``everywhere``. Those under TYPE_CHECKING never run."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test):
            continue
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not everywhere:
            continue
        yield node
        yield from nodes(node, everywhere)


def imports(path: Path, everywhere: bool = True) -> set[str]:
    """Modules of ours that a file imports."""
    names: set[str] = set()
    for node in nodes(ast.parse(path.read_text(encoding='utf-8')), everywhere):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            inner = {f'{node.module}.{alias.name}' for alias in node.names} & set(MODULES)
            names |= inner or {node.module or ''}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith('mipkd_plugin.')}


@pytest.mark.parametrize('module', [name for name in MODULES if name != 'mipkd_plugin'])
def test_imports_go_one_way(module: str) -> None:
    here = room(module)
    for name in imports(MODULES[module]):
        there = room(name)
        if there == here or there in FREE:
            continue
        assert here in ORDER, f'{module} may import nothing of ours, but imports {name}'
        assert there in ORDER, name
        assert ORDER.index(there) > ORDER.index(here), f'{module} imports {name} against the one direction'


def test_every_room_is_in_the_order() -> None:
    assert {room(name) for name in MODULES} - {''} <= {*ORDER, *FREE}


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {name: {other for other in imports(path, everywhere=False) if other != name and other in MODULES}
             for name, path in MODULES.items() if path.name != '__init__.py'}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(' imports '.join(error.args[1]))


@pytest.mark.parametrize(('folder', 'pattern'), [('archs', '*_arch'), ('losses', '*_loss'), ('commands', '*')])
def test_siblings_never_import_each_other(folder: str, pattern: str) -> None:
    """A sibling is a module, or a package with all that is in it."""
    siblings: dict[str, set[str]] = {}
    for module in MODULES:
        name = f'{module}..'.split('.')[2]
        if room(module) == folder and name not in ('', 'shared') and fnmatch(name, pattern):
            siblings.setdefault(name, set()).add(module)
    assert len(siblings) >= 3
    for name, own in siblings.items():
        others = set().union(*siblings.values()) - own
        for module in own:
            assert not imports(MODULES[module]) & others, (name, module)


@pytest.mark.parametrize('path', [*FILES, *(REPO / 'options').glob('*.py')], ids=lambda f: str(f.relative_to(REPO)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding='utf-8')
    assert text.count('\n') <= 260
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ''
            length = node.end_lineno - node.lineno + 1 - docstring.count('\n')
            assert length <= 50, f'{path.name}: {node.name} has {length} lines'


def test_file_names_of_tests_are_unique() -> None:
    """pytest cannot collect two files of one name, except from a package."""
    paths = [path for path in (REPO / 'tests').rglob('test_*.py') if not (path.parent / '__init__.py').exists()]
    assert not [str(path) for path in paths for other in paths if path.name == other.name and path != other]


def test_no_assert_for_users() -> None:
    for path in FILES:
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))), path


@pytest.mark.parametrize('folder', ['archs', 'losses', 'models', 'config', 'checkpoints', 'compare', 'testing', 'data'])
def test_rooms_import_basicsr_first(folder: str) -> None:
    """Importing basicsr registers our classes, so it must not happen in the middle of importing one of them."""
    tree = ast.parse((PACKAGE / folder / '__init__.py').read_text(encoding='utf-8'))
    first = next(node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom)))
    assert ast.unparse(first) == 'import basicsr'
