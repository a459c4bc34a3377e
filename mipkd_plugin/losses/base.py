"""What every distillation loss has in common, and what some of them share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from basicsr.archs import build_network
from torch import Tensor, nn

from mipkd_plugin import require
from mipkd_plugin.archs.projection_arch import FeatureProjection
from mipkd_plugin.features import TapInfo
from mipkd_plugin.step import Step, StepPlan

_SMALLEST_LENGTH = 1e-6


@dataclass(frozen=True)
class TapPair:
    """Two taps whose features have the same H×W.

    Attributes:
        student: What the probe run saw in the student.
        teacher: What it saw in the teacher.
    """

    student: TapInfo
    teacher: TapInfo

    @property
    def paths(self) -> tuple[str, str]:
        """(student module path, teacher module path)."""
        return self.student.path, self.teacher.path


class DistillationLoss(nn.Module):
    """A distillation method: a Step in, weighted scalar terms named ``l_*`` out.

    A subclass sets ``self.taps`` (what :func:`~mipkd_plugin.trunk.resolve_taps` takes), builds its mixers or
    projections in :meth:`build` and computes its terms in :meth:`forward`, where each weight is applied, once.
    Extra state of the loss itself (``get_extra_state``) is its random numbers, which differ from rank to rank; extra
    state of the modules in it is the same on all ranks.

    Args:
        taps: Number of taps, list of [student path, teacher path], or None for a loss without features.

    Raises:
        ValueError: There are no taps, and the loss needs some.
    """

    needs_taps: bool = False
    """Whether the loss compares features."""

    reenters: bool = False
    """Whether features re-enter the networks at the taps; the taps must then be blocks of one trunk, in order."""

    smallest_batch: int = 1
    """How many images a batch needs."""

    why_batch: str = ''
    """What it needs them for; for the error message."""

    def __init__(self, taps: int | Sequence[Sequence[str]] | None = None) -> None:
        super().__init__()
        if self.needs_taps and taps is None:
            raise ValueError('taps must be a number, or a list of [student module, teacher module], got None')
        self.taps = taps
        self.pairs: list[tuple[str, str]] = []

    def build(self, pairs: Sequence[TapPair]) -> None:
        """Build what the loss trains, in the sizes that the probe run saw. Nothing by default."""

    def seed(self, seed: int) -> None:
        """Start the loss's own random numbers anew. Nothing by default: most losses draw none."""

    def objection(self, student: nn.Module) -> tuple[str, str] | None:
        """(What is wrong with a student, what to do about it), or None: most losses take any."""
        return None

    def own_parameters(self) -> list[nn.Parameter]:
        """Parameters that the loss trains itself in :meth:`prepare`; the student's optimizer gets the others."""
        return []

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        """Train what the loss trains itself, before the student's own step. Nothing by default.

        Returns:
            Values to log, detached scalars.
        """
        return {}

    def features(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """(F_S, F_T), maps (N, C, H, W), at each tap pair.

        Raises:
            RuntimeError: The loss is not bound to any networks yet.
        """
        if not self.pairs:
            raise RuntimeError(f'{type(self).__name__} has no taps yet: bind it to a student and a teacher first, '
                               'see bind()')
        return [(step.student.features[s], step.teacher.features[t]) for s, t in self.pairs]

    def require_batch(self, step: Step) -> None:
        """Refuse a batch that is too small, in a loop that the option check has not seen.

        Raises:
            ValueError: There are fewer than ``smallest_batch`` images.
        """
        if len(step.lq) < self.smallest_batch:
            raise ValueError(f'{type(self).__name__} needs batches of {self.smallest_batch} images or more, got '
                             f'{len(step.lq)}: {self.why_batch}; drop the last, smaller batch (drop_last=True)')

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the weighted terms.

        Args:
            step: The iteration.

        Returns:
            Name ``l_*`` → scalar. Their sum is what the method adds to the pixel loss.
        """
        raise TypeError(f'{type(self).__name__} computes no terms: it must define forward(step)')


class DrawingLoss(DistillationLoss):
    """A loss that draws random numbers: from a generator of its own, whose state is saved with the loss.

    Neither the student's dropout nor the order of the data depends on them.
    """

    def __init__(self, taps: int | Sequence[Sequence[str]] | None = None) -> None:
        super().__init__(taps)
        self._generator = torch.Generator()
        self.seed(0)

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        """State of the generator: part of the loss's ``state_dict``."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        self._generator.set_state(state.cpu())

    def _generator_on(self, device: torch.device) -> torch.Generator:
        """A generator there, started by a number drawn on the CPU: what it draws need not cross over."""
        generator = torch.Generator(device)
        generator.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
        return generator


class ProjectingLoss(DistillationLoss):
    """A loss that projects the student's feature to the teacher's width: one :class:`FeatureProjection` a tap pair."""

    needs_taps = True

    def __init__(self, taps: int | Sequence[Sequence[str]] | None, feature_scale: str, momentum: float,
                 loss_weight: float) -> None:
        super().__init__(taps)
        require.positive(loss_weight=loss_weight)
        self.loss_weight = loss_weight
        self.projection_options: dict[str, Any] = {'feature_scale': feature_scale, 'momentum': momentum}
        FeatureProjection(1, 1, **self.projection_options)  # refuses options out of range now, not at the first probe
        self.projections = nn.ModuleList()

    def build(self, pairs: Sequence[TapPair]) -> None:
        self.projections = nn.ModuleList(
            build_network({'type': 'FeatureProjection', 'student_channels': pair.student.channels,
                           'teacher_channels': pair.teacher.channels, **self.projection_options}) for pair in pairs)

    def projected(self, step: Step) -> list[tuple[FeatureProjection, Tensor, Tensor]]:
        """(projection, P(F_S / scale), F_T) at each tap pair, after the scale has taken in this batch."""
        found = []
        for module, (f_s, f_t) in zip(self.projections, self.features(step)):
            projection = cast(FeatureProjection, module)
            projection.update_scale(f_t)
            found.append((projection, projection(f_s), f_t))
        return found


def unit(vectors: Tensor, dim: int) -> Tensor:
    """Vectors of length 1 along ``dim``; one of length 0 stays 0 and passes no gradient (it would be without bound)."""
    length = vectors.norm(dim=dim, keepdim=True)
    return torch.where(length > _SMALLEST_LENGTH, vectors / length.clamp_min(_SMALLEST_LENGTH), 0.0)


def mean(values: Iterable[Tensor]) -> Tensor:
    """Mean over tensors of one shape and over their elements, through which gradients pass."""
    return torch.stack(list(values)).mean()


def logits_distance(step: Step) -> Tensor:
    """|S(x) − T(x)|, the mean absolute error between the two output images: a scalar."""
    return (step.student.output - step.teacher.output).abs().mean()
