"""A teacher that is several teachers and an aggregator of their images: ``teacher: {aggregate: FILE}``."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mipkd_plugin.checkpoints.aggregate_file import Aggregate, AggregateError, read_aggregate
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import other_key
from mipkd_plugin.utils.fingerprints import state_fingerprint

WHERE = 'teacher.aggregate'
NOT_BESIDE = ('network', 'weights')
"""What stands in the file itself, and so not beside ``aggregate``."""


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
        found, content = read_aggregate(path_of(teacher, root))
    except AggregateError:
        return teacher
    return {'network': copy.deepcopy(found.network), 'weights': teacher['aggregate'],
            'param_key': best_key(content), **teacher}


def check_aggregate(ctx: Context) -> None:
    """Check ``teacher.aggregate``: the file is one, nothing else names a network, and ``files`` knows its teachers."""
    teacher = ctx.section('teacher')
    if not has_aggregate(teacher):
        if 'files' in teacher and 'aggregate' not in teacher:
            ctx.add('teacher.files', 'is for a teacher with aggregate', fix={'teacher.files': REMOVE})
        return
    try:
        found, _ = read_aggregate(path_of(teacher, ctx.root))
    except AggregateError as error:
        if ctx.files or ctx.always_distills:
            ctx.add(WHERE, f'{path_of(teacher, ctx.root)} {error.what}', error.remedy)
        return
    finally:
        _check_alone(ctx, teacher)
    names, files = [member.name for member in found.teachers], block(teacher, 'files')
    for name in files:
        if name not in names:
            ctx.add(f'teacher.files.{name}', f'{teacher["aggregate"]} has no teacher {name!r}, only {", ".join(names)}',
                    *other_key('teacher.files', str(name), files, names))
        elif not isinstance(files[name], str):
            ctx.add(f'teacher.files.{name}', f'must be the path of a file, not {files[name]!r}',
                    fix={f'teacher.files.{name}': REMOVE})


def _check_alone(ctx: Context, teacher: Mapping[str, Any]) -> None:
    """Refuse another network beside the file."""
    filled = teacher.get('weights') == teacher['aggregate'] and block(teacher, 'network').get(
        'type') == 'AggregatedTeachers'
    others = [key for key in NOT_BESIDE if key in teacher and not filled]
    if others:
        ctx.add(WHERE, f'{" and ".join(others)} beside it name{"s" * (len(others) == 1)} another teacher',
                f'remove {" and ".join(others)}, or remove aggregate',
                {f'teacher.{key}': REMOVE for key in (*others, 'param_key') if key in teacher})


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


def digest_of(teacher: Mapping[str, Any], root: Path | None = None) -> str | None:
    """A short hash of what a block with ``aggregate`` stands for: the aggregator, its weights and its teachers.

    Args:
        teacher: The block.
        root: Folder that relative paths start from; default: the working directory.

    Returns:
        12 hexadecimal digits; None if the file cannot be read, or holds no weights under the key of the block.
    """
    try:
        found, content = read_aggregate(path_of(teacher, root))
    except AggregateError:
        return None
    state = content.get(teacher.get('param_key', best_key(content)))
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        return None
    members = [[member.network, member.sha256, member.output] for member in found.teachers]
    text = json.dumps([found.aggregator, members, state_fingerprint(state)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def path_of(teacher: Mapping[str, Any], root: Path | None) -> Path:
    """The file of a block with ``aggregate``."""
    return Context({}, True, root=root or Path.cwd()).path(teacher['aggregate'])


def best_key(content: Mapping[str, Any]) -> str:
    """The moving average of the aggregator, if there is one."""
    return 'params_ema' if 'params_ema' in content else 'params'
