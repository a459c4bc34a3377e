"""Binding losses to a student and a teacher: taps, a probe run, and the sizes that follow from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.losses.doubts import Trunks
from mipkd_plugin.losses.examination import (
    STUDENT,
    BindProblem,
    Bound,
    Paths,
    Who,
    conduct_problems,
    crash_problem,
    crashes,
)
from mipkd_plugin.losses.sizes import fitted
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.outputs import OutputError, described
from mipkd_plugin.networks.probing import probed
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError, resolve_taps
from mipkd_plugin.utils.bounds import bounded
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, reason


class BindError(MipkdError):
    """Losses do not fit a student and a teacher.

    Attributes:
        problems: All reasons.
    """

    def __init__(self, problems: Sequence[BindProblem]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__('\n'.join(dict.fromkeys(map(str, self.problems))))


def bind(losses: Sequence[DistillationLoss], student: nn.Module, teacher: nn.Module, probe: Tensor,
         runner: Callable[[Tensor], Tensor] | None = None, execution: Execution = PLAIN,
         notes: list[str] | None = None) -> NetPair:
    """Tap both networks wherever the losses need it, check the taps in a probe run and size the losses by it.

    Freezes the teacher. Modes, buffers and random numbers stay as they are; the parameters of the losses are drawn from
    torch's global random numbers.

    Args:
        losses: The losses. A loss that was bound before is built again.
        student: The student, unwrapped.
        teacher: The teacher.
        probe: Images (N, C, H, W) of the size of a training patch.
        runner: The student's ``DistributedDataParallel`` wrapper, if it has one.
        execution: How the teacher runs. Its weights are cast in place.
        notes: Gets what is doubtful but can be used, such as a random network; without it these are Python warnings.

    Returns:
        Both networks, tapped; the teacher is frozen.

    Raises:
        BindError: With all problems at once: student and teacher are the same object, a loss does not take this
            student, taps do not exist, change in place or differ in H×W, the teacher has another scale, a network
            cannot run on two images or train, features cannot re-enter it where a loss wants that.
        TooLargeError: A loss would have too many weights.
        TypeError: ``losses`` is not a list of distillation losses.
    """
    if not isinstance(losses, Sequence) or not all(isinstance(loss, DistillationLoss) for loss in losses):
        raise TypeError(f'bind takes a list of distillation losses, got {losses!r}')
    found: list[str] = []
    nets = bind_several(losses, [''] * len(losses), student, {'': teacher}, probe, found, runner, {'': execution})
    for note in found:
        if notes is None:
            warnings.warn(note, stacklevel=2)
        else:
            notes.append(note)
    return nets['']


def bind_several(losses: Sequence[DistillationLoss], chosen: Sequence[str], student: nn.Module,
                 teachers: Mapping[str, nn.Module], probe: Tensor, notes: list[str],
                 runner: Callable[[Tensor], Tensor] | None = None,
                 executions: Mapping[str, Execution] | None = None) -> dict[str, NetPair]:
    """Bind losses to one student and several teachers, see :func:`bind`: the student is tapped once, for all of them.

    Args:
        losses: The losses, in the order in which their parameters are drawn.
        chosen: For each loss the name of its teacher.
        student: The student, unwrapped.
        teachers: The teachers by name; one alone may have the name ''.
        probe: Images (N, C, H, W) of the size of a training patch.
        notes: Gets what is doubtful but can be used.
        runner: The student's ``DistributedDataParallel`` wrapper, if it has one.
        executions: How teachers run, by name; others run as they are.

    Returns:
        The student with each teacher, by name. The tapped student is the same object in all of them.

    Raises:
        BindError: See :func:`bind`.
        TooLargeError: A loss would have too many weights.
    """
    if any(student is teacher for teacher in teachers.values()):
        raise BindError([BindProblem('student and teacher are the same object, and binding would freeze it',
                                     'load the teacher as a network of its own', about_taps=False)])
    pairs, found = _resolved(losses, chosen, student, teachers, probe)
    nets = tap(student, teachers, pairs, chosen, runner, executions)
    try:
        problems = _probe_problems(Bound(nets, losses, chosen, pairs), probe, found)
        if problems:
            raise BindError(problems)
        for loss, own, name in zip(losses, pairs, chosen):
            _build(loss, own, nets[name])
            loss.to(probe.device)
    except BaseException:
        for pair in nets.values():
            pair.close()
        raise
    notes += dict.fromkeys(found)
    return nets


def _resolved(losses: Sequence[DistillationLoss], chosen: Sequence[str], student: nn.Module,
              teachers: Mapping[str, nn.Module], probe: Tensor) -> tuple[list[Paths], list[str]]:
    """The pairs of module paths of each loss, and what is doubtful about them."""
    problems = [BindProblem(f'{type(loss).__name__}: {reason[0]}', reason[1], number, about_taps=False)
                for number, loss in enumerate(losses)
                for reason in [loss.unsupported_reason(student)] if reason is not None]
    pairs: list[Paths] = []
    found: list[str] = []
    trunks = Trunks()
    for number, (loss, name) in enumerate(zip(losses, chosen)):
        who, teacher = Who('teacher', name), teachers[name]
        try:
            pairs.append(resolve_taps(loss.taps, student, teacher, probe, trunks))
        except TapError as error:
            problems += [BindProblem(problem, loss=number) for problem in error.problems]
        except FOREIGN_ERRORS as error:
            problems += crashes({STUDENT: student, who: teacher}, probe) or [BindProblem(
                f'no trunk can be found for taps: {loss.taps}: {reason(error)}', loss=number)]
        if isinstance(loss.taps, int) and not problems:
            found += [*trunks.doubts('student', student, loss.taps), *trunks.doubts(str(who), teacher, loss.taps)]
    if problems:
        raise BindError(problems)
    return pairs, found


def tap(student: nn.Module, teachers: Mapping[str, nn.Module], pairs: Sequence[Paths], chosen: Sequence[str],
        runner: Callable[[Tensor], Tensor] | None = None,
        executions: Mapping[str, Execution] | None = None) -> dict[str, NetPair]:
    """Tap a student at the pairs of all losses, and each teacher at those of its own; freezes the teachers.

    Args:
        student: The student, unwrapped.
        teachers: The teachers by name.
        pairs: For each loss its pairs (student module path, teacher module path).
        chosen: For each loss the name of its teacher.
        runner: The student's ``DistributedDataParallel`` wrapper, if it has one.
        executions: How teachers run, by name. Their weights are cast in place.

    Returns:
        The student with each teacher, by name; the tapped student is the same object in all of them.
    """
    tapped = TappedNet(student, list(dict.fromkeys(s for own in pairs for s, _ in own)), runner=runner)
    return {name: NetPair(tapped, TappedNet(teacher, _taps_of(name, pairs, chosen), frozen=True,
                                            execution=(executions or {}).get(name, PLAIN)))
            for name, teacher in teachers.items()}


def _taps_of(teacher: str, pairs: Sequence[Paths], chosen: Sequence[str]) -> list[str]:
    """The taps of one teacher: those of its losses."""
    return list(dict.fromkeys(t for own, name in zip(pairs, chosen) if name == teacher for _, t in own))


def _build(loss: DistillationLoss, pairs: Paths, nets: NetPair) -> None:
    loss.is_bound = False
    loss.pairs = pairs
    with bounded(is_loss=True):
        loss.build([TapPair(nets.student.infos[s], nets.teacher.infos[t]) for s, t in pairs])
    loss.is_bound = True


def _probe_problems(bound: Bound, probe: Tensor, notes: list[str]) -> list[BindProblem]:
    """What is wrong with networks and taps; ``notes`` gets what is doubtful, and ``pairs`` the views that fit."""
    problems: list[BindProblem] = []
    outputs = {}
    for who, net in bound.networks.items():
        try:
            infos, output = probed(net, probe)
        except OutputError:
            raise
        except FOREIGN_ERRORS as error:
            problems.append(crash_problem(who, net.net, probe, error))
            continue
        if not isinstance(output, Tensor) or output.dim() != 4 or len(output) != 2:
            problems.append(BindProblem(f'the {who} {type(net.net).__name__} returns {described(output)} for two '
                                        'images, and not two images', 'let its forward() return the images alone, or '
                                        'choose them: output: 0 in an option file, select_output(net, 0) in Python',
                                        about_taps=False, role=who.role, teacher=who.teacher))
            continue
        outputs[who] = tuple(output.shape[1:])
        problems += [BindProblem(f'tap {info.path!r} of the {who} {type(net.net).__name__}: {info.problem}',
                                 loss=bound.first_with(info.path, who)) for info in infos.values() if info.problem]
    if len(outputs) < len(bound.networks):
        return problems
    problems += [BindProblem(
        f'student and {who} make images of different (channels, height, width) from the same input: '
        f'{outputs[STUDENT]} and {shape}', 'use a teacher of the same scale', about_taps=False, teacher=who.teacher)
        for who, shape in outputs.items() if shape != outputs[STUDENT]]
    for number, (own, name) in enumerate(zip(bound.pairs, bound.teachers)):
        bound.pairs[number], found = fitted(own, bound.nets[name], bound.losses[number])
        problems += [replace(problem, loss=number) for problem in found]
    bound.student.show(list(dict.fromkeys(s for own in bound.pairs for s, _ in own)))
    for name, nets in bound.nets.items():
        nets.teacher.show(_taps_of(name, bound.pairs, bound.teachers))
    return problems + conduct_problems(bound, probe, notes)
