"""Records of one training iteration: the plan of it, what a network returned, what a distillation loss gets to see."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor
from torch.optim import Optimizer

if TYPE_CHECKING:
    from mipkd_plugin.taps import TappedNet


@dataclass(frozen=True)
class NetPass:
    """One forward pass of a tapped network.

    Attributes:
        output: Super-resolved image (N, C, sH, sW), RGB in [0, 1], not clamped.
        features: Module path → feature map (N, C, H, W), in the order the taps were given.
    """

    output: Tensor
    features: Mapping[str, Tensor]


@dataclass(frozen=True)
class Step:
    """One iteration: the only argument of a distillation loss's ``forward``.

    Attributes:
        lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
        gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
        iteration: Number of the iteration, from 1.
        student: Pass of the student, with gradient.
        teacher: Pass of the teacher, without gradient.
        student_net: The student, to be entered again in the middle.
        teacher_net: The frozen teacher, likewise; gradients pass through it, never into it.
    """

    lq: Tensor
    gt: Tensor
    iteration: int
    student: NetPass
    teacher: NetPass
    student_net: TappedNet
    teacher_net: TappedNet

    @classmethod
    def run(cls, student_net: TappedNet, teacher_net: TappedNet, lq: Tensor, gt: Tensor, iteration: int) -> Step:
        """Run both networks on ``lq`` (N, C, H, W) and record what they returned."""
        return cls(lq=lq, gt=gt, iteration=iteration, teacher=teacher_net(lq), student=student_net(lq),
                   student_net=student_net, teacher_net=teacher_net)


@dataclass(frozen=True)
class StepPlan:
    """One iteration before the student has run: what a loss gets to see that trains something of its own first.

    Attributes:
        lq: Low-resolution images x (N, C, H, W), RGB in [0, 1].
        gt: High-resolution images y (N, C, sH, sW), RGB in [0, 1].
        iteration: Number of the iteration, from 1.
        teacher: Pass of the teacher over the whole batch, without gradient.
        student_net: The student.
        teacher_net: The frozen teacher.
        optimizer: The optimizer that will train the student.
        reconstruction: (S(x), y) → L_rec, the scalar that the student minimises besides the distillation terms.
    """

    lq: Tensor
    gt: Tensor
    iteration: int
    teacher: NetPass
    student_net: TappedNet
    teacher_net: TappedNet
    optimizer: Optimizer
    reconstruction: Callable[[Tensor, Tensor], Tensor]

    @classmethod
    def make(cls, student_net: TappedNet, teacher_net: TappedNet, lq: Tensor, gt: Tensor, iteration: int,
             optimizer: Optimizer, reconstruction: Callable[[Tensor, Tensor], Tensor]) -> StepPlan:
        """Run the teacher on ``lq`` (N, C, H, W) and record what the iteration starts from."""
        return cls(lq=lq, gt=gt, iteration=iteration, teacher=teacher_net(lq), student_net=student_net,
                   teacher_net=teacher_net, optimizer=optimizer, reconstruction=reconstruction)

    def run(self) -> Step:
        """Run the student too."""
        return Step(lq=self.lq, gt=self.gt, iteration=self.iteration, teacher=self.teacher,
                    student=self.student_net(self.lq), student_net=self.student_net, teacher_net=self.teacher_net)
