"""One training run of a comparison: start or resume ``basicsr train`` in its own process."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, Popen

from mipkd_plugin.compare import run_folders
from mipkd_plugin.compare.logs import progress
from mipkd_plugin.compare.run_folders import EXPERIMENTS, RunError
from mipkd_plugin.compare.trials import Trial
from mipkd_plugin.utils import parent_watch
from mipkd_plugin.utils.locks import TakenError, alone, run_lock

# runs `basicsr` of this package; with -m Python would prefer a clone in the working directory
_PROGRAM = (f'import sys; sys.path[0] = {str(Path(__file__).resolve().parents[2])!r}; '
            'from mipkd_plugin.cli import basicsr_main; sys.exit(basicsr_main())')


class InterruptedRunError(RuntimeError):
    """Somebody stopped a run."""


class Runner:
    """Trains runs in child processes, which end with this process.

    Args:
        folder: Folder of the comparison.
        protocol_hash: Protocol hash of the comparison.
    """

    def __init__(self, folder: Path, protocol_hash: str) -> None:
        self.folder = folder
        self.protocol_hash = protocol_hash
        self._children: set[Popen[str]] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._reading_end, self._writing_end = os.pipe()

    def train(self, trial: Trial, on_iteration: Callable[[int], object]) -> None:
        """Train a run to its end; start from its last training state if there is one.

        Args:
            trial: The run.
            on_iteration: Function that gets the iteration of each progress line.

        Raises:
            RunError: The training failed; the message holds the end of its output.
            InterruptedRunError: :meth:`stop` was called.
        """
        try:
            with alone(EXPERIMENTS / '.locks' / trial.name):
                code, tail = self._train(trial, on_iteration)
        except TakenError as error:
            raise RunError(f'another mipkd is training {trial.name} (a comparison and its ablations share runs); '
                           'run this command again when it has finished') from error
        if self._stopped:
            raise InterruptedRunError(f'{trial.name} was interrupted')
        if code:
            raise RunError(f'{trial.name} ended with code {code}; the end of its output:\n{"".join(tail).rstrip()}')

    def _train(self, trial: Trial, on_iteration: Callable[[int], object]) -> tuple[int, Sequence[str]]:
        """Train a run; return the exit code and the end of the output."""
        _refuse_running(trial)
        run_folders.refuse_other_options(trial, self.protocol_hash)
        resume = ['--auto_resume'] if run_folders.can_resume(trial) else []
        commit = run_folders.commit_of(trial) if resume else run_folders.code_version()
        before = run_folders.hardware_of(trial)
        if resume and before != run_folders.hardware(trial):
            raise RunError(f'{trial.name} started on {before}, but this is {run_folders.hardware(trial)}, which gives '
                           f'other results; resume the run there, or move {run_folders.run_folder(trial)} away')
        options = run_folders.write_options(trial, self.folder, commit, self.protocol_hash)
        child = self._start([sys.executable, '-c', _PROGRAM, 'train', '-opt', str(options), *resume])
        tail: deque[str] = deque(maxlen=12)
        try:
            for line in child.stdout or ():
                tail.append(line)
                iteration = progress(line)
                if iteration is not None:
                    on_iteration(iteration)
        except BaseException:
            child.terminate()
            raise
        finally:
            code = child.wait()
            with self._lock:
                self._children.discard(child)
        return code, tail

    def stop(self) -> None:
        """Stop all runs: each finishes its iteration and saves, so that it can resume."""
        with self._lock:
            self._stopped = True
            for child in self._children:
                child.terminate()

    def _start(self, command: list[str]) -> Popen[str]:
        # one thread for any number of jobs: another order of summation would change the results
        environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'MKL_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1',
                       **parent_watch.environment(self._reading_end)}
        passed = (self._reading_end, ) if os.name == 'posix' else ()
        with self._lock:
            if self._stopped:
                raise InterruptedRunError('no new run starts after a stop')
            child = Popen(command, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, text=True, errors='replace',
                          env=environment, pass_fds=passed)
            self._children.add(child)
        return child


def _refuse_running(trial: Trial) -> None:
    """Refuse a run that somebody trains by hand, or whose process still saves after its comparison was killed.

    Raises:
        RunError: Its process is there.
    """
    path = run_lock(EXPERIMENTS, trial.name)
    try:
        with alone(path, keep=False) if os.path.exists(path) else nullcontext():
            pass
    except TakenError as error:
        raise RunError(f'{error.holder or "another process"} is training {trial.name}; run this command again when it '
                       'has finished') from error
