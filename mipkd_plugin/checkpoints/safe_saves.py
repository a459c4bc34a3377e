"""Around BasicSR's training: every checkpoint is saved whole or not at all, and a run resumes from a whole one."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import basicsr.train as pipeline
import torch
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import get_dist_info

from mipkd_plugin.checkpoints.disk_errors import disk_errors
from mipkd_plugin.checkpoints.errors import SaveError, StateError
from mipkd_plugin.checkpoints.files import remove_older, student_path
from mipkd_plugin.checkpoints.hyperparameters import apply_hyperparameters, hyperparameters_of
from mipkd_plugin.checkpoints.plan import Choice, SavePlan
from mipkd_plugin.checkpoints.writing import CheckpointSet, open_set, save_file
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError
from mipkd_plugin.utils.files import remove
from mipkd_plugin.utils.replacing import replaced

_AHEAD = 10.0
"""Seconds for the first rank to say what is wrong: torchrun ends it as soon as another one has ended."""


class _Escape(BaseException):
    """Carries an error out of BasicSR's ``except Exception: retry, then ignore``."""

    def __init__(self, error: SaveError) -> None:
        self.error = error


class _Run:
    """The training that is going on in BasicSR's pipeline."""

    def __init__(self, plan: SavePlan) -> None:
        self.plan = plan
        self.originals: dict[str, Callable[..., Any]] = {}
        self.record = dict(plan.record)
        self.folders: tuple[Path, ...] = ()
        self.choice = Choice()
        self.start = (0, 0)
        self.last: Path | None = None
        self.named: Path | None = None

    def load_resume_state(self, opt: dict[str, Any]) -> Any:
        """BasicSR's function, for the training state of our choice."""
        self.folders = Path(opt['path']['models']), Path(opt['path']['training_states'])
        self.choice = self.plan.choose(opt)
        self.named = None if opt['auto_resume'] else self.choice.state
        self.last = self.choice.state
        _prepare_folders(self.folders if self.last is not None else ())
        opt['train'].update(copy.deepcopy(dict(self.choice.keep)))
        self.record['hyperparameters'] = {**self.record.get('hyperparameters', {}), **self.choice.keep}
        auto_resume, opt['auto_resume'] = opt['auto_resume'], False  # BasicSR would take the last, whole or not
        opt['path']['resume_state'] = None if self.choice.state is None else str(self.choice.state)
        try:
            state = self.originals['load_resume_state'](opt)
        finally:
            opt['auto_resume'] = auto_resume
        if state is not None:
            self.start = state['epoch'], state['iter']
            _use_own_key(opt['path'])
        return state

    def create_train_val_dataloader(self, opt: dict[str, Any], logger: Any) -> Any:
        """BasicSR's function, with as many epochs as the iterations need.

        BasicSR counts epochs from the number of images, and goes on from the epoch of the training state: with fewer
        processes or smaller batches than before, no epoch would be left (no BasicSR issue known).

        Returns:
            What BasicSR's function returns.
        """
        for note in self.choice.notes:
            logger.warning(note)
        loader, sampler, val_loaders, epochs, iterations = self.originals['create_train_val_dataloader'](opt, logger)
        epoch, iteration = self.start
        if len(loader) > 0:
            epochs = max(epochs, epoch + math.ceil((iterations - iteration) / len(loader)))
        return loader, sampler, val_loaders, epochs, iterations

    def build_model(self, opt: dict[str, Any]) -> Any:
        """BasicSR's function, for a model that saves and resumes our way."""
        model = self.originals['build_model'](opt)
        model.save = partial(self.save, model.save)
        model.resume_training = partial(self.resume_training, model, model.resume_training)
        return model

    def resume_training(self, model: Any, resume: Callable[[Any], None], state: dict[str, Any]) -> None:
        """The model's own method, then the hyper-parameters of the option file if they are wanted."""
        fresh = hyperparameters_of(model)
        try:
            resume(state)
        except MipkdError:
            raise
        except FOREIGN_ERRORS as error:
            raise StateError(f'{self.choice.state} does not fit this model ({type(error).__name__}: {error}); resume '
                             'with the option file the run was started with') from error
        if self.choice.renew:
            apply_hyperparameters(model, fresh)

    def torch_save(self, obj: Any, f: Any, *args: Any, **named: Any) -> None:
        """``torch.save``; a file of a checkpoint becomes part of the set that is being saved."""
        path = Path(f) if isinstance(f, (str, os.PathLike)) else None
        if path is None or path.parent not in self.folders:
            self.originals['save'](obj, f, *args, **named)
            return
        try:
            save_file(path, obj)
        except SaveError as error:
            raise _Escape(error) from error

    def save(self, save: Callable[..., None], epoch: int, current_iter: int) -> None:
        """The model's own method, for all files or none.

        Raises:
            SaveError: On every rank, if a file cannot be written.
        """
        checkpoint, problem = CheckpointSet(current_iter, self.record), None
        open_set(checkpoint)
        try:
            save(epoch, current_iter)
            checkpoint.commit()
        except (_Escape, SaveError) as error:
            checkpoint.discard()
            problem = self.told(error.error if isinstance(error, _Escape) else error)
        except BaseException:
            checkpoint.discard()
            raise
        finally:
            open_set(None)
        _raise_on_all_ranks(problem)
        if checkpoint.state is not None:
            self.last = checkpoint.state[0]
            self._remove_older(current_iter)

    def _remove_older(self, iteration: int) -> None:
        if self.plan.keep_last is None or get_dist_info()[0] != 0:
            return
        models, states = self.folders
        try:
            old = remove_older(models, states, self.plan.keep_last, iteration, self.named)
        except OSError as error:
            get_root_logger().warning(f'Older checkpoints cannot be removed: {error}.')
            return
        if old:
            get_root_logger().info(f'Removed the checkpoints of iteration {", ".join(map(str, old))} '
                                   f'(logger.keep_last: {self.plan.keep_last}).')

    def told(self, error: SaveError) -> SaveError:
        """The error with the way to go on."""
        if self.last is None:
            there = 'start the run again: no checkpoint was saved before'
        elif self.last.is_file() and student_path(self.folders[0], int(self.last.stem)).is_file():
            there = f'go on with --auto_resume: the last complete checkpoint is {self.last}'
        else:
            there = f'start the run again: the checkpoint {self.last} is gone'
        return SaveError(f'{error}\n   -> {error.remedy}, then {there}')


def _use_own_key(section: dict[str, Any]) -> None:
    """Read the networks of a checkpoint under the key that BasicSR saves them with.

    BasicSR keeps ``param_key_g`` on a resume: a run that has started from weights with another key, or without one,
    would not find its own (no BasicSR issue known).
    """
    kept = section.get('ignore_resume_networks') or ()
    for key in section:
        if key.startswith('param_key_') and key.replace('param_key', 'network') not in kept:
            section[key] = 'params'


def _raise_on_all_ranks(problem: SaveError | None) -> None:
    """Only the first rank writes; without it the others would wait in their next step."""
    if get_dist_info()[1] > 1:
        said = [None if problem is None else str(problem)]
        torch.distributed.broadcast_object_list(said, src=0)
        if said[0] is not None and problem is None:
            time.sleep(_AHEAD)
            raise SaveError(said[0])
    if problem is not None:
        raise problem


def _prepare_folders(folders: tuple[Path, ...]) -> None:
    """Make folders that a resumed run lacks, and remove what a run that was killed in a save has left."""
    if get_dist_info()[0] == 0:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            for part in folder.glob('.*.part'):
                remove(part)


@contextmanager
def saving(plan: SavePlan) -> Iterator[None]:
    """Make ``basicsr.train.train_pipeline`` save and resume by a plan inside the block.

    For every model: each file of a checkpoint is written beside its place, flushed and read back; when all of them
    are proven they get their names, the training state last. A save that fails ends the run with one message.

    Args:
        plan: How to save and resume.

    Raises:
        SaveError: A file cannot be written.
        OSError: An error that has nothing to do with the disk.
    """
    run = _Run(plan)
    names = ('load_resume_state', 'build_model', 'create_train_val_dataloader')
    run.originals = {'save': torch.save, **{name: getattr(pipeline, name) for name in names}}
    with (replaced(pipeline, {name: getattr(run, name) for name in names}), replaced(torch, {'save': run.torch_save}),
          disk_errors(run.told)):
        yield
