"""Repairs that let BasicSR 1.4.2 run on a current PyTorch, and on a machine without a GPU.

Each repair is one function, names the upstream report it answers and does nothing where it is not needed.
``apply_early`` runs before ``import basicsr``, ``apply`` right after it. ``import mipkd_plugin`` arranges both.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import logging
import os
import sys
import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def provide_functional_tensor() -> bool:
    """Supply ``torchvision.transforms.functional_tensor``, which torchvision 0.17 removed and BasicSR still imports.

    Upstream: https://github.com/XPixelGroup/BasicSR/issues/533 and /663 (open; the fix in pull request 624 was
    never merged). BasicSR uses a single function of it, ``rgb_to_grayscale``, which lives on unchanged in
    ``torchvision.transforms.functional``. The module is made when somebody imports it and torchvision has none.

    Returns:
        Whether this was the first call.
    """
    if any(isinstance(finder, _FunctionalTensor) for finder in sys.meta_path):
        return False
    sys.meta_path.append(_FunctionalTensor())
    return True


class _FunctionalTensor(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the missing module, after all other finders have failed."""

    def find_spec(self, fullname: str, path: Sequence[str] | None,
                  target: types.ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        if fullname != 'torchvision.transforms.functional_tensor':
            return None
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        from torchvision.transforms import functional

        module.__doc__ = 'Stand-in for a module that torchvision 0.17 removed.'
        module.rgb_to_grayscale = functional.rgb_to_grayscale  # type: ignore[attr-defined]


def resume_without_gpu() -> bool:
    """Let ``--auto_resume`` and ``path.resume_state`` work without a GPU.

    Upstream's ``basicsr.train.load_resume_state`` asks ``torch.cuda.current_device()`` unconditionally, which raises
    where there is no CUDA device (no upstream report known). Only that call is answered differently: the
    rest of upstream's function runs unchanged, with the storages left on the CPU.

    Returns:
        Whether the repair was made.
    """
    import basicsr.train as train
    import torch

    if torch.cuda.is_available() or hasattr(train.load_resume_state, 'without_gpu'):
        return False
    upstream = train.load_resume_state

    def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
        train.torch = _TorchOnCPU()
        try:
            return upstream(opt)
        finally:
            train.torch = torch

    load_resume_state.without_gpu = upstream  # type: ignore[attr-defined]
    train.load_resume_state = load_resume_state
    return True


class _NoDevice:
    """Stands for ``torch.cuda``."""

    @staticmethod
    def current_device() -> None:
        return None


class _TorchOnCPU:
    """Stands for ``torch`` inside ``load_resume_state``: no current CUDA device, and loading maps to the CPU."""

    cuda = _NoDevice

    @staticmethod
    def load(path: str, map_location: Any = None) -> Any:
        import torch

        return torch.load(path, map_location='cpu')


def distributed_without_gpu() -> bool:
    """Let ``--launcher pytorch`` (torchrun) work without a GPU, over gloo.

    Upstream divides by ``torch.cuda.device_count()`` (``ZeroDivisionError``), always asks for NCCL, and passes
    ``torch.cuda.current_device()`` to ``DistributedDataParallel`` (no upstream report known).

    Returns:
        Whether the repair was made.
    """
    import torch
    from basicsr.models.base_model import BaseModel
    from basicsr.utils import dist_util

    if torch.cuda.is_available() or hasattr(BaseModel.model_to_device, 'without_gpu'):
        return False
    upstream_to_device = BaseModel.model_to_device

    def init_dist_pytorch(backend: str, **kwargs: Any) -> None:
        torch.distributed.init_process_group(backend='gloo' if backend == 'nccl' else backend, **kwargs)

    def model_to_device(self: Any, net: torch.nn.Module) -> torch.nn.Module:
        if not self.opt['dist']:
            return upstream_to_device(self, net)
        unused = self.opt.get('find_unused_parameters', False)
        return torch.nn.parallel.DistributedDataParallel(net.to(self.device), find_unused_parameters=unused)

    model_to_device.without_gpu = upstream_to_device  # type: ignore[attr-defined]
    dist_util._init_dist_pytorch = init_dist_pytorch
    BaseModel.model_to_device = model_to_device
    return True


def leave_without_gpu() -> None:
    """End the process of a finished gloo rank at once, when all ranks are done; does nothing otherwise.

    gloo's threads now and then abort the interpreter's own shutdown ("terminate called without an active exception",
    PyTorch 2.14, no upstream report known), and torchrun then reports a finished run as failed.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized() and distributed.get_backend() == 'gloo':
        distributed.barrier()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def accept_dashed_local_rank(argv: list[str]) -> list[str]:
    """Rewrite ``--local-rank`` as the ``--local_rank`` that BasicSR's parser knows.

    Upstream: https://github.com/XPixelGroup/BasicSR/issues/626 (since PyTorch 2.0 ``torch.distributed.launch``
    passes the dashed form).

    Args:
        argv: Command line without the program name.

    Returns:
        The same arguments, only that flag renamed.
    """
    return ['--local_rank' + arg[len('--local-rank'):] if arg.split('=')[0] == '--local-rank' else arg
            for arg in argv]


def apply_early() -> None:
    """Repairs that must come before ``import basicsr``."""
    provide_functional_tensor()


def apply() -> None:
    """Repairs of the imported BasicSR."""
    resume_without_gpu()
    distributed_without_gpu()
