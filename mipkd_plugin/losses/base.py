"""What every distillation loss has in common, and what some of them share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from mipkd_plugin.archs.base import ScaledFeatures
from mipkd_plugin.networks.features import NetPass, TapInfo
from mipkd_plugin.networks.step import Step, StepPlan
from mipkd_plugin.networks.views import Resample
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.ranges import ArgumentError, Taps, check_taps


class BatchError(MipkdError):
    """A batch has fewer images than a loss needs."""


class LossError(MipkdError):
    """A loss cannot train with these networks.

    Attributes:
        what: What is wrong.
        remedy: What to do about it.
        options: Options of the loss, name → value, that would do it; may be empty.
    """

    def __init__(self, what: str, remedy: str = '', options: Mapping[str, Any] | None = None) -> None:
        self.what = what
        self.remedy = remedy
        self.options = dict(options or {})
        super().__init__(f'{what}; {remedy}' if remedy else what)


@dataclass(frozen=True)
class TapPair:
    """Two taps whose features have the same H×W.

    Attributes:
        student: The student's tap, as the probe run saw it.
        teacher: The teacher's.
    """

    student: TapInfo
    teacher: TapInfo

    @property
    def paths(self) -> tuple[str, str]:
        """(student module path, teacher module path)."""
        return self.student.path, self.teacher.path


class DistillationLoss(nn.Module):
    """A distillation method: a Step in, weighted scalar terms named ``l_*`` out.

    A subclass builds its mixers or projections in :meth:`build` and computes its terms in :meth:`forward`, where each
    weight is applied, once. Extra state of the loss itself (``get_extra_state``) is its random numbers, which differ
    from rank to rank; extra state of the modules in it is the same on all ranks.

    Args:
        taps: Number of taps, list of [student path, teacher path], or None for a loss without features.
        resample: ``area`` or ``bilinear`` (with antialiasing): of two features of different H×W the finer one is shown
            resampled to the size of the coarser one. By default it is shown pixel-unshuffled, which loses nothing, and
            only for whole factors up to 4.

    Raises:
        ArgumentError: ``taps`` is missing and the loss needs some, or it is neither a number nor a list of pairs.
    """

    needs_taps: bool = False
    """Whether the loss compares features."""

    reenters_network: bool = False
    """Whether features re-enter the networks at the taps; the taps must then be blocks of one trunk, in order."""

    reentered: Sequence[str] = ('student', 'teacher')
    """The networks that features re-enter, if ``reenters_network``; no feature can where it is shown resampled."""

    without_reentry: Mapping[str, Any] = {}
    """Options, name → value, with which no feature re-enters; empty if there are none."""

    due_every: int = 1
    """What the loss does in some iterations only is due where this number divides theirs; a trial step takes one."""

    turns: Mapping[str, int] = {}
    """Options ``*_every`` → iteration of the first turn, for what a run must come to at least once."""

    uses_teacher: bool = True
    """Whether it looks at the teacher; a control does not, and a comparison says so."""

    note: str = ''
    """What a person should know of how it trains with these networks; the check and the log print it."""

    min_batch_size: int = 1
    """Smallest batch, in images."""

    min_batch_reason: str = ''
    """Reason, for the error message."""

    def __init__(self, taps: Taps | None = None, resample: Resample | None = None) -> None:
        super().__init__()
        self.taps = self._checked_taps(taps)
        self.resample = resample
        self.pairs: list[tuple[str, str]] = []
        self.is_bound = False

    def _checked_taps(self, taps: Taps | None) -> Taps | None:
        name = type(self).__name__
        if taps is None:
            if self.needs_taps:
                raise ArgumentError(name, {'taps': f'is missing: {name} compares features'})
            return None
        try:
            return cast(Taps, check_taps(taps))
        except ValueError as error:
            raise ArgumentError(name, {'taps': f'{error}, got {taps!r}'}) from None

    def copy_student(self, student: nn.Module) -> None:
        """Copy the student, before :meth:`build`; its weights may be others later. Nothing by default."""

    def fixed_options(self) -> dict[str, Any]:
        """Options, name → value, with which alone the state of the loss can go on in a resumed run. None by default."""
        return {}

    def build(self, pairs: Sequence[TapPair]) -> None:
        """Build what the loss trains, in the sizes that the probe run saw. Nothing by default."""

    def scaled_networks(self) -> Sequence[ScaledFeatures]:
        """One network per tap pair with a running feature scale, or none. Updated before each :meth:`forward`."""
        return ()

    def seed(self, seed: int) -> None:
        """Restart the loss's own random numbers. Nothing by default: most losses draw none."""

    def unsupported_reason(self, student: nn.Module) -> tuple[str, str] | None:
        """(What is wrong with a student, what to do about it), or None: most losses take any."""
        return None

    def learn_from(self, tried: DistillationLoss) -> None:
        """Take over what a copy of this loss has found out in a trial step. Nothing by default."""

    def self_trained_parameters(self) -> list[nn.Parameter]:
        """Parameters that the loss trains itself in :meth:`prepare`; the student's optimizer gets the others."""
        return []

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        """Train what the loss trains itself, before the student's own step. Nothing by default.

        Returns:
            Values to log, detached scalars.
        """
        return {}

    def features(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        """Look up the features at the tap pairs.

        Returns:
            (F_S, F_T), maps (N, C, H, W), for each tap pair.

        Raises:
            RuntimeError: The loss is not bound to any networks yet.
        """
        self.require_bound()
        return [(step.student.features[s], step.teacher.features[t]) for s, t in self.pairs]

    def require_bound(self) -> None:
        """Check that the loss knows its networks.

        Raises:
            RuntimeError: The loss is not bound.
        """
        if not self.is_bound:
            raise RuntimeError(f'{type(self).__name__} knows no networks yet: bind it to a student and a teacher '
                               'first, see bind()')

    def update_scales(self, teacher: NetPass) -> None:
        """Take a pass of the teacher into the running feature scales."""
        for network, (_, t) in zip(self.scaled_networks(), self.pairs):
            network.update_scale(teacher.features[t])

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """Check the batch, update the feature scales, then compute the terms.

        Returns:
            Name ``l_*`` → scalar, see :meth:`forward`.

        Raises:
            BatchError: There are fewer than ``min_batch_size`` images.
        """
        if len(step.lq) < self.min_batch_size:
            raise BatchError(f'{type(self).__name__} needs batches of {self.min_batch_size} images or more, got '
                             f'{len(step.lq)}: {self.min_batch_reason}; drop the last, smaller batch (drop_last=True)')
        self.update_scales(step.teacher)
        return cast(dict[str, Tensor], super().__call__(step))

    def forward(self, step: Step) -> dict[str, Tensor]:
        """Compute the weighted terms.

        Args:
            step: The iteration.

        Returns:
            Name ``l_*`` → scalar. The method adds their sum to the pixel loss.

        Raises:
            TypeError: The class does not define it.
        """
        raise TypeError(f'{type(self).__name__} computes no terms: it must define forward(step)')


class RandomizedLoss(DistillationLoss):
    """A loss that draws random numbers: from a generator of its own, whose state is saved with the loss.

    Neither the student's dropout nor the order of the data depends on them.
    """

    def __init__(self, taps: Taps | None = None, resample: Resample | None = None) -> None:
        super().__init__(taps, resample)
        self._generator = torch.Generator()
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restart the generator."""
        self._generator.manual_seed(seed)

    def get_extra_state(self) -> Tensor:
        """State of the generator: part of the loss's ``state_dict``."""
        return self._generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Restore the generator."""
        self._generator.set_state(state.cpu())

    def _generator_on(self, device: torch.device) -> torch.Generator:
        """A generator on a device, seeded from the CPU generator, so that draws need no copy."""
        generator = torch.Generator(device)
        generator.manual_seed(int(torch.randint(2**62, (), generator=self._generator)))
        return generator


def mean(values: Iterable[Tensor]) -> Tensor:
    """Mean over tensors of one shape and over their elements; gradients pass through it."""
    return torch.stack(list(values)).mean()


def logits_distance(step: Step) -> Tensor:
    """|S(x) − T(x)|, the mean absolute error between the two output images: a scalar."""
    return (step.student.output - step.teacher.output).abs().mean()
