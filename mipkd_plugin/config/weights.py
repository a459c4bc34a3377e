"""Check weight files: they are readable, have the right key, and every tensor fits."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.components import construct, lookup
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context, nearest

_UNREADABLE = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError,
               TypeError, OSError)


def teacher_fingerprint(net: nn.Module) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of a network's state."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        values = tensor.detach().cpu().contiguous()
        digest.update(f'{name} {values.dtype} {tuple(values.shape)}\n'.encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_teacher(ctx: Context) -> nn.Module | None:
    """Build the teacher and, with ``ctx.files``, load its weights strictly. Problems go to ``ctx``."""
    options = {'param_key': 'params', **ctx.section('teacher')}
    network = options.get('network')
    if not isinstance(network, Mapping) or lookup(ARCH_REGISTRY, network.get('type')) is None:
        return None
    net: nn.Module | None = construct(ctx, 'teacher.network', network, ARCH_REGISTRY)
    weights, key = options.get('weights'), options['param_key']
    if not ctx.files or not isinstance(weights, str) or not (key is None or isinstance(key, str)):
        return net
    path = ctx.path(weights)
    content = read_file(ctx, 'teacher.weights', path, 'fix the path, or put the teacher there; the first '
                        'lines of options/train_MiPKD_*.yml say where to get published weights')
    state = None if content is None else select_state(
        ctx, 'teacher.weights', 'teacher.param_key', path, content, key)
    if net is not None and state is not None:
        problem = misfit(net, state, 'teacher.network')
        if problem:
            ctx.add('teacher.weights', f'{path} {problem[0]}', problem[1])
        elif check_weights(ctx, 'teacher.weights', path, state, net):
            net.load_state_dict(state)
    return net


def read_file(ctx: Context, where: str, path: Path, remedy: str, unreadable: str = '') -> Any:
    """Load a file of tensors without running code from it.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file.
        path: The file.
        remedy: What to do if the file does not exist.
        unreadable: What to do if the file is damaged.

    Returns:
        The content, or None with a problem noted.
    """
    if not path.is_file():
        reason = 'is not a file' if path.exists() else 'does not exist'
        ctx.add(where, f'{reason}; looked for {path}', remedy)
        return None
    try:
        return torch.load(path, map_location='cpu', weights_only=True)
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [''])[0].rstrip('.')[:160]
        what = 'damaged' if unreadable else 'not a state dict'
        ctx.add(where, f'{path} is {what}: torch cannot read it ({type(error).__name__}: {reason})',
                unreadable or "give a file written by torch.save({'params': net.state_dict()}, …)")
        return None


def select_state(ctx: Context, where: str, key_where: str, path: Path, content: Any,
                 param_key: str | None) -> dict[str, Tensor] | None:
    """Pick the weights under ``param_key`` of a file.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file.
        key_where: YAML path that names the key.
        path: The file.
        content: The content of the file.
        param_key: The key, or None if the file itself is the state dict.

    Returns:
        Tensor by name, without a leading ``module.``; None with a problem noted.
    """
    bare = _is_state(content)
    holds = f'a {type(content).__name__}'
    if isinstance(content, Mapping):
        holds = 'a bare state dict' if bare else f'the keys {", ".join(map(str, content))}'
    state = content
    if param_key is not None and isinstance(content, Mapping):
        if param_key not in content:
            near = nearest(param_key, [str(key) for key in content], cutoff=0.3)
            remedy = f'write {key_where.rpartition(".")[2]}: {"~" if bare else near or "one of them"}'
            ctx.add(key_where, f'{param_key!r} is not in {path}, which holds {holds}', remedy)
            return None
        state = content[param_key]
    if not _is_state(state):
        under = f' under {param_key!r}' if param_key is not None else ''
        ctx.add(where, f'{path} holds {holds}, but no state dict{under}',
                "give a file written by torch.save({'params': net.state_dict()}, …)"
                + (' and name its key' if param_key is None else ''))
        return None
    return {name.removeprefix('module.'): tensor for name, tensor in state.items()}


def misfit(net: nn.Module, state: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Compare a state dict with a network: (what differs, remedy), or None if all tensors fit."""
    own, state = ({name: value for name, value in values.items() if isinstance(value, Tensor)}
                  for values in (net.state_dict(), state))
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if not missing and not unexpected and not reshaped:
        return None
    parts = []
    for names, what, shapes in ((missing, 'missing', own), (unexpected, 'unexpected', state)):
        if names:
            listed = ', '.join(f'{name} {tuple(shapes[name].shape)}' for name in names[:3])
            parts.append(f'{len(names)} {what} ({listed}{", …" if len(names) > 3 else ""})')
    if reshaped:
        listed = ', '.join(f'{name}: file {tuple(state[name].shape)}, network {tuple(own[name].shape)}'
                           for name in reshaped[:3])
        parts.append(f'{len(reshaped)} of another shape ({listed}{", …" if len(reshaped) > 3 else ""})')
    remedy = f'describe the saved network in {where}, or give a file that fits'
    if all(name.endswith('attn_mask') for name in (*missing, *unexpected, *reshaped)):
        remedy = f'write the img_size that the file was trained with in {where}'
    return f'does not fit {type(net).__name__}: {"; ".join(parts)}', remedy


def check_pretrained(ctx: Context, net: nn.Module | None, label: str = 'g') -> None:
    """Check ``path.pretrain_network_<label>`` as BasicSR loads it (into ``net``, if there is one)."""
    section, where = ctx.section('path'), f'path.pretrain_network_{label}'
    text = section.get(f'pretrain_network_{label}')
    if not isinstance(text, str):
        return
    path = ctx.path(text)
    content = read_file(ctx, where, path, 'fix the path, put the file there, or write ~ for random weights')
    if not isinstance(content, Mapping):
        if content is not None:
            select_state(ctx, where, where, path, content, None)
        return
    keys = [section.get(f'param_key_{label}', 'params')]
    if ctx.is_train and (ctx.section('train').get('ema_decay') or 0) > 0:
        keys.append('params_ema')
    for key in keys:
        if key == 'params_ema' and key not in content and 'params' in content:
            key = 'params'  # as BasicSR does
        state = select_state(ctx, where, f'path.param_key_{label}', path, content, key)
        if state is None:
            return
        if not check_weights(ctx, where, path, state, net):
            return
        problem = misfit(net, state, f'network_{label}') if net is not None else None
        if problem is None:
            continue
        own = net.state_dict() if net is not None else {}
        if section.get(f'strict_load_{label}', True):
            ctx.add(where, f'{path} {problem[0]}', problem[1])
        elif not any(name in own and own[name].shape == state[name].shape for name in state):
            ctx.add(where, f'no tensor of {path} fits: it {problem[0]}', problem[1])


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and len(content) > 0 and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
