"""What the log of a training says of its distillation before it starts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import nn

from mipkd_plugin import config
from mipkd_plugin.models.teaching import called
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
    teaching = model.teaching
    teachers = ', '.join(f'{called(name)} {_count(net):,d}' for name, net in teaching.teachers.items())
    lines = [f'Distillation: student {_count(model.net_g):,d}, {teachers}, '
             f'losses (training only) {_count(model.losses, True):,d} parameters.']
    lines += [f'\t{line}' for line in config.recognition_in_words(model.opt)]
    lines += [f'\tThe {called(name)} runs in another way: {nets.teacher.execution}'
              for name, nets in teaching.nets.items() if nets.teacher.execution != PLAIN]
    if config.starts_from_slice(model.opt):
        lines.append(f'\tThe student starts from {config.start_in_words(model.opt)}.')
    for loss, name in zip(model.distillation_losses(), teaching.chosen):
        pairs = ', '.join(f'{s} <- {t}' for s, t in loss.pairs) or 'output only'
        lines.append(f'\t{type(loss).__name__}{f" from {called(name)}" * bool(name)}: {pairs}'
                     + f'; {loss.note}' * bool(loss.note))
    if model.opt['train'].get('distill'):
        lines.append(f'\tdistills in {model.schedule}')
    if model.eco is not None:
        lines.append(f'\tECO: {model.eco}')
    lines += [f'\tcache of the {called(name)}: {cache}' for name, cache in teaching.caches.items()]
    return [*lines, *(f'\tnote: {note}' for note in notes)]


def _count(net: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in net.parameters() if p.requires_grad or not trained)
