"""The small form of ``kill_resume.py``: five kills."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_a_run_that_is_killed_five_times_ends_like_one_that_is_not() -> None:
    script = Path(__file__).with_name('kill_resume.py')
    result = subprocess.run([sys.executable, str(script), '5'], capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout + result.stderr
    assert '5 kills' in result.stdout
    assert 'equal to the last bit' in result.stdout
    assert ', 0 unreadable files' in result.stdout
