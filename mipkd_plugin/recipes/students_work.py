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
from mipkd_plugin.networks.padding import needed_multiple
from mipkd_plugin.recipes.students_families import CHANNELS, FAMILIES, Family, Size
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, UsageError, reason
from mipkd_plugin.utils.words import counted

OUTPUT = 1280 * 720
"""Pixels of the output for which papers count multiply-accumulates."""
_SMALLEST, _SAFE = 8, 32  # side of the images that are counted; safe for networks that pad images inside
_LONG_ENOUGH = 250  # milliseconds of the teacher for the image on which times are taken
_ROUNDS, _PATIENCE = 7, 5.0  # rounds, and the seconds after which no further one begins
_SIDES = {'cpu': (24, 128), 'cuda': (64, 512)}


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
        UsageError: It cannot be built for another reason.
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


def image_word(channels: int) -> str:
    """What images of so many channels are called."""
    return {1: 'gray images', 3: 'color images'}.get(channels, f'images of {channels} channels')


def measured(network: Mapping[str, Any], scale: int, channels: int, net: nn.Module | None = None,
             multiple: int | None = None) -> Measured:
    """Count parameters and work of a network by running it on a small image.

    Args:
        network: Type and arguments.
        scale: The scale that it must have.
        channels: The channels that it must take and return.
        net: The network, if it is built already.
        multiple: What the sides of images must be multiples of, if that is known.

    Returns:
        The network with its size.

    Raises:
        UsageError: It does not take such images, or enlarges them by another scale.
    """
    net = build(network) if net is None else net
    multiple = multiple or _windows(network) or needed_multiple(net, channels, scale)
    side = _side(multiple) if network['type'] in FAMILIES else math.lcm(_SAFE, multiple)
    images = image_word(channels)
    try:
        parameters, work, shape = _counted(net, channels, side)
    except FOREIGN_ERRORS as error:
        raise UsageError(f'{network["type"]} does not run on {images} of {side}×{side}: {reason(error)}; choose '
                         'another size, and a network that takes such images as the teacher does') from error
    if shape != (1, channels, side * scale, side * scale):
        raise UsageError(f'{network["type"]} makes an image of {_told(shape)} from one of '
                         f'{_told((1, channels, side, side))}; the teacher enlarges {images} by {scale}: choose a '
                         'student of that scale')
    return Measured(network, net, channels, multiple, parameters, work)


def _windows(network: Mapping[str, Any]) -> int:
    """What the windows of a network divide; 0 if its arguments do not say."""
    split = network.get('split_size')
    return math.lcm(*split) if isinstance(split, list) else window_of(network) or 0


def _side(multiple: int) -> int:
    return -(-_SMALLEST // multiple) * multiple


def _counted(net: nn.Module, channels: int, side: int) -> tuple[int, float, tuple[int, ...]]:
    """Parameters, work per pixel, and the shape of the image made of a square one.

    Work that does not grow with the image, such as merging the kernels of SPAN, does not count.

    Returns:
        These three.
    """
    shapes: list[tuple[int, ...]] = []
    handle = net.register_forward_hook(lambda _, __, image: shapes.append(tuple(image.shape)))
    try:
        square, double = cost(net, (channels, side, side)), cost(net, (channels, side, 2 * side))
    finally:
        handle.remove()
    return square.parameters, (double.macs - square.macs) / side**2, shapes[0]


def _told(shape: tuple[int, ...]) -> str:
    return '×'.join(map(str, shape[2:])) + f' with {shape[1]} channels'


class Counter:
    """Work of all sizes of an architecture, from one or two blocks of a few widths.

    Args:
        family: The architecture.
        base: The other arguments.
        scale: Scale factor.
        channels: Channels of images.
        widths: The widths that will be asked for.
    """

    def __init__(self, family: Family, base: Mapping[str, Any], scale: int, channels: int,
                 widths: Sequence[int]) -> None:
        self.family, self.base, self.scale, self.channels = family, base, scale, channels
        widths = sorted(widths)
        self._anchors = sorted({widths[0], widths[len(widths) // 2], widths[-1]})
        self._fits: dict[Size, list[float]] = {}
        self._multiple: int | None = None

    def work(self, size: Size) -> float:
        """Multiply-accumulates per pixel of the low-resolution image."""
        counted, units = self._of_width(size), self.family.units
        if len(units) == 1:
            return counted[0]
        if len(units) == 2:
            return counted[0] + (size[1] - 1) * (counted[1] - counted[0])
        first, outside, inside = counted
        block = (inside - first) / units[0][1]  # a block more inside
        group = outside - first + (size[2] - units[0][1]) * block  # a group more, of that many blocks
        return first + (size[2] - units[0][1]) * block + (size[1] - 1) * group

    def _of_width(self, size: Size) -> list[float]:
        """The work of the smallest depths; it is quadratic in the width, unless a second width is rounded."""
        if self.family.grows or len(self._anchors) < 3:
            return self._counted(size)
        known = [self._counted((width, *size[1:])) for width in self._anchors]
        parts = [math.prod((size[0] - other) / (one - other) for other in self._anchors if other != one)
                 for one in self._anchors]
        return [sum(part * values[unit] for part, values in zip(parts, known)) for unit in range(len(known[0]))]

    def _counted(self, size: Size) -> list[float]:
        widths = (size[0], *size[2:]) if self.family.grows else size[:1]
        if widths not in self._fits:
            self._fits[widths] = [self._work((size[0], *unit, *size[1 + len(unit):])) for unit in self.family.units]
        return self._fits[widths]

    def _work(self, size: Size) -> float:
        network = self.family.network(size, self.base)
        if self._multiple is None:
            found = measured(network, self.scale, self.channels)
            self._multiple = found.multiple
            return found.work
        return _counted(build(network), self.channels, _side(self._multiple))[1]


def times(nets: Sequence[Measured], device: str | None = None) -> tuple[list[float], str]:
    """Measure networks in turn on this machine, on an image for which the first one takes a moderate time.

    Args:
        nets: The networks, the teacher first.
        device: ``cpu`` or ``cuda``; the GPU by default, if there is one.

    Returns:
        Milliseconds of each, and in words on what they were measured.
    """
    device = device or ('cuda' if torch.cuda.is_available() else 'cpu')
    multiple = math.lcm(8, *(net.multiple for net in nets))
    least, most = _SIDES[device]
    side = -(-least // multiple) * multiple
    on_device = [net.net.to(device) for net in nets]
    first = milliseconds(on_device[:1], (nets[0].channels, side, side), rounds=1)[0]
    longer = max(1., math.sqrt(_LONG_ENOUGH / max(first, 1e-3)))
    side = max(side, int(min(side * longer, most)) // multiple * multiple)
    taken = milliseconds(on_device, (nets[0].channels, side, side), _ROUNDS, _PATIENCE)
    for net in nets:
        net.net.to('cpu')
    threads = torch.get_num_threads()
    where = torch.cuda.get_device_name() if device == 'cuda' else f'CPU, {counted(threads, "thread")}'
    return taken, f'an LR image of {side}×{side}, this machine ({where}), the least of up to {_ROUNDS} rounds'
