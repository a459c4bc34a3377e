"""Read the history of a training run from BasicSR's log files."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

_TIME = re.compile(r'(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) \w+: (.*)')
_PROGRESS = re.compile(r'\[epoch:.*?iter:\s*([\d,]+),')
_RESUMED = re.compile(r'Resuming training from epoch: \d+, iter: (\d+)')
_VALIDATION = re.compile(r'Validation (.+)')
_METRIC = re.compile(r'\s*# ([^:]+): (-?[\d.]+|nan|inf)')
_TERM = re.compile(r'\b(l_\w+): (-?[\d.]+(?:e[+-]\d+)?|-?nan|-?inf)')
_TOTAL = re.compile(r'\tTotal epochs: \d+; iters: (\d+)')
_NETWORK = re.compile(r'Network: .*, with parameters: ([\d,]+)')
_DISTILLATION = re.compile(r'Distillation: .*losses \(training only\) ([\d,]+) parameters')
_BEFORE = re.compile('Start training from epoch|Read past ')  # the time before these lines is not training time
_END = 'End of training'
_STOPPED = re.compile(r'Stopped by \S+ after iteration ([\d,]+); saved')


@dataclass
class History:
    """The history of a run, from all of its log files.

    Attributes:
        metrics: Value by (iteration, test set) and metric.
        seconds: Seconds of training since the previous progress line, by iteration, without validation.
        parameters: Number of parameters of the student.
        training_parameters: Number of parameters of the losses.
        terms: Terms of the loss by name, by iteration.
    """

    metrics: dict[tuple[int, str], dict[str, float]] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    parameters: int = 0
    training_parameters: int = 0
    terms: dict[int, dict[str, float]] = field(default_factory=dict)

    def seconds_until(self, iteration: int) -> float:
        """Seconds of training up to an iteration. Iterations that were repeated after an interruption count once."""
        return sum(value for at, value in self.seconds.items() if at <= iteration)


def progress(line: str) -> int | None:
    """The iteration of a BasicSR progress line; None for other lines."""
    found = _PROGRESS.search(line)
    return _number(found[1]) if found else None


def read_history(folder: Path, total: int | None = None) -> History:
    """Read the log files in the folder of a run, the oldest first.

    Args:
        folder: ``experiments/<name>``.
        total: Number of iterations of the run; the validation after the end belongs to the last one. None takes it
            from the log files.

    Returns:
        The history.
    """
    history = History()
    for path in sorted(folder.glob('train_*.log'), key=lambda p: (p.stat().st_mtime, p.name)):
        _read(path.read_text(encoding='utf-8', errors='replace').splitlines(), total, history)
    return history


def _read(lines: Iterable[str], total: int | None, history: History) -> None:
    iteration, testset, since, spent = 0, '', 0.0, 0.0
    for line in lines:
        stamped = _TIME.match(line)
        if stamped is None:
            metric, iterations = _METRIC.match(line), _TOTAL.match(line)
            if iterations is not None and total is None:
                total = int(iterations[1])
            if metric is not None and testset:
                history.metrics.setdefault((iteration, testset), {})[metric[1]] = float(metric[2])
            continue
        now, text = datetime.strptime(stamped[1], '%Y-%m-%d %H:%M:%S,%f').timestamp(), stamped[2]
        at, resumed, validation = progress(text), _RESUMED.match(text), _VALIDATION.match(text)
        stopped = _STOPPED.match(text)
        testset = validation[1] if validation is not None else ''
        if validation is None:
            spent += max(now - since, 0)  # someone may set the clock back
        if _BEFORE.match(text):
            spent = 0
        elif at is not None:
            iteration, history.seconds[at], spent = at, spent, 0
            history.terms[at] = {name: float(value) for name, value in _TERM.findall(text)}
        elif resumed is not None:
            iteration = int(resumed[1])
        elif stopped is not None:  # the run goes on from here; a progress line of this iteration has counted already
            history.seconds.setdefault(_number(stopped[1]), spent)
        elif text.startswith(_END):
            iteration = iteration if total is None else total
            history.seconds.setdefault(iteration, spent)  # after the last progress line
        for pattern, name in ((_NETWORK, 'parameters'), (_DISTILLATION, 'training_parameters')):
            found = pattern.match(text)
            if found is not None:
                setattr(history, name, _number(found[1]))
        since = now


def _number(text: str) -> int:
    return int(text.replace(',', ''))
