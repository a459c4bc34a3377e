"""Ctrl-C, SIGTERM and SIGHUP: a training finishes its step and saves, everything else stops at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from mipkd_plugin.utils.launcher import is_first_rank

SIGNALS = tuple(signal.Signals[name] for name in ('SIGINT', 'SIGTERM', 'SIGHUP') if name in signal.Signals.__members__)
TOGETHER = 0.5
"""Seconds after the first signal in which others belong to it. ``timeout`` sends two at once."""
TOGETHER_FROM_A_LAUNCHER = 5.0
"""The same for a process whose launcher passes on what the terminal has sent already."""


class Stopped(KeyboardInterrupt):  # noqa: N818  (no error: somebody asked for it)
    """A signal has stopped the command. A KeyboardInterrupt, so that everything treats it as Ctrl-C.

    Args:
        signum: The signal.
        message: What was done, and how to go on; '' if there is nothing to say.
    """

    def __init__(self, signum: int, message: str = '') -> None:
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells count: 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP."""
        return 128 + self.signum

    def __str__(self) -> str:
        return self.args[0] or ('interrupted' if self.signum == signal.SIGINT else f'stopped by {name_of(self.signum)}')


def name_of(signum: int) -> str:
    """A signal in words: ``Ctrl-C``, ``SIGTERM``, ``SIGHUP``."""
    return 'Ctrl-C' if signum == signal.SIGINT else signal.Signals(signum).name


class Stop:
    """What signals have asked for.

    Attributes:
        signum: The first signal, or None.
        is_later: Whether the work in progress must be finished first. If not, a signal raises :class:`Stopped`.
        promise: What is done before the stop, for the message.
    """

    def __init__(self, together: float = TOGETHER) -> None:
        self.signum: int | None = None
        self.is_later = False
        self.promise = 'finishing this iteration, then saving'
        self._together = together
        self._time = 0.0
        self._pid = os.getpid()

    def on_signal(self, signum: int, frame: FrameType | None = None) -> None:
        """Take a signal; the second one ends the process.

        Raises:
            Stopped: There is no work to finish.
        """
        if os.getpid() != self._pid:
            return  # a worker that was forked from this process: its parent tells it when to end
        if self.signum is None:
            self.signum, self._time = signum, time.monotonic()
            if not self.is_later:
                raise Stopped(signum)
            _say(f'{name_of(signum)}: {self.promise}. Once more stops at once.')
        elif time.monotonic() - self._time > self._together:
            leave_at_once(128 + signum, f'{name_of(signum)} again: stopped at once; checkpoints from before stay')


def leave_at_once(code: int, message: str, always: bool = False) -> None:
    """End this process and its worker processes now, whatever they do.

    Args:
        code: Exit code.
        message: For stderr.
        always: Whether ranks behind the first one write it too.
    """
    with suppress(OSError):
        _say(message, always)
        sys.stdout.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)


def report(error: BaseException) -> None:
    """Write the message of an error that ends the command; if all ranks have the same to say, one does."""
    if is_first_rank() or getattr(error, 'of_one_rank', False):
        try:
            sys.stderr.write(f'{error}\n')
            sys.stderr.flush()
        except OSError:  # the terminal, or the process that reads this, is gone: keep the exit code all the same
            nowhere = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(nowhere, descriptor)


def _say(text: str, always: bool = False) -> None:
    """Write to stderr past its buffer, which a signal may have interrupted."""
    if always or is_first_rank():
        with suppress(OSError):  # the terminal, or the process that reads this, is gone
            os.write(2, f'{text}\n'.encode())


@contextmanager
def listening(together: float = TOGETHER) -> Iterator[Stop]:
    """Inside the block, signals stop the command in order. Those that this process was told to ignore stay ignored.

    Args:
        together: Seconds after the first signal in which others belong to it.

    Yields:
        What signals have asked for.
    """
    stop, before = Stop(together), {}
    for signum in SIGNALS:
        if signal.getsignal(signum) not in (signal.SIG_IGN, None):  # nohup; or handled outside of Python
            with suppress(ValueError):  # only the main thread may: another one leaves signals as they are
                before[signum] = signal.signal(signum, stop.on_signal)
    try:
        yield stop
    finally:
        if stop.signum is None:  # else the process is about to end, and a second signal must not change how
            for signum, handler in before.items():
                signal.signal(signum, handler)
