"""Build students and count what they cost, without running large ones.

Multiply-accumulates of a network whose blocks are alike grow linearly with their number, so one or two blocks of each
width tell what any depth costs. All of it is counted per pixel of the low-resolution image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.config.components import check_component, construct
from mipkd_plugin.config.patches import window_of
from mipkd_plugin.config.problems import Context, require_clean
from mipkd_plugin.inference.cost import cost, milliseconds
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.padding import needed_multiple
from mipkd_plugin.recipes.students_families import CHANNELS, Family, Size
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, UsageError, reason

OUTPUT = 1280 * 720
"""Pixels of the output for which papers count multiply-accumulates."""
_SMALLEST = 16
_WORK_ON_CPU, _WORK_ON_GPU = 12e9, 600e9  # multiply-accumulates of the teacher for one image whose time is taken


class Teacher(Protocol):
    """What is known of a teacher from its file: see :func:`mipkd_plugin.recognition.recognize`."""

    @property
    def network(self) -> Mapping[str, Any]:
        """Type and arguments, as in YAML."""

    @property
    def scale(self) -> int:
        """Scale factor."""

    def build(self) -> nn.Module:
        """The network with its weights."""


@dataclass(frozen=True)
class Measured:
    """A network with its size.

    Attributes:
        network: Type and arguments, as in YAML.
        net: The network.
        channels: Channels of the images that it takes.
        multiple: What the sides of images must be multiples of.
        parameters: Number of parameters.
        work: Multiply-accumulates per pixel of the low-resolution image.
    """

    network: Mapping[str, Any]
    net: nn.Module
    channels: int
    multiple: int
    parameters: int
    work: float

    def macs(self, scale: int) -> int:
        """Multiply-accumulates for an output of 1280×720."""
        return round(self.work * OUTPUT / scale**2)


def build(network: Mapping[str, Any]) -> nn.Module:
    """Build a network with random weights, as ``network_g`` of an option file would be.

    Args:
        network: Type and arguments.

    Returns:
        The network.

    Raises:
        OptionError: The type is unknown, arguments do not fit or make it too large.
    """
    ctx = Context({'network_g': dict(network)}, is_train=True)
    good = check_component(ctx, 'network_g', network, ARCH_REGISTRY)
    net: nn.Module | None = construct(ctx, 'network_g', network, ARCH_REGISTRY) if good else None
    require_clean(ctx.problems, {})
    if net is None:
        raise UsageError(f'the network {network.get("type")} cannot be built')
    return net


def channels_of(network: Mapping[str, Any]) -> int:
    """Channels of the images that a network takes, by its arguments; 3 where they do not say."""
    return next((network[key] for key in CHANNELS if isinstance(network.get(key), int)), 3)


def measured(network: Mapping[str, Any], scale: int, channels: int, net: nn.Module | None = None) -> Measured:
    """Count parameters and work of a network by running it on a small image.

    Args:
        network: Type and arguments.
        scale: The scale that it must have.
        channels: The channels that it must take and return.
        net: The network, if it is built already.

    Returns:
        The network with its size.

    Raises:
        UsageError: It does not take such images, or enlarges them by another scale.
    """
    net = build(network) if net is None else net
    multiple = _multiple(network, net, channels, scale)
    side = -(-_SMALLEST // multiple) * multiple
    images = 'gray images' if channels == 1 else f'images of {channels} channels'
    try:
        with evaluating(net):
            shape = tuple(net(torch.rand(1, channels, side, side)).shape)
    except FOREIGN_ERRORS as error:
        raise UsageError(f'{network["type"]} does not run on {images}, as the teacher does: {reason(error)}') from error
    if shape != (1, channels, side * scale, side * scale):
        raise UsageError(f'{network["type"]} makes an image of {_told(shape)} from one of {_told((1, channels, side, side))}'
                         f'; the teacher enlarges {images} by {scale}: choose a student of that scale')
    found = cost(net, (channels, side, side))
    return Measured(network, net, channels, multiple, found.parameters, found.macs / side**2)


def _told(shape: tuple[int, ...]) -> str:
    return '×'.join(map(str, shape[2:])) + f' with {shape[1]} channels'


def _multiple(network: Mapping[str, Any], net: nn.Module, channels: int, scale: int) -> int:
    return window_of(network) or needed_multiple(net, channels, scale)


class Counter:
    """Work of all sizes of an architecture, from one or two blocks of each width.

    Args:
        family: The architecture.
        base: The other arguments.
        scale: Scale factor.
        channels: Channels of images.
    """

    def __init__(self, family: Family, base: Mapping[str, Any], scale: int, channels: int) -> None:
        self.family, self.base, self.scale, self.channels = family, base, scale, channels
        self._fits: dict[Size, list[float]] = {}

    def work(self, size: Size) -> float:
        """Multiply-accumulates per pixel of the low-resolution image."""
        widths = (size[0], *size[2:]) if self.family.grows else size[:1]
        if widths not in self._fits:
            self._fits[widths] = [self._counted(size, unit) for unit in self.family.units]
        counted, units = self._fits[widths], self.family.units
        if len(units) == 1:
            return counted[0]
        if len(units) == 2:
            return counted[0] + (size[1] - 1) * (counted[1] - counted[0])
        first, outside, inside = counted
        block = (inside - first) / units[0][1]  # a block more inside
        group = outside - first + (size[2] - units[0][1]) * block  # a group more, of that many blocks
        return first + (size[2] - units[0][1]) * block + (size[1] - 1) * group

    def _counted(self, size: Size, unit: tuple[int, ...]) -> float:
        whole = (size[0], *unit, *size[1 + len(unit):])
        return measured(self.family.network(whole, self.base), self.scale, self.channels).work


def times(nets: Sequence[Measured]) -> tuple[list[float], str]:
    """Measure networks in turn on this machine, on an image as large as the first one makes in moderate time.

    Args:
        nets: The networks, the teacher first.

    Returns:
        Milliseconds of each, and in words on what they were measured.
    """
    cuda = torch.cuda.is_available()
    multiple = math.lcm(8, *(net.multiple for net in nets))
    wanted = math.sqrt((_WORK_ON_GPU if cuda else _WORK_ON_CPU) / max(nets[0].work, 1))
    side = max(multiple, int(min(max(wanted, 24), 512 if cuda else 128)) // multiple * multiple)
    device = torch.device('cuda' if cuda else 'cpu')
    taken = milliseconds([net.net.to(device) for net in nets], (nets[0].channels, side, side), rounds=3)
    for net in nets:
        net.net.to('cpu')
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if cuda else f'CPU with {threads} thread{"s" * (threads > 1)}'
    return taken, f'an LR image of {side}×{side}, this machine ({where})'
