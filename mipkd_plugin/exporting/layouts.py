"""State dicts in the layout that spandrel knows, with equal output.

spandrel's classes read their sizes from the weights and fix the rest: what a student has set otherwise is folded into
its weights. The names are those of RCAN's authors (https://github.com/yulunzhang/RCAN) and of SwinIR's
(https://github.com/JingyunLiang/SwinIR), the constants those of spandrel 0.4 (https://github.com/chaiNNer-org/spandrel).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.exporting.errors import ExportError
from mipkd_plugin.exporting.student import Student

State = dict[str, Tensor]
OWN = ('EDSR', 'MSRResNet')
"""Networks that spandrel lacks; ``spandrel_sr.py`` has them."""


def spandrel_state(student: Student) -> tuple[State, tuple[str, ...]]:
    """The weights of a student as spandrel wants them.

    Args:
        student: The student; it is left as it is.

    Returns:
        Tensor by name, and what else there is to say.

    Raises:
        ExportError: spandrel's class lacks what the student has.
    """
    state = {name: tensor.detach().clone() for name, tensor in student.net.state_dict().items()}
    own_class = type(student.net).__module__.startswith('spandrel.')
    convert = None if own_class else _LAYOUTS.get(student.kind)
    return (state, ()) if convert is None else convert(state, _Arguments(student))


class _Arguments:
    """What a student was built with: its attributes first, then its options."""

    def __init__(self, student: Student) -> None:
        self.net, self.network = student.net, student.network

    def get(self, name: str, default: Any) -> Any:
        return self.network.get(name, default)

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.net.mean).detach().float().flatten()


def _edsr(state: State, student: _Arguments) -> tuple[State, tuple[str, ...]]:
    return {**state, 'res_scale': torch.tensor(float(student.get('res_scale', 1))),
            'img_range': torch.tensor(float(student.get('img_range', 255))), 'rgb_mean': student.mean}, ()


def _as_it_is(state: State, _: _Arguments) -> tuple[State, tuple[str, ...]]:
    return state, ()


def _rcan(state: State, student: _Arguments) -> tuple[State, tuple[str, ...]]:
    """The authors' names; ``res_scale`` goes into the blocks, range and mean into the 1×1 convolutions at both ends."""
    blocks, groups = int(student.get('num_block', 16)), int(student.get('num_group', 10))
    names = (
        (r'conv_first\.', 'head.0.'), (r'conv_last\.', 'tail.1.'), (r'upsample\.', 'tail.0.'),
        (r'conv_after_body\.', f'body.{groups}.'), (r'body\.(\d+)\.conv\.', rf'body.\1.body.{blocks}.'),
        (r'body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.1\.', r'body.\1.body.\2.body.3.conv_du.0.'),
        (r'body\.(\d+)\.residual_group\.(\d+)\.rcab\.3\.attention\.3\.', r'body.\1.body.\2.body.3.conv_du.2.'),
        (r'body\.(\d+)\.residual_group\.(\d+)\.rcab\.', r'body.\1.body.\2.body.'))
    state = {_renamed(name, names): tensor for name, tensor in state.items()}
    shrink = float(student.get('res_scale', 1))
    if shrink != 1:
        for name in [name for name in state if re.match(r'body\.\d+\.body\.\d+\.body\.2\.', name)]:
            state[name] = state[name] * shrink
        for name in [name for name in state if name.endswith('.conv_du.0.weight')]:
            state[name] = state[name] / shrink
    mean, size = student.mean, float(student.get('img_range', 255))
    unit = torch.eye(3).view(3, 3, 1, 1)
    state.update({'sub_mean.weight': unit * (size / 255), 'sub_mean.bias': -mean * size,
                  'add_mean.weight': unit * (255 / size), 'add_mean.bias': mean * 255})
    return state, ('spandrel 0.4 multiplies the image that its RCAN is given by 255 in place: give it a copy', )


def _renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    for pattern, new in names:
        found, count = re.subn(f'^{pattern}', new, name)
        if count:
            return found
    return name


_FIRST_MASK, _ASSUMED = 'layers.0.residual_group.blocks.1.attn_mask', 64
"""The tensor from which spandrel takes img_size, and what it assumes without."""


def _swinir(state: State, student: _Arguments) -> tuple[State, tuple[str, ...]]:
    """Range, ``qk_scale`` and missing biases go into the weights; masks are those of a square image."""
    if student.get('ape', False) or not student.get('patch_norm', True) or student.get('patch_size', 1) != 1:
        raise ExportError('spandrel has no SwinIR with ape: true, patch_norm: false or a patch_size above 1; take '
                          '--to onnx or --to safetensors')
    window = int(student.get('window_size', 7))
    factor = float(student.get('img_range', 1)) / (255 if window == 7 else 1)
    last = 'upsample.0' if student.get('upsampler', '') == 'pixelshuffledirect' else 'conv_last'
    state['conv_first.weight'] = state['conv_first.weight'] * factor
    for part in ('weight', 'bias'):
        state[f'{last}.{part}'] = state[f'{last}.{part}'] / factor
    for name in [name for name in state if name.endswith('.attn.qkv.weight')]:
        bias, width = name.replace('weight', 'bias'), state[name].shape[1]
        state.setdefault(bias, torch.zeros(3 * width))
        scale = student.get('qk_scale', None)
        if scale is not None:
            heads = state[name.replace('qkv.weight', 'relative_position_bias_table')].shape[1]
            for part in (name, bias):
                state[part] = torch.cat([state[part][:width] * scale * (width // heads)**0.5, state[part][width:]])
    masks = [name for name in state if name.endswith('.attn_mask')]
    if not masks and any('.blocks.1.' in name for name in state):
        raise ExportError('spandrel has no SwinIR that never shifts its windows, and this one does not: its img_size '
                          'is not larger than its window_size; take --to onnx or --to safetensors')
    side = 2 * window if _FIRST_MASK in state else _ASSUMED
    if masks and side % window:
        raise ExportError(f'spandrel has no SwinIR with a window_size of {window} and one block in its first layer; '
                          'take --to onnx or --to safetensors')
    for name in masks:
        block: Any = student.net.get_submodule(name.removesuffix('.attn_mask'))
        state[name] = block.calculate_mask((side, side))
    return state, ()


def _rrdbnet(state: State, student: _Arguments) -> tuple[State, tuple[str, ...]]:
    """Spandrel's class always grows by 32 channels; missing ones are zeros."""
    growth, fixed = int(student.get('num_grow_ch', 32)), 32
    if growth > fixed:
        raise ExportError(f'spandrel has no RRDBNet with num_grow_ch above {fixed}, and this one has {growth}; take '
                          '--to onnx or --to safetensors')
    if growth == fixed:
        return state, ()
    width = state['conv_first.weight'].shape[0]
    for name in [name for name in state if re.fullmatch(r'body\.\d+\.rdb\d\.conv\d\.weight', name)]:
        number = int(name.split('.conv')[1][0])
        old, bias = state[name], name.replace('weight', 'bias')
        new = torch.zeros(old.shape[0] if number == 5 else fixed, width + (number - 1) * fixed, 3, 3)
        new[:old.shape[0], :width] = old[:, :width]
        for part in range(number - 1):
            new[:old.shape[0], width + part * fixed:width + part * fixed + growth] = old[
                :, width + part * growth:width + (part + 1) * growth]
        state[name] = new
        state[bias] = torch.cat([state[bias], torch.zeros(new.shape[0] - old.shape[0])])
    return state, (f'num_grow_ch is {growth}, and spandrel knows {fixed} only: the weights were filled up with zeros; '
                   'the output is the same, but file and work are larger', )


def _compact(state: State, student: _Arguments) -> tuple[State, tuple[str, ...]]:
    """Spandrel has this network with PReLU only: ReLU and LeakyReLU are PReLU of slope 0 and 0.1."""
    slope = {'relu': 0.0, 'leakyrelu': 0.1}.get(student.get('act_type', 'prelu'))
    if slope is not None:
        width = state['body.0.weight'].shape[0]
        last = max(int(name.split('.')[1]) for name in state)
        state.update({f'body.{number}.weight': torch.full((width, ), slope) for number in range(1, last, 2)})
    return state, ()


_LAYOUTS: Mapping[str, Callable[[State, _Arguments], tuple[State, tuple[str, ...]]]] = {
    'EDSR': _edsr, 'MSRResNet': _as_it_is, 'RCAN': _rcan, 'SwinIR': _swinir, 'RRDBNet': _rrdbnet,
    'SRVGGNetCompact': _compact}
