"""Teachers and losses that fit a student, and how the check passes them on to the training."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import bind_several, tap
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.tapped_net import TappedNet


@dataclass(frozen=True)
class OneTeacher:
    """A teacher of a training.

    Attributes:
        net: The network, frozen, with its weights.
        fingerprint: Hash of its weights.
        execution: How it runs once it is attached to a student.
    """

    net: nn.Module
    fingerprint: str
    execution: Execution = PLAIN


@dataclass
class Distillation:
    """What distills into a student.

    Attributes:
        teachers: The teachers by name, in the order of the option file. The name is '' for the block ``teacher``.
        losses: YAML path → loss of ``train.distill_opt``, bound.
        chosen: For each loss the name of its teacher.
        probe: The images (1, C, H, W) of the probe run, as large as a training patch.
        seed: The random seed with which the losses were built.
        notes: What is doubtful about networks and taps.
    """

    teachers: dict[str, OneTeacher]
    losses: dict[str, DistillationLoss]
    chosen: list[str]
    probe: Tensor
    seed: int
    notes: list[str] = field(default_factory=list)

    @property
    def teacher(self) -> nn.Module:
        """The only teacher, or the first."""
        return next(iter(self.teachers.values())).net

    @property
    def fingerprint(self) -> str:
        """Hash of the weights of the only teacher, or of those of all, whatever their order."""
        return joint_fingerprint({name: teacher.fingerprint for name, teacher in self.teachers.items()})

    def learned(self, with_eco: bool) -> list[tuple[str, str]] | None:
        """For each loss name and hash of its teacher, and for ECO after them; None with one teacher without a name."""
        names = [*self.chosen, *([next(iter(self.teachers))] if with_eco else [])]
        return [(name, self.teachers[name].fingerprint) for name in names] if list(self.teachers) != [''] else None

    @property
    def nets(self) -> dict[str, nn.Module]:
        """The networks of the teachers by name."""
        return {name: teacher.net for name, teacher in self.teachers.items()}

    def uncompiled(self) -> Distillation:
        """The same, with teachers that run without ``torch.compile``."""
        return replace(self, teachers={name: replace(one, execution=replace(one.execution, compile=False))
                                       for name, one in self.teachers.items()})

    def attach(self, student: nn.Module, runner: Callable[[Tensor], Tensor] | None = None) -> NetPair:
        """Tap a student and its teachers, see :meth:`attach_all`.

        Returns:
            The student and the only teacher, or the first.
        """
        return next(iter(self.attach_all(student, runner).values()))

    def attach_all(self, student: nn.Module, runner: Callable[[Tensor], Tensor] | None = None) -> dict[str, NetPair]:
        """Tap a student of the checked architecture. Casts weights of teachers in place, if ``execution`` says so.

        Args:
            student: The student, unwrapped.
            runner: Its ``DistributedDataParallel`` wrapper, if it has one.

        Returns:
            The student with each teacher by name, tapped where the losses need it; the student is tapped once.
        """
        calms = {name: net.training for name, net in self.nets.items()}  # as binding has left it: calm, or in eval mode
        losses = list(self.losses.values())
        found = tap(student, self.nets, [loss.pairs for loss in losses], self.chosen, runner,
                    {name: teacher.execution for name, teacher in self.teachers.items()})
        lq = self.probe.to(next(student.parameters()).device)
        tapped = next(iter(found.values())).student
        _get_ready(tapped, lq, losses, 0)
        for name, nets in found.items():
            nets.teacher.calm(calms[name])
            _get_ready(nets.teacher, lq, [loss for loss, own in zip(losses, self.chosen) if own == name], 1)
        return found

    def with_seed(self, seed: int, student: nn.Module) -> Distillation:
        """Build what the losses train again if another seed wants other weights.

        Without ``manual_seed``, BasicSR draws a seed when the training starts, after the check.

        Returns:
            This distillation.
        """
        if seed != self.seed:
            for net in self.nets.values():
                net.to(next(student.parameters()).device)
            losses, shape = list(self.losses.values()), tuple(self.probe.shape[1:])
            nets, self.probe = bind_with_seed(losses, self.chosen, student, self.nets, shape, seed, [])
            close(nets)
            self.seed = seed
        return self


def _get_ready(net: TappedNet, lq: Tensor, losses: Sequence[DistillationLoss], side: int) -> None:
    """Look at the taps of a network, and prepare it where features re-enter it."""
    net.probe(lq)
    for loss in losses:
        if loss.reenters_network:
            net.prepare(lq, [pair[side] for pair in loss.pairs])


def joint_fingerprint(fingerprints: Mapping[str, str]) -> str:
    """One hash for all teachers of a training. A single teacher without a name keeps its own hash.

    Args:
        fingerprints: Hash of the weights by name.

    Returns:
        The hash; the order of the teachers does not matter.
    """
    if list(fingerprints) == ['']:
        return fingerprints['']
    return hashlib.sha256(json.dumps(sorted(fingerprints.items())).encode()).hexdigest()


def close(nets: Mapping[str, NetPair]) -> None:
    """Remove all hooks of a student and its teachers."""
    for pair in nets.values():
        pair.close()


def bind_with_seed(losses: list[DistillationLoss], chosen: list[str], student: nn.Module,
                   teachers: Mapping[str, nn.Module], shape: tuple[int, ...], seed: int,
                   notes: list[str]) -> tuple[dict[str, NetPair], Tensor]:
    """Bind losses in a probe run. The weights of their networks depend on the seed alone.

    Args:
        losses: The losses.
        chosen: For each loss the name of its teacher.
        student: The student.
        teachers: The teachers by name.
        shape: (C, H, W) of a training patch.
        seed: The seed.
        notes: Gets what is doubtful about networks and taps.

    Returns:
        The student with each teacher, tapped, and the images (1, C, H, W) of the probe run.
    """
    device = next(student.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        torch.manual_seed(seed)
        probe = torch.rand(1, *shape).to(device)
        return bind_several(losses, chosen, student, teachers, probe, notes), probe


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
    return json.dumps([opt.get('network_g'), opt.get('teacher'), opt.get('teachers'), losses], default=str)
