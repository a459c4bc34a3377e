"""How many cores this process may use."""

from __future__ import annotations

import os


def cores() -> int:
    """Number of cores that this process may use; a container or ``taskset`` may leave it only some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
