"""Every bad input is refused with one clear problem before anything is written, and its remedy works."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.harness import BadInput, assert_remedied, assert_said, refused
from faults.inputs import CASES


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_a_bad_input_is_refused_and_its_remedy_works(case: BadInput, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(case, tmp_path, monkeypatch, capsys)
    assert_said(case, message)
    if case.remedy:
        assert_remedied(case, tmp_path)


def test_names_are_unique() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
