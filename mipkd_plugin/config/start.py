"""What the student of a training starts from: random weights, or a slice of its teacher; the key ``train.init``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mipkd_plugin.config.keys import RANDOM, TEACHER_SLICE
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.teachers import teachers_of
from mipkd_plugin.networks.slice_rules import ANEW, SliceError
from mipkd_plugin.networks.slicing import sliced

PLACE = 'train.init'


def starts_from_slice(opt: Mapping[str, Any]) -> bool:
    """Whether a training begins with a slice of its teacher: one that is resumed goes on with its own weights.

    Args:
        opt: The options, as written or as BasicSR has parsed them.

    Returns:
        Whether it does.
    """
    return block(opt, 'train').get('init') == TEACHER_SLICE and block(opt, 'path').get('resume_state') is None


def start_in_words(opt: Mapping[str, Any]) -> str:
    """Such a start, as ``a slice of teacher wide`` if there are several."""
    name = teachers_of(opt)[0].name
    return f'a slice of teacher {name}' if name else 'a slice of the teacher'


def check_init(ctx: Context, student: nn.Module, teacher: nn.Module) -> None:
    """Check ``train.init``: that there is one start, and that the student can be cut from the teacher.

    Args:
        ctx: Where problems go.
        student: The student.
        teacher: The only teacher, or the first.
    """
    if starts_from_slice(ctx.opt):
        check_only_start(ctx, PLACE)
        slice_of(ctx, PLACE, student, teacher, {PLACE: RANDOM})


def check_only_start(ctx: Context, place: str) -> None:
    """Refuse weights in ``path.pretrain_network_g`` beside a slice of the teacher.

    Args:
        ctx: Where problems go.
        place: YAML path that asks for the slice.
    """
    given = ctx.section('path').get('pretrain_network_g')
    if given is not None:
        ctx.add(place, f'is {TEACHER_SLICE}, but path.pretrain_network_g names another start, {given}',
                'write path.pretrain_network_g: ~' + f'; or, to start there, init: {RANDOM}' * (place == PLACE),
                {'path.pretrain_network_g': None})


def slice_of(ctx: Context, place: str, student: nn.Module, teacher: nn.Module,
             instead: dict[str, Any]) -> dict[str, Tensor] | None:
    """Cut the start of a student out of its teacher.

    Args:
        ctx: Where problems go.
        place: YAML path that asks for it.
        student: The student; it is left as it is.
        teacher: The teacher.
        instead: What to change in the options to do without it.

    Returns:
        The state of the student; None if it is no slice of the teacher.
    """
    try:
        return sliced(student, teacher)
    except SliceError as error:
        other = f'remove {", ".join(instead)}' if REMOVE in instead.values() else in_words(instead)
        remedy = error.remedy.replace(ANEW, other) if ANEW in error.remedy else f'{error.remedy}; or {other}'
        if len(teachers_of(ctx.opt)) > 1:
            remedy += '; the first of the teachers is cut, so put another one first if that fits'
        ctx.add(place, f'is {TEACHER_SLICE}, but {error.what}', remedy, instead)
        return None
