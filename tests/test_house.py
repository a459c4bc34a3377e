"""The house rules: imports go one way, siblings stay apart, files stay short."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from conftest import REPO

PACKAGE = REPO / 'mipkd_plugin'
FILES = sorted(PACKAGE.rglob('*.py'))
# A room may import from the rooms that stand behind it.
ORDER = ['__main__', 'cli', 'demo', 'demo_report', 'inspection', 'compare', 'textures', 'texture_sheet', 'prepare',
         'models', 'config', 'losses', 'archs', 'meta_step', 'lookahead', 'taps', 'trunk', 'features', 'step']
# These import nothing of ours, and may be imported by all.
FREE = {'compat', 'registration', 'version', 'downsample', 'require', 'lifeline', 'replay'}


def room(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix('').parts
    return parts[0]


def runtime_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, leaving out those under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    guarded = {id(inner) for node in ast.walk(tree)
               if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test) for inner in ast.walk(node)}
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            if node.module == 'mipkd_plugin':
                names |= {f'mipkd_plugin.{alias.name}' for alias in node.names}
            else:
                names.add(node.module or '')
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.startswith('mipkd_plugin.')}


@pytest.mark.parametrize('path', [f for f in FILES if f.name != '__init__.py' or f.parent != PACKAGE],
                         ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    here = room(path)
    for name in runtime_imports(path):
        there = name.split('.')[1]
        if there == here or there in FREE:
            continue
        assert here in ORDER, f'{path.name}: {here} may import nothing of ours, but imports {name}'
        assert there in ORDER, name
        assert ORDER.index(there) > ORDER.index(here), f'{path.name} imports {name} against the one direction'


@pytest.mark.parametrize('folder', ['archs', 'losses'])
def test_siblings_never_import_each_other(folder: str) -> None:
    for path in (PACKAGE / folder).glob('*_*.py'):
        if path.name == '__init__.py':
            continue
        siblings = {name for name in runtime_imports(path) if name.startswith(f'mipkd_plugin.{folder}.')}
        assert siblings <= {f'mipkd_plugin.{folder}.base'}, path


@pytest.mark.parametrize('path', FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding='utf-8')
    assert text.count('\n') <= 260
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            docstring = ast.get_docstring(node) or ''
            length = node.end_lineno - node.lineno + 1 - docstring.count('\n')
            assert length <= 55, f'{path.name}: {node.name} has {length} lines'


def test_no_assert_for_users() -> None:
    for path in FILES:
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text()))), path
