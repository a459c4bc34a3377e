"""Remedies as data: every place in the code that gives one, and what is left after it has been applied."""

from __future__ import annotations

import ast
import functools
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import pytest
from basicsr.archs import build_network
from helpers import MODULES, PACKAGE, tiny_options, write_image_pairs

from faults.harness import as_test, nothing
from mipkd_plugin import config
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.compare.block import results_folder
from mipkd_plugin.compare.checks import EQUAL_TIME
from mipkd_plugin.config.problems import Problem
from mipkd_plugin.config.remedies import remedied
from mipkd_plugin.utils.launcher import NEEDED

Check = Callable[[config.Options], list[Problem]]
CONCRETE = re.compile(r'(write [\w.]+: [^…]*$|remove it\b|did you mean )')
"""How a remedy begins that a program can apply, and so must be given as data too."""
_NAMES = {'ctx.add': 4, 'Problem': 5, 'config.Problem': 5}
"""What notes a problem, and the number of arguments with which the last one is ``fix``."""


class Site(NamedTuple):
    """A call that notes a problem: file in the package, first and last line, whether it gives a remedy as data."""

    file: str
    first: int
    last: int
    fixes: bool
    texts: tuple[str, ...]


@functools.cache
def sites() -> list[Site]:
    """All calls in the package that note a problem."""
    found = []
    for path in MODULES.values():
        file = str(path.relative_to(PACKAGE))
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Call) and file != 'config/problems.py' and ast.unparse(node.func) in _NAMES:
                found.append(_site(file, node))
    return found


def _site(file: str, call: ast.Call) -> Site:
    named = {keyword.arg: keyword.value for keyword in call.keywords}
    fixes = ('fix' in named or len(call.args) >= _NAMES[ast.unparse(call.func)] or
             ast.unparse(call.func) == 'ctx.add' and any(isinstance(argument, ast.Starred) for argument in call.args))
    remedy = named.get('remedy', call.args[2] if len(call.args) > 2 else None)
    return Site(file, call.lineno, call.end_lineno or call.lineno, fixes, tuple(_texts(remedy)))


def _texts(node: ast.expr | None) -> Iterator[str]:
    """The texts that an expression may give, with ``x`` for what is only known later."""
    if isinstance(node, ast.IfExp):
        yield from (*_texts(node.body), *_texts(node.orelse))
    elif isinstance(node, ast.JoinedStr):
        yield ''.join(str(part.value) if isinstance(part, ast.Constant) else 'x' for part in node.values)
    elif isinstance(node, ast.Constant):
        yield str(node.value)
    elif isinstance(node, ast.BinOp):
        yield ''.join(text for side in (node.left, node.right) for text in list(_texts(side))[:1])
    elif node is not None:
        yield 'x'


class Mistake(NamedTuple):
    """A mistake whose remedy is data.

    Attributes:
        name: For the test's name.
        where: YAML path of the one problem, or those of all.
        entries: Value by YAML path, written into the options of a tiny training.
        spoil: Changes files in the folder that holds ``HR``, ``LRbicx2`` and ``teacher.pth``.
        check: What finds the problems; behind a space, how.
        patch: What to change around the check.
    """

    name: str
    where: str | tuple[str, ...]
    entries: Mapping[str, Any] = {}
    spoil: Callable[[Path], object] = nothing
    check: str = 'training'
    patch: Callable[[pytest.MonkeyPatch], object] = lambda patch: None


def problems_of(opt: config.Options, check: str) -> list[Problem]:
    """The problems that a check finds: of a training, a test, a script of one's own, a comparison, or imports."""
    kind, _, flag = check.partition(' ')
    try:
        if kind == 'comparison':
            read_comparison(opt, probe='none', **{'ablate': {'ablate': (None, {})}, 'equal': {
                'methods': ['logits', EQUAL_TIME]}}.get(flag, {}))
        elif kind == 'script':
            config.build_distillation(opt, build_network(dict(opt['network_g'])))
        elif kind == 'table':
            results_folder(opt)
        elif kind == 'imports':
            config.load_plugins(opt)
        else:
            with mock.patch.dict(os.environ, dict.fromkeys(NEEDED.get(flag, ()), '0')):
                return config.check_options(
                    opt, is_train=kind == 'training', probe='full' if flag in ('full', 'resume') else 'none',
                    auto_resume=flag == 'resume', launcher=flag if flag in NEEDED else 'none').problems
    except config.OptionError as error:
        return error.problems
    return []


def applied(case: Mistake, folder: Path) -> set[tuple[str, int]]:
    """Make a mistake, apply its remedy, and assert that no problem is left.

    Returns:
        Where in the package the remedy came from: (file, line).
    """
    write_image_pairs(folder)
    opt = tiny_options(folder)
    opt = remedied(as_test(opt, folder) if case.check.startswith('test') else opt, case.entries)
    case.spoil(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        case.patch(patch)
        with noted() as origins:
            found = problems_of(config.Options(opt, folder / 'options.yml'), case.check)
        wheres = [case.where] if isinstance(case.where, str) else list(case.where)
        assert [problem.where for problem in found] == wheres, list(map(str, found))
        better = opt
        for problem in found:
            assert problem.fix, f'no remedy as data: {problem}'
            assert problem.remedy
            better = remedied(better, problem.fix)
        left = problems_of(config.Options(better, folder / 'options.yml'), case.check)
        assert not left, f'{[problem.fix for problem in found]} leaves: {list(map(str, left))}'
    return {place for problem in found for place in origins.get(problem.what, ())}


@contextmanager
def noted() -> Iterator[dict[str, set[tuple[str, int]]]]:
    """Inside the block, keep where in the package each problem with a remedy as data was noted, by its text."""
    origins: dict[str, set[tuple[str, int]]] = {}
    before = Problem.__init__

    def init(self: Problem, *args: Any, **named: Any) -> None:
        before(self, *args, **named)
        frame = sys._getframe(1)
        while frame is not None and (not frame.f_code.co_filename.startswith(str(PACKAGE))
                                     or frame.f_code.co_filename.endswith('config/problems.py')):
            frame = frame.f_back
        if frame is not None and self.fix:
            place = str(Path(frame.f_code.co_filename).relative_to(PACKAGE)), frame.f_lineno
            origins.setdefault(self.what, set()).add(place)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, '__init__', init)
        yield origins
