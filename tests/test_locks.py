"""A lock ends with the process that took it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPO

from mipkd_plugin.utils.locks import TakenError, alone

HOLDS_AND_FORKS = """
import os, sys, time
from pathlib import Path
from mipkd_plugin.utils.locks import alone

with alone(Path('x.lock')):
    if not os.fork():
        print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs os.fork')
def test_a_forked_process_does_not_hold_it_on(tmp_path: Path) -> None:
    """Data workers live on for some seconds after the training that they belong to was killed."""
    holder = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', HOLDS_AND_FORKS], cwd=tmp_path,
                              stdout=subprocess.PIPE, text=True, env={**os.environ, 'PYTHONPATH': str(REPO)})
    with holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        try:
            with pytest.raises(TakenError, match='is locked'), alone(tmp_path / 'x.lock'):
                pass
            holder.kill()
            holder.wait()
            os.kill(child, 0)  # it is still there
            with alone(tmp_path / 'x.lock'):
                pass
        finally:
            os.kill(child, signal.SIGKILL)
