"""Build teachers and losses, and check them against the student: a probe run, and a trial step of each loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.aggregation import read_aggregation
from mipkd_plugin.config.built import Built, TeacherRun
from mipkd_plugin.config.components import construct
from mipkd_plugin.config.data_set_tables import patch_place
from mipkd_plugin.config.distillation import Distillation, OneTeacher, bind_with_seed, close
from mipkd_plugin.config.eco import check_eco
from mipkd_plugin.config.finite import check_image
from mipkd_plugin.config.generator import acts, check_meeting, generator_in_words
from mipkd_plugin.config.keys import INTEGER, ITERATIONS, LARGEST_PATCH
from mipkd_plugin.config.outputs import add_output_problem, check_use, choose_outputs
from mipkd_plugin.config.patches import check_output, check_patch, probe_shape, runnable_shape, small_shape, window_size
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.config.schedule import check_schedule, distilled_samples, read_schedule
from mipkd_plugin.config.start import check_init
from mipkd_plugin.config.tap_problems import add_bind_problems, check_names_of_taps
from mipkd_plugin.config.teacher_cache import check_cache
from mipkd_plugin.config.teacher_run import cast_remedy, check_execution, execution_of, with_cast_teacher
from mipkd_plugin.config.teacher_weights import load_teachers
from mipkd_plugin.config.teachers import (
    context_of,
    distillation_entries,
    number_of_teacher,
    of_class,
    teachers_of,
)
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.losses.base import DistillationLoss, LossError, TapPair
from mipkd_plugin.losses.binding import BindError
from mipkd_plugin.losses.trial_step import trial_problem
from mipkd_plugin.networks.outputs import OutputError
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.utils.bounds import TooLargeError
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, crash, reason


def build(ctx: Context, probe: str = 'small', student: nn.Module | None = None, trial: bool = True) -> Built:
    """Build student, teacher and losses as far as their options are in order; check that they fit together.

    Args:
        ctx: Options, and where problems go.
        probe: Run the networks on a ``small`` patch, on one of ``full`` training size, or ``none``. Only a ``full``
            probe run makes losses that can train.
        student: The student, if there is one; it is left as it is.
        trial: Whether to try one step of each loss, and how the teacher will run; if not, it runs in float32.

    Returns:
        What could be built.
    """
    built = Built(student)
    if student is None and ctx.clean('network_g') and isinstance(ctx.opt.get('network_g'), Mapping):
        built.student = construct(ctx, 'network_g', ctx.opt['network_g'], ARCH_REGISTRY)
    if ctx.distills and ctx.is_train:
        _build_teacher_and_losses(ctx, built)
    if ctx.inherits('AggregateModel'):
        built.aggregates, built.aggregation = True, read_aggregation(ctx)
    nets: dict[str, nn.Module] = {} if built.whole is None else {'network_g': built.whole}
    nets |= {f'{teacher.place}.network': built.teachers[teacher.name] for teacher in teachers_of(ctx.opt)
             if teacher.name in built.teachers}
    choose_outputs(ctx, nets, student)
    if ctx.is_train and (window_size(ctx.opt) > 1 or not ctx.clean(patch_place(ctx.opt))):
        check_patch(ctx, nets)
    if probe == 'none':
        return built
    known = ctx.clean('datasets.train') and ctx.clean('gt_size')
    full = probe == 'full' and known and max(probe_shape(ctx.opt)) <= LARGEST_PATCH
    shape = probe_shape(ctx.opt) if full else runnable_shape(ctx.opt, nets.values())
    sizes_fit = [check_output(ctx, nets, where) and check_image(ctx, net, where) for where, net in nets.items()]
    if built.student is not None and built.teachers and len(built.teachers) == len(teachers_of(ctx.opt)):
        if all(sizes_fit):
            check_init(ctx, built.student, next(iter(built.teachers.values())))
            _fit(ctx, built, shape, trial)
        else:
            check_names_of_taps(ctx, built.losses, built.student,
                                {where: built.teachers[name] for where, name in built.chosen.items()})
    if trial and all(sizes_fit) and (not ctx.distills or (built.losses or built.eco) and not ctx.problems):
        check_use(ctx, nets)
    return built


def _build_teacher_and_losses(ctx: Context, built: Built) -> None:
    teachers, nets = teachers_of(ctx.opt), load_teachers(ctx)
    built.teachers = {teacher.name: nets[teacher.place] for teacher in teachers if teacher.place in nets}
    if built.student is not None:
        for net in built.teachers.values():
            net.to(next(built.student.parameters()).device)
    schedule = check_schedule(ctx)
    if schedule is not None:
        check_meeting(ctx, schedule)
    built.eco = check_eco(ctx)
    for where, options in distillation_entries(ctx.opt):
        own = of_class(ctx.opt, options)
        loss = construct(ctx, where, own, LOSS_REGISTRY) if ctx.clean(where) else None
        if loss is not None:
            built.losses[where] = loss
            if teachers:
                built.chosen[where] = teachers[number_of_teacher(ctx.opt, options)].name
            _check_batch(ctx, loss)
            _check_turns(ctx, where, own, loss.turns)


def _check_turns(ctx: Context, where: str, options: Mapping[str, Any], turns: Mapping[str, int]) -> None:
    """Check that what a loss does in each n-th iteration, as ``block_every`` and ``meta_every`` say, happens at all.

    ``turns`` names what must, whether its option is written or not, and the iteration of its first turn.
    """
    if not ctx.clean('train.distill') or not ITERATIONS.fits(ctx.section('train').get('total_iter')):
        return
    schedule = read_schedule(ctx.opt)
    last = min(schedule.last, int(ctx.section('train')['total_iter']))
    some = f'only the first {last:,d} iterations distill' + (f', one in {schedule.every}' if schedule.every > 1 else '')
    for name, every in options.items():
        if name not in turns and str(name).endswith('_every') and INTEGER.fits(every) and not acts(
                ctx, last, math.lcm(every, schedule.every)) and acts(ctx, last, schedule.every):
            trains = generator_in_words(ctx.opt)
            also = f'; network_g trains in {trains}' if trains else ''
            ctx.add(f'{where}.{name}', f'is {every}, and {some}{also}: it would never happen',
                    f'write a smaller number, as {name}: {schedule.every}', {f'{where}.{name}': schedule.every})
    for name, first in turns.items():
        if first > last:
            is_written, fewer = name in options, max(last // 5, 1)
            ctx.add(f'{where}.{name}', f'{"is" if is_written else "is not written, and by default it is"} '
                    f'{options.get(name, first)}, and {some}: it would never happen',
                    f'write a smaller number, as {name}: {fewer}', {f'{where}.{name}': fewer})


def _check_batch(ctx: Context, loss: DistillationLoss) -> None:
    size, where = distilled_samples(ctx), 'datasets.train.batch_size_per_gpu'
    if size is None or size >= loss.min_batch_size or not ctx.clean(where):
        return
    share = ctx.section('train', 'distill').get('share', 1)
    own = ctx.section('datasets', 'train')['batch_size_per_gpu']
    images = f'is {own}' if share == 1 else f'is {own}, of which train.distill.share, {share:g}, leaves {size}'
    fix = {where: math.ceil(loss.min_batch_size / share)}
    ctx.add(where, f'{images}, and {type(loss).__name__} needs {loss.min_batch_size} images or more in a batch: '
            f'{loss.min_batch_reason}', f'{in_words(fix)}, or more', fix)


def _fit(ctx: Context, built: Built, shape: tuple[int, int, int], trial: bool) -> None:
    """Bind all losses and try one step of each."""
    student, losses, chosen = built.student, built.losses, list(built.chosen.values())
    if student is None or len(chosen) < len(losses):
        return
    seed = ctx.opt.get('manual_seed')
    seed, notes = seed if isinstance(seed, int) else 0, list[str]()
    try:
        nets, probe = bind_with_seed(list(losses.values()), chosen, student, built.teachers, shape, seed, notes)
    except BindError as error:
        add_bind_problems(ctx, list(losses), error)
        return
    except OutputError as error:
        _add_other_output(ctx, error, shape)
        return
    except FOREIGN_ERRORS as error:
        _add_crash(ctx, losses, error)
        return
    ctx.notes += notes
    built.pairs = {where: [TapPair(nets[name].student.infos[s], nets[name].teacher.infos[t]) for s, t in loss.pairs]
                   for (where, loss), name in zip(losses.items(), chosen)}
    teachers, in_memory = {}, list[int]()
    for teacher in teachers_of(ctx.opt):
        own, net = context_of(ctx, teacher), built.teachers[teacher.name]
        taught = {where: loss for (where, loss), name in zip(losses.items(), chosen) if name == teacher.name}
        run = _try_teacher(own, taught, nets[teacher.name], probe) if trial else TeacherRun()
        teachers[teacher.name] = OneTeacher(net, teacher_fingerprint(net), run.execution)
        run.cache = check_cache(own, nets[teacher.name], probe, teachers[teacher.name].fingerprint,
                                in_memory)
        built.runs[teacher.name] = run
    close(nets)
    if losses or built.eco:
        built.bound = Distillation(teachers, losses, chosen, probe, seed, notes)
    if not ctx.problems:
        built.distillation = built.bound


def _try_teacher(ctx: Context, losses: Mapping[str, DistillationLoss], nets: NetPair, probe: Tensor) -> TeacherRun:
    """Try a step of each loss of a teacher, and how the teacher will run; if it casts, each loss with it then."""
    run = TeacherRun(execution_of(ctx.section('teacher')))
    run.difference = check_execution(ctx, run.execution, nets.teacher, probe)
    _try(ctx, losses, nets)
    cast = with_cast_teacher(ctx, run.execution, nets)
    if cast is not None:
        _try(ctx, losses, cast, blame=cast_remedy(run.execution))
    return run


def _add_crash(ctx: Context, losses: Mapping[str, DistillationLoss], error: BaseException) -> None:
    """Note what crashed while binding: the ``build()`` of a loss, or before that a network on a training patch."""
    where = next((where for where, loss in losses.items() if loss.pairs and not loss.is_bound), None)
    if where is None:
        size = '×'.join(map(str, probe_shape(ctx.opt)))
        ctx.add('network_g', f'student or teacher cannot run on patches of {size}: {reason(error)}',
                'fix their arguments')
    elif isinstance(error, TooLargeError):
        ctx.add(where, f'{type(losses[where]).__name__} {error}', 'write smaller numbers for its size')
    else:
        ctx.add(where, f'cannot be bound to the networks: {crash(error, type(losses[where]))}',
                'fix the argument named in the message, or the build() of the class')


def _try(ctx: Context, losses: Mapping[str, DistillationLoss], nets: NetPair,
         blame: tuple[str, str, dict[str, Any]] | None = None) -> None:
    """Try one step of each loss on a small patch; where that fails, on one of training size: some losses need it.

    ``blame`` is the (YAML path, remedy, remedy as data) of what has changed since the same losses were tried before.
    """
    for where, loss in losses.items():
        if blame and not ctx.clean(where):
            continue
        least = loss.min_batch_size
        for shape in dict.fromkeys((small_shape(ctx.opt), probe_shape(ctx.opt))):
            loss.min_batch_size = least
            try:
                problem, remedy = trial_problem(loss, nets, shape, ctx.scale or 1), 'fix the forward() of the class'
            except OutputError as error:  # a student may return more in training than in eval mode
                _add_other_output(ctx, error, shape)
                return
            except LossError as error:
                ctx.add(where, f'{type(loss).__name__}: {error.what}', error.remedy, {
                    f'{where}.{name}': value for name, value in error.options.items()})
                problem = ''
            except FOREIGN_ERRORS as error:
                problem = crash(error, type(loss))
                remedy = 'fix the argument named in the message, or the forward() of the class'
            if not problem and loss.min_batch_size == least:
                break
        _check_batch(ctx, loss)  # the trial may have found that it needs more images
        if problem and blame:
            ctx.add(blame[0], f'{type(loss).__name__} fails in a trial step with this teacher: {problem}',
                    *blame[1:])
        elif problem:
            ctx.add(where, f'{type(loss).__name__} fails in a trial step: {problem}', remedy)


def _add_other_output(ctx: Context, error: OutputError, shape: tuple[int, int, int]) -> None:
    height, width = ((ctx.scale or 1) * side for side in shape[1:])
    add_output_problem(ctx, 'network_g', error, (shape[0], height, width))
