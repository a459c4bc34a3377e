"""What the log of a training says of its distillation before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mipkd_plugin import config
from mipkd_plugin.networks.execution import PLAIN

if TYPE_CHECKING:
    from mipkd_plugin.models.distill_model import DistillMixin


def setup_lines(model: DistillMixin, notes: Iterable[str]) -> list[str]:
    """Describe networks, losses, schedule and cache of a model that is about to train.

    Args:
        model: The model, with all of these built.
        notes: What the check found doubtful.

    Returns:
        The lines of the log.
    """
    count = {name: sum(p.numel() for p in net.parameters() if name != 'losses' or p.requires_grad)
             for name, net in (('student', model.net_g), ('teacher', model.teacher), ('losses', model.losses))}
    lines = [f'Distillation: student {count["student"]:,d}, teacher {count["teacher"]:,d}, '
             f'losses (training only) {count["losses"]:,d} parameters.']
    lines += [f'\t{line}' for line in config.recognition_in_words(model.opt)]
    if model.nets.teacher.execution != PLAIN:
        lines.append(f'\tThe teacher runs in another way: {model.nets.teacher.execution}')
    for loss in model.distillation_losses():
        pairs = ', '.join(f'{s} <- {t}' for s, t in loss.pairs) or 'output only'
        lines.append(f'\t{type(loss).__name__}: {pairs}' + f'; {loss.note}' * bool(loss.note))
    if model.opt['train'].get('distill'):
        lines.append(f'\tdistills in {model.schedule}')
    if model.cache is not None:
        lines.append(f'\tcache of the teacher: {model.cache}')
    return [*lines, *(f'\tnote: {note}' for note in notes)]
