"""A tapped student and teacher, and the records of one training iteration with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn
from torch.optim import Optimizer

from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.tapped_net import TappedNet


class NetPair(NamedTuple):
    """A tapped student and its tapped teacher, ready to take steps.

    Attributes:
        student: The student.
        teacher: The frozen teacher: gradients pass through it, never into it.
    """

    student: TappedNet
    teacher: TappedNet

    def step(self, lq: Tensor, gt: Tensor, iteration: int = 1, teacher: NetPass | None = None,
             averaged: nn.Module | None = None) -> Step:
        """Run both networks on one batch.

        Args:
            lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
            gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
            iteration: Number of the iteration, from 1.
            teacher: The teacher's pass over ``lq``, if it was made before.
            averaged: The moving average of the student, if it has one.

        Returns:
            The argument of a distillation loss.
        """
        if teacher is None:
            teacher = self.teacher(lq)
        return Step(lq, gt, iteration, self.student(lq), teacher, self, averaged)

    def plan(self, lq: Tensor, gt: Tensor, optimizer: Optimizer, reconstruction: Callable[[Tensor, Tensor], Tensor],
             iteration: int = 1, teacher: NetPass | None = None, averaged: nn.Module | None = None) -> StepPlan:
        """Run the teacher alone, for losses that train something of their own before the student's step.

        Args:
            lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
            gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
            optimizer: The optimizer that trains the student.
            reconstruction: (S(x), y) → L_rec, the scalar that the student minimizes besides the distillation terms.
            iteration: Number of the iteration, from 1.
            teacher: The teacher's pass over ``lq``, if it was made before.
            averaged: The moving average of the student, if it has one.

        Returns:
            The argument of :meth:`~mipkd_plugin.losses.base.DistillationLoss.prepare`; its ``run`` makes the step.
        """
        if teacher is None:
            teacher = self.teacher(lq)
        return StepPlan(lq, gt, iteration, teacher, self, optimizer, reconstruction, averaged)

    def close(self) -> None:
        """Remove all hooks: both networks are as they were (the teacher stays frozen)."""
        self.student.close()
        self.teacher.close()


@dataclass(frozen=True)
class Step:
    """One iteration: the only argument of a distillation loss's ``forward``.

    Attributes:
        lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
        gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
        iteration: Number of the iteration, from 1.
        student: Pass of the student, with gradient.
        teacher: Pass of the teacher, without gradient.
        nets: Both networks, for losses that run them again or enter them in the middle.
        averaged: The moving average (EMA) of the student, as it was after the last step; None: there is none.
    """

    lq: Tensor
    gt: Tensor
    iteration: int
    student: NetPass
    teacher: NetPass
    nets: NetPair
    averaged: nn.Module | None = None


@dataclass(frozen=True)
class StepPlan:
    """One iteration before the student has run, for losses that first train parameters of their own.

    Attributes:
        lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
        gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
        iteration: Number of the iteration, from 1.
        teacher: Pass of the teacher over the whole batch, without gradient.
        nets: Both networks.
        optimizer: The optimizer that trains the student.
        reconstruction: (S(x), y) → L_rec, the scalar that the student minimizes besides the distillation terms.
        averaged: The moving average (EMA) of the student, as it was after the last step; None: there is none.
    """

    lq: Tensor
    gt: Tensor
    iteration: int
    teacher: NetPass
    nets: NetPair
    optimizer: Optimizer
    reconstruction: Callable[[Tensor, Tensor], Tensor]
    averaged: nn.Module | None = None

    def run(self, student: NetPass | None = None) -> Step:
        """Run the student too; or take its pass over the same images, if it was made before."""
        if student is None:
            student = self.nets.student(self.lq)
        return Step(self.lq, self.gt, self.iteration, student, self.teacher, self.nets, self.averaged)
