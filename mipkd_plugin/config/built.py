"""What a check has built of an option file: student, teachers and losses."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn

from mipkd_plugin.config.aggregation import Aggregation
from mipkd_plugin.config.distillation import Distillation, joint_fingerprint
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.networks.execution import PLAIN, Difference, Execution


@dataclass
class TeacherRun:
    """How a teacher will run in the training.

    Attributes:
        execution: Number format, memory layout and compilation.
        difference: How far it is then from float32, on the images of the probe run; None if it runs in float32.
        cache: What the cache of its passes will take, in words, if there is one.
    """

    execution: Execution = PLAIN
    difference: Difference | None = None
    cache: str | None = None


@dataclass
class Built:
    """What a check has built; None or empty where options did not allow it.

    Attributes:
        student: From ``network_g``, with random weights, or the one that was given.
        teachers: From ``teacher``, whose name is '', or from ``teachers``, by name.
        losses: YAML path → loss of ``train.distill_opt``.
        chosen: YAML path of each loss → name of the teacher that it learns from.
        pairs: YAML path → tap pairs, as the probe run saw them.
        distillation: Teachers and losses, if there were no problems up to here.
        bound: Teachers and losses as soon as the losses are bound, whatever a trial step says of them.
        runs: How each teacher will run, by name.
        aggregates: Whether the student is an aggregator, which runs on images of teachers alone.
        aggregation: These teachers.
    """

    student: nn.Module | None = None
    teachers: dict[str, nn.Module] = field(default_factory=dict)
    losses: dict[str, DistillationLoss] = field(default_factory=dict)
    chosen: dict[str, str] = field(default_factory=dict)
    pairs: dict[str, list[TapPair]] = field(default_factory=dict)
    distillation: Distillation | None = None
    bound: Distillation | None = None
    runs: dict[str, TeacherRun] = field(default_factory=dict)
    aggregates: bool = False
    aggregation: Aggregation | None = None

    @property
    def whole(self) -> nn.Module | None:
        """What turns an LR image into an image: the student, or an aggregator with its teachers."""
        if self.student is None or not self.aggregates:
            return self.student
        return None if self.aggregation is None else self.aggregation.with_aggregator(self.student)

    @property
    def teacher(self) -> nn.Module | None:
        """The only teacher, or the first; None without one."""
        return next(iter(self.teachers.values()), None)

    @property
    def execution(self) -> Execution:
        """How the only teacher, or the first, will run."""
        return next((run.execution for run in self.runs.values()), PLAIN)

    @property
    def difference(self) -> Difference | None:
        """How far that is from float32; None if it runs in float32."""
        return next((run.difference for run in self.runs.values()), None)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Hash of the weights of each teacher, by name."""
        if self.distillation is not None:
            return {name: teacher.fingerprint for name, teacher in self.distillation.teachers.items()}
        return {name: teacher_fingerprint(net) for name, net in self.teachers.items()}

    @property
    def fingerprint(self) -> str | None:
        """One hash of the weights of all teachers, if there is one."""
        return joint_fingerprint(self.fingerprints) if self.teachers else None
