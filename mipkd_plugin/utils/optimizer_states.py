"""Saved states of optimizers: compared with what such an optimizer would save, and tried in a small one."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, reason
from mipkd_plugin.utils.weight_files import unusable

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer


def load_in_small(saved: Any, shapes: Sequence[Sequence[Sequence[int]]],
                  make: Callable[[list[list[Tensor]]], Optimizer]) -> Optimizer:
    """Load a saved state into an optimizer over parameters of one number each, and make a step with it.

    Args:
        saved: What ``state_dict()`` of an optimizer has returned once.
        shapes: Shape of each parameter, group by group.
        make: Makes the optimizer for the parameters of all groups.

    Returns:
        The small optimizer, after its step.

    Raises:
        ValueError: The saved state is none of this optimizer, or no step can be made with it; the message goes on
            after the name of the state.
    """
    import torch

    small = [[torch.zeros(1, requires_grad=True) for _ in group] for group in shapes]
    try:
        optimizer = make(small)
    except FOREIGN_ERRORS as error:
        raise ValueError(f'has values that no optimizer takes ({reason(error)})') from error
    _check_groups(saved, optimizer.state_dict()['param_groups'])
    flat = [shape for group in shapes for shape in group]
    state = {index: _first_numbers(index, entry, flat) for index, entry in saved['state'].items()}
    for parameter in (parameter for group in small for parameter in group):
        parameter.grad = torch.zeros(1)
    try:
        optimizer.load_state_dict({'state': state, 'param_groups': saved['param_groups']})
        optimizer.step()
    except FOREIGN_ERRORS as error:
        raise ValueError(f'cannot be used for a step ({reason(error)})') from error
    if not all(torch.isfinite(parameter).all() for group in small for parameter in group):
        raise ValueError('leads to weights that are not finite')
    return optimizer


def _check_groups(saved: Any, own: Sequence[Mapping[str, Any]]) -> None:
    groups = saved.get('param_groups') if isinstance(saved, Mapping) else None
    if not isinstance(groups, list) or not isinstance(saved.get('state'), Mapping):
        raise ValueError('is not what an optimizer saves')
    if len(groups) != len(own):
        raise ValueError(f'has {len(groups)} groups of tensors instead of {len(own)}')
    for number, (group, wanted) in enumerate(zip(groups, own)):
        found = difference(group, wanted)
        missing = [] if found else [key for key, value in wanted.items() if key not in group
                                    and value is not None and not isinstance(value, bool)]
        if missing:
            raise ValueError(f'has no {missing[0]!r} in group {number}')
        if found or group['params'] != wanted['params']:
            raise ValueError(f'has an odd entry {found.strip() or "params"} in group {number}')


def _first_numbers(index: Any, entry: Any, shapes: Sequence[Sequence[int]]) -> dict[Any, Any]:
    """The entries for one parameter, each tensor cut to its first number."""
    import torch

    if type(index) is not int or not 0 <= index < len(shapes) or not isinstance(entry, Mapping):
        raise ValueError(f'has an odd entry {index!r} in its state')
    found = {}
    for name, value in entry.items():
        found[name] = value
        if not isinstance(value, torch.Tensor):
            continue
        wanted, kind = tuple(shapes[index]), unusable(value)
        if kind or value.shape != wanted and value.numel() != 1:
            raise ValueError(f'has an odd tensor, {name!r} of number {index}: it '
                             f'{kind or f"has the shape {tuple(value.shape)} instead of {wanted}"}')
        if not torch.isfinite(value).all():
            raise ValueError(f'is not finite: {name!r} of number {index} holds NaN or infinity')
        found[name] = value.reshape(-1)[:1].clone() if value.shape == wanted and wanted else value.clone()
    return found


def difference(saved: Any, wanted: Any) -> str:
    """Where a saved value is of another kind than the value that would be saved now.

    Args:
        saved: Numbers, flags, texts, and lists and mappings of them.
        wanted: The same; the numbers may differ.

    Returns:
        The place, such as ``['betas'][0]``; ``' '`` for the value itself, and '' if there is no such place.
    """
    import torch

    if isinstance(saved, torch.Tensor) and saved.numel() == 1 and not unusable(saved):
        saved = saved.item()
    if wanted is None or isinstance(wanted, bool):
        same = saved is None or isinstance(saved, bool)
    elif isinstance(wanted, (int, float)):
        same = isinstance(saved, (int, float)) and not isinstance(saved, bool) and math.isfinite(saved)
    elif isinstance(wanted, str):
        same = isinstance(saved, str)
    elif isinstance(wanted, (list, tuple)):
        same = isinstance(saved, (list, tuple)) and len(saved) == len(wanted)
        return _first(enumerate(zip(saved, wanted))) if same else ' '
    elif isinstance(wanted, Mapping):
        same = isinstance(saved, Mapping)
        named = all(isinstance(key, str) for key in wanted)
        return _first((key, (value, wanted.get(key, None if named else 0)))
                      for key, value in saved.items() if key in wanted or not named) if same else ' '
    else:
        same = True
    return '' if same else ' '


def _first(pairs: Any) -> str:
    for key, (saved, wanted) in pairs:
        found = difference(saved, wanted)
        if found:
            return f'[{key!r}]{found}'.rstrip()
    return ''
