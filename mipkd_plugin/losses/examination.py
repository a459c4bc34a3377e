"""Looking at tapped networks: how they behave, and whether features can re-enter them where losses want that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.doubts import MIXING_REMEDY, dropout_note, mixing, random_note, unused_notes
from mipkd_plugin.networks.conduct import Conduct, conduct_of, in_training
from mipkd_plugin.networks.inspection import settle
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.outputs import OutputError
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.views import View
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, crash
from mipkd_plugin.utils.random_numbers import random_numbers_restored

Paths = list[tuple[str, str]]


@dataclass(frozen=True)
class BindProblem:
    """Why a loss cannot be bound.

    Attributes:
        what: What is wrong.
        remedy: What to do about it, or ''.
        loss: Number of the loss, or None: it concerns the two networks.
        about_taps: Whether other taps would help.
        role: ``student`` or ``teacher``, if it concerns that network alone.
        teacher: Name of the teacher, if it concerns one of several.
        options: Options of the loss, (name, value), that would help; may be empty.
    """

    what: str
    remedy: str = ''
    loss: int | None = None
    about_taps: bool = True
    role: str = ''
    teacher: str = ''
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f'{self.what}; {self.remedy}' if self.remedy else self.what


class Who(NamedTuple):
    """One of the networks that are bound.

    Attributes:
        role: ``student`` or ``teacher``.
        teacher: Name of the teacher, if it is one of several.
    """

    role: str
    teacher: str = ''

    def __str__(self) -> str:
        return f'{self.role} {self.teacher!r}' if self.teacher else self.role


STUDENT = Who('student')


@dataclass(frozen=True)
class Bound:
    """A student and its teachers, tapped, and losses with taps that are to be bound to them.

    Attributes:
        nets: The student with each teacher, by the teacher's name; the tapped student is the same in all of them.
        losses: The losses.
        teachers: For each loss the name of its teacher.
        pairs: For each loss its pairs (student tap, teacher tap).
    """

    nets: Mapping[str, NetPair]
    losses: Sequence[DistillationLoss]
    teachers: Sequence[str]
    pairs: list[Paths]

    @property
    def student(self) -> TappedNet:
        """The student."""
        return next(iter(self.nets.values())).student

    @property
    def networks(self) -> dict[Who, TappedNet]:
        """The student, then the teachers."""
        return {STUDENT: self.student, **{Who('teacher', name): nets.teacher for name, nets in self.nets.items()}}

    def taught(self, who: Who) -> list[DistillationLoss]:
        """The losses that have to do with a network: all for the student, for a teacher its own."""
        return [loss for loss, name in zip(self.losses, self.teachers) if who == STUDENT or who.teacher == name]

    def first_with(self, path: str, who: Who) -> int:
        """Number of the first loss that has a tap at a module of a network."""
        return next(number for number, (own, name) in enumerate(zip(self.pairs, self.teachers))
                    if who in (STUDENT, Who('teacher', name))
                    and any(path == View.of(pair[who != STUDENT]).path for pair in own))


def conduct_problems(bound: Bound, probe: Tensor, notes: list[str]) -> list[BindProblem]:
    """What is wrong with how networks behave, and where features re-enter them.

    Args:
        bound: The networks, whose taps the probe run has looked at, and the losses.
        probe: Images (N, C, H, W) of the size of a training patch.
        notes: Gets what is doubtful.

    Returns:
        The problems.

    Raises:
        OutputError: The student returns no image in training mode.
    """
    problems: list[BindProblem] = []
    student = bound.student.net
    reentered = {View.of(s).path for loss, own in zip(bound.losses, bound.pairs) if loss.reenters_network and
                 'student' in loss.reentered for s, _ in own}
    conducts = {}
    for who, net in bound.networks.items():
        conducts[who] = conduct = conduct_of(net, probe)
        notes += random_note(str(who), net.net, conduct)
        mixed = mixing(str(who), net.net, conduct)
        # What re-enters is a part of a batch, or holds features of others: the result for an image is then not that of
        # its own run. Losses that only compare take the two networks as they are.
        if mixed and any(loss.reenters_network and who.role in loss.reentered for loss in bound.taught(who)):
            problems.append(BindProblem(f'{mixed}, so no feature can re-enter it', f'{MIXING_REMEDY}; or take a loss '
                                        'that only compares, as FitNetLoss and LogitsKDLoss do', None, False, *who))
        elif mixed:
            notes.append(f'{mixed}: a batch of training gives other images than a test, which runs one at a time; '
                         f'{MIXING_REMEDY}')
    try:
        training = in_training(student, probe, bound.student.taps)
    except OutputError:
        raise
    except FOREIGN_ERRORS as error:
        return [*problems, BindProblem(
            f'the student {type(student).__name__} fails in a training step on two images: '
            f'{crash(error, type(student))}', 'fix its forward()', None, False, 'student')]
    if not training.trains:
        problems.append(BindProblem(f'the student {type(student).__name__} makes images without a gradient in training '
                                    'mode, so nothing can train it', 'fix its forward()', None, False, 'student'))
    problems += [BindProblem(f'tap {path!r} of the student {type(student).__name__}: its module runs {count} times in '
                             'one forward pass in training mode, not once', loss=bound.first_with(path, STUDENT))
                 for path, count in training.counts.items() if count != 1 and not bound.student.infos[path].problem]
    notes += unused_notes(student, training, reentered.__contains__)
    notes += dropout_note(student, training, conducts[STUDENT]) if reentered else []
    if not problems:
        for number in range(len(bound.losses)):
            found = _problems_of(bound, number, probe, conducts)
            problems += [BindProblem(problem, loss=number) for problem in found]
    return problems


def crashes(networks: Mapping[Who, nn.Module], probe: Tensor) -> list[BindProblem]:
    """Which of some networks cannot run.

    Args:
        networks: The networks.
        probe: Images (N, C, H, W) of the size of a training patch.

    Returns:
        A problem for each that cannot.

    Raises:
        OutputError: One returns no image.
    """
    problems = []
    for who, net in networks.items():
        try:
            with TappedNet(net) as tapped:
                tapped.probe(probe)
        except OutputError:
            raise
        except FOREIGN_ERRORS as error:
            problems.append(crash_problem(who, net, probe, error))
    return problems


def crash_problem(who: Who, net: nn.Module, probe: Tensor, error: BaseException) -> BindProblem:
    """Say that a network cannot run; or that it can with one image, or as long as nobody looks at its features.

    Args:
        who: Which network it is.
        net: The network.
        probe: Images (N, C, H, W) of the size of a training patch.
        error: What it raised with two of them.

    Returns:
        The problem.
    """
    size, failure = '×'.join(map(str, probe.shape[1:])), crash(error, type(net))
    runs = [_runs(net, probe[:1].expand(number, -1, -1, -1)) for number in (1, 2)]
    if not any(runs):
        return BindProblem(f'the {who} {type(net).__name__} cannot run on patches of {size}: {failure}',
                           'fix the argument that the message is about, or its forward()', None, False, *who)
    if not runs[1]:
        return BindProblem(f'the {who} {type(net).__name__} takes one image at a time, and fails on two: {failure}',
                           'fix its forward(), so that it takes a batch', None, False, *who)
    return BindProblem(f'the features of the {who} {type(net).__name__} cannot be looked at: {failure}',
                       'take a loss without taps, such as LogitsKDLoss; or let its modules run in the same way each '
                       'time', None, False, *who)


def _runs(net: nn.Module, lq: Tensor) -> bool:
    try:
        with evaluating(net), random_numbers_restored():
            net(lq.clone())
    except FOREIGN_ERRORS:
        return False
    return True


def _problems_of(bound: Bound, number: int, probe: Tensor, conducts: Mapping[Who, Conduct]) -> list[str]:
    """What is wrong with the taps of one loss."""
    loss, pairs, teacher = bound.losses[number], bound.pairs[number], bound.teachers[number]
    name = type(loss).__name__
    if not loss.reenters_network:
        return []
    if not pairs:
        return [f'{name} needs at least one tap']
    problems: list[str] = []
    for who, paths in ((STUDENT, [s for s, _ in pairs]), (Who('teacher', teacher), [t for _, t in pairs])):
        net = bound.networks[who]
        paths = [path for path in paths if not View.of(path).loses]
        if not paths or any(net.infos[path].problem for path in paths):
            continue
        try:
            found = _order_problems(name, net, paths, who, probe) or [settle(net, probe, paths, conducts[who])]
        except FOREIGN_ERRORS as error:
            found = [f'no feature can re-enter the {who} {type(net.net).__name__}: {crash(error, type(net.net))}']
        problems += [problem for problem in found if problem]
    return problems


def _order_problems(name: str, net: TappedNet, paths: Sequence[str], who: Who, probe: Tensor) -> list[str]:
    trace, modules = net.trace(probe), [View.of(path).path for path in paths]
    if all(trace.follows(a, b) for a, b in zip(modules, modules[1:])):
        return []
    return [f'taps of the {who} are not shallow to deep: {", ".join(paths)}; {name} follows them in this order']
