"""The hyper-parameters in optimizers and schedulers: read them, and give a resumed run those of its option file."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from basicsr.models import lr_scheduler

_STEPS, _COSINE = lr_scheduler.MultiStepRestartLR, lr_scheduler.CosineAnnealingRestartLR


class Hyperparameters(NamedTuple):
    """Hyper-parameters of a model that has not trained yet.

    Attributes:
        groups: Those of each parameter group of each optimizer.
        schedulers: State of each scheduler, at iteration 0.
    """

    groups: list[list[dict[str, Any]]]
    schedulers: list[dict[str, Any]]


def hyperparameters_of(model: Any) -> Hyperparameters:
    """Take the hyper-parameters of a model right after it was built."""
    groups = [[{key: value for key, value in group.items() if key != 'params'} for group in optimizer.param_groups]
              for optimizer in model.optimizers]
    return Hyperparameters(groups, [copy.deepcopy(scheduler.state_dict()) for scheduler in model.schedulers])


def apply_hyperparameters(model: Any, fresh: Hyperparameters) -> None:
    """Give a resumed model the hyper-parameters of its options; moments and the number of iterations stay.

    The learning rates become those that a run with these options would have at this iteration.

    Args:
        model: The model, after ``resume_training``.
        fresh: From :func:`hyperparameters_of`, before it.
    """
    for optimizer, groups in zip(model.optimizers, fresh.groups):
        for group, values in zip(optimizer.param_groups, groups):
            group.update(values)
            for parameter in group['params'] if group.get('amsgrad') else ():
                moments = optimizer.state.get(parameter, {})
                if 'exp_avg_sq' in moments:  # a run without amsgrad has not kept it
                    moments.setdefault('max_exp_avg_sq', torch.zeros_like(moments['exp_avg_sq']))
    for scheduler, state in zip(model.schedulers, fresh.schedulers):
        iterations = scheduler.last_epoch
        for name in [name for name in vars(scheduler) if name not in state and name != 'optimizer']:
            delattr(scheduler, name)  # of a scheduler of another type
        scheduler.load_state_dict(state)
        _move(scheduler, iterations)


def _move(scheduler: Any, iterations: int) -> None:
    """Bring a scheduler at iteration 0, and the learning rates, to another iteration."""
    if isinstance(scheduler, _STEPS):
        stops = {stop for stop in (*scheduler.milestones, *scheduler.restarts) if 0 < stop <= iterations}
    elif isinstance(scheduler, _COSINE):
        stops = {iterations}
    else:
        stops = set(range(1, iterations + 1))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # torch misses the optimizer's steps, which were in the run before
        for stop in [*sorted(stops), iterations]:
            if stop > scheduler.last_epoch:
                scheduler.last_epoch = stop - 1
                scheduler.step()


def saved_options(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a training state says by itself about ``train.optim_g`` and ``train.scheduler``.

    Args:
        state: A training state with one optimizer, saved by BasicSR without our record.

    Returns:
        Options by key, as in the block ``train``; empty if they cannot be told.
    """
    if len(state['optimizers']) != 1 or len(state['schedulers']) != 1:
        return {}
    group, scheduler = state['optimizers'][0]['param_groups'][0], state['schedulers'][0]
    adam = {key: group[key] for key in ('betas', 'eps', 'weight_decay', 'amsgrad') if key in group}
    found = {'optim_g': {'type': 'Adam', 'lr': group.get('initial_lr', group['lr']), **adam}}
    if 'milestones' in scheduler:
        milestones = [stop for stop, count in sorted(scheduler['milestones'].items()) for _ in range(count)]
        found['scheduler'] = {'type': 'MultiStepLR', 'milestones': milestones,
                              **{key: scheduler[key] for key in ('gamma', 'restarts', 'restart_weights')}}
    elif 'periods' in scheduler:
        found['scheduler'] = {'type': 'CosineAnnealingRestartLR',
                              **{key: scheduler[key] for key in ('periods', 'restart_weights', 'eta_min')}}
    return found
