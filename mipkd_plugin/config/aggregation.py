"""The teachers of ``model_type: AggregateModel``: load them, and see that ``network_g`` aggregates their images."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.archs.knowledge_aggregator_arch import AggregatedTeachers
from mipkd_plugin.checkpoints.aggregate_file import Aggregate, AggregateError, Member, read_aggregate
from mipkd_plugin.checkpoints.files import student_path
from mipkd_plugin.config.aggregate import has_aggregate, other_teachers
from mipkd_plugin.config.checkpoints import run_folder
from mipkd_plugin.config.components import check_teacher_network
from mipkd_plugin.config.keys import TEACHER
from mipkd_plugin.config.outputs import channel_word, output_shape
from mipkd_plugin.config.patches import small_shape
from mipkd_plugin.config.problems import Context, OptionError
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.resume_changes import changes, in_words
from mipkd_plugin.config.teacher_file import with_teacher
from mipkd_plugin.config.teacher_weights import load_teachers
from mipkd_plugin.config.teachers import Teacher, context_of, teachers_of
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.networks.outputs import select_output
from mipkd_plugin.utils.weight_files import is_safetensors

_READ = ('name', 'network', 'weights', 'param_key', 'output')
"""Keys of a teacher that AggregateModel reads; the others say how a teacher runs beside a student."""


@dataclass(frozen=True)
class Aggregation:
    """The teachers of an aggregator.

    Attributes:
        nets: Their networks, with weights, in the order of the options.
        record: What the file of the aggregator will say of them.
    """

    nets: list[nn.Module]
    record: Aggregate

    def with_aggregator(self, aggregator: nn.Module) -> nn.Module:
        """What turns an LR image into an image."""
        return AggregatedTeachers.of(aggregator, self.nets)


def read_aggregation(ctx: Context) -> Aggregation | None:
    """Load the teachers, whose blocks have been checked.

    Args:
        ctx: Options, and where problems go.

    Returns:
        The teachers; None with a problem noted.
    """
    teachers = teachers_of(ctx.opt)
    if not teachers and ctx.clean('teachers'):
        ctx.add('teachers', 'is missing: AggregateModel aggregates the images of several teachers',
                'write a list: teachers: [{name: big, weights: FILE.pth}, {name: small, weights: OTHER.pth}]')
    for teacher in teachers:
        _check_keys(ctx, teacher)
    nets = load_teachers(ctx) if all(ctx.clean(teacher.place) for teacher in teachers) else {}
    if not nets or len(nets) < len(teachers):
        return None
    members = tuple(_member(ctx, teacher, nets[teacher.place]) for teacher in teachers)
    for member, net in zip(members, nets.values()):
        select_output(net, member.output)
    aggregation = Aggregation(list(nets.values()), Aggregate(copy.deepcopy(ctx.section('network_g')), members))
    if not _takes_color(ctx):
        return None
    _check_number(ctx, len(teachers))
    _check_scale(ctx)
    fit = [_check_images(ctx, teacher, nets[teacher.place]) for teacher in teachers]
    return aggregation if all(fit) and ctx.clean('network_g') else None


def load_members(opt: Mapping[str, Any]) -> tuple[list[nn.Module], Aggregate]:
    """Load the teachers of a run.

    Args:
        opt: The options, as BasicSR has parsed them.

    Returns:
        The networks with their weights, and what the file of the aggregator will say of them.

    Raises:
        OptionError: The options of the teachers have problems; the message lists all of them.
    """
    own = with_teacher(opt)
    ctx = Context(own, bool(opt.get('is_train')))
    check_teacher_network(ctx)
    aggregation = read_aggregation(ctx)
    if aggregation is not None:
        check_start(ctx, aggregation)
    if aggregation is None or ctx.problems:
        raise OptionError(ctx.problems, own)
    return aggregation.nets, aggregation.record


def check_start(ctx: Context, aggregation: Aggregation, state: Path | None = None) -> None:
    """Refuse to go on with, or to test, an aggregator of other teachers.

    Args:
        ctx: Options, and where problems go.
        aggregation: The teachers of the options.
        state: The training state that the run resumes from, if it does.
    """
    start, where = ctx.section('path').get('pretrain_network_g'), 'path.pretrain_network_g'
    if state is not None:
        start = str(student_path(run_folder(ctx) / 'models', state.stem))
        where = '--auto_resume' if ctx.auto_resume else 'path.resume_state'
    if not isinstance(start, str) or not ctx.clean(where):
        return
    try:
        then, _ = read_aggregate(ctx.path(start))
    except AggregateError:  # of a run without teachers, or it is looked at elsewhere
        return
    now, starts_anew = aggregation.record, ctx.is_train and state is None
    what = other_teachers(then, now) or in_words(changes(_written(then.teachers), _written(now.teachers)))
    if what:
        fix: dict[str, Any] = {where: REMOVE} if starts_anew else {}
        ctx.add(where, f'{start} was trained on the images of other teachers: {what}',
                'write the teachers that it was trained with, in their order and with the same options' + (
                    ', or remove pretrain_network_g to train an aggregator of these teachers' if fix else
                    '; or start a new run under another name' if state is not None else ''), fix)
    elif not starts_anew:
        changed = changes({'network_g': then.aggregator}, {'network_g': now.aggregator})
        if changed:
            ctx.add(where, f'{start} was trained with another network_g: {in_words(changed)}', 'write the old values',
                    {path: REMOVE if old is None else old for path, old, _ in changed})


def _written(members: Sequence[Member]) -> dict[str, Any]:
    """What an option file says of teachers beside their weights, by YAML path."""
    return {f'teachers[{number}].{key}': value for number, member in enumerate(members)
            for key, value in (('network', member.network), ('output', member.output))}


def _check_keys(ctx: Context, teacher: Teacher) -> None:
    own = context_of(ctx, teacher)
    for key in teacher.options:
        if key in TEACHER and key not in _READ and not (key == 'aggregate' or key == 'files'):
            own.add(f'teacher.{key}', 'AggregateModel does not read it: its teachers run in float32, on each batch',
                    fix={f'teacher.{key}': REMOVE})
    if has_aggregate(teacher.options):
        own.add('teacher.aggregate', 'an aggregator cannot be a teacher of another aggregator',
                'write its teachers themselves')


def _member(ctx: Context, teacher: Teacher, net: nn.Module) -> Member:
    options = teacher.options
    weights, network = str(options['weights']), copy.deepcopy(dict(options['network']))
    default = None if is_safetensors(ctx.path(weights)) else 'params'
    return Member(teacher.name or 'teacher', network, weights, options.get('param_key', default),
                  teacher_fingerprint(net), options.get('output'))


def _argument(ctx: Context, name: str) -> Any:
    """An argument of ``network_g``, written or by default; None if it has none."""
    network = ctx.section('network_g')
    found = lookup(ARCH_REGISTRY, network.get('type'))
    parameters = inspect.signature(found).parameters if found is not None else {}
    return network.get(name, parameters[name].default) if name in parameters else None


def _takes_color(ctx: Context) -> bool:
    """Refuse data sets that give the Y channel alone."""
    gray = [f'datasets.{phase}.color' for phase, options in ctx.section('datasets').items()
            if isinstance(options, Mapping) and options.get('color') == 'y']
    if gray:
        others = ', '.join(gray[1:])
        ctx.add(gray[0], 'is y, and an aggregator takes RGB images', 'remove it' + f', and {others}' * bool(others),
                dict.fromkeys(gray, REMOVE))
    return not gray


def _check_number(ctx: Context, count: int) -> None:
    number, network = _argument(ctx, 'num_teachers'), ctx.section('network_g')
    found = lookup(ARCH_REGISTRY, network.get('type'))
    given = [*network.values(), *(p.default for p in inspect.signature(found).parameters.values())] if found else []
    if found is not None and number is None and 3 * count not in given and ctx.clean('network_g'):
        ours = {'type': 'KnowledgeAggregator', 'num_teachers': count, 'upscale': ctx.scale or 1}
        ctx.add('network_g', f'{network["type"]} does not take the images of {count} teachers, {3 * count} channels in '
                'the size of the HR image', fix={'network_g': ours})
    if isinstance(number, int) and number != count and ctx.clean('network_g'):
        are = 'is 1 teacher' if count == 1 else f'are {count} teachers'
        ctx.add('network_g.num_teachers', f'is {number}, and there {are} in teachers',
                fix={'network_g.num_teachers': count})


def _check_scale(ctx: Context) -> None:
    scale = _argument(ctx, 'upscale')
    if isinstance(scale, int) and ctx.scale is not None and scale != ctx.scale and ctx.clean('network_g'):
        ctx.add('network_g.upscale', f'is {scale}, and scale is {ctx.scale}', fix={'network_g.upscale': ctx.scale})


def _check_images(ctx: Context, teacher: Teacher, net: nn.Module) -> bool:
    """Check that a teacher turns RGB images into RGB images of the scale, if it runs on a small patch."""
    side, scale = small_shape(ctx.opt)[1], ctx.scale or 1
    shape, _ = output_shape(net, 3, side)
    gray = output_shape(net, 1, side)[0] if shape is None else None
    own = context_of(ctx, teacher)
    if gray is not None or shape is not None and len(shape) == 3 and shape[0] != 3:
        channels = channel_word(1 if gray else (shape or (0, ))[0])
        own.add('teacher.network', f'works on {channels}, and an aggregator takes RGB images',
                'give a teacher for RGB images')
    elif shape is not None and ctx.scale is not None and shape != (3, side * scale, side * scale):
        own.add('teacher.network', f'turns a patch of 3×{side}×{side} into (channels, height, width) = {shape}; scale '
                f'{scale} needs {(3, side * scale, side * scale)}', 'use teachers for this scale')
    else:
        return True
    return False
