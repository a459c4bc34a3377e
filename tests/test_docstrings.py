"""The examples in docstrings run, and print what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
from helpers import MODULES


@pytest.mark.parametrize('module', [name for name, path in MODULES.items()
                                    if '>>>' in path.read_text(encoding='utf-8')])
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_examples() -> None:
    assert sum('>>>' in path.read_text(encoding='utf-8') for path in MODULES.values()) >= 6
