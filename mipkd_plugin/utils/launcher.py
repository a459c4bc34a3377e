"""The launcher that has started this process: which process it is, and of how many."""

from __future__ import annotations

import os
from collections.abc import Mapping

NEEDED: Mapping[str, tuple[str, ...]] = {
    'pytorch': ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT'),
    'slurm': ('SLURM_PROCID', 'SLURM_NTASKS', 'SLURM_NODELIST')}
"""What BasicSR reads in the environment, by launcher: the rank and the number of processes come first."""
_used = ['none']


def started_by(launcher: str) -> None:
    """Note the launcher of this process; only ``--launcher`` tells, as other programs set the same variables.

    Args:
        launcher: ``none``, ``pytorch`` or ``slurm``.
    """
    _used[0] = launcher


def is_first_rank() -> bool:
    """Whether this is the only process of a run, or the one of several that talks to the user."""
    names = NEEDED.get(_used[0])
    return names is None or os.environ.get(names[0], '0') == '0'


def world_size(launcher: str) -> int:
    """Number of processes of the run; 1 if the environment does not tell."""
    names = NEEDED.get(launcher)
    text = '1' if names is None else os.environ.get(names[1], '1')
    return max(int(text), 1) if text.isdecimal() else 1


def missing_variables(launcher: str) -> list[str]:
    """The variables that a launcher would have set, and that are missing or no numbers."""
    names = NEEDED.get(launcher, ())
    return [name for position, name in enumerate(names)
            if not (os.environ.get(name, '').isdecimal() if position < 2 else os.environ.get(name))]
