"""A disk that is soon full."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 900 KB."""
    folder = tmp_path / 'disk'
    folder.mkdir()
    mounted = shutil.which('mount') is not None and subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=900k', 'tmpfs', str(folder)], capture_output=True).returncode == 0
    if not mounted:
        pytest.skip('no right to mount a tmpfs')
    yield folder
    os.chdir(tmp_path)
    subprocess.run(['umount', '-l', str(folder)], check=True)
