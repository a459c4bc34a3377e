"""``check_loss`` catches each broken promise, for the right reason, and takes losses that keep them all."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin import DistillationLoss, LogitsKDLoss, MipkdError, RandomizedLoss, Step, StepPlan, TapPair
from mipkd_plugin.losses import mean
from mipkd_plugin.testing import ARCHITECTURES, ContractError, check_loss
from mipkd_plugin.utils.ranges import PositiveFloat, Taps, checked

BUILT = 'can be built with these options, and bound to student and teacher'
TERMS = 'forward(step) returns finite scalars named l_*, each with a gradient'
STUDENT = 'the student is moved by its optimizer alone'
TEACHER = 'the teacher stays as it is'
STEP = 'the images and features of a step stay as they are'
RANDOM = 'the random numbers of the process are left alone'
TRAINS = 'the terms train the whole student and all parameters of the loss'
OWN = 'what the loss trains itself moves in prepare(plan) alone'
BATCHES = 'batches of min_batch_size images and more are taken, smaller ones refused'
SEED = 'the same seed gives the same terms'
STATE = 'state_dict() holds all that the next terms depend on'
WEIGHT = 'loss_weight scales every term once'
OPTIONS = 'options out of range are refused'


class Good(RandomizedLoss):
    """Keeps every promise: a projection at each tap, random noise, a weight."""

    needs_taps = True

    @checked
    def __init__(self, taps: Taps = 2, loss_weight: PositiveFloat = 1.0) -> None:
        super().__init__(taps)
        self.loss_weight = loss_weight
        self.projections = nn.ModuleList()

    def build(self, pairs: Sequence[TapPair]) -> None:
        self.projections = nn.ModuleList(nn.Conv2d(p.student.channels, p.teacher.channels, 1) for p in pairs)

    def distance(self, step: Step) -> Tensor:
        noise = torch.rand(step.lq.shape[-2:], generator=self._generator)
        return mean(F.mse_loss(projection(f_s) * noise, f_t * noise)
                    for projection, (f_s, f_t) in zip(self.projections, self.features(step)))

    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_good': self.loss_weight * self.distance(step)}


class Learns(Good):
    """Keeps every promise, and trains a gain itself."""

    def build(self, pairs: Sequence[TapPair]) -> None:
        super().build(pairs)
        self.gain = nn.Parameter(torch.ones(()))

    def self_trained_parameters(self) -> list[nn.Parameter]:
        return [self.gain]

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        error = (self.gain * plan.teacher.output - plan.gt).abs().mean()
        gradient, = torch.autograd.grad(error, self.gain)
        with torch.no_grad():
            self.gain -= 0.1 * gradient
        return {'gain': self.gain.detach().clone()}

    def distance(self, step: Step) -> Tensor:
        return self.gain.detach() * super().distance(step)


class Vector(Good):
    def forward(self, step: Step) -> Any:
        return {'l_good': self.loss_weight * (step.student.output - step.teacher.output).abs().mean((1, 2, 3))}


class Detached(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step).detach()


class NoDict(Good):
    def forward(self, step: Step) -> Any:
        return self.distance(step)


class Crash(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) * wieght  # noqa: F821


class TakenName(Good):
    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_pix': self.loss_weight * self.distance(step)}


class NoPrefix(Good):
    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'good': self.loss_weight * self.distance(step)}


class NoForward(DistillationLoss):
    pass


class NotFinite(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) / 0 * 0


class InfiniteGradient(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) + (step.student.output - step.student.output.detach()).abs().sqrt().mean()


class Grows(Good):
    def distance(self, step: Step) -> Tensor:
        self.register_buffer(f'seen_{step.iteration}', torch.zeros(1))
        return super().distance(step)


class ChangesTheImages(Good):
    def distance(self, step: Step) -> Tensor:
        step.gt.clamp_(0, 0.5)
        return super().distance(step)


class ChangesTheTeachersImage(Good):
    def distance(self, step: Step) -> Tensor:
        step.teacher.output.clamp_(0, 1)
        return super().distance(step)


class CutOff(Good):
    def features(self, step: Step) -> list[tuple[Tensor, Tensor]]:
        return [(f_s.detach(), f_t) for f_s, f_t in super().features(step)]


class Starves(Good):
    def build(self, pairs: Sequence[TapPair]) -> None:
        super().build(pairs)
        self.forgotten = nn.Linear(2, 2)


class KeepsTheGraph(Good):
    previous: Tensor | float = 0.0

    def distance(self, step: Step) -> Tensor:
        distance = super().distance(step) + 0 * self.previous
        self.previous = distance
        return distance


class MovesTheStudent(Good):
    def distance(self, step: Step) -> Tensor:
        with torch.no_grad():
            list(step.nets.student.net.parameters())[-1].add_(1)
        return super().distance(step)


class CallsBackward(Good):
    def distance(self, step: Step) -> Tensor:
        distance = super().distance(step)
        distance.backward(retain_graph=True)
        return distance


class StudentEvaluates(Good):
    def distance(self, step: Step) -> Tensor:
        step.nets.student.net.eval()
        return super().distance(step)


class MovesTheTeacher(Good):
    def distance(self, step: Step) -> Tensor:
        with torch.no_grad():
            next(step.nets.teacher.net.parameters()).mul_(0.99)
        return super().distance(step)


class TeacherTrains(Good):
    def distance(self, step: Step) -> Tensor:
        step.nets.teacher.net.train()
        return super().distance(step)


class UnfreezesTheTeacher(Good):
    def distance(self, step: Step) -> Tensor:
        step.nets.teacher.net.requires_grad_(True)
        return super().distance(step)


class GlobalNoise(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) * (1 + torch.rand(()))


class NumpyNoise(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) * (1 + np.random.rand())


class SeedsPython(Good):
    def distance(self, step: Step) -> Tensor:
        random.seed(0)
        return super().distance(step)


class CountsInTheClass(Good):
    calls = [0]

    def distance(self, step: Step) -> Tensor:
        self.calls[0] += 1
        return super().distance(step) * self.calls[0]


class CountsInPlainPython(Good):
    calls = 0

    def distance(self, step: Step) -> Tensor:
        self.calls += 1
        return super().distance(step) * self.calls


class PlainTensor(Good):
    def build(self, pairs: Sequence[TapPair]) -> None:
        super().build(pairs)
        self.code = torch.rand(())

    def distance(self, step: Step) -> Tensor:
        return super().distance(step) * self.code


class StrangeState(Good):
    def get_extra_state(self) -> Any:
        return Good

    def set_extra_state(self, state: Any) -> None:
        pass


class TrainedByForward(Learns):
    def distance(self, step: Step) -> Tensor:
        return self.gain * Good.distance(self, step)


class NeverPrepares(Good):
    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        return {}


class NobodyTrains(Learns):
    prepare = DistillationLoss.prepare


class DoesNotMove(Learns):
    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        return {}


class LogsTheGraph(Learns):
    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        super().prepare(plan)
        return {'gain': self.gain * 1}


class TrainsTheStudent(Learns):
    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        F.l1_loss(plan.run().student.output, plan.gt).backward()
        plan.optimizer.step()
        return super().prepare(plan)


class NeedsTwo(Good):
    def distance(self, step: Step) -> Tensor:
        return super().distance(step) / (len(step.lq) - 1)


class TakesSmaller(Good):
    min_batch_size = 3
    min_batch_reason = 'three are company'

    def __call__(self, step: Step) -> dict[str, Tensor]:
        return nn.Module.__call__(self, step)


class GivesNoReason(Good):
    min_batch_size = 3


class WeighsTwice(Good):
    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_good': self.loss_weight * self.loss_weight * self.distance(step)}


class ForgetsAWeight(Good):
    def forward(self, step: Step) -> dict[str, Tensor]:
        return {'l_good': self.loss_weight * self.distance(step), 'l_more': self.distance(step)}


class TakesAnything(Good):
    def __init__(self, taps: Any = 2, loss_weight: Any = 1.0) -> None:
        DistillationLoss.__init__(self, taps)
        self._generator = torch.Generator()
        self.loss_weight = loss_weight
        self.projections = nn.ModuleList()


BROKEN: list[tuple[type, dict[str, str]]] = [
    # (loss, promise that it breaks → what must have been seen)
    (Vector, {TERMS: "the term 'l_good' must be a scalar, got the shape (2,); take its mean"}),
    (Detached, {TERMS: "the term 'l_good' is cut off: no gradient of it reaches the student or the loss itself"}),
    (NoDict, {TERMS: 'must return a dict of terms, got Tensor'}),
    (Crash, {TERMS: "NameError: name 'wieght' is not defined (line "}),
    (TakenName, {TERMS: "the term 'l_pix' has the name of a term of BasicSR"}),
    (NoPrefix, {TERMS: "the term 'good' must have a name that begins with l_"}),
    (NoForward, {TERMS: 'NoForward computes no terms: it must define forward(step)'}),
    (NotFinite, {TERMS: "the term 'l_good' is nan on random images"}),
    (InfiniteGradient, {TERMS: "the term 'l_good' has a gradient that is not finite"}),
    (ChangesTheImages, {STEP: 'forward(step) changed step.gt in place'}),
    (ChangesTheTeachersImage, {STEP: 'forward(step) changed step.teacher.output in place'}),
    (Grows, {TERMS: 'a step adds, removes or reshapes parameters or buffers of the loss (seen_126000)'}),
    (CutOff, {TRAINS: 'no term has a gradient at conv_first, the first convolution of the student'}),
    (Starves, {TRAINS: 'no gradient reaches forgotten.weight, forgotten.bias'}),
    (KeepsTheGraph, {TRAINS: 'the backward pass of a later step fails: '}),
    (MovesTheStudent, {STUDENT: 'forward(step) changed conv_last.bias of the student'}),
    (CallsBackward, {STUDENT: 'forward(step) left gradients in the student'}),
    (StudentEvaluates, {STUDENT: 'forward(step) changed the mode of the student'}),
    (TrainsTheStudent, {STUDENT: 'prepare(plan) changed conv_first.weight, ', STATE: ''}),
    (MovesTheTeacher, {TEACHER: 'a step changed conv_first.weight of the teacher', STATE: ''}),
    (TeacherTrains, {TEACHER: 'a step put the teacher into training mode'}),
    (UnfreezesTheTeacher, {TEACHER: 'a step gave gradients to the weights of the teacher'}),
    (GlobalNoise, {RANDOM: 'forward(step) drew from or seeded the random numbers of torch', SEED: 'get the same seed',
                   STATE: ''}),
    (NumpyNoise, {RANDOM: 'the random numbers of NumPy', SEED: 'get the same seed(3)', STATE: '', WEIGHT: ''}),
    (SeedsPython, {RANDOM: 'forward(step) drew from or seeded the random numbers of Python'}),
    (CountsInTheClass, {SEED: 'two losses that are built alike and get the same seed(3)', STATE: '', WEIGHT: ''}),
    (CountsInPlainPython, {STATE: 'goes on with other terms than that one'}),
    (PlainTensor, {STATE: 'goes on with other terms than that one'}),
    (StrangeState, {STATE: 'its state_dict() cannot be loaded again: Weights only load failed'}),
    (TrainedByForward, {OWN: 'forward(step) has a gradient into what the loss trains itself'}),
    (NeverPrepares, {OWN: 'prepare(plan) is never called, as self_trained_parameters() is empty'}),
    (NobodyTrains, {OWN: 'nothing trains the parameters of self_trained_parameters()'}),
    (DoesNotMove, {OWN: 'eleven calls of prepare(plan) did not move gain'}),
    (LogsTheGraph, {OWN: 'prepare(plan) returns no dict of detached scalars'}),
    (NeedsTwo, {BATCHES: "a batch of 1 images: the term 'l_good' is inf"}),
    (TakesSmaller, {BATCHES: 'min_batch_size is 3, and a batch of 2 is not refused'}),
    (GivesNoReason, {BATCHES: 'min_batch_size is 3, and min_batch_reason is empty'}),
    (WeighsTwice, {WEIGHT: 'l_good is '}),
    (ForgetsAWeight, {WEIGHT: 'l_more is '}),
    (TakesAnything, {OPTIONS: "loss_weight = '1e3' is taken"}),
]


@pytest.mark.parametrize(('cls', 'wanted'), BROKEN, ids=[cls.__name__ for cls, _ in BROKEN])
def test_a_broken_promise_is_named(cls: type[DistillationLoss], wanted: dict[str, str]) -> None:
    with pytest.raises(ContractError) as caught:
        check_loss(cls, architectures=['EDSR'])
    broken = caught.value.broken
    assert {each.promise for each in broken} == set(wanted)
    for promise, piece in wanted.items():
        assert any(piece in each.seen for each in broken if each.promise == promise), broken
    assert all(each.remedy and where == ('EDSR', ) for each, where in broken.items())


@pytest.mark.parametrize('cls', [Good, Learns])
def test_a_loss_that_keeps_all_promises(cls: type[DistillationLoss]) -> None:
    start = time.process_time()
    check_loss(cls, taps=3, loss_weight=2.0)
    check_loss(cls, architectures=('SwinIR', ), taps=[['layers.0', 'layers.1'], ['layers.1', 'layers.3']])
    assert time.process_time() - start < 20


def test_all_broken_promises_are_listed_with_their_architectures() -> None:
    class Careless(Good):
        def forward(self, step: Step) -> Any:
            random.random()
            terms = {'l_pix': self.distance(step), 'l_rows': step.student.output.mean((1, 2, 3))}
            return terms if step.nets.student.net.__class__.__name__ != 'RCAN' else super().forward(step)

    with pytest.raises(ContractError) as caught:
        check_loss(Careless, taps=2)
    assert str(caught.value).splitlines() == [
        'Careless(taps=2) breaks 2 promises of a distillation loss',
        f'1. {TERMS}',
        "   EDSR, SwinIR, RRDBNet: the term 'l_pix' has the name of a term of BasicSR; give it another; the term "
        "'l_rows' must be a scalar, got the shape (2,); take its mean",
        '   -> fix forward(step)',
        f'2. {RANDOM}',
        f'   {", ".join(ARCHITECTURES)}: forward(step) drew from or seeded the random numbers of Python',
        '   -> derive from RandomizedLoss, and draw from self._generator']
    assert isinstance(caught.value, AssertionError)
    assert isinstance(caught.value, MipkdError)


def test_a_crash_keeps_its_traceback() -> None:
    with pytest.raises(ContractError) as caught:
        check_loss(Crash)
    assert isinstance(caught.value.__cause__, NameError)
    assert f'of {__name__}.py)' in str(caught.value)


@pytest.mark.parametrize(('options', 'piece'), [
    ({'taps': 9}, 'BindError: taps: 9 is not between 1 and 3'),
    ({'taps': 0}, 'ArgumentError: Good: taps must be a whole number of at least 1'),
    ({'weight': 2.0}, 'ArgumentError: Good: weight is not an option of this class'),
])
def test_options_that_do_not_fit(options: dict[str, Any], piece: str) -> None:
    with pytest.raises(ContractError) as caught:
        check_loss(Good, **options)
    (broken, where), *others = caught.value.broken.items()
    assert (broken.promise, where[0]) == (BUILT, 'EDSR')
    assert piece in broken.seen


@pytest.mark.parametrize('cls', [nn.L1Loss, Good(), 'SPKDLoss'])
def test_something_else_than_a_distillation_loss(cls: Any) -> None:
    with pytest.raises(ContractError, match='is a DistillationLoss\n.* is not one\n   -> write class MyLoss'):
        check_loss(cls)


@pytest.mark.parametrize('architectures', [[], ['EDRS'], 'EDSR'])
def test_unknown_architectures(architectures: Any) -> None:
    with pytest.raises(ValueError, match='architectures must be some of EDSR, RCAN, SwinIR, RRDBNet, got'):
        check_loss(Good, architectures=architectures)


def test_the_random_numbers_of_the_caller_go_on() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    check_loss(LogitsKDLoss, architectures=['EDSR'])
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]
