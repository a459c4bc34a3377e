"""Training within the process of the tests, as a process of its own would train, and its death at a chosen moment."""

from __future__ import annotations

import io
import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, NoReturn

import basicsr.models.sr_model
import basicsr.train
import basicsr.utils.misc
import pytest
import torch
import yaml
from basicsr.utils.logger import initialized_logger

from mipkd_plugin.checkpoints.writing import CheckpointSet
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.utils.launcher import NEEDED

Finished = subprocess.CompletedProcess[str]
_TIMES = itertools.count(20200101_000000)


class Killed(BaseException):
    """The process ends here: nobody catches it."""


def forget_logger() -> None:
    """A new process has no logger yet."""
    log = logging.getLogger('basicsr')
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    log.setLevel(logging.NOTSET)
    initialized_logger.pop('basicsr', None)


def train(path: Path | str, *arguments: str) -> int:
    """``basicsr train -opt path``; two runs in one second get two log files, as two processes do."""
    before = basicsr.train.get_time_str, basicsr.utils.misc.get_time_str
    basicsr.train.get_time_str = basicsr.utils.misc.get_time_str = lambda: str(next(_TIMES))
    forget_logger()
    try:
        return basicsr_main(['train', '-opt', str(path), *arguments])
    finally:
        basicsr.train.get_time_str, basicsr.utils.misc.get_time_str = before
        forget_logger()


def launched(monkeypatch: pytest.MonkeyPatch, rank: int = 0, ranks: int = 1) -> None:
    """Set what torchrun sets."""
    for name in NEEDED['pytorch']:
        monkeypatch.setenv(name, {'RANK': str(rank), 'WORLD_SIZE': str(ranks)}.get(name, '0'))


def typed(*arguments: str, program: Callable[[list[str]], int] = mipkd_main, cwd: Path | None = None) -> Finished:
    """``mipkd …`` as typed in a shell, in a copy of this process: a new one would import for four seconds."""
    return _forked(program, arguments, cwd or Path.cwd(), [{}])[0]


def two_ranks(program: Callable[[list[str]], int], *arguments: str, cwd: Path) -> list[Finished]:
    """Run a program in two copies of this process, as torchrun would start it on two CPUs."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    common = {'WORLD_SIZE': '2', 'LOCAL_WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    return _forked(program, arguments, cwd, [{**common, 'RANK': rank, 'LOCAL_RANK': rank} for rank in '01'])


def _forked(program: Callable[[list[str]], int], arguments: tuple[str, ...], cwd: Path,
            environments: list[dict[str, str]]) -> list[Finished]:
    """Run a program in copies of this process, one for each environment, at the same time."""
    with ExitStack() as stack:
        files = [[stack.enter_context(tempfile.TemporaryFile()) for _ in range(2)] for _ in environments]
        sys.stdout.flush()
        sys.stderr.flush()
        children = []
        for environment, (out, err) in zip(environments, files):
            children.append(os.fork())
            if children[-1] == 0:
                signal.alarm(240 if environment else 0)  # a rank waits for one that has failed
                os.environ.update(environment)
                _run_and_end(program, arguments, cwd, out.fileno(), err.fileno())
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        return [Finished(arguments, code, *map(_content, pair)) for code, pair in zip(codes, files)]


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode()


def _run_and_end(program: Callable[[list[str]], int], arguments: tuple[str, ...], cwd: Path, out: int,
                 err: int) -> NoReturn:
    """The child of a fork: nothing of the tests may run in it."""
    code = 70
    try:
        os.dup2(out, 1)
        os.dup2(err, 2)
        with open(1, 'w', closefd=False) as stdout, open(2, 'w', closefd=False, buffering=1) as stderr:
            sys.stdout, sys.stderr = stdout, stderr
            os.chdir(cwd)
            forget_logger()
            try:
                code = program(list(arguments))
            except SystemExit as error:
                code = error.code if isinstance(error.code, int) else 1
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
    finally:
        os._exit(code)


def train_until(path: Path | str, moment: str, count: int) -> None:
    """``basicsr train -opt path``, dying at a moment."""
    with pytest.MonkeyPatch.context() as patch:
        die_at(patch, moment, count)
        with pytest.raises(Killed):
            train(path)


def die_at(monkeypatch: pytest.MonkeyPatch, moment: str, count: int) -> None:
    """Raise :class:`Killed` at a moment of the next training.

    Args:
        monkeypatch: To be undone before the training goes on.
        moment: ``trained``: iteration ``count`` is trained, and not saved yet; ``saved``: it has just been saved;
            ``cut``: while its training state is written; ``written``: as soon as that has its name;
            ``validated``: after the validation number ``count``.
        count: Which.
    """
    model = basicsr.models.sr_model.SRModel
    validations = itertools.count(1)

    def after(function: Callable[..., Any], dies: Callable[..., bool]) -> Callable[..., Any]:
        def dying(*args: Any, **named: Any) -> Any:
            result = function(*args, **named)
            if dies(*args, *named.values()):
                raise Killed
            return result

        return dying

    def dying_save(state: Any, file: Any) -> None:
        if str(getattr(file, 'name', file)).endswith(f'/.{count}.state.part'):
            whole = io.BytesIO()
            save(state, whole)
            file.write(whole.getvalue()[:whole.tell() // 2])
            raise Killed
        save(state, file)

    save = torch.save
    if moment == 'trained':
        monkeypatch.setattr(model, 'get_current_learning_rate', after(
            model.get_current_learning_rate, lambda self: self.trained == count))
        monkeypatch.setattr(model, 'update_learning_rate', _remember(model.update_learning_rate))
    elif moment == 'saved':
        monkeypatch.setattr(CheckpointSet, 'commit', after(CheckpointSet.commit, lambda self: self.iteration == count))
    elif moment == 'cut':
        monkeypatch.setattr(torch, 'save', dying_save)
    elif moment == 'written':
        monkeypatch.setattr(os, 'replace', after(os.replace, lambda part, path: str(path).endswith(f'/{count}.state')))
    elif moment == 'validated':
        monkeypatch.setattr(model, '_log_validation_metric_values', after(
            model._log_validation_metric_values, lambda *args: next(validations) == count))
    else:
        raise ValueError(moment)


def _remember(function: Callable[..., Any]) -> Callable[..., Any]:
    def remembering(self: Any, current_iter: int, warmup_iter: int = -1) -> None:
        self.trained = current_iter
        function(self, current_iter, warmup_iter)

    return remembering


def write_options(opt: dict[str, Any], path: Path) -> Path:
    """Write an option file."""
    path.write_text(yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
    return path


def comparison_options(opt: dict[str, Any]) -> dict[str, Any]:
    """Options of a tiny training run made into those of a comparison; twelve iterations, four to an epoch."""
    opt['datasets']['train']['dataset_enlarge_ratio'] = 2
    opt['train'].update(total_iter=12)
    opt['train'].pop('distill_opt')
    opt['val']['metrics']['ssim'] = {'type': 'calculate_ssim', 'crop_border': 2, 'test_y_channel': True}
    opt['val']['val_freq'] = 4
    opt['logger'].update(save_checkpoint_freq=3, use_tb_logger=False)
    opt['compare'] = {'seeds': [0, 1], 'equal_time': False, 'methods': {
        'logits': {'type': 'LogitsKDLoss'}, 'mipkd': {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}}}
    return opt
