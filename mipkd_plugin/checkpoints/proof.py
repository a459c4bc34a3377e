"""What a file of a checkpoint must hold, told before anything uses it."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mipkd_plugin.checkpoints.hyperparameters import saved_options
from mipkd_plugin.checkpoints.writing import RECORD, Written, file_digest

_STATE = {'iter': int, 'epoch': int, 'optimizers': list, 'schedulers': list}
_RANDOM = {'torch': torch.Tensor, 'python': tuple, 'numpy': (tuple, list), 'cuda': (torch.Tensor, type(None))}
_POOL = {'queue_lr': torch.Tensor, 'queue_gt': torch.Tensor, 'queue_ptr': int}
_DISTILL = {'teacher': str, 'types': list, 'pairs': list, 'losses': Mapping, 'random': list}
LEARNED = 'learned_from'
"""Key of a distillation state: (name, hash) of the teacher of each loss, and of ECO; where teachers have names."""
_RANK = {'cpu': torch.Tensor, 'losses': Mapping, 'cuda': (torch.Tensor, type(None))}
_WRONG = (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError)


class Summary(NamedTuple):
    """What is worth knowing of a training state.

    Attributes:
        iteration: Number of iterations that were trained.
        groups: Number of parameters in each group of each optimizer.
        options: ``optim_g`` and ``scheduler`` as the state itself tells them, in a run with one optimizer.
        files: The other files of its checkpoint by name; empty if the state does not say.
        record: Further plain values that this package has saved.
    """

    iteration: int
    groups: list[list[int]]
    options: dict[str, Any]
    files: dict[str, Written]
    record: Mapping[str, Any]


def summary_of(state: Any) -> Summary | None:
    """Summarize the content of a training state; None if it is none of BasicSR's."""
    if _fault(state, _STATE) is not None or not 0 <= state['epoch'] <= state['iter']:
        return None
    record = state.get(RECORD)
    if not _is_plain(record):
        return None
    try:
        groups = [[len(group['params']) for group in optimizer['param_groups']] for optimizer in state['optimizers']]
        files = {str(name): Written(int(file['bytes']), str(file['sha256']))
                 for name, file in (record['files'].items() if isinstance(record, Mapping) else ())}
    except _WRONG:
        return None
    try:
        options = saved_options(state)
    except _WRONG:  # of an optimizer or scheduler that is not BasicSR's
        options = {}
    return Summary(state['iter'], groups, options, files, record if isinstance(record, Mapping) else {})


def _is_plain(value: Any, levels: int = 50) -> bool:
    """Whether a value consists of what an option file can hold, in so many levels at most."""
    if isinstance(value, (Mapping, list, tuple)):
        children = [*value, *value.values()] if isinstance(value, Mapping) else value
        return levels > 0 and all(_is_plain(child, levels - 1) for child in children)
    return value is None or isinstance(value, (bool, int, float, str))


def changed_files(files: Mapping[str, Written], models: Path) -> list[str]:
    """Say which files of a checkpoint are not as they were saved, such as ``net_g_4.pth is missing``."""
    found = []
    for name, written in files.items():
        path = models / Path(name).name
        if not os.path.isfile(path):
            found.append(f'{name} is missing')
        elif path.stat().st_size != written.size:
            found.append(f'{name} has {path.stat().st_size:,d} bytes, and {written.size:,d} were saved')
        elif _digest(path) != written:
            found.append(f'{name} is not the file that was saved with it')
    return found


def _digest(path: Path) -> Written:
    status = os.stat(path)
    return _known_digest(path, (status.st_ino, status.st_mtime_ns, status.st_size))


@functools.lru_cache(maxsize=64)
def _known_digest(path: Path, status: tuple[int, ...]) -> Written:
    """Size and hash of a file; the second argument tells its versions apart."""
    return file_digest(path)


def random_fault(content: Any) -> str | None:
    """What is wrong with the content of ``random_<iter>.pth``; None if it can be used. Draws no random number."""
    fault = _fault(content, _RANDOM) or ('pool' in content and _fault(content['pool'], _POOL) or None)
    if fault is not None:
        return fault
    return _unusable({'torch': lambda: torch.Generator().set_state(content['torch']),
                      'python': lambda: random.Random().setstate(content['python']),
                      'numpy': lambda: np.random.RandomState().set_state(_plausible(numpy_state(content['numpy']))),
                      'cuda': lambda: _check_cuda(content['cuda'])})


def numpy_state(saved: Any) -> tuple[Any, ...]:
    """NumPy's random state as ``np.random.set_state`` wants it."""
    name, keys, *rest = saved
    return name, np.array(keys, dtype=np.uint32), *rest


def _plausible(state: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same state of NumPy, if its numbers are those of a state: NumPy itself would read behind its end."""
    _, keys, place, has_normal, normal = state
    if type(place) is not int or not 0 <= place <= len(keys) or has_normal not in (0, 1) or not np.isfinite(normal):
        raise ValueError('its numbers are out of range')
    return state


def distill_fault(content: Any) -> str | None:
    """What is wrong with the content of ``distill_<iter>.pth``; None if its parts have the right types."""
    fault = _fault(content, _DISTILL)
    if fault is not None:
        return fault
    learned = content.get(LEARNED, [])
    if not isinstance(learned, list) or LEARNED in content and not 0 <= len(learned) - len(
            content['types']) <= 1 or not all(
            isinstance(each, list) and len(each) == 2 and all(isinstance(text, str) for text in each)
            for each in learned):
        return f'its {LEARNED!r} does not name a teacher for each loss'
    return _unusable({f'random[{rank}]': functools.partial(_check_rank, own)
                      for rank, own in enumerate(content['random'])})


def _check_rank(own: Any) -> None:
    fault = _fault(own, _RANK)
    if fault is not None:
        raise ValueError(fault)
    torch.Generator().set_state(own['cpu'])
    _check_cuda(own['cuda'])


def _check_cuda(state: Any) -> None:
    if state is not None and torch.cuda.is_available():
        torch.Generator('cuda').set_state(state)


def _unusable(uses: Mapping[str, Any]) -> str | None:
    for name, use in uses.items():
        try:
            use()
        except _WRONG as error:
            return f'its {name!r} cannot be used ({type(error).__name__}: {str(error).splitlines()[0][:100]})'
    return None


def _fault(content: Any, parts: Mapping[str, Any]) -> str | None:
    if not isinstance(content, Mapping):
        return f'it holds {type(content).__name__}, not named parts'
    missing = [name for name in parts if name not in content]
    if missing:
        return f'it has no {_listed(missing)}'
    wrong = [name for name, kind in parts.items()
             if not isinstance(content[name], kind) or isinstance(content[name], bool)]
    return f'its {_listed(wrong)} has a wrong type' if wrong else None


def _listed(names: Iterable[str]) -> str:
    return ', '.join(repr(name) for name in names)
