"""Files of a checkpoint that can be read, and do not hold what the run itself would have saved."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from faults.inputs.resume import EXACT, MODELS, RUN, STATE, Spoil, broken, edit, saved


def without_digests(name: str, change: Callable[[Any], Any]) -> Spoil:
    """Change a file of the only checkpoint, whose training state still has the hyper-parameters but no hashes."""
    def then(folder: Path) -> None:
        (folder / STATE / '2.state').unlink()
        edit(folder / STATE / '4.state', lambda state: state['mipkd'].update(files={}) or state)
        edit(folder / RUN / name, change)

    return then


def with_record(key: str, value: Any) -> Spoil:
    """Change the record in the training state of the only checkpoint."""
    def then(folder: Path) -> None:
        (folder / STATE / '2.state').unlink()
        edit(folder / STATE / '4.state', lambda state: state['mipkd'].update({key: value}) or state)

    return then


def without(key: str) -> Callable[[Any], Any]:
    return lambda content: {name: value for name, value in content.items() if name != key}


def inside(*path: Any) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Makes changes in place, at a path of keys."""
    def at(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def changed_content(content: Any) -> Any:
            change(functools.reduce(operator.getitem, path, content))
            return content

        return changed_content

    return at


in_random = inside('random', 0)
in_group = inside('optimizers', 0, 'param_groups', 0)
in_moments = inside('optimizers', 0, 'state', 0)
in_scheduler = inside('schedulers', 0)


CASES = [
    broken('a distillation state without the random numbers of a GPU', '--auto_resume', ("random[0]' cannot be used ",
           "it has no 'cuda'"), saved('models/distill_4.pth', in_random(lambda own: own.pop('cuda'))), remedy=False),
    broken('a distillation state with an entry too many', '--auto_resume', ('its losses cannot be loaded (', ),
           saved('models/distill_4.pth', lambda state: {**state, 'losses': {**state['losses'], 'x': 3}}), remedy=False),
    broken('random numbers of a loss of a wrong type', '--auto_resume', ('its losses cannot be loaded (', ),
           saved('models/distill_4.pth', in_random(lambda own: own['losses'].update({'0._extra_state': None}))),
           remedy=False),
    broken('random numbers without those of a GPU', '--auto_resume', ("random_4.pth holds no random numbers: it has no "
           "'cuda'", ), saved('models/random_4.pth', lambda state: state.pop('cuda') and state or state)),
    broken('random numbers behind the end', '--auto_resume', ("its 'numpy' cannot be used (", ), saved(
           'models/random_4.pth', lambda state: {**state, 'numpy': (*state['numpy'][:2], 10**9, 0, 0.0)})),
    broken('a student without a tensor', '--auto_resume', ('net_g_4.pth does not fit EDSR: 1 missing (conv_last.bias',
           'resume with the option file the run was started with; if it is this one, restore the file'),
           saved('models/net_g_4.pth', lambda state: state['params'].pop('conv_last.bias') is None or state),
           remedy=False),
    broken('a student that is None', '--auto_resume', ('net_g_4.pth holds nothing but None', 'restore the file'),
           saved('models/net_g_4.pth', lambda state: None), remedy=False),
    broken('a student without weights', '--auto_resume', ("net_g_4.pth holds the keys params_ema, but no state dict "
           "under 'params'", ), saved('models/net_g_4.pth', without('params')), remedy=False),
    broken('a student without its average', '--auto_resume', ("but no state dict under 'params_ema'", 'restore'),
           without_digests('models/net_g_4.pth', without('params_ema')), remedy=False),
    broken('a student with an odd average', '--auto_resume', ("net_g_4.pth, under 'params_ema', does not fit EDSR", ),
           saved('models/net_g_4.pth', lambda state: {**state, 'params_ema': {'x': torch.ones(1)}}), remedy=False),
    broken('a student with an average of numbers', '--auto_resume', ("no state dict under 'params_ema'", ),
           saved('models/net_g_4.pth', lambda state: {**state, 'params_ema': 3}), remedy=False),
    *(broken(f'a training state: {name}', '--auto_resume', ('4.state cannot be used: its ', says,
             'restore the file, or leave out --auto_resume'), saved('training_states/4.state', edited), remedy=False)
      for name, says, edited in (
          ('no lr', "optimizer has no 'lr' in group 0", in_group(lambda group: group.pop('lr'))),
          ('lr a text', "optimizer has an odd entry ['lr'] in group 0", in_group(lambda g: g.update(lr='x'))),
          ('lr not finite', "optimizer has an odd entry ['lr']", in_group(lambda g: g.update(lr=float('nan')))),
          ('one beta', "optimizer has values that no optimizer takes (", in_group(lambda g: g.update(betas=(0.9, )))),
          ('capturable', 'optimizer cannot be used for a step (', in_group(lambda g: g.update(capturable=True))),
          ('a moment of another shape', "odd tensor, 'exp_avg' of number 0: it has the shape (2, 2) instead of ",
           in_moments(lambda own: own.update(exp_avg=torch.ones(2, 2)))),
          ('a moment that is sparse', "odd tensor, 'exp_avg' of number 0: it is sparse_coo",
           in_moments(lambda own: own.update(exp_avg=torch.ones(2, 2).to_sparse()))),
          ('a moment with NaN', "optimizer is not finite: 'exp_avg' of number 0 holds NaN",
           in_moments(lambda own: own['exp_avg'].fill_(float('nan')))),
          ('no moment', 'optimizer cannot be used for a step (', in_moments(lambda own: own.pop('exp_avg_sq'))),
          ('a step before the first', 'optimizer cannot be used for a step (',
           in_moments(lambda own: own.update(step=torch.tensor(-1.0)))),
          ('an odd milestone', "scheduler cannot be used (ValueError: odd entry ['milestones']",
           in_scheduler(lambda own: own.update(milestones={3: 'x'}))),
          ('a scheduler from the future', 'scheduler cannot be used (ValueError: odd entry last_epoch',
           in_scheduler(lambda own: own.update(last_epoch=10**9))),
          ('a scheduler that is no method', 'scheduler cannot be used (',
           in_scheduler(lambda own: own.update(step=3))))),
    broken('a training state with an odd record', '--auto_resume', ('4.state is not a training state of BasicSR', ),
           with_record('hyperparameters', {'optim_g': torch.ones(2)}), remedy=False),
    broken('a training state with a record of no block', '--auto_resume', ('4.state cannot be used: its record of '
           'train.optim_g is no block of keys', ), with_record('hyperparameters', {'optim_g': 3}), remedy=False),
    broken('a training state that began too often', '--auto_resume', ('4.state is not a training state of BasicSR', ),
           saved('training_states/4.state', lambda state: {**state, 'epoch': 10**30}), remedy=False),
    broken('a student without a tensor that is named', 'path.resume_state', ('1 missing (conv_last.bias', 'write '
           'resume_state: '), lambda folder: edit(folder / MODELS / 'net_g_4.pth', lambda state: state['params'].pop(
               'conv_last.bias') is None or state), {**EXACT, 'path.resume_state': f'{STATE}/4.state'}, arguments=(),
           remedy=False),
]
