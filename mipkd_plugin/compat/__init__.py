"""Repairs that let BasicSR 1.4.2 run on a current PyTorch, and on a machine without a GPU.

Each repair is one function. It names the BasicSR issue that it fixes, and does nothing where it is not needed.
``apply_early`` runs before ``import basicsr``, ``apply`` right after it. ``import mipkd_plugin`` takes care of both.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import os
import sys
import types
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mipkd_plugin.compat.real_world import (
    degradation_on_device,
    find_suffixed_names_quietly,
    niqe_of_flat_images_is_nan,
)
from mipkd_plugin.compat.repositories import matlab_functions_convert_colors, missing_modules_from_installed_basicsr
from mipkd_plugin.compat.workers import workers_leave_signals_to_their_parent

if TYPE_CHECKING:
    import torch


def provide_functional_tensor() -> bool:
    """Supply ``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed and BasicSR still imports.

    BasicSR issues: https://github.com/XPixelGroup/BasicSR/issues/533 and /663 (open; pull request 624 with the fix was
    never merged). BasicSR uses one function of the module, ``rgb_to_grayscale``, which still exists in
    ``torchvision.transforms.functional``. The stand-in module is made only if torchvision does not have the module.

    Returns:
        Whether this is the first call.
    """
    if any(isinstance(finder, _FunctionalTensor) for finder in sys.meta_path):
        return False
    sys.meta_path.append(_FunctionalTensor())
    return True


class _FunctionalTensor(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the missing module after all other finders have failed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != 'torchvision.transforms.functional_tensor':
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        from torchvision.transforms import functional

        module.__doc__ = 'Stand-in for a module that torchvision 0.17 removed.'
        module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]  # the module starts empty


def resume_without_gpu() -> bool:
    """Let ``--auto_resume`` and ``path.resume_state`` work without a GPU, and beside one that the run does not use.

    BasicSR's ``basicsr.train.load_resume_state`` always calls ``torch.cuda.current_device()``, which raises without a
    CUDA device, and with ``num_gpu: 0`` puts the training state on a GPU all the same (no BasicSR issue known). The
    repair replaces only this call and loads the tensors to the CPU; the rest of the function runs unchanged.

    Returns:
        Whether the repair was made.
    """
    import basicsr.train as train
    import torch

    if hasattr(train.load_resume_state, 'without_gpu'):
        return False
    original: Callable[[dict[str, Any]], dict[str, Any] | None] = train.load_resume_state

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        if torch.cuda.is_available() and opt.get('num_gpu') != 0:
            return original(opt)
        train.torch = _TorchOnCPU()
        try:
            return original(opt)
        finally:
            train.torch = torch

    load_resume_state.without_gpu = original  # type: ignore[attr-defined]  # marks the repair
    train.load_resume_state = load_resume_state
    return True


class _NoDevice:
    """Replaces ``torch.cuda``."""

    @staticmethod
    def current_device() -> None:
        return None


class _TorchOnCPU:
    """Replaces ``torch`` inside ``load_resume_state``: no current CUDA device, and ``load`` maps to the CPU."""

    cuda = _NoDevice

    @staticmethod
    def load(path: str, map_location: Any = None) -> Any:
        import torch

        return torch.load(path, map_location='cpu')


def distributed_without_gpu() -> bool:
    """Let ``--launcher pytorch`` (torchrun) work without a GPU, over gloo.

    BasicSR divides by ``torch.cuda.device_count()`` (``ZeroDivisionError``), always asks for NCCL, and passes
    ``torch.cuda.current_device()`` to ``DistributedDataParallel`` (no BasicSR issue known).

    Returns:
        Whether the repair was made.
    """
    import torch
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    if torch.cuda.is_available() or hasattr(BaseModel.model_to_device, 'without_gpu'):
        return False
    original: Callable[[Any, torch.nn.Module], torch.nn.Module] = BaseModel.model_to_device

    def init_dist_pytorch(backend: str, **kwargs: Any) -> None:
        torch.distributed.init_process_group(backend='gloo' if backend == 'nccl' else backend, **kwargs)

    def model_to_device(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        if not self.opt['dist']:
            return original(self, net)
        unused = self.opt.get('find_unused_parameters', False)
        return torch.nn.parallel.DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    model_to_device.without_gpu = original  # type: ignore[attr-defined]  # marks the repair
    dist_util._init_dist_pytorch = init_dist_pytorch
    BaseModel.model_to_device = model_to_device
    return True


def pass_on_prefetch_errors() -> bool:
    """Let an error in the thread of ``prefetch_mode: cpu`` reach the training.

    The thread of BasicSR's ``PrefetchGenerator`` ends with the error, and the training waits for its next batch for
    ever (no BasicSR issue known).

    Returns:
        Whether the repair was made.
    """
    from basicsr.data.prefetch_dataloader import PrefetchGenerator

    if hasattr(PrefetchGenerator, 'failure'):
        return False
    original: Callable[[Any], None] = PrefetchGenerator.run
    take: Callable[[Any], Any] = PrefetchGenerator.__next__

    def run(self: Any) -> None:
        try:
            original(self)
        except BaseException as error:  # noqa: BLE001  # whatever it is, the consumer raises it
            self.failure = error
            self.queue.put(None)

    def take_or_raise(self: Any) -> Any:
        try:
            return take(self)
        except StopIteration:
            self.queue.put(None)  # whoever asks again gets the same answer instead of waiting
            if self.failure is not None:
                raise self.failure from None
            raise

    PrefetchGenerator.failure = None
    PrefetchGenerator.run = run
    PrefetchGenerator.__next__ = take_or_raise
    return True


def has_gloo() -> bool:
    """Whether this process is one of several that talk over gloo."""
    from torch import distributed

    return bool(distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == 'gloo')


def leave_without_gpu(code: int = 0) -> None:
    """End a gloo process at once when all ranks have finished. Does nothing without gloo.

    Sometimes gloo's threads abort the shutdown of the interpreter ("terminate called without an active exception",
    PyTorch 2.14, no PyTorch issue known), and torchrun then reports a finished run as failed.

    Args:
        code: Exit code. With another one than 0 the other ranks are not waited for: they may be gone.
    """
    if has_gloo():
        if code == 0:
            from torch import distributed

            distributed.barrier()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def accept_dashed_local_rank(argv: list[str]) -> list[str]:
    """Rename ``--local-rank`` to ``--local_rank``, which BasicSR's parser knows.

    BasicSR issue: https://github.com/XPixelGroup/BasicSR/issues/626 (since PyTorch 2.0 ``torch.distributed.launch``
    passes the form with a dash).

    Args:
        argv: Command line without the program name.

    Returns:
        The arguments with this flag renamed.
    """
    return ['--local_rank' + arg[len('--local-rank'):] if arg.split('=')[0] == '--local-rank' else arg
            for arg in argv]


def apply_early() -> None:
    """Apply the repairs that must come before ``import basicsr``."""
    provide_functional_tensor()
    missing_modules_from_installed_basicsr()


def apply() -> None:
    """Apply the repairs of the imported BasicSR."""
    matlab_functions_convert_colors()
    resume_without_gpu()
    distributed_without_gpu()
    pass_on_prefetch_errors()
    degradation_on_device()
    find_suffixed_names_quietly()
    niqe_of_flat_images_is_nan()
    workers_leave_signals_to_their_parent()
