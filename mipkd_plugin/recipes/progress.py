"""A training that a person can follow: one moving line, and one that stays for each validation."""

from __future__ import annotations

import io
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

import basicsr.train as pipeline
import psutil
import torch
from basicsr.utils import logger as logs
from tqdm import tqdm

from mipkd_plugin.recipes.defaults import duration
from mipkd_plugin.utils.replacing import replaced
from mipkd_plugin.utils.words import gigabytes

_EVERY = 10.0
"""Seconds between two lines where no terminal can show a moving one."""


class Progress:
    """What a training tells on the screen; BasicSR's own log file stays as it is.

    Args:
        total: Iterations of the training.
        batch: Images in an iteration.
        threads: CPU threads; 0 leaves them as they are.
        stream: Where the lines go.
    """

    def __init__(self, total: int, batch: int, threads: int = 0, stream: TextIO | None = None) -> None:
        self.total, self.batch, self.threads = total, batch, threads
        self.stream = stream or sys.stderr
        self.bar: Any = None
        self._begin = self._told = 0.0
        self._done = self._first = 0
        self._idle = 0.0
        self._said: tuple[str, int, str] | None = None

    def attach(self, model: Any) -> None:
        """Follow a model that BasicSR's pipeline has built."""
        step, resume, validation = model.optimize_parameters, model.resume_training, model.validation

        def optimize_parameters(current_iter: int, *args: Any) -> None:
            if not self._begin:
                self._start(current_iter - 1)
            step(current_iter, *args)
            self._step(current_iter, model.log_dict)

        def validating(loader: Any, current_iter: int, *args: Any, **named: Any) -> None:
            begin = time.perf_counter()
            validation(loader, current_iter, *args, **named)
            self._idle += time.perf_counter() - begin
            self._validated(loader.dataset.opt['name'], min(current_iter, self.total), model)

        def resuming(state: dict[str, Any]) -> None:
            resume(state)
            self.say(f'resumed after iteration {state["iter"]:,d} of {self.total:,d}')

        model.optimize_parameters, model.validation, model.resume_training = optimize_parameters, validating, resuming

    def _start(self, iteration: int) -> None:
        self._begin = self._told = time.perf_counter()
        self._first = self._done = iteration
        self._idle = 0.0
        self.bar = tqdm(total=self.total, initial=iteration, unit='it', file=self.stream, dynamic_ncols=True,
                        disable=not self.stream.isatty(), bar_format='{percentage:3.0f}% |{bar:16}| {n:,d}/{total:,d}'
                        '{postfix}')

    def _step(self, iteration: int, terms: dict[str, float]) -> None:
        self._done = iteration
        now = time.perf_counter()
        if self.stream.isatty():
            self.bar.set_postfix_str(self._state(terms, now), refresh=False)
            self.bar.update(1)
        elif now - self._told > _EVERY or iteration == self.total:
            self._told = now
            self.stream.write(f'{iteration:,d}/{self.total:,d}, {self._state(terms, now)}\n')
            self.stream.flush()

    def _state(self, terms: dict[str, float], now: float) -> str:
        each = (now - self._begin - self._idle) / (self._done - self._first)
        left = each * (self.total - self._done)
        values = ' '.join(f'{name} {float(value):.3g}' for name, value in terms.items())
        return f'{values}, {self.batch / each:.3g} images/s, {_memory()}, {duration(left)} left'

    def _validated(self, name: str, iteration: int, model: Any) -> None:
        found = getattr(model, 'metric_results', None) or {}
        values = ', '.join(f'{metric.upper()} {value:.2f} dB' if metric == 'psnr' else f'{metric.upper()} {value:.4f}'
                           for metric, value in found.items())
        if values and self._said != (name, iteration, values):  # BasicSR validates twice at the end
            self._said = name, iteration, values
            self.say(f'after {iteration:,d}: {name} {values}')

    def say(self, text: str) -> None:
        """Write a line that stays, above the moving one."""
        tqdm.write(text, file=self.stream)
        with suppress(OSError):
            self.stream.flush()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside the block, BasicSR's training tells what it does through this object."""
        build_model, get_root_logger = pipeline.build_model, pipeline.get_root_logger
        parse_options, make_exp_dirs = pipeline.parse_options, pipeline.make_exp_dirs
        threads = torch.get_num_threads()

        def building(opt: dict[str, Any]) -> Any:
            model = build_model(opt)
            self.attach(model)
            return model

        def logging_to_file(*args: Any, **named: Any) -> logging.Logger:
            found: logging.Logger = get_root_logger(*args, **named)
            for handler in list(found.handlers):
                if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
                    found.removeHandler(handler)
            found.addHandler(_Screen(self))
            return found

        def parsing(*args: Any, **named: Any) -> Any:
            with redirect_stdout(io.StringIO()):  # "Disable distributed."
                return parse_options(*args, **named)

        def making_folders(opt: dict[str, Any]) -> None:
            with redirect_stdout(io.StringIO()) as said:
                make_exp_dirs(opt)
            if said.getvalue():  # a start that came to no checkpoint is moved away, not overwritten
                moved = said.getvalue().strip().rpartition('Rename it to ')[2]
                self.say(f'an earlier start came to no checkpoint; what it wrote is now in {moved}')

        _forget_logger()  # whoever has built a model in this process has begun it without a file
        try:
            torch.set_num_threads(self.threads or threads)
            with replaced(pipeline, {'build_model': building, 'get_root_logger': logging_to_file,
                                     'parse_options': parsing, 'make_exp_dirs': making_folders}):
                yield
        finally:
            torch.set_num_threads(threads)
            if self.bar is not None:
                self.bar.close()
            _forget_logger()


class _Screen(logging.Handler):
    """Shows warnings of BasicSR's log above the moving line."""

    def __init__(self, progress: Progress) -> None:
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(f'{record.levelname.lower()}: {record.getMessage()}')


def _forget_logger() -> None:
    """Close BasicSR's log, so that the next training begins its own."""
    log = logging.getLogger('basicsr')
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    logs.initialized_logger.pop('basicsr', None)


def _memory() -> str:
    """Peak of the GPU's memory, or what this process has of the machine's."""
    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else psutil.Process().memory_info().rss
    return gigabytes(used)
