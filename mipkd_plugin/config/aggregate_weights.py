"""Load the teachers and the aggregator of ``teacher: {aggregate: FILE}``, and see that they belong together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.archs.knowledge_aggregator_arch import AggregatedTeachers
from mipkd_plugin.checkpoints.aggregate_file import TRAINED, AggregateError, Member, read_aggregate
from mipkd_plugin.config.aggregate import WHERE, best_key, path_of
from mipkd_plugin.config.components import construct
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.weights import misfit, select_state, teacher_fingerprint
from mipkd_plugin.networks.outputs import select_output
from mipkd_plugin.utils.weight_files import SAVE

Load = Callable[[Context], nn.Module | None]


def load_aggregated(ctx: Context, load: Load) -> nn.Module | None:
    """Build the teachers and the aggregator of ``teacher.aggregate`` and, with ``ctx.files``, load their weights.

    Args:
        ctx: Options, and where problems go.
        load: Loads a teacher that a context of its own describes.

    Returns:
        The teachers with the aggregator; None with a problem noted.
    """
    teacher = ctx.section('teacher')
    path = path_of(teacher, ctx.root)
    try:
        found, content = read_aggregate(path)
    except AggregateError:  # the check has said why
        return None
    before = len(ctx.problems)
    unknown = [str(network['type']) for network in (found.aggregator, *(member.network for member in found.teachers))
               if lookup(ARCH_REGISTRY, network['type']) is None]
    if unknown:
        ctx.add(WHERE, f'{path} is of the network{"s" * (len(unknown) > 1)} {", ".join(unknown)}, which is not '
                'registered here', 'name the file or module of the class in imports')
        return None
    nets = [_member(ctx, load, member, path) for member in found.teachers]
    number = found.aggregator.get('num_teachers')
    if isinstance(number, int) and number != len(nets):
        ctx.add(WHERE, f'{path} is damaged: it takes the images of {number} teachers, and names {len(nets)}',
                'train the aggregator again')
    side = Context({}, True, root=ctx.root)
    aggregator = construct(side, 'aggregator', found.aggregator, ARCH_REGISTRY)
    for fault in side.problems:
        option = fault.where.removeprefix('aggregator').lstrip('.')
        ctx.add(WHERE, f'{path} describes an aggregator that cannot be built: {f"{option} {fault.what}".lstrip()}',
                'train the aggregator again: the file is damaged, or of another version')
    if aggregator is not None and ctx.files:
        key = teacher.get('param_key', best_key(content))
        state = select_state(ctx, WHERE, 'teacher.param_key', path, content, key)
        if state is None and SAVE in ctx.problems[-1].remedy:  # weights alone would be no aggregator
            ctx.problems[-1] = replace(ctx.problems[-1], remedy=TRAINED)
        problem = None if state is None else misfit(aggregator, state, WHERE)
        if problem:
            ctx.add(WHERE, f'{path} {problem[0]}', 'train the aggregator again: the file is damaged')
        elif state is not None and check_weights(ctx, WHERE, path, state, aggregator):
            aggregator.load_state_dict(state)
    built = [net for net in nets if net is not None]
    if len(ctx.problems) > before or aggregator is None or len(built) < len(nets):
        return None
    return AggregatedTeachers.of(aggregator, built)


def _member(ctx: Context, load: Load, member: Member, aggregate: Path) -> nn.Module | None:
    """Load one teacher, and see that it is the one whose images the aggregator was trained on."""
    moved = block(ctx.section('teacher'), 'files').get(member.name)
    file = moved if isinstance(moved, str) else member.weights
    where = f'teacher.files.{member.name}' if isinstance(moved, str) else WHERE
    path = ctx.path(file)
    if not isinstance(moved, str) and not path.is_file() and (aggregate.parent / path.name).is_file():
        path = aggregate.parent / path.name
    under = '' if member.param_key is None else f', with the weights under the key {member.param_key}'
    named = f', or write {ctx.placed("teacher.files")}: {{{member.name}: PATH}}, where it is now'
    elsewhere = under if isinstance(moved, str) else named
    if ctx.files and not path.is_file():
        ctx.add(where, f'the weights of its teacher {member.name!r} are not in {path}', f'put the file there or beside '
                f'{aggregate}{named}')
        return None
    own = {'network': member.network, 'weights': str(path), 'param_key': member.param_key}
    side = Context({'teacher': own}, True, root=ctx.root, files=ctx.files, always_distills=True)
    net = load(side)
    for problem in side.problems:
        ctx.add(where, f'its teacher {member.name!r}: {problem.what}', f'give the file that the aggregator was trained '
                f'with{elsewhere}')
    if net is not None:
        select_output(net, member.output)
    if net is not None and ctx.files and not side.problems and teacher_fingerprint(net) != member.sha256:
        ctx.add(where, f'{path} holds other weights than the teacher {member.name!r} had when the aggregator was '
                f'trained (sha256 {teacher_fingerprint(net)[:12]}…, then {member.sha256[:12]}…)',
                f'give the old file{elsewhere}')
    return net
