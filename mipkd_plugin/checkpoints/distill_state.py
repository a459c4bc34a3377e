"""The distillation state of a checkpoint: weights, buffers and random numbers of the losses, and hashes of teachers."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mipkd_plugin.checkpoints.errors import StateError
from mipkd_plugin.checkpoints.proof import LEARNED, distill_fault
from mipkd_plugin.checkpoints.writing import save_file
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason

RandomState = dict[str, Any]
Taught = tuple[str, str]
"""Name of the teacher of a loss, and hash of its weights."""


def _random_state(losses: nn.ModuleList) -> RandomState:
    """State of the losses' own generators and of torch's global one, which drop-path and dropout of the student use."""
    own = [f'{index}._extra_state' for index in range(len(losses))]
    return {'losses': {key: value for key, value in losses.state_dict().items() if key in own},
            'cpu': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state() if torch.cuda.is_available() else None}


def _restore_global_random(state: RandomState) -> None:
    torch.set_rng_state(state['cpu'])
    if state['cuda'] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'])


def _pairs(losses: nn.ModuleList) -> list[list[list[str]]]:
    return [[list(pair) for pair in cast(DistillationLoss, loss).pairs] for loss in losses]


def _fixed(losses: nn.ModuleList) -> list[dict[str, Any]]:
    return [dict(cast(DistillationLoss, loss).fixed_options()) for loss in losses]


def changed_options(state: Mapping[str, Any], losses: nn.ModuleList) -> list[tuple[int, str, Any, Any]]:
    """Compare the options that the losses' saved state depends on with those of a state.

    Args:
        state: The content of ``distill_<iter>.pth``; one of an earlier version does not name them.
        losses: The losses, of the same classes.

    Returns:
        (Number of the loss, option, saved value, present value) of each that differs.
    """
    saved = state.get('fixed')
    return [(number, name, then[name], value) for number, (own, then) in enumerate(
        zip(_fixed(losses), saved if isinstance(saved, list) else ())) for name, value in own.items()
        if isinstance(then, Mapping) and name in then and then[name] != value]


def gather_random_states(losses: nn.ModuleList, distributed: bool) -> list[RandomState]:
    """Collect the random states of all ranks, in rank order. Every rank must call this."""
    own = _random_state(losses)
    if not distributed:
        return [own]
    states: list[RandomState] = [{} for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather_object(states, own)
    return states


def save_state(path: Path, losses: nn.ModuleList, fingerprint: str, random_states: list[RandomState],
               learned: Sequence[Taught] | None = None) -> None:
    """Save the distillation state, whole or not at all, together with the other files of its checkpoint.

    Args:
        path: ``…/models/distill_<iter>.pth``.
        losses: The losses.
        fingerprint: Hash of the teacher's weights, or of those of all teachers.
        random_states: From :func:`gather_random_states`.
        learned: For each loss name and hash of its teacher, and for ECO after them; None with one teacher without a
            name.

    Raises:
        SaveError: The file cannot be written.
    """
    state = {'teacher': fingerprint, 'types': [type(loss).__name__ for loss in losses],
             'pairs': _pairs(losses), 'fixed': _fixed(losses),
             'losses': losses.state_dict(), 'random': random_states}
    if learned is not None:
        state[LEARNED] = [list(taught) for taught in learned]
    save_file(path, state)


def other_teachers(state: Mapping[str, Any], fingerprint: str,
                   learned: Sequence[Taught] | None) -> list[tuple[int, Taught, Taught]]:
    """The losses that learned from other weights when a state was saved, and ECO; names and order do not matter.

    Args:
        state: The content of ``distill_<iter>.pth``.
        fingerprint: As :func:`save_state` takes it, of the current teachers.
        learned: The same.

    Returns:
        (Number of the loss, or the number of all losses for ECO; name and hash of its teacher then, and now); the name
        is '' for a teacher without one.
    """
    count = len(state['types']) + 1  # and ECO
    now = [('', fingerprint)] * count if learned is None else list(learned)
    then = [(str(name), str(digest)) for name, digest in state.get(LEARNED) or [('', state['teacher'])] * count]
    return [(number, old, new) for number, (old, new) in enumerate(zip(then, now)) if old[1] != new[1]]


def in_words(taught: Taught) -> str:
    """A teacher in a message: its name, and the beginning of its hash."""
    name, digest = taught
    return f'teacher {name!r} (sha256 {digest[:12]}…)' if name else f'the teacher with sha256 {digest[:12]}…'


def load_state(path: Path, losses: nn.ModuleList, fingerprint: str, rank: int,
               learned: Sequence[Taught] | None = None) -> None:
    """Restore a state that :func:`save_state` saved.

    Args:
        path: ``…/models/distill_<iter>.pth``.
        losses: The losses, built from the same options.
        fingerprint: Hash of the current teacher's weights, or of those of all teachers.
        rank: The rank whose random numbers to restore; a rank without saved ones keeps its own.
        learned: For each loss name and hash of its teacher; None with one teacher without a name.

    Raises:
        StateError: The file does not exist, or belongs to another teacher or other losses.
    """
    if not os.path.isfile(path):
        raise StateError(f'{path} is missing: without the state of the distillation losses training cannot resume; '
                         'restore the file, or start a new run without --auto_resume')
    state = torch.load(path, map_location='cpu', weights_only=True)
    fault = distill_fault(state)
    if fault is not None:
        raise StateError(f'{path} holds no distillation state: {fault}; restore the file, or start a new run')
    if learned is None and LEARNED not in state and state['teacher'] != fingerprint:
        raise StateError(f'{path} was trained with another teacher (sha256 {state["teacher"][:12]}…, now '
                         f'{fingerprint[:12]}…); name the old one in teacher.weights, or start a new run under '
                         'another name')
    types = [type(loss).__name__ for loss in losses]
    if state['types'] != types:
        raise StateError(f'{path} holds the losses {state["types"]}, but train.distill_opt asks for {types}; '
                         'resume with the option file the run was started with')
    for number, then, now in other_teachers(state, fingerprint, learned):
        who = f'loss {number + 1}, {types[number]},' if number < len(types) else 'ECO'
        raise StateError(f'{path}: {who} learned from {in_words(then)}, and now from {in_words(now)}; name the old '
                         'teachers, or start a new run under another name')
    if state.get('pairs') != _pairs(losses):
        raise StateError(f'{path} was trained with the taps {state.get("pairs")}, now they are {_pairs(losses)}; '
                         'resume with the option file the run was started with')
    for number, name, then, value in changed_options(state, losses):
        raise StateError(f'{path} was trained with {name}: {then} of {types[number]}, now it is {value}; resume with '
                         'the option file the run was started with')
    random_state = state['random'][rank] if rank < len(state['random']) else _random_state(losses)
    try:
        losses.load_state_dict({**state['losses'], **random_state['losses']})
    except FOREIGN_ERRORS as error:
        raise StateError(f'{path} does not fit train.distill_opt: {str(error).splitlines()[-1].strip()}; '
                         'resume with the option file the run was started with') from error
    _restore_global_random(random_state)


def loading_fault(state: Mapping[str, Any], losses: nn.ModuleList) -> str | None:
    """Load a state into losses of the same options, and give them back what they had.

    Args:
        state: The content of ``distill_<iter>.pth``; its parts have the right types.
        losses: The losses.

    Returns:
        What is wrong with the state; None if it can be loaded on each rank.
    """
    before = copy.deepcopy(losses.state_dict())
    try:
        for random_state in state['random'] or [_random_state(losses)]:
            losses.load_state_dict({**state['losses'], **random_state['losses']})
    except FOREIGN_ERRORS as error:
        return f'its losses cannot be loaded ({reason(error)})'
    finally:
        losses.load_state_dict(before)
    return None
