"""No traceback reaches the user, whatever the files hold; mutations.py tries many more."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from faults.mutations import KINDS, Work, make_work, try_many


@pytest.fixture(scope='module')
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    before = os.getcwd()
    try:
        yield make_work(tmp_path_factory.mktemp('work'))
    finally:
        os.chdir(before)


@pytest.mark.parametrize(('kind', 'share'), KINDS.items())
def test_mutated_files(work: Work, kind: str, share: int) -> None:
    found = try_many(work, kind, 3 * share)
    assert found['refused'] > 0
