"""Try in memory what a resume would do with a training state, before anything is written."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from basicsr.models import lr_scheduler
from torch import Tensor

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.optimizer_states import difference, load_in_small

SCHEDULERS = {'MultiStepLR': lr_scheduler.MultiStepRestartLR, 'MultiStepRestartLR': lr_scheduler.MultiStepRestartLR,
              'CosineAnnealingRestartLR': lr_scheduler.CosineAnnealingRestartLR}
"""BasicSR's schedulers by the names that ``train.scheduler.type`` gives them."""


def training_fault(state: Mapping[str, Any], shapes: Sequence[Sequence[Sequence[int]]],
                   options: Mapping[str, Any]) -> str | None:
    """Load optimizer and scheduler of a training state into small ones, and make a step with both.

    Args:
        state: The training state of a model with one optimizer.
        shapes: Shape of each trained tensor, group by group.
        options: ``optim_g`` and ``scheduler``, as in the block ``train``, that the state was saved with.

    Returns:
        What is wrong with the state, such as ``its optimizer has no 'lr' in group 0``; None if it can be used, or if
        the options name classes that BasicSR does not have.
    """
    odd = [key for key in ('optim_g', 'scheduler') if not isinstance(options.get(key, {}), Mapping)]
    if odd:
        return f'its record of train.{odd[0]} is no block of keys'
    optim, own = (dict(options.get(key, {})) for key in ('optim_g', 'scheduler'))
    kind, cls = optim.pop('type', None), SCHEDULERS.get(str(own.pop('type', None)))
    if kind != 'Adam' or cls is None:
        return None
    if len(state['optimizers']) != 1 or len(state['schedulers']) != 1:
        return f'it holds {len(state["optimizers"])} optimizers and {len(state["schedulers"])} schedulers, not one each'
    schedulers = []

    def make(groups: list[list[Tensor]]) -> torch.optim.Optimizer:
        optimizer = torch.optim.Adam(groups[0], **optim)
        for group in groups[1:]:
            optimizer.add_param_group({'params': group})
        schedulers.append(cls(optimizer, **own))
        return optimizer

    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            optimizer = load_in_small(state['optimizers'][0], shapes, make)
        except ValueError as error:
            return f'its optimizer {error}'
        try:
            _try_scheduler(schedulers[0], state['schedulers'][0], state['iter'])
        except FOREIGN_ERRORS as error:
            return f'its scheduler cannot be used ({reason(error)})'
    if not all(difference(group['lr'], 0.0) == '' for group in optimizer.param_groups):
        return 'its scheduler leads to a learning rate that is no number'
    return None


def _try_scheduler(scheduler: Any, saved: Any, iteration: int) -> None:
    found = difference(saved, scheduler.state_dict())
    if found or not 0 <= saved['last_epoch'] <= iteration:
        raise ValueError(f'odd entry {found.strip() or "last_epoch"}')
    scheduler.load_state_dict(saved)
    scheduler.step()
