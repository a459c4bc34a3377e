"""Every remedy that a program can apply is given as data, and each is applied: the problem goes, and none comes."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.inputs import aggregate, remedies_compare, remedies_data, remedies_settings, several_teachers
from faults.remedy_harness import CONCRETE, Mistake, applied, sites

CASES: list[Mistake] = [*remedies_settings.CASES, *remedies_data.CASES, *remedies_compare.CASES,
                        *several_teachers.REMEDIES, *aggregate.REMEDIES]


@pytest.fixture(scope='module')
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix='mipkd_remedies_') as name:
        yield Path(name)


@functools.cache
def origins(number: int, folder: Path) -> set[tuple[str, int]]:
    """Where the remedy of a case comes from; each case is tried once."""
    return applied(CASES[number], Path(tempfile.mkdtemp(dir=folder)))


@pytest.mark.parametrize('number', range(len(CASES)), ids=[case.name for case in CASES])
def test_a_remedy_leaves_no_problem(number: int, folder: Path) -> None:
    assert origins(number, folder)


def test_every_remedy_that_can_be_data_is() -> None:
    bare = [f'{site.file}:{site.first}: {text}' for site in sites() if not site.fixes for text in site.texts
            if CONCRETE.match(text)]
    assert not bare


def test_every_problem_has_a_remedy() -> None:
    assert not [f'{site.file}:{site.first}' for site in sites() if not site.fixes and not any(site.texts)]


def test_every_remedy_as_data_is_applied(folder: Path) -> None:
    found = {origin for number in range(len(CASES)) for origin in origins(number, folder)}
    missed = [f'{site.file}:{site.first}' for site in sites() if site.fixes and not any(
        file == site.file and site.first <= line <= site.last for file, line in found)]
    assert not missed


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
