"""The options of ``teacher`` that make it cheaper: read them, and see what they change before anything is trained."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.config.problems import Context
from mipkd_plugin.networks.execution import PLAIN, Difference, Execution, difference
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16, 'float16': torch.float16}
_KEYS = ('dtype', 'channels_last', 'compile')


def execution_of(teacher: Mapping[str, Any]) -> Execution:
    """How the block ``teacher`` wants its network to run; a value of a wrong kind counts as the default."""
    dtype = teacher.get('dtype')
    return Execution(_DTYPES[dtype] if isinstance(dtype, str) and dtype in _DTYPES else torch.float32,
                     *(teacher.get(key) is True for key in _KEYS[1:]))


def check_execution(ctx: Context, execution: Execution, teacher: TappedNet, probe: Tensor) -> Difference | None:
    """Run a copy of the teacher as the training will, and compare it with float32. Problems go to ``ctx``.

    The copy runs on the device of the training, uncompiled. Whether ``torch.compile`` works there is seen on a function
    of one line, because compiling the teacher takes too long for a check (our choice).

    Args:
        ctx: Options, and where problems go.
        execution: How the teacher will run.
        teacher: The teacher in float32, tapped.
        probe: Images (1, C, H, W) of random noise, of the size of a training patch.

    Returns:
        How far output and tapped features are from float32; None if that is not to be measured, or cannot be.
    """
    device = _training_device(ctx, probe.device)
    if execution.compile:
        reason = _compile_problem(device)
        if reason:
            ctx.add('teacher.compile', f'torch.compile does not work here: {reason}',
                    fix={'teacher.compile': False})
    if not execution.casts:
        return None
    name = str(replace(execution, compile=False))
    where, remedy, fix = cast_remedy(execution)
    if (execution.dtype == torch.bfloat16 and device.type == 'cuda'
            and not torch.cuda.is_bf16_supported(including_emulation=False)):
        ctx.add(where, f'this GPU cannot compute in bfloat16 ({torch.cuda.get_device_name(device)})',
                'write dtype: float16 or float32', {where: 'float16'})
        return None
    try:
        found = _measure(execution, teacher, probe.to(device))
    except FOREIGN_ERRORS as error:
        ctx.add(where, f'the teacher cannot run in {name} on this device ({device.type}): {type(error).__name__}: '
                f'{(str(error).splitlines() or [""])[0]}', remedy, fix)
        return None
    if not found.finite:
        ctx.add(where, f'in {name} the teacher\'s output or features are not finite on random images', remedy,
                fix)
        return None
    return found


def with_cast_teacher(ctx: Context, execution: Execution, nets: NetPair) -> NetPair | None:
    """The student beside a copy of the teacher that runs as the training will, uncompiled, to try losses with.

    Args:
        ctx: The options.
        execution: How the teacher will run.
        nets: Student and teacher, in float32.

    Returns:
        The new pair; None where it would be no other, cannot run, or the training is on another device.
    """
    device = next(nets.student.net.parameters()).device
    if not execution.casts or not ctx.clean('teacher') or _training_device(ctx, device) != device:
        return None
    return NetPair(nets.student, _copied(nets.teacher, execution, device))


def _measure(execution: Execution, teacher: TappedNet, lq: Tensor) -> Difference:
    with random_numbers_restored([lq.device] if lq.device.type == 'cuda' else []):
        with _copied(teacher, PLAIN, lq.device) as tapped:
            reference = tapped(lq)
        with _copied(teacher, execution, lq.device) as tapped:
            return difference(tapped(lq), reference)


def _copied(teacher: TappedNet, execution: Execution, device: torch.device) -> TappedNet:
    """A copy, so that the weights of the teacher itself stay those of its file: its fingerprint is theirs."""
    return TappedNet(copy.deepcopy(teacher.net).to(device), teacher.taps, frozen=True,
                     execution=replace(execution, compile=False))


def cast_remedy(execution: Execution) -> tuple[str, str, dict[str, Any]]:
    """(YAML path, remedy in words, and as data) for a cast that does not work."""
    if execution.dtype == torch.float32:
        return 'teacher.channels_last', 'write channels_last: false', {'teacher.channels_last': False}
    first, *rest = ('bfloat16', 'float32') if execution.dtype == torch.float16 else ('float32', )
    return 'teacher.dtype', f'write dtype: {" or ".join((first, *rest))}', {'teacher.dtype': first}


def _training_device(ctx: Context, here: torch.device) -> torch.device:
    """The device that BasicSR will train on; the check itself builds its networks on the CPU."""
    if here.type != 'cpu' or ctx.own_script or ctx.opt.get('num_gpu') == 0 or not torch.cuda.is_available():
        return here
    return torch.device('cuda', int(os.environ.get('LOCAL_RANK', 0)))


@cache
def _compile_problem(device: torch.device) -> str:
    """Why nothing can be compiled for a device, or ''; tried once, as a comparison has many checks."""
    number = time.time_ns() % 1_000_003 / 7  # a new number is new code, so the compiler has to run

    def function(x: Tensor) -> Tensor:
        return torch.relu(x * number)

    try:
        torch.compile(function)(torch.ones(8, device=device))
    except FOREIGN_ERRORS as error:
        return f'{type(error).__name__}: {(str(error).splitlines() or [""])[0]}'
    return ''
