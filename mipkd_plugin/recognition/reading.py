"""Read the state dicts of a weights file, under all keys and without the prefixes of wrappers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.recognition.errors import RecognitionError
from mipkd_plugin.utils.safetensors_files import read_weights
from mipkd_plugin.utils.weight_files import SAVE, WeightFileError, unusable
from mipkd_plugin.utils.words import some

AVERAGES = ('params_ema', 'params-ema', 'g_ema', 'ema', 'net_g_ema', 'model_ema')
KEYS = (*AVERAGES, 'params', 'state_dict', 'model_state_dict', 'net_g', 'netG', 'generator', 'model', 'net', 'network',
        'weights')
"""Keys of state dicts, those that users prefer first: the moving average is what published results come from."""
PREFIXES = ('module.', '_orig_mod.', 'netG.', 'net_g.', 'generator.', 'params_ema.', 'params.', 'net.', 'network.',
            'model.', 'ema_model.', 'online_model.')
_PARTS = ('netG.', 'net_g.', 'generator.', 'params_ema.', 'params.', 'ema_model.', 'model.', 'net.', 'network.')
"""Prefixes of the network in a file that holds others beside it, such as a checkpoint of Lightning with its losses."""
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COUNTERS = ('n_averaged', 'initted', 'step')


def read(path: Path) -> Any:
    """Read a weights file.

    Args:
        path: A file of ``torch.save`` or safetensors.

    Returns:
        Its content.

    Raises:
        RecognitionError: It cannot be read; the message says what it is.
    """
    if not os.path.isfile(path):
        what = 'is a folder' if os.path.isdir(path) else 'is not a file' if os.path.exists(path) else 'does not exist'
        raise RecognitionError(path, what, 'name a weights file')
    try:
        content = read_weights(path)
    except WeightFileError as error:
        raise RecognitionError(path, error.what, error.remedy) from error
    if isinstance(content, Mapping) and isinstance(content.get('aggregate'), str):
        raise RecognitionError(path, 'holds an aggregator, which takes the images of its teachers and no LR images',
                               'write teacher: {aggregate: FILE} in an option file, and name that: the teachers are '
                               'found then')
    return content


def is_state(content: Any) -> bool:
    """Whether something is a state dict: tensors by name."""
    return isinstance(content, Mapping) and len(content) > 0 and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())


def select(path: Path, content: Any, param_key: str | None, given: bool) -> tuple[Mapping[str, Tensor], str | None]:
    """Pick the state dict of a file.

    Args:
        path: The file.
        content: Its content.
        param_key: Key of the state dict, if ``given``; None for the file itself.
        given: Whether the key is given; if not, the usual keys are looked for.

    Returns:
        The state dict and its key; None if the file itself is the state dict.

    Raises:
        RecognitionError: There is none, or there are several.
    """
    if given:
        inside = content.get(param_key) if isinstance(content, Mapping) and param_key is not None else None
        state = content if param_key is None else inside
        if isinstance(state, Mapping) and is_state(state):
            return state, param_key
        keys = [name for name, _ in _inner(content)]
        own = 'itself' if param_key is None else f'under the key {param_key!r}'
        raise RecognitionError(path, f'holds no state dict {own}', 'write param_key: ~' if is_state(content) else
                               f'write one of its keys: {some(keys, 8)}' if keys else f'give a file of {SAVE}')
    if is_state(content):
        return content, None
    found = dict(_inner(content))
    for key in KEYS:
        if key in found:
            return found[key], key
    if len(found) == 1:
        key, state = next(iter(found.items()))
        return state, key
    if found:
        raise RecognitionError(path, f'holds several state dicts: {some(found, 8)}', 'say which one with param_key')
    raise RecognitionError(path, *no_state(content))


def _inner(content: Any) -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """The state dicts under the keys of a file."""
    for key, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(key, str) and is_state(value):
            yield key, value


def no_state(content: Any) -> tuple[str, str]:
    """What a file is that holds no state dict, and the remedy."""
    remedy = f'give the weights of a network, as written by {SAVE}'
    if isinstance(content, Mapping) and {'optimizers', 'schedulers'} <= set(content):
        return ('is a training state of BasicSR (*.state): the optimizer, no network',
                'give the net_g_*.pth of the same iteration, in the folder models')
    if isinstance(content, Mapping) and {'teacher', 'losses', 'pairs'} <= set(content):
        return ('is the state of a distillation (distill_*.pth): its losses, no network',
                'give the net_g_*.pth beside it')
    if isinstance(content, Mapping) and {'state', 'param_groups'} <= set(content):
        return 'is the state of an optimizer, no network', remedy
    if isinstance(content, Tensor):
        return f'holds a single tensor {tuple(content.shape)}, no network', remedy
    if isinstance(content, Mapping):
        holds = f'the keys {some(map(str, content), 8)}' if content else 'nothing'
        return f'holds {holds}, but no state dict', remedy
    return f'holds a {type(content).__name__}, but no state dict', remedy


def cleaned(path: Path, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as a network takes them: floating-point ones in float32.

    Args:
        path: The file, for messages.
        state: Tensor by name.

    Returns:
        The same tensors; those in float32 are not copied.

    Raises:
        RecognitionError: A tensor is quantized or sparse, or has no values.
    """
    bad = [f'{name} {reason}' for name, tensor in state.items() if (reason := unusable(tensor))]
    if bad:
        raise RecognitionError(path, f'has tensors that cannot be weights: {some(bad)}',
                               'give a file with plain float tensors')
    own = {name: tensor.detach() for name, tensor in state.items() if name not in _COUNTERS}
    return {name: tensor.float() if tensor.dtype in _FLOATS else tensor for name, tensor in own.items()}


def variants(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The state dict as it is, then without the prefixes of wrappers, or only its part below one of them.

    Args:
        state: Tensor by name.

    Yields:
        One state dict after the other.
    """
    current = dict(state)
    seen: set[str] = set()
    while current:
        yield current
        common = next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in current)), None)
        part = common or next((prefix for prefix in _PARTS if prefix not in seen
                               and any(name.startswith(prefix) for name in current)), None)
        if part is None:
            return
        seen.add(part)
        current = {name.removeprefix(part): tensor for name, tensor in current.items() if name.startswith(part)}


def not_finite(state: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors with NaN or infinity; infinity is usual in masks of attention."""
    return [name for name, tensor in state.items() if tensor.dtype == torch.float32 and tensor.numel()
            and not bool(torch.isfinite(tensor).all())
            and not ('mask' in name.rpartition('.')[2] and not bool(torch.isnan(tensor).any()))]
