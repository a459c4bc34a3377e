"""Looking at two tapped networks: how they behave, and whether features can re-enter them where losses want that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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
        options: Options of the loss, (name, value), that would help; may be empty.
    """

    what: str
    remedy: str = ''
    loss: int | None = None
    about_taps: bool = True
    role: str = ''
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        return f'{self.what}; {self.remedy}' if self.remedy else self.what


def conduct_problems(nets: NetPair, losses: Sequence[DistillationLoss], pairs: list[Paths], probe: Tensor,
                      notes: list[str]) -> list[BindProblem]:
    """What is wrong with how two networks behave, and where features re-enter them.

    Args:
        nets: The networks; the probe run has looked at their taps.
        losses: The losses.
        pairs: For each loss its pairs (student tap, teacher tap).
        probe: Images (N, C, H, W) of the size of a training patch.
        notes: Gets what is doubtful.

    Returns:
        The problems.

    Raises:
        OutputError: The student returns no image in training mode.
    """
    problems: list[BindProblem] = []
    student = nets.student.net
    reentered = {View.of(s).path for loss, own in zip(losses, pairs) if loss.reenters_network and
                 'student' in loss.reentered for s, _ in own}
    conducts = {}
    for role, net in (('student', nets.student), ('teacher', nets.teacher)):
        conducts[role] = conduct = conduct_of(net, probe)
        notes += random_note(role, net.net, conduct)
        mixed = mixing(role, net.net, conduct)
        # What re-enters is a part of a batch, or holds features of others: the result for an image is then not that of
        # its own run. Losses that only compare take the two networks as they are.
        if mixed and any(loss.reenters_network and role in loss.reentered for loss in losses):
            problems.append(BindProblem(f'{mixed}, so no feature can re-enter it', f'{MIXING_REMEDY}; or take a loss '
                                        'that only compares, as FitNetLoss and LogitsKDLoss do', None, False, role))
        elif mixed:
            notes.append(f'{mixed}: a batch of training gives other images than a test, which runs one at a time; '
                         f'{MIXING_REMEDY}')
    try:
        training = in_training(student, probe, nets.student.taps)
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
                             'one forward pass in training mode, not once', loss=first_with(path, pairs))
                 for path, count in training.counts.items() if count != 1 and not nets.student.infos[path].problem]
    notes += unused_notes(student, training, reentered.__contains__)
    notes += dropout_note(student, training, conducts['student']) if reentered else []
    if not problems:
        for number, (loss, own) in enumerate(zip(losses, pairs)):
            found = _problems_of(loss, own, nets, probe, conducts)
            problems += [BindProblem(problem, loss=number) for problem in found]
    return problems


def crashes(student: nn.Module, teacher: nn.Module, probe: Tensor) -> list[BindProblem]:
    """Which of two networks cannot run.

    Args:
        student: The student.
        teacher: The teacher.
        probe: Images (N, C, H, W) of the size of a training patch.

    Returns:
        A problem for each that cannot.

    Raises:
        OutputError: One returns no image.
    """
    problems = []
    for role, net in (('student', student), ('teacher', teacher)):
        try:
            with TappedNet(net) as tapped:
                tapped.probe(probe)
        except OutputError:
            raise
        except FOREIGN_ERRORS as error:
            problems.append(crash_problem(role, net, probe, error))
    return problems


def crash_problem(role: str, net: nn.Module, probe: Tensor, error: BaseException) -> BindProblem:
    """Say that a network cannot run; or that it can with one image, or as long as nobody looks at its features.

    Args:
        role: ``student`` or ``teacher``.
        net: The network.
        probe: Images (N, C, H, W) of the size of a training patch.
        error: What it raised with two of them.

    Returns:
        The problem.
    """
    size, failure = '×'.join(map(str, probe.shape[1:])), crash(error, type(net))
    runs = [_runs(net, probe[:1].expand(number, -1, -1, -1)) for number in (1, 2)]
    if not any(runs):
        return BindProblem(f'the {role} {type(net).__name__} cannot run on patches of {size}: {failure}',
                           'fix the argument that the message is about, or its forward()', None, False, role)
    if not runs[1]:
        return BindProblem(f'the {role} {type(net).__name__} takes one image at a time, and fails on two: {failure}',
                           'fix its forward(), so that it takes a batch', None, False, role)
    return BindProblem(f'the features of the {role} {type(net).__name__} cannot be looked at: {failure}',
                       'take a loss without taps, such as LogitsKDLoss; or let its modules run in the same way each '
                       'time', None, False, role)


def _runs(net: nn.Module, lq: Tensor) -> bool:
    try:
        with evaluating(net), random_numbers_restored():
            net(lq.clone())
    except FOREIGN_ERRORS:
        return False
    return True


def first_with(path: str, pairs: Sequence[Paths]) -> int:
    """Number of the first loss that has a tap."""
    return next(number for number, own in enumerate(pairs)
                if any(path == View.of(name).path for pair in own for name in pair))


def _problems_of(loss: DistillationLoss, pairs: Paths, nets: NetPair, probe: Tensor,
                 conducts: Mapping[str, Conduct]) -> list[str]:
    """What is wrong with the taps of one loss."""
    name = type(loss).__name__
    if not loss.reenters_network:
        return []
    if not pairs:
        return [f'{name} needs at least one tap']
    problems: list[str] = []
    for role, net, paths in (('student', nets.student, [s for s, _ in pairs]),
                             ('teacher', nets.teacher, [t for _, t in pairs])):
        paths = [path for path in paths if not View.of(path).loses]
        if not paths or any(net.infos[path].problem for path in paths):
            continue
        try:
            found = _order_problems(name, net, paths, role, probe) or [settle(net, probe, paths, conducts[role])]
        except FOREIGN_ERRORS as error:
            found = [f'no feature can re-enter the {role} {type(net.net).__name__}: {crash(error, type(net.net))}']
        problems += [problem for problem in found if problem]
    return problems


def _order_problems(name: str, net: TappedNet, paths: Sequence[str], role: str, probe: Tensor) -> list[str]:
    trace, modules = net.trace(probe), [View.of(path).path for path in paths]
    if all(trace.follows(a, b) for a, b in zip(modules, modules[1:])):
        return []
    return [f'taps of the {role} are not shallow to deep: {", ".join(paths)}; {name} follows them in this order']
