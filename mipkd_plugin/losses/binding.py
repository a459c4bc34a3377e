"""Binding losses to a student and a teacher: taps, a probe run, and the sizes that follow from it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.losses.doubts import Trunks
from mipkd_plugin.losses.examination import BindProblem, Paths, conduct_problems, crash_problem, crashes, first_with
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.outputs import OutputError, described
from mipkd_plugin.networks.probing import probed
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError, resolve_taps
from mipkd_plugin.networks.views import LARGEST_FACTOR, fitting
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
    if student is teacher:
        raise BindError([BindProblem('student and teacher are the same object, and binding would freeze it',
                                     'load the teacher as a network of its own', about_taps=False)])
    problems = [BindProblem(f'{type(loss).__name__}: {reason[0]}', reason[1], number, about_taps=False)
                for number, loss in enumerate(losses)
                for reason in [loss.unsupported_reason(student)] if reason is not None]
    pairs: list[Paths] = []
    found: list[str] = []
    trunks = Trunks()
    for number, loss in enumerate(losses):
        try:
            pairs.append(resolve_taps(loss.taps, student, teacher, probe, trunks))
        except TapError as error:
            problems += [BindProblem(problem, loss=number) for problem in error.problems]
        except FOREIGN_ERRORS as error:
            problems += crashes(student, teacher, probe) or [BindProblem(
                f'no trunk can be found for taps: {loss.taps}: {reason(error)}', loss=number)]
        if isinstance(loss.taps, int) and not problems:
            found += [*trunks.doubts('student', student, loss.taps), *trunks.doubts('teacher', teacher, loss.taps)]
    if problems:
        raise BindError(problems)
    nets = tap(student, teacher, pairs, runner, execution)
    try:
        problems = _probe_problems(nets, losses, pairs, probe, found)
        if problems:
            raise BindError(problems)
        for loss, own in zip(losses, pairs):
            _build(loss, own, nets)
            loss.to(probe.device)
    except BaseException:
        nets.close()
        raise
    for note in dict.fromkeys(found):
        if notes is None:
            warnings.warn(note, stacklevel=2)
        else:
            notes.append(note)
    return nets


def tap(student: nn.Module, teacher: nn.Module, pairs: Sequence[Paths],
        runner: Callable[[Tensor], Tensor] | None = None, execution: Execution = PLAIN) -> NetPair:
    """Tap two networks at the pairs of all losses; freezes the teacher.

    Args:
        student: The student, unwrapped.
        teacher: The teacher.
        pairs: For each loss its pairs (student module path, teacher module path).
        runner: The student's ``DistributedDataParallel`` wrapper, if it has one.
        execution: How the teacher runs. Its weights are cast in place.

    Returns:
        Both networks, tapped.
    """
    flat = [pair for own in pairs for pair in own]
    return NetPair(TappedNet(student, list(dict.fromkeys(s for s, _ in flat)), runner=runner),
                   TappedNet(teacher, list(dict.fromkeys(t for _, t in flat)), frozen=True, execution=execution))


def _build(loss: DistillationLoss, pairs: Paths, nets: NetPair) -> None:
    loss.is_bound = False
    loss.pairs = pairs
    with bounded(is_loss=True):
        loss.copy_student(nets.student.net)
        loss.build([TapPair(nets.student.infos[s], nets.teacher.infos[t]) for s, t in pairs])
    loss.is_bound = True


def _probe_problems(nets: NetPair, losses: Sequence[DistillationLoss], pairs: list[Paths], probe: Tensor,
                    notes: list[str]) -> list[BindProblem]:
    """What is wrong with networks and taps; ``notes`` gets what is doubtful, and ``pairs`` the views that fit."""
    problems: list[BindProblem] = []
    outputs = {}
    for role, net in (('student', nets.student), ('teacher', nets.teacher)):
        try:
            infos, output = probed(net, probe)
        except OutputError:
            raise
        except FOREIGN_ERRORS as error:
            problems.append(crash_problem(role, net.net, probe, error))
            continue
        if not isinstance(output, Tensor) or output.dim() != 4 or len(output) != 2:
            problems.append(BindProblem(f'the {role} {type(net.net).__name__} returns {described(output)} for two '
                                        'images, and not two images', 'let its forward() return the images alone, or '
                                        'choose them: output: 0 in an option file, select_output(net, 0) in Python',
                                        about_taps=False, role=role))
            continue
        outputs[role] = tuple(output.shape[1:])
        problems += [BindProblem(f'tap {info.path!r} of the {role} {type(net.net).__name__}: {info.problem}',
                                 loss=first_with(info.path, pairs)) for info in infos.values() if info.problem]
    if len(outputs) < len(nets):
        return problems
    if outputs['student'] != outputs['teacher']:
        problems.append(BindProblem(
            'student and teacher make images of different (channels, height, width) from the same input: '
            f'{outputs["student"]} and {outputs["teacher"]}', 'use a teacher of the same scale', about_taps=False))
    for number, own in enumerate(pairs):
        pairs[number], found = _fitted(own, nets, losses[number])
        problems += [replace(problem, loss=number) for problem in found]
    nets.student.show(list(dict.fromkeys(s for own in pairs for s, _ in own)))
    nets.teacher.show(list(dict.fromkeys(t for own in pairs for _, t in own)))
    return problems + conduct_problems(nets, losses, pairs, probe, notes)


def _fitted(pairs: Paths, nets: NetPair, loss: DistillationLoss) -> tuple[Paths, list[BindProblem]]:
    """Views of the taps of a loss in which both sides of a pair have the same size, and what is wrong."""
    fitted: Paths = []
    wrong: dict[BindProblem, list[str]] = {}
    for s, t in pairs:
        a, b = nets.student.infos[s], nets.teacher.infos[t]
        pair = f'[{s}, {t}]'
        if not a.problem and not b.problem and (a.height, a.width) != (b.height, b.width):
            is_finer = a.height * a.width > b.height * b.width
            role, finer, coarser = ('student', a, b) if is_finer else ('teacher', b, a)
            view = fitting(finer, coarser, loss.resample)
            if view is None:
                problem = _other_sizes(f'the student has {a.height}×{a.width}, the teacher {b.height}×{b.width}', loss,
                                       role, fitting(finer, coarser, 'area') is not None)
                wrong.setdefault(problem, []).append(pair)
            elif view.loses and _reenters(loss, role):
                wrong.setdefault(_no_way_back(loss, role), []).append(pair)
            s, t = (str(view), t) if view is not None and is_finer else (s, str(view) if view is not None else t)
        fitted.append((s, t))
    return fitted, [replace(problem, what=f'tap pair{"s" * (len(found) > 1)} {", ".join(found)}: {problem.what}')
                    for problem, found in wrong.items()]


def _reenters(loss: DistillationLoss, role: str) -> bool:
    return loss.reenters_network and role in loss.reentered


def _other_sizes(what: str, loss: DistillationLoss, role: str, resamples: bool) -> BindProblem:
    """A pair whose sizes have no whole ratio."""
    choose = ('choose modules whose features have the same height and width, or one a whole multiple of the other, up '
              f'to {LARGEST_FACTOR}')
    can_reenter = not _reenters(loss, role) or bool(loss.without_reentry)
    if not resamples or loss.resample or not can_reenter or 'resample' not in signature(type(loss)).parameters:
        return BindProblem(f'{what}; {choose}')
    options = {'resample': 'area', **(loss.without_reentry if _reenters(loss, role) else {})}
    return BindProblem(what, f'write {_written(options)}, to compare the finer feature in the size of the coarser one; '
                       f'or {choose}', options=tuple(options.items()))


def _no_way_back(loss: DistillationLoss, role: str) -> BindProblem:
    """A resampled feature that would re-enter."""
    options = loss.without_reentry
    remedy = f'write {_written(options)}, with which none re-enters, or ' if options else ''
    return BindProblem(
        f'{type(loss).__name__} lets features re-enter the {role} there, and resample: {loss.resample} loses what such '
        'a feature needs', f'{remedy}choose modules whose features have the same height and width',
        options=tuple(options.items()))


def _written(options: Mapping[str, Any]) -> str:
    return ' and '.join(f'{name}: {value}' for name, value in options.items())
