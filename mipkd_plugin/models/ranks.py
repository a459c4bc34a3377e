"""The processes of one run under a launcher: they decide alike, and end when one of them has died."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any

import psutil
from torch import Tensor, distributed

from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.stopping import leave_at_once

INTERVAL = 2.0
"""Seconds from one look at the other processes to the next."""
EXIT_CODE = 1


class RankError(MipkdError):
    """Another process of the run has died."""

    exit_code = EXIT_CODE
    of_one_rank = True


def ranks() -> int:
    """Number of processes of this run."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def over_all_ranks(flags: Tensor) -> Tensor:
    """The largest value of each flag over all ranks; a run of one process keeps its own.

    Returns:
        The same flags on each rank.
    """
    if ranks() > 1:
        distributed.all_reduce(flags, distributed.ReduceOp.MAX)
    return flags


class Peers:
    """The other ranks that run on this machine.

    A rank whose peer has died waits in its next exchange, with NCCL for many minutes. This looks at the processes
    themselves, so that no slow step is taken for a dead one. Ranks on other machines are left to the launcher.
    """

    def __init__(self) -> None:
        own = (socket.gethostname(), os.getpid(), psutil.Process().create_time())
        found: list[Any] = [own] * distributed.get_world_size()
        distributed.all_gather_object(found, own)
        processes = {rank: _process(*peer) for rank, peer in enumerate(found) if peer != own}
        self._processes = {rank: process for rank, process in processes.items() if process is not None}
        self._ended = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def dead(self) -> list[int]:
        """The ranks that have died."""
        return [rank for rank, process in self._processes.items() if not _lives(process)]

    def leave(self) -> None:
        """From here on, a peer that ends has done its work."""
        self._ended.set()

    def _watch(self) -> None:
        seen: list[int] = []
        while not self._ended.wait(INTERVAL):
            before, seen = seen, self.dead()
            if seen and before and not self._ended.is_set():
                leave_at_once(EXIT_CODE, death_of(seen[0]), always=True)


def death_of(rank: int) -> str:
    """What a rank says when another one has died."""
    return (f'rank {rank} of this run has died, and rank {distributed.get_rank()} stops with it. See above, or in the '
            'log of the launcher, what ended it (often the memory: a smaller batch_size_per_gpu helps); then start the '
            'same command again with --auto_resume')


def refuse_death(peers: Peers | None, error: BaseException) -> None:
    """Say that a peer has died, if that is the reason for an error.

    Args:
        peers: The other ranks.
        error: What was raised, such as gloo's "Connection closed by peer".

    Raises:
        RankError: A peer has died.
    """
    end = time.monotonic() + INTERVAL
    while peers is not None and time.monotonic() < end:
        if peers.dead():
            raise RankError(death_of(peers.dead()[0])) from error
        time.sleep(0.1)


def _process(host: str, pid: int, created: float) -> psutil.Process | None:
    """A process of this machine; None if it is on another, or in another container."""
    try:
        process = psutil.Process(pid)
        return process if host == socket.gethostname() and abs(process.create_time() - created) < 2 else None
    except psutil.Error:
        return None


def _lives(process: psutil.Process) -> bool:
    """Whether a process is still there; one that has ended and waits for its parent has died."""
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def watched_peers() -> Peers | None:
    """The other ranks, if this process is one of several."""
    if ranks() > 1:
        return Peers()
    return None
