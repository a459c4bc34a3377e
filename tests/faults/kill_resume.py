"""Kill trainings at random moments, half of the time inside of a save, and resume them; print what has come of it.

Run as ``python tests/faults/kill_resume.py 100``. The exit code is 1 if a run could not resume, a file of a checkpoint
could not be read, progress was lost, or the final weights differ from those of a run that nobody killed.
"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2])]
from helpers import tiny_options, write_image_pairs  # noqa: E402
import training  # noqa: E402

import basicsr.train  # noqa: E402,F401  (loaded once here, instead of in each child)
import torch  # noqa: E402

from mipkd_plugin.checkpoints import writing  # noqa: E402

ITERATIONS, EVERY, LIMIT = 40, 2, 600.0
WRITES, NAMES = 20_000, 160
"""About as many steps a whole run makes in its saves: writes, and flushes and new names."""

UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, OSError)


def options(folder: Path) -> dict[str, Any]:
    """A tiny distillation that saves every second iteration, keeps three checkpoints and resumes exactly."""
    opt = tiny_options(folder)
    opt['datasets']['train']['dataset_enlarge_ratio'] = 3
    opt['train'].update(total_iter=ITERATIONS, exact_resume=True,
                        scheduler={'type': 'MultiStepLR', 'milestones': [9, 21], 'gamma': 0.5},
                        distill_opt={'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4})
    opt['val']['val_freq'] = 10
    opt['logger'].update(save_checkpoint_freq=EVERY, use_tb_logger=False, keep_last=3)
    return opt


def start(path: Path, log: Path, prepare: Callable[[], object] = lambda: None) -> int:
    """Start a training in a child process; return its id. The child begins as a program with all imports done."""
    child = os.fork()
    if child:
        return child
    code = 99
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(handle, stream)
        prepare()
        training._TIMES = itertools.count(time.time_ns())  # or two children would archive a run under one name
        code = training.train(path, '--auto_resume')
    finally:
        os._exit(code)


def wait(child: int, limit: float) -> int | None:
    """Wait for a child; its status, or None if it still runs after ``limit`` seconds."""
    end = time.monotonic() + limit
    while time.monotonic() < end:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.002)
    return None


def die_in_a_save(number: int, names: bool) -> None:
    """Kill this process in a save: in the middle of write ``number``, or before flush or new name ``number``."""
    steps = itertools.count(1)

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            if next(steps) == number:
                if not names and len(args[1]) > 1:
                    write(args[0], memoryview(args[1]).cast('B')[:len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args)

        return call

    write = writing._Sink.write
    if names:
        os.fsync, os.replace, writing.remove = dying(os.fsync), dying(os.replace), dying(writing.remove)
    else:
        writing._Sink.write = dying(write)


def unreadable(folder: Path) -> list[Path]:
    """Files with the name of a checkpoint that torch cannot read."""
    bad = []
    for path in [*folder.rglob('*.pth'), *folder.rglob('*.state')]:
        try:
            torch.load(path, weights_only=True)
        except UNREADABLE:
            bad.append(path)
    return bad


def weights(run: Path) -> dict[str, torch.Tensor]:
    """All that a run has trained."""
    found = {}
    for path in sorted((run / 'models').glob('*_latest.pth')):
        for part, state in torch.load(path, weights_only=True).items():
            if part in ('params', 'params_ema', 'losses'):
                found.update({f'{part}.{name}': value for name, value in state.items() if torch.is_tensor(value)})
    return found


class Experiment:
    """Kills and resumes one run after another in a folder."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.run, self.log = folder / 'experiments/tiny', folder / 'log'
        self.counts = Counter[str]()
        self.faults: list[str] = []
        self.path = training.write_options(options(write_image_pairs(folder)), folder / 'tiny.yml')
        begin = time.monotonic()
        if wait(start(self.path, self.log), LIMIT) != 0:
            raise SystemExit(f'the run that nobody kills has failed:\n{self.log.read_text()}')
        self.seconds = time.monotonic() - begin
        self.expected = weights(self.run)
        shutil.rmtree(self.run)

    def newest(self) -> int:
        """Iteration of the newest training state; 0 without one."""
        return max((int(path.stem) for path in self.run.glob('training_states/*.state')), default=0)

    def kill_once(self) -> None:
        """Start or resume the run, and kill it; if it finishes first, compare its weights and begin another."""
        before, inside = self.newest(), self.draw.random() < 0.5
        names = self.draw.random() < 0.5
        step = self.draw.randrange(1, NAMES if names else WRITES)
        child = start(self.path, self.log, (lambda: die_in_a_save(step, names)) if inside else (lambda: None))
        status = wait(child, LIMIT if inside else self.draw.uniform(0, self.seconds))
        if status is None:
            os.kill(child, signal.SIGKILL)
            status = wait(child, LIMIT)
        text = self.log.read_text(errors='replace')
        begun = re.search(r'Start training from epoch: \d+, iter: (\d+)', text)
        if begun is not None:
            self.counts['resumes' if before else 'fresh starts'] += 1
            if int(begun[1]) != before:
                self.faults.append(f'checkpoint {before} was there, and the run began at {begun[1]}')
        for path in unreadable(self.run):
            self.faults.append(f'{path} cannot be read')
        if status == signal.SIGKILL:
            self.counts['kills'] += 1
            self.counts['kills in a save'] += bool(list(self.run.rglob('.*.part')))
        elif status == 0:
            self._finished()
        else:
            self.faults.append(f'a run ended with status {status}:\n{text[-2000:]}')
            shutil.rmtree(self.run, ignore_errors=True)

    def finish(self) -> None:
        """Let the last run end."""
        if wait(start(self.path, self.log), LIMIT) == 0:
            self._finished()
        else:
            self.faults.append(f'the last run has failed:\n{self.log.read_text()[-2000:]}')

    def _finished(self) -> None:
        self.counts['finished runs'] += 1
        found = weights(self.run)
        same = found.keys() == self.expected.keys() and all(
            torch.equal(value, found[name]) for name, value in self.expected.items())
        self.counts['equal to the last bit'] += same
        if not same:
            self.faults.append('the final weights differ from those of a run that nobody killed')
        parts = list(self.run.rglob('.*.part'))
        if parts:
            self.faults.append(f'left over: {parts}')
        for folder in (self.folder / 'experiments').iterdir():
            shutil.rmtree(folder)


def main(kills: int, seed: int = 0) -> int:
    """Kill ``kills`` times, then let the last run finish."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        experiment = Experiment(Path(name), random.Random(seed))
        while experiment.counts['kills'] < kills and len(experiment.faults) < 5:
            experiment.kill_once()
        experiment.finish()
        os.chdir('/')
    bad = sum('cannot be read' in fault for fault in experiment.faults)
    said = ', '.join(f'{count} {name}' for name, count in experiment.counts.items())
    sys.stdout.write('\n'.join([f'{said}, {bad} unreadable files', *experiment.faults, '']))
    return int(bool(experiment.faults))


if __name__ == '__main__':
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 100, int(sys.argv[2]) if len(sys.argv) > 2 else 0))
