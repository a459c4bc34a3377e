"""Check weight files: they are readable, have the right key, and every tensor fits."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.config.components import construct
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.suggestions import nearest
from mipkd_plugin.utils.fingerprints import state_fingerprint
from mipkd_plugin.utils.weight_files import SAVE, WeightFileError, read_tensors, unusable
from mipkd_plugin.utils.words import some


def teacher_fingerprint(net: nn.Module) -> str:
    """SHA-256 (hex) over the names, types, shapes and bytes of a network's state."""
    return state_fingerprint(net.state_dict())


def read_file(ctx: Context, where: str, path: Path, remedy: str, unreadable: str = '',
              fix: Mapping[str, Any] | None = None, read: Callable[[Path], Any] = read_tensors) -> Any:
    """Load a file of tensors without running code from it.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file.
        path: The file.
        remedy: What to do if the file does not exist.
        unreadable: What to do if the file is damaged.
        fix: What to write if the file does not exist.
        read: Reads the file.

    Returns:
        The content, or None with a problem noted.
    """
    if not os.path.isfile(path):
        ctx.add(where, f'{"is not a file" if os.path.exists(path) else "does not exist"}; looked for {path}', remedy,
                fix)
        return None
    try:
        content = read(path)
        if content is None:
            ctx.add(where, f'{path} holds nothing but None', unreadable or f'give a file written by {SAVE}')
        return content
    except WeightFileError as error:
        if unreadable:
            ctx.add(where, f'{path} {error.as_damage()}', unreadable)
        else:
            ctx.add(where, f'{path} {error.what}', error.remedy)
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
        holds = 'a bare state dict' if bare else f'the keys {some(map(str, content), 8)}' if content else 'nothing'
    state = content if param_key is None or not isinstance(content, Mapping) else content.get(param_key)
    if isinstance(state, Mapping) and _is_state(state):
        return {name.removeprefix('module.'): tensor for name, tensor in state.items()}
    under = f' under {param_key!r}' if param_key is not None else ''
    better = _better_key(content, param_key)
    if better is not None and key_where != where:
        gone = f'{param_key!r} is not in {path}, which' if under else f'is ~, for a bare state dict, and {path}'
        ctx.add(key_where, f'{gone} holds {holds}', fix={key_where: better[0]})
    elif under and isinstance(content, Mapping) and param_key not in content and content and key_where != where:
        ctx.add(key_where, f'{param_key!r} is not in {path}, which holds {holds}, but no state dict',
                f'give a file written by {SAVE}')
    else:
        ctx.add(where, f'{path} holds {holds}, but no state dict{under}', f'give a file written by {SAVE}')
    return None


def _better_key(content: Any, param_key: str | None) -> tuple[str | None] | None:
    """The key of a file that leads to a state dict, where ``param_key`` does not; None if there is none."""
    if _is_state(content):
        return (None, )
    if not isinstance(content, Mapping):
        return None
    found = [key for key, value in content.items() if isinstance(key, str) and _is_state(value)]
    near = nearest(param_key or 'params', found, cutoff=0.3)
    return (near or found[0], ) if found else None


def misfit(net: nn.Module, state: Mapping[str, Any], where: str) -> tuple[str, str] | None:
    """Compare a state dict with a network: (what differs, remedy), or None if all tensors fit."""
    own, state = ({name: value for name, value in values.items() if isinstance(value, Tensor)}
                  for values in (net.state_dict(), state))
    missing = [name for name in own if name not in state]
    unexpected = [name for name in state if name not in own]
    reshaped = [name for name in own if name in state and own[name].shape != state[name].shape]
    if not missing and not unexpected and not reshaped:
        return spoiled(net, state)
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


def spoiled(net: nn.Module, state: Mapping[str, Tensor]) -> tuple[str, str] | None:
    """Look at the kinds of all tensors that fit a network: (what is wrong, remedy), or None if all can be used."""
    own = net.state_dict()
    wrong = [f'{name} {reason}' for name, tensor in state.items()
             if name in own and own[name].shape == tensor.shape and (reason := unusable(tensor, own[name]))]
    return (f'has tensors that no {type(net).__name__} can use: {some(wrong)}',
            'give a file with plain float tensors') if wrong else None


def check_all_pretrained(ctx: Context, student: nn.Module | None, resumes: bool) -> None:
    """Check the weights of all networks that BasicSR loads at the start.

    Args:
        ctx: Options, and where problems go.
        student: The network of ``network_g``, if it could be built.
        resumes: Whether the run resumes: then only those of ``path.ignore_resume_networks`` are loaded.
    """
    kept = ctx.section('path').get('ignore_resume_networks')
    for name in (key for key in ctx.opt if str(key).startswith('network_')):
        if resumes and not (isinstance(kept, list) and name in kept):
            continue
        label, net = name.removeprefix('network_'), student
        if label != 'g':
            wanted = isinstance(ctx.section('path').get(f'pretrain_{name}'), str) and ctx.clean(name)
            net = construct(ctx, name, ctx.section(name), ARCH_REGISTRY) if wanted else None
        check_pretrained(ctx, net, label)


def check_pretrained(ctx: Context, net: nn.Module | None, label: str = 'g') -> None:
    """Check ``path.pretrain_network_<label>`` as BasicSR loads it (into ``net``, if there is one)."""
    section, where = ctx.section('path'), f'path.pretrain_network_{label}'
    text, wanted = section.get(f'pretrain_network_{label}'), section.get(f'param_key_{label}', 'params')
    if not isinstance(text, str) or not (wanted is None or isinstance(wanted, str)):
        return
    path = ctx.path(text)
    content = read_file(ctx, where, path, 'fix the path, or put the file there' + (
        ', or write ~ for random weights' if ctx.is_train else ''), fix={where: None} if ctx.is_train else {})
    if not isinstance(content, Mapping):
        if content is not None:
            select_state(ctx, where, where, path, content, None)
        return
    decay = ctx.section('train').get('ema_decay') if ctx.is_train and label == 'g' else 0
    averaged = isinstance(decay, (int, float)) and decay > 0
    if averaged and not {'params', 'params_ema'} & set(content) and _better_key(content, wanted) is not None:
        _add_no_average(ctx, path, content, wanted)
        return
    average = 'params_ema' if 'params_ema' in content or 'params' not in content else 'params'  # as BasicSR does
    for key in dict.fromkeys([average if wanted == 'params_ema' else wanted, *([average] if averaged else [])]):
        key_where = f'path.param_key_{label}' if key == wanted else where  # the average has a key of its own
        state = select_state(ctx, where, key_where, path, content, key)
        if state is None:
            return
        if net is not None and not _check_fits(ctx, where, label, path, net, state):
            return
        if not check_weights(ctx, where, path, state, net):
            return


def _add_no_average(ctx: Context, path: Path, content: Any, key: str | None) -> None:
    better = key if key is None or key in content else (_better_key(content, key) or (None, ))[0]
    inner = '' if better is None else f"['{better}']"
    again = (f'python -c "import torch; torch.save({{\'params\': torch.load(\'{path}\'){inner}}}, '
             f'\'{path.stem}_params.pth\')"')
    ctx.add('train.ema_decay', f'is above 0, and then BasicSR wants the key params_ema or params in {path}, which has '
            'neither', f'give the weights the key, and name the new file: {again}; or write ema_decay: 0',
            fix={'train.ema_decay': 0, 'path.param_key_g': better})


def _check_fits(ctx: Context, where: str, label: str, path: Path, net: nn.Module, state: Mapping[str, Tensor]) -> bool:
    problem, own = misfit(net, state, f'network_{label}'), net.state_dict()
    if problem is None:
        return True
    some_fit = any(name in own and own[name].shape == state[name].shape for name in state)
    values = spoiled(net, state)
    if values is not None:
        ctx.add(where, f'{path} {values[0]}', values[1])
    elif not ctx.section('path').get(f'strict_load_{label}', True):
        if some_fit:
            return True
        ctx.add(where, f'no tensor of {path} fits: it {problem[0]}', problem[1])
    elif some_fit:
        key = f'strict_load_{label}'
        ctx.add(where, f'{path} {problem[0]}', f'write {key}: false to load only the tensors that fit, or '
                f'{problem[1]}', fix={f'path.{key}': False})
    else:
        ctx.add(where, f'{path} {problem[0]}', problem[1])
    return False


def _is_state(content: Any) -> bool:
    return isinstance(content, Mapping) and len(content) > 0 and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
