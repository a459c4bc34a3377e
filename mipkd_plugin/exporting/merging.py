"""Merge re-parameterised layers: blocks of several branches in training that equal one plain convolution.

ECB of ECBSR (Zhang et al., "Edge-oriented Convolution Block for Real-time Super Resolution on Mobile Devices", ACM MM
2021) gives its merged kernel by ``rep_params()``, Conv3XC of SPAN (arXiv 2311.12770) keeps it in ``eval_conv``, blocks
after RepVGG (arXiv 2101.03697) turn into it by ``switch_to_deploy()``. Whatever a block offers is tried on the features
that it sees in the network, and used only where the numbers agree.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.exporting.student import Difference, Student, difference, noise
from mipkd_plugin.recognition.recognized import build
from mipkd_plugin.utils.errors import FOREIGN_ERRORS

LIMIT = 1e-4
SWITCHES = ('switch_to_deploy', 'reparameterize', 'fuse', 'fuse_convs', 'merge_kernel', 'merge', 'convert_to_deploy')
"""Methods without arguments that turn a block into its merged form, where it stands."""
_OFFERS = ('rep_params', 'eval_conv', *SWITCHES)
_FLAGS = ('deploy', 'inference_mode', 'is_deploy')
_RANDOM = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd, nn.RReLU)


@dataclass(frozen=True)
class Merged:
    """A student whose re-parameterised layers are plain convolutions.

    Attributes:
        student: The merged student. Its ``network`` describes it if ``is_described``.
        blocks: Number of merged blocks.
        kind: Class of the blocks.
        kept: Number of blocks that could be merged by their looks, and were not: the numbers differ.
        difference: From the network with all branches, on random images.
        is_described: Whether options can build the merged network.
    """

    student: Student
    blocks: int
    kind: str
    kept: int
    difference: Difference
    is_described: bool


def merge(student: Student) -> Merged | None:
    """Merge all blocks of a student that offer it.

    Args:
        student: It is left as it is.

    Returns:
        The merged student, or None if it has no such blocks.
    """
    net = copy.deepcopy(student.net)
    blocks = dict(_blocks(net))
    if not blocks:
        return None
    side = max(24 // student.multiple, 2) * student.multiple
    images = noise(student.channels, side, side + student.multiple, batch=2)
    seen = _seen(net, blocks, images)
    kinds = [type(block).__name__ for block in blocks.values()]
    done = 0
    for path, block in blocks.items():
        found = _equal(block, *seen[path]) if path in seen else None
        if found is not None:
            parent, _, name = path.rpartition('.')
            setattr(net.get_submodule(parent), name, found)
            done += 1
    if not done:
        return None
    merged = replace(student, net=net)
    apart = difference([(merged(images), _with_branches(student)(images))])
    described = _described(merged) if done == len(blocks) else None
    return Merged(described or merged, done, kinds[0], len(blocks) - done, apart, described is not None)


def _blocks(net: nn.Module, path: str = '') -> Iterator[tuple[str, nn.Module]]:
    """The outermost modules that offer a merged form."""
    for name, child in net.named_children():
        inner = f'{path}.{name}' if path else name
        if any(hasattr(type(child), offer) or offer in child._modules for offer in _OFFERS):
            yield inner, child
        else:
            yield from _blocks(child, inner)


def _seen(net: nn.Module, blocks: Mapping[str, nn.Module], images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of each block, as the network runs."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    before: dict[str, Tensor] = {}

    def keep_input(path: str, args: Any) -> None:
        before[path] = args[0].clone()  # the block may write into it

    def keep_output(path: str, output: Any) -> None:
        if isinstance(output, Tensor):
            seen[path] = before[path], output.clone()

    handles: list[Any] = []
    for path, block in blocks.items():
        handles.append(block.register_forward_pre_hook(lambda _, args, path=path: keep_input(path, args)))
        handles.append(block.register_forward_hook(lambda _, __, output, path=path: keep_output(path, output)))
    try:
        with torch.no_grad():
            net(images)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _equal(block: nn.Module, feature: Tensor, output: Tensor) -> nn.Module | None:
    """The first merged form of a block that gives the same output."""
    for make in (_from_kernel, _from_convolution, _from_switch):
        try:
            for found in make(copy.deepcopy(block)):
                with torch.no_grad():
                    apart = difference([(found(feature.clone()), output)])
                if apart.within(LIMIT):
                    return found.eval()
        except FOREIGN_ERRORS:  # a method of that name with another meaning
            continue
    return None


def _from_kernel(block: nn.Module) -> Iterator[nn.Module]:
    """Forms of a block with ``rep_params()``, which returns kernel and bias."""
    method = getattr(block, 'rep_params', None)
    if method is None:
        return
    with torch.no_grad():
        kernel, bias = method()
    outputs, inputs, height, width = kernel.shape
    conv = nn.Conv2d(inputs, outputs, (height, width), padding=(height // 2, width // 2))
    conv.weight, conv.bias = nn.Parameter(kernel), nn.Parameter(bias)
    yield from _activated(conv, block)


def _from_convolution(block: nn.Module) -> Iterator[nn.Module]:
    """Forms of a block that keeps the merged convolution as ``eval_conv``."""
    conv = getattr(block, 'eval_conv', None)
    if isinstance(conv, nn.Conv2d):
        update = getattr(block, 'update_params', None)
        if update is not None:
            update()
        yield from _activated(conv, block)
        yield nn.Sequential(conv, nn.LeakyReLU(0.05))  # has_relu of Conv3XC


def _activated(conv: nn.Conv2d, block: nn.Module) -> Iterator[nn.Module]:
    yield conv
    for name in ('act', 'activation', 'nonlinearity', 'relu'):
        if isinstance(getattr(block, name, None), nn.Module):
            yield nn.Sequential(conv, getattr(block, name))


def _from_switch(block: nn.Module) -> Iterator[nn.Module]:
    for name in SWITCHES:
        method = getattr(block, name, None)
        if callable(method) and not inspect.signature(method).parameters:
            method()
            yield block


def _with_branches(student: Student) -> Student:
    """The student with all branches, as in training, where these give the same at each run."""
    net = copy.deepcopy(student.net)
    for _, block in _blocks(net):
        if not any(isinstance(module, _RANDOM) for module in block.modules()):
            block.train()
    return replace(student, net=net)


def _described(merged: Student) -> Student | None:
    """The merged network as options build it, if they can."""
    for network in (_compact(merged), _flagged(merged)):
        if network is None:
            continue
        try:
            net = build(network)
            net.load_state_dict(_renamed(merged, network))
        except FOREIGN_ERRORS:
            continue
        found = replace(merged, net=net, network=network)
        images = noise(merged.channels, 24, 40)
        if difference([(found(images), merged(images))]).within(LIMIT):
            return found
    return None


def _compact(merged: Student) -> dict[str, Any] | None:
    """A merged ECBSR is an SRVGGNetCompact: the same convolutions, and the image enlarged by nearest neighbor added."""
    old = merged.network
    if merged.kind != 'ECBSR' or old.get('act_type') not in ('prelu', 'relu'):
        return None
    return {'type': 'SRVGGNetCompact', 'num_in_ch': old['num_in_ch'], 'num_out_ch': old['num_out_ch'],
            'num_feat': old['num_channel'], 'num_conv': old['num_block'], 'upscale': old['scale'],
            'act_type': old['act_type']}


def _flagged(merged: Student) -> dict[str, Any] | None:
    """The network with an argument such as ``deploy: true``."""
    flag = next((name for name in _FLAGS if name in inspect.signature(type(merged.net)).parameters), None)
    return None if flag is None else {**merged.network, flag: True}


def _renamed(merged: Student, network: Mapping[str, Any]) -> dict[str, Tensor]:
    state = merged.net.state_dict()
    if network['type'] != 'SRVGGNetCompact':
        return state
    wanted = build(network).state_dict()
    values = [tensor for name, tensor in state.items()]
    return dict(zip(wanted, values)) if len(wanted) == len(values) else {}
