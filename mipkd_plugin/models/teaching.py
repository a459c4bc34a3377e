"""The teachers of a training: one or several, beside one student, and which loss learns from which of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mipkd_plugin import config
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.models.pictures import FrozenTeacher
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.slicing import sliced
from mipkd_plugin.networks.step import NetPair, Step, StepPlan
from mipkd_plugin.networks.teacher_cache import TeacherCache

if TYPE_CHECKING:
    from mipkd_plugin.config import Distillation


class Teaching:
    """Runs the teachers of a training. All of them share the student, whose one pass serves all losses.

    With ``train.init: teacher_slice`` the student of a new training gets its slice of the first teacher.

    Args:
        opt: The options of the model.
        distillation: Teachers and losses; the teachers go to ``device``, frozen, without a parallel wrapper.
        student: The student, unwrapped.
        runner: Its ``DistributedDataParallel`` wrapper, if it has one.
        device: Where the student is.

    Attributes:
        nets: The student with each teacher, by the teacher's name. The name is '' for the block ``teacher``.
        chosen: For each loss the name of its teacher.
        caches: The caches of the teachers that have one, by name.
    """

    def __init__(self, opt: Mapping[str, Any], distillation: Distillation, student: nn.Module,
                 runner: Callable[[Tensor], Tensor] | None, device: torch.device) -> None:
        for net in distillation.nets.values():
            net.to(device)
        if config.starts_from_slice(opt):
            student.load_state_dict(sliced(student, distillation.teacher))
        self.teachers = distillation.nets
        self.chosen = distillation.chosen
        self.fingerprint = distillation.fingerprint
        self.learned = distillation.learned(config.read_eco(opt) is not None)
        self.nets: dict[str, NetPair] = distillation.attach_all(student, runner)
        self.caches: dict[str, TeacherCache] = config.make_caches(
            opt, self.nets, distillation.probe.to(device),
            {name: teacher.fingerprint for name, teacher in distillation.teachers.items()})

    def plans(self, lq: Tensor, gt: Tensor, optimizer: Optimizer, reconstruction: Callable[[Tensor, Tensor], Tensor],
              iteration: int, crops: Tensor | None, *, as_fed: bool = True, known: NetPass | None = None,
              averaged: nn.Module | None = None) -> dict[str, StepPlan]:
        """Run each teacher, or look up what it has answered before.

        Args:
            lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
            gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
            optimizer: The optimizer that trains the student.
            reconstruction: (S(x), y) → L_rec.
            iteration: Number of the iteration, from 1.
            crops: Numbers of the crops (N,), for caches.
            as_fed: Whether ``lq`` are these crops themselves; if not, nothing is looked up.
            known: The pass of the first teacher over ``lq``, if it was made before.
            averaged: The student's moving average, if it has one.

        Returns:
            What the losses of each teacher prepare with, by its name.
        """
        passes = {} if known is None else {self.first: known}
        if as_fed:
            passes |= {name: cache(lq, crops) for name, cache in self.caches.items() if name not in passes}
        return {name: nets.plan(lq, gt, optimizer, reconstruction, iteration, passes.get(name), averaged)
                for name, nets in self.nets.items() if name in self.chosen}  # ECO may be all that another is for

    @property
    def first(self) -> str:
        """The name of the only teacher, or of the first."""
        return next(iter(self.nets))

    def steps(self, plans: Mapping[str, StepPlan], student: NetPass) -> list[Step]:
        """The argument of each loss: the step of its teacher, all with the same pass of the student."""
        made = {name: plan.run(student) for name, plan in plans.items()}
        return [made[name] for name in self.chosen]

    def upscalers(self, scale: int) -> dict[str, Callable[[Tensor], Tensor]]:
        """What runs each teacher on one whole image, by what people call it."""
        return {called(name): FrozenTeacher(self.teachers[name], nets.teacher.execution, scale).upscale
                for name, nets in self.nets.items()}

    def close(self) -> None:
        """Remove all hooks."""
        for nets in self.nets.values():
            nets.close()

    def dismiss(self) -> None:
        """Free what no later iteration needs: hooks, caches, and the device's memory that the teachers take."""
        self.close()
        for net in self.teachers.values():
            net.cpu()
        self.caches.clear()


def called(name: str) -> str:
    """What people call a teacher: ``teacher``, or ``teacher big`` if it is one of several."""
    return f'teacher {name}'.strip()


def prepare(losses: list[DistillationLoss], plans: list[StepPlan], device: torch.device,
            stops: bool) -> dict[str, Tensor]:
    """Let losses train their own parameters; names of a second such loss end in ``_2``.

    Args:
        losses: The losses.
        plans: For each loss the plan of its teacher.
        device: Where the student is.
        stops: Whether a gradient that is not finite stops the training; if not, the whole step counts as not finite.

    Returns:
        What they log.

    Raises:
        FloatingPointError: A gradient is not finite, and that ``stops`` the training.
    """
    own = [(loss, plan) for loss, plan in zip(losses, plans) if loss.self_trained_parameters()]
    return {name if number == 1 else f'{name}_{number}': value for number, (loss, plan) in enumerate(own, 1)
            for name, value in _prepare_one(loss, plan, device, stops).items()}


def _prepare_one(loss: DistillationLoss, plan: StepPlan, device: torch.device, stops: bool) -> dict[str, Tensor]:
    try:
        return loss.prepare(plan)
    except FloatingPointError:
        if stops:
            raise
        return {type(loss).__name__: torch.full((), torch.nan, device=device)}
