"""How losses are bound to a student and a teacher: taps, a probe run, and the sizes that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from mipkd_plugin.losses.base import DistillationLoss, TapPair
from mipkd_plugin.taps import TappedNet
from mipkd_plugin.trunk import TapError, resolve_taps


def bind(losses: Sequence[DistillationLoss], student: nn.Module, teacher: nn.Module, probe: Tensor,
         runner: Callable[[Tensor], Tensor] | None = None) -> tuple[TappedNet, TappedNet]:
    """Tap both networks wherever the losses want it, check the taps in a probe run and size the losses by it.

    Freezes the teacher. The probe runs in eval mode without gradient and leaves modes and random numbers alone;
    the parameters of the losses are drawn from torch's global random numbers, as those of any module.

    Args:
        losses: Losses that have not been bound yet.
        student: The student, unwrapped.
        teacher: The teacher.
        probe: Images (N, C, H, W) of the size of a training patch.
        runner: The student's ``DistributedDataParallel`` wrapper, if it has one.

    Returns:
        Tapped student, tapped teacher (frozen).

    Raises:
        ValueError: Student and teacher are the same object, or a loss does not take this student.
        TapError: With all problems at once: taps that do not exist, change in place or differ in H×W, a teacher of
            another scale.
    """
    if student is teacher:
        raise ValueError('student and teacher are one and the same network: it would be frozen')
    objections = [(loss, loss.objection(student)) for loss in losses]
    if any(objection for _, objection in objections):
        raise ValueError('\n'.join(f'{type(loss).__name__}: {"; ".join(objection)}'
                                   for loss, objection in objections if objection))
    problems: list[str] = []
    pairs: list[list[tuple[str, str]]] = []
    for loss in losses:
        try:
            pairs.append(resolve_taps(loss.taps, student, teacher))
        except TapError as error:
            problems += error.problems
    if problems:
        raise TapError(problems)
    flat = [pair for per_loss in pairs for pair in per_loss]
    student_net = TappedNet(student, list(dict.fromkeys(s for s, _ in flat)), runner=runner)
    teacher_net = TappedNet(teacher, list(dict.fromkeys(t for _, t in flat)), frozen=True)
    try:
        problems = _probe_problems(student_net, teacher_net, losses, pairs, probe)
        if problems:
            raise TapError(problems)
    except BaseException:
        student_net.close()
        teacher_net.close()
        raise
    for loss, per_loss in zip(losses, pairs):
        loss.pairs = per_loss
        loss.build([TapPair(student_net.infos[s], teacher_net.infos[t]) for s, t in per_loss])
        loss.to(probe.device)
    return student_net, teacher_net


def _probe_problems(student_net: TappedNet, teacher_net: TappedNet, losses: Sequence[DistillationLoss],
                    pairs: Sequence[Sequence[tuple[str, str]]], probe: Tensor) -> list[str]:
    problems: list[str] = []
    outputs = {}
    for role, net in (('student', student_net), ('teacher', teacher_net)):
        infos, output = net.probe(probe)
        outputs[role] = tuple(output.shape[1:])
        problems += [f'tap {info.path!r} of the {role} {type(net.net).__name__}: {info.problem}'
                     for info in infos.values() if info.problem]
    if outputs['student'] != outputs['teacher']:
        problems.append(
            'student and teacher make images of different (channels, height, width) from the same input: '
            f'{outputs["student"]} and {outputs["teacher"]}; use a teacher of the same scale')
    for loss, per_loss in zip(losses, pairs):
        for s, t in per_loss:
            a, b = student_net.infos[s], teacher_net.infos[t]
            if not a.problem and not b.problem and (a.height, a.width) != (b.height, b.width):
                problems.append(f'tap pair [{s}, {t}]: the student has {a.height}×{a.width}, the teacher '
                                f'{b.height}×{b.width}; choose modules whose features have the same height and width')
        if loss.reenters:
            for role, net, side in (('student', student_net, 0), ('teacher', teacher_net, 1)):
                paths = [pair[side] for pair in per_loss]
                found = _reentry_problems(type(loss).__name__, net, paths, role)
                if not found and not any(net.infos[path].problem for path in paths):
                    found = [problem for problem in [net.reentry_problem(probe, paths)] if problem]
                problems += found
    return problems


def _reentry_problems(name: str, net: TappedNet, paths: Sequence[str], role: str) -> list[str]:
    blocks = net.blocks
    outside = [path for path in paths if path not in blocks]
    if outside:
        return [f'tap {path!r} of the {role} is no block of its trunk, and {name} lets features re-enter there; '
                f'choose among {blocks[0]} … {blocks[-1]}' if blocks else f'the {role} has no trunk to re-enter'
                for path in outside]
    order = [blocks.index(path) for path in paths]
    if order != sorted(order):
        return [f'taps of the {role} are not shallow to deep: {", ".join(paths)}; {name} follows them in this order']
    return []
