"""Teacher and losses that fit a student, and how the check passes them on to the training."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import bind, tap
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.step import NetPair


@dataclass
class Distillation:
    """What distills into a student.

    Attributes:
        teacher: The teacher, frozen, with its weights.
        losses: YAML path → loss of ``train.distill_opt``, bound.
        probe: The images (1, C, H, W) of the probe run, as large as a training patch.
        seed: The random seed with which the losses were built.
        fingerprint: Hash of the teacher's weights.
        execution: How the teacher runs once it is attached to a student.
        notes: What is doubtful about networks and taps.
    """

    teacher: nn.Module
    losses: dict[str, DistillationLoss]
    probe: Tensor
    seed: int
    fingerprint: str
    execution: Execution = PLAIN
    notes: list[str] = field(default_factory=list)

    def attach(self, student: nn.Module, runner: Callable[[Tensor], Tensor] | None = None) -> NetPair:
        """Tap a student of the checked architecture. Casts the teacher's weights in place, if ``execution`` says so.

        Args:
            student: The student, unwrapped.
            runner: Its ``DistributedDataParallel`` wrapper, if it has one.

        Returns:
            The student and the teacher, tapped where the losses need it.
        """
        calms = self.teacher.training  # as binding has left it: in the calm training mode, or in eval mode
        nets = tap(student, self.teacher, [loss.pairs for loss in self.losses.values()], runner, self.execution)
        nets.teacher.calm(calms)
        lq = self.probe.to(next(student.parameters()).device)
        for net, side in ((nets.student, 0), (nets.teacher, 1)):
            net.probe(lq)
            for loss in self.losses.values():
                if loss.reenters_network:
                    net.prepare(lq, [pair[side] for pair in loss.pairs])
        return nets

    def with_seed(self, seed: int, student: nn.Module) -> Distillation:
        """Build what the losses train again if another seed wants other weights.

        Without ``manual_seed``, BasicSR draws a seed when the training starts, after the check.

        Returns:
            This distillation.
        """
        if seed != self.seed:
            self.teacher.to(next(student.parameters()).device)
            losses, shape = list(self.losses.values()), tuple(self.probe.shape[1:])
            nets, self.probe = bind_with_seed(losses, student, self.teacher, shape, seed, [])
            nets.close()
            self.seed = seed
        return self


def bind_with_seed(losses: list[DistillationLoss], student: nn.Module, teacher: nn.Module, shape: tuple[int, ...],
          seed: int, notes: list[str]) -> tuple[NetPair, Tensor]:
    """Bind losses in a probe run. The weights of their networks depend on the seed alone.

    Args:
        losses: The losses.
        student: The student.
        teacher: The teacher.
        shape: (C, H, W) of a training patch.
        seed: The seed.
        notes: Gets what is doubtful about networks and taps.

    Returns:
        The tapped networks, and the images (1, C, H, W) of the probe run.
    """
    device = next(student.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        probe = torch.rand(1, *shape).to(device)
        return bind(losses, student, teacher, probe, notes=notes), probe


_prepared: dict[str, Distillation] = {}


@contextmanager
def prepared(opt: Mapping[str, Any], distillation: Distillation | None) -> Iterator[None]:
    """Inside the block, the first model with these options takes what the check has built, instead of building it."""
    key = _key(opt)
    if distillation is not None:
        _prepared[key] = distillation
    try:
        yield
    finally:
        _prepared.pop(key, None)


def take_prepared(opt: Mapping[str, Any]) -> Distillation | None:
    """What a check in this process has built for these options; only once, as training changes it."""
    return _prepared.pop(_key(opt), None)


def _key(opt: Mapping[str, Any]) -> str:
    train = opt.get('train')
    losses = train.get('distill_opt') if isinstance(train, Mapping) else None
    return json.dumps([opt.get('network_g'), opt.get('teacher'), losses], default=str)
