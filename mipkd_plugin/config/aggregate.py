"""A teacher that is several teachers and an aggregator of their images: ``teacher: {aggregate: FILE}``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.archs.knowledge_aggregator_arch import AggregatedTeachers
from mipkd_plugin.checkpoints.aggregate_file import Aggregate, AggregateError, Member, read_aggregate
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import other_key
from mipkd_plugin.config.weights import misfit, select_state, teacher_fingerprint

WHERE = 'teacher.aggregate'
NOT_BESIDE = ('network', 'weights')
"""What stands in the file itself, and so not beside ``aggregate``."""

Load = Callable[[Context], nn.Module | None]
Build = Callable[[Context, str, Mapping[str, Any], Any], Any]


def has_aggregate(teacher: Any) -> bool:
    """Whether a block ``teacher`` names a file of an aggregator."""
    return isinstance(teacher, Mapping) and isinstance(teacher.get('aggregate'), str) and teacher['aggregate'] != ''


def filled_aggregate(teacher: Mapping[str, Any], root: Path | None = None) -> Mapping[str, Any]:
    """The block of a teacher with the network of its ``aggregate``, the file and the key of its weights.

    Args:
        teacher: The block.
        root: Folder that relative paths start from; default: the working directory.

    Returns:
        A new block; the same where the file cannot be read or the block names another network too: the check says so.
    """
    if any(key in teacher for key in NOT_BESIDE):
        return teacher
    try:
        found, content = read_aggregate(_path(teacher, root))
    except AggregateError:
        return teacher
    return {'network': copy.deepcopy(found.network), 'weights': teacher['aggregate'],
            'param_key': _best_key(content), **teacher}


def check_aggregate(ctx: Context) -> None:
    """Check ``teacher.aggregate``: the file is one, nothing else names a network, and ``files`` knows its teachers."""
    teacher = ctx.section('teacher')
    if not has_aggregate(teacher):
        if 'files' in teacher and 'aggregate' not in teacher:
            ctx.add('teacher.files', 'is for a teacher with aggregate', fix={'teacher.files': REMOVE})
        return
    try:
        found, _ = read_aggregate(_path(teacher, ctx.root))
    except AggregateError as error:
        if ctx.files or ctx.always_distills:
            ctx.add(WHERE, f'{_path(teacher, ctx.root)} {error.what}', error.remedy)
        return
    finally:
        _check_alone(ctx, teacher)
    names, files = [member.name for member in found.teachers], block(teacher, 'files')
    for name in files:
        if name not in names:
            ctx.add(f'teacher.files.{name}', f'{teacher["aggregate"]} has no teacher {name!r}, only {", ".join(names)}',
                    *other_key('teacher.files', str(name), files, names))
        elif not isinstance(files[name], str):
            ctx.add(f'teacher.files.{name}', f'must be the path of a file, not {files[name]!r}')


def _check_alone(ctx: Context, teacher: Mapping[str, Any]) -> None:
    """Refuse another network beside the file."""
    filled = teacher.get('weights') == teacher['aggregate'] and block(teacher, 'network').get(
        'type') == 'AggregatedTeachers'
    others = [key for key in NOT_BESIDE if key in teacher and not filled]
    if others:
        ctx.add(WHERE, f'{" and ".join(others)} beside it name{"s" * (len(others) == 1)} another teacher',
                f'remove {" and ".join(others)}, or remove aggregate',
                {f'teacher.{key}': REMOVE for key in (*others, 'param_key') if key in teacher})


def load_aggregated(ctx: Context, load: Load, build: Build) -> nn.Module | None:
    """Build the teachers and the aggregator of ``teacher.aggregate`` and, with ``ctx.files``, load their weights.

    Args:
        ctx: Options, and where problems go.
        load: Loads a teacher that a context of its own describes.
        build: Builds a network, as :func:`~mipkd_plugin.config.components.construct`.

    Returns:
        The teachers with the aggregator; None with a problem noted.
    """
    teacher = ctx.section('teacher')
    path = _path(teacher, ctx.root)
    try:
        found, content = read_aggregate(path)
    except AggregateError:  # the check has said why
        return None
    before = len(ctx.problems)
    nets = [_member(ctx, load, member, path) for member in found.teachers]
    aggregator = build(ctx, WHERE, found.aggregator, ARCH_REGISTRY)
    if aggregator is not None and ctx.files:
        key = teacher.get('param_key', _best_key(content))
        state = select_state(ctx, WHERE, 'teacher.param_key', path, content, key)
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
    elsewhere = f'or write teacher.files: {{{member.name}: PATH}}, where it is now'
    if ctx.files and not path.is_file():
        ctx.add(where, f'the weights of its teacher {member.name!r} are not in {path}', f'put the file there or beside '
                f'{aggregate}, {elsewhere}')
        return None
    own = {'network': member.network, 'weights': str(path), 'param_key': member.param_key}
    side = Context({'teacher': own}, True, root=ctx.root, files=ctx.files, always_distills=True)
    net = load(side)
    for problem in side.problems:
        ctx.add(where, f'its teacher {member.name!r}: {problem.what}', f'give the file that the aggregator was trained '
                f'with, {elsewhere}')
    if net is not None and ctx.files and not side.problems and teacher_fingerprint(net) != member.sha256:
        ctx.add(where, f'{path} holds other weights than the teacher {member.name!r} had when the aggregator was '
                f'trained (sha256 {teacher_fingerprint(net)[:12]}…, then {member.sha256[:12]}…)',
                f'give the old file, {elsewhere}')
    return net


def other_teachers(then: Aggregate, now: Aggregate) -> str:
    """What differs between the teachers that an aggregator was trained with and those of the options; '' if nothing."""
    if [member.sha256 for member in then.teachers] == [member.sha256 for member in now.teachers]:
        return ''
    if sorted(member.sha256 for member in then.teachers) == sorted(member.sha256 for member in now.teachers):
        return f'the order {", ".join(member.name for member in then.teachers)}'
    known = {member.sha256 for member in now.teachers}
    lost = [member.name for member in then.teachers if member.sha256 not in known]
    return f'{len(then.teachers)} teachers, of which these are not in the options: {", ".join(lost)}' if lost else (
        f'{len(then.teachers)} teachers, and the options have {len(now.teachers)}')


def _path(teacher: Mapping[str, Any], root: Path | None) -> Path:
    return Context({}, True, root=root or Path.cwd()).path(teacher['aggregate'])


def _best_key(content: Mapping[str, Any]) -> str:
    return 'params_ema' if 'params_ema' in content else 'params'
