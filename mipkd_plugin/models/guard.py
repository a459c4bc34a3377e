"""What ``basicsr train`` and ``test`` add to any model of BasicSR: finite steps and images, and an orderly stop.

The model's class is left as it is; the guard replaces methods of the one model that the pipeline builds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger

from mipkd_plugin.models.finite_steps import FiniteSteps
from mipkd_plugin.models.ranks import Peers, refuse_death, watched_peers
from mipkd_plugin.utils.errors import MipkdError, is_lost_worker, reason
from mipkd_plugin.utils.random_numbers import random_states, restore_random_states
from mipkd_plugin.utils.replacing import replaced
from mipkd_plugin.utils.stopping import Stop, Stopped, name_of

_UNTIL_SAID = 1.0


class BrokenOffError(MipkdError):
    """A run that has begun cannot go on.

    Args:
        message: Why, and how to go on.
        of_one_rank: Whether a single rank of several may meet it.
    """

    exit_code = 1

    def __init__(self, message: str, of_one_rank: bool) -> None:
        super().__init__(message)
        self.of_one_rank = of_one_rank


class _CutError(Exception):
    """A validation ends before its next image: somebody wants to stop."""


class Guard:
    """Guards the one model of a pipeline.

    Args:
        stop: What signals have asked for.
        go_on: What to type to continue the run.
    """

    def __init__(self, stop: Stop, go_on: str) -> None:
        self.stop = stop
        self.go_on = go_on
        self.epoch = 0
        self.iteration = 0
        self.saved: int | None = None
        self.model: Any = None
        self.peers: Peers | None = None
        self._image: Any = None
        self._is_validating = False
        self._random: tuple[int, Any] | None = None

    def attach(self, model: Any) -> None:
        """Guard a model."""
        self.model = model
        self.steps = FiniteSteps(model, lambda: self.stop.signum or 0)
        names = ['feed_data', 'test', 'validation',
                 *(['optimize_parameters', 'save', 'resume_training'] if model.is_train else [])]
        self._own = {name: getattr(model, name) for name in names if hasattr(model, name)}
        for name in self._own:
            setattr(model, name, getattr(self, f'_{name}'))
        # a validation in which ranks exchange something cannot end on one of them
        of_one_rank = getattr(type(model), 'dist_validation', None) is SRModel.dist_validation
        self._may_cut = not model.opt['dist'] or of_one_rank
        if model.is_train:
            self.peers = watched_peers()

    def _resume_training(self, state: dict[str, Any]) -> None:
        self._own['resume_training'](state)
        self.iteration = state['iter']

    def _feed_data(self, data: dict[str, Any], *args: Any) -> None:
        self._image = data.get('lq_path') if self._is_validating else None
        self._own['feed_data'](data, *args)

    def _optimize_parameters(self, current_iter: int, *args: Any) -> None:
        """One iteration: skipped if it is not finite; then save and stop, if somebody has asked for it."""
        self.stop.is_later = True
        if self.peers is not None and current_iter >= int(self.model.opt['train']['total_iter']):
            self.peers.leave()  # from here on ranks end, each in its time
        self.steps.begin()
        self._own['optimize_parameters'](current_iter, *args)
        self.iteration = current_iter
        self.steps.end(current_iter)
        agreed = self.steps.agreed_wish if self.model.opt['dist'] else self.stop.signum
        if agreed:
            self._finish(agreed)

    def _save(self, epoch: int, current_iter: int, *args: Any) -> None:
        """Save, but no weights that are not finite, and nothing to go on from while steps are not."""
        self.steps.require_finite_weights(self.iteration)
        is_last, gives_images = current_iter == -1, self.steps.gives_images()
        if gives_images and (is_last or not self.steps.is_in_doubt):
            self._own['save'](epoch, current_iter, *args)
            self.saved = self.saved if is_last else current_iter
        elif not is_last:
            get_root_logger().warning(f'No checkpoint of iteration {self.iteration:,d}: its last steps are not finite.')
        if is_last and (self.steps.is_in_doubt or not gives_images):
            self.steps.refuse_end(self.iteration, gives_images)

    def _test(self, *args: Any) -> None:
        """Make one image of a validation."""
        if self._is_validating:
            self._cut_if_asked()
        self._own['test'](*args)
        if self._is_validating:
            path = self._image[0] if isinstance(self._image, (list, tuple)) and self._image else self._image
            self.steps.refuse_image(f'{self._where}{f", {Path(str(path)).name}" if path is not None else ""}')

    def _validation(self, dataloader: Any, *args: Any, **named: Any) -> None:
        """Validate; end before the next image if somebody wants to stop."""
        if self._random is None or self._random[0] != self.iteration:
            self._random = self.iteration, random_states()
        after = f'validation after iteration {self.iteration:,d}' if self.model.is_train else 'test'
        self._where = f'{after} on {getattr(dataloader.dataset, "opt", {}).get("name", "?")}'
        self._is_validating = True
        try:
            self._cut_if_asked()
            self._own['validation'](dataloader, *args, **named)
        except _CutError:
            get_root_logger().info(f'The {self._where} is cut short.')
            if not self.model.opt['dist'] and self.stop.signum is not None:
                restore_random_states(self._random[1])  # as before this validation, which a resumed run repeats
                self._finish(self.stop.signum)
        finally:
            self._is_validating = False

    def refuse_lack(self, error: RuntimeError) -> None:
        """Say what a run lacks, if that is the reason for an error.

        Raises:
            BrokenOffError: A data worker has died, or the memory of the GPU is full.
        """
        if isinstance(error, torch.OutOfMemoryError):
            self.refuse_break(error, f'the memory of the GPU is full ({reason(error)}): a smaller batch_size_per_gpu '
                              'or gt_size needs less')
        if is_lost_worker(error):
            self.refuse_break(error, 'a data worker has died, most often because the memory is full: fewer '
                              'num_worker_per_gpu need less')

    def refuse_break(self, error: Exception, text: str = '') -> None:
        """Say how to go on after an error that ends the run.

        Args:
            error: The error.
            text: What it means; default: its own text.

        Raises:
            BrokenOffError: The run has begun. Errors with an exit code of their own are left as they are.
        """
        if self.model is None or getattr(error, 'exit_code', 2) != 2:
            return
        where, what = '', text or str(error)
        if self.model.is_train:
            where = f'The training breaks off after iteration {self.iteration:,d}: '
            kept = any(Path(self.model.opt['path']['training_states']).glob('*.state'))
            what += f'\n   -> Then {f"go on with: {self.go_on}" if kept else "start again: there is no checkpoint yet"}'
            get_root_logger().error(f'{where}{what.splitlines()[0]}')
        raise BrokenOffError(f'{where}{what}', bool(getattr(error, 'of_one_rank', True))) from error

    def _cut_if_asked(self) -> None:
        if self._may_cut and self.stop.signum is not None:
            raise _CutError

    def _finish(self, signum: int) -> None:
        """Save what is trained, and stop.

        Raises:
            Stopped: Always.
        """
        self.stop.signum = signum
        if self.peers is not None:
            self.peers.leave()
        if self.saved != self.iteration:
            self.model.save(self.epoch, self.iteration)
        done = 'saved' if self.saved == self.iteration else 'not saved: its steps are not finite'
        line = f'Stopped by {name_of(signum)} after iteration {self.iteration:,d}; {done}.'
        get_root_logger().info(line)
        raise Stopped(signum, f'{line} Go on with: {self.go_on}')


@contextmanager
def guarded(pipeline: ModuleType, stop: Stop, go_on: str = '') -> Iterator[None]:
    """Inside the block, the model that a pipeline of BasicSR builds is guarded.

    Args:
        pipeline: ``basicsr.train`` or ``basicsr.test``.
        stop: What signals have asked for.
        go_on: What to type to continue a stopped run.

    Raises:
        RankError: Another process of the run has died.
        BrokenOffError: The run cannot go on: an image cannot be read, a data worker has died, or the memory is full.
        RuntimeError: From the pipeline, for any other reason.
        MipkdError: From the pipeline, before the run has begun, or with an exit code of its own.
    """
    guard = Guard(stop, go_on)
    plain_model, plain_loaders = pipeline.build_model, getattr(pipeline, 'create_train_val_dataloader', None)

    def build_model(opt: dict[str, Any]) -> Any:
        model = plain_model(opt)
        guard.attach(model)
        return model

    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> Any:
        found = plain_loaders(opt, logger)  # type: ignore[misc]  # a test has none, and does not call this
        sampler = found[1]
        set_epoch = sampler.set_epoch

        def remembering(epoch: int) -> None:
            guard.epoch = epoch
            set_epoch(epoch)

        sampler.set_epoch = remembering
        return found

    try:
        with replaced(pipeline, {'build_model': build_model,
                                 'create_train_val_dataloader': create_train_val_dataloader}):
            yield
    except (ConnectionRefusedError, ConnectionResetError, EOFError):  # the pipe of a data worker that has just died
        try:
            time.sleep(_UNTIL_SAID)  # a signal handler of PyTorch says so
        except RuntimeError as error:
            guard.refuse_lack(error)
        raise
    except RuntimeError as error:
        refuse_death(guard.peers, error)
        guard.refuse_lack(error)
        raise
    except MipkdError as error:
        guard.refuse_break(error)
        raise
    finally:
        stop.is_later = False
        if guard.peers is not None:
            guard.peers.leave()
