"""Exact resume: an interrupted run ends with the same weights, bit for bit, as an uninterrupted one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import basicsr.train as pipeline
import numpy as np
import torch
from basicsr.models.base_model import BaseModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only

from mipkd_plugin.checkpoints.errors import StateError
from mipkd_plugin.checkpoints.files import random_state_path
from mipkd_plugin.checkpoints.proof import numpy_state, random_fault
from mipkd_plugin.checkpoints.writing import save_file
from mipkd_plugin.utils.replacing import replaced

_POOL = ('queue_lr', 'queue_gt', 'queue_ptr')
"""What a Real-ESRGAN model keeps of earlier batches, to train on later."""


def _save_random_state(path: Path, model: Any) -> None:
    """Save the state of all random number generators, and the pool of pairs of a Real-ESRGAN model."""
    name, keys, *rest = np.random.get_state(legacy=True)
    state = {'torch': torch.get_rng_state(), 'python': random.getstate(),
             'numpy': (name, np.asarray(keys).tolist(), *rest),
             'cuda': torch.cuda.get_rng_state() if torch.cuda.is_available() else None}
    if hasattr(model, _POOL[0]):
        state['pool'] = {name: getattr(model, name) for name in _POOL}
    save_file(path, state)


def _restore_random_state(path: Path, model: Any) -> None:
    state = torch.load(path, map_location='cpu', weights_only=True)
    fault = random_fault(state)
    if fault is not None:
        raise StateError(f'{path} holds no random numbers: {fault}; restore the file, or remove train.exact_resume')
    torch.set_rng_state(state['torch'])
    random.setstate(state['python'])
    np.random.set_state(numpy_state(state['numpy']))
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])
    for name, value in (state.get('pool') or {}).items():
        setattr(model, name, value.to(model.device) if isinstance(value, torch.Tensor) else value)


class _Resumption:
    """The options, training state, model and validation data that BasicSR's pipeline loads during a resume."""

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self.state: dict[str, Any] | None = None
        self.model: Any = None
        self.val_loaders: list[Any] = []

    def catch_up(self, prefetcher: Any) -> None:
        """Skip the batches that this epoch has already trained on, and repeat the validation of the checkpoint."""
        if self.state is None:
            return
        state, self.state = self.state, None
        iteration, opt = state['iter'], self.options
        batches = iteration - state['epoch'] * len(prefetcher.ori_loader)
        for _ in range(batches):
            prefetcher.next()
        _restore_random_state(random_state_path(opt['path']['models'], iteration), self.model)
        get_root_logger().info(f'Read past {batches} batches that were trained on before.')
        if opt.get('val') is not None and iteration % opt['val']['val_freq'] == 0:
            for loader in self.val_loaders:
                self.model.validation(loader, iteration, None, opt['val']['save_img'])


def _catching_up(prefetcher: type, resumption: _Resumption) -> type:
    class CatchingUp(prefetcher):  # type: ignore[misc]  # BasicSR's class, known at run time only
        def reset(self) -> None:
            super().reset()
            resumption.catch_up(self)

    return CatchingUp


@contextmanager
def exact_resume() -> Iterator[None]:
    """Make ``basicsr.train.train_pipeline`` resume exactly inside the block (option ``train.exact_resume``).

    BasicSR restarts the epoch: the model sees its first samples twice, and random numbers (drop-path, crops without
    data workers) restart too. Exact resume saves the random numbers with each checkpoint, skips the batches that the
    epoch has already trained on, and repeats a validation at the same iteration. The pool of pairs of a Real-ESRGAN
    model, which BasicSR starts anew, is saved with the random numbers.

    It works for one process and needs data workers that are not persistent. On a GPU the result is equal only if all
    kernels are deterministic.
    """
    resumption = _Resumption()
    before = {name: getattr(pipeline, name) for name in (
        'load_resume_state', 'create_train_val_dataloader', 'build_model', 'CPUPrefetcher', 'CUDAPrefetcher')}
    save_training_state = BaseModel.save_training_state

    def load_resume_state(opt: dict[str, Any]) -> Any:
        resumption.options, resumption.state = opt, before['load_resume_state'](opt)
        return resumption.state

    def create_train_val_dataloader(opt: dict[str, Any], logger: Any) -> Any:
        found = before['create_train_val_dataloader'](opt, logger)
        resumption.val_loaders = found[2]
        return found

    def build_model(opt: dict[str, Any]) -> Any:
        resumption.model = before['build_model'](opt)
        return resumption.model

    def save_with_random_state(self: Any, epoch: int, current_iter: int) -> None:
        if current_iter != -1:
            _save_random_state(random_state_path(self.opt['path']['models'], current_iter), self)
        save_training_state(self, epoch, current_iter)

    ours = {'load_resume_state': load_resume_state, 'create_train_val_dataloader': create_train_val_dataloader,
            'build_model': build_model,
            **{name: _catching_up(before[name], resumption) for name in ('CPUPrefetcher', 'CUDAPrefetcher')}}
    with replaced(pipeline, ours), replaced(BaseModel, {'save_training_state': master_only(save_with_random_state)}):
        yield
