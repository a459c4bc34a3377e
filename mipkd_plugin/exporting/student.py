"""What is exported: a network with its weights, on the CPU, and what is known about it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.exporting.errors import ExportError
from mipkd_plugin.networks.padding import needed_multiple, padded
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, failure_of, reason

CHANNEL_NAMES = ('num_in_ch', 'in_chans', 'in_nc', 'in_channels', 'n_colors', 'in_ch', 'inp_channels', 'img_channel')
_SIDES = (24, 28, 30, 32, 48, 64, 56, 60)
"""Sides of a first try; windows of 7, 8, 10, 12, 16, 32 and others go into one of them."""


@dataclass(frozen=True)
class Student:
    """A network that can be exported.

    Attributes:
        net: In eval mode, in float32, on the CPU.
        network: As in an option file: ``{type: EDSR, …}``.
        name: Name of the weights file, without its ending.
        scale: Scale factor.
        channels: Number of channels of the input.
        multiple: What both sides of an image must be multiples of; smaller ones are padded by reflection.
    """

    net: nn.Module
    network: dict[str, Any]
    name: str
    scale: int
    channels: int
    multiple: int

    @property
    def kind(self) -> str:
        """Name of the architecture, as in the option file."""
        return str(self.network['type'])

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.net.parameters())

    def __call__(self, lq: Tensor) -> Tensor:
        """Enlarge images, padded where the network needs that.

        Args:
            lq: (N, C, H, W).

        Returns:
            (N, C_out, sH, sW).

        Raises:
            ExportError: The network does not run on images of this size.
        """
        height, width = (side * self.scale for side in lq.shape[2:])
        try:
            with torch.no_grad():
                output: Tensor = self.net(padded(lq.clone(), self.multiple))  # some networks write into their input
        except FOREIGN_ERRORS as error:
            raise ExportError(f'{self.kind} does not run on images of {lq.shape[2]}×{lq.shape[3]}: {reason(error)}; if '
                              'it takes images of one size only, take --to onnx --static HEIGHTxWIDTH') from error
        return output[:, :, :height, :width]


def student_of(net: nn.Module, network: Mapping[str, Any], name: str) -> Student:
    """Find out what an export must know about a network, by running it on small random images.

    Args:
        net: The network with its weights.
        network: As in an option file.
        name: Name of the weights file, without its ending.

    Returns:
        The student; the network is in eval mode, in float32 and on the CPU.

    Raises:
        ExportError: The network does not run, or does not return one image.
        MipkdError: The network returns several things, and the option file does not say which is the image.
    """
    net = net.eval().float().cpu()
    channels, failure = _channels(net, network), ''
    for side in _SIDES:
        lq = torch.rand(1, channels, side, side, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                output = net(lq)
        except MipkdError:
            raise
        except FOREIGN_ERRORS as error:
            failure = failure or failure_of(error)
            continue
        if not isinstance(output, Tensor) or output.dim() != 4 or output.shape[2] % side:
            raise ExportError(f'{type(net).__name__} does not return one enlarged image; if it returns several things, '
                              'write in the option file which is the image, as output: 0, and give it with -opt')
        scale = output.shape[2] // side
        return Student(net, dict(network), name, scale, channels, needed_multiple(net, channels, scale))
    raise ExportError(f'{type(net).__name__} does not run on images of {channels} channels: {failure}; check the '
                      'network in the option file')


def _channels(net: nn.Module, network: Mapping[str, Any]) -> int:
    """Channels of the input: an argument of the network, or its default."""
    defaults = {name: parameter.default for name, parameter in inspect.signature(type(net)).parameters.items()}
    for name in CHANNEL_NAMES:
        value = network.get(name, defaults.get(name))
        if isinstance(value, int):
            return value
    return 3


def check_half(student: Student, computes: bool) -> None:
    """Refuse half precision for a student whose numbers are too large for it (above 65,504).

    onnxruntime computes in float32 on a CPU whatever the file says, and a GPU does not: so PyTorch is asked.

    Args:
        student: The student.
        computes: Whether features are in half precision too, not only the weights.

    Raises:
        ExportError: A weight or a feature becomes infinite.
    """
    large = [name for name, tensor in student.net.state_dict().items() if not bool(tensor.half().isfinite().all())]
    if large:
        raise ExportError(f'the weight {large[0]} is too large for half precision; leave out --fp16')
    if not computes:
        return
    side = -(-16 // student.multiple) * student.multiple
    try:
        half = replace(student, net=copy.deepcopy(student.net).half())
        finite = bool(half(noise(student.channels, side, side).half()).isfinite().all())
    except FOREIGN_ERRORS:  # code that makes float32 tensors of its own, or a CPU that has no such operation
        return
    if not finite:
        raise ExportError('numbers inside of the network are too large for half precision, and the image is NaN or '
                          'infinite; leave out --fp16')


def noise(channels: int, height: int, width: int, batch: int = 1, seed: int = 0) -> Tensor:
    """Random images for checks: (N, C, H, W), from 0 to 1."""
    return torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Difference:
    """How far images are apart.

    Attributes:
        largest: Largest absolute difference; values are from 0 to 1.
        mean: Mean absolute difference.
        magnitude: Largest absolute value of the images compared to.
    """

    largest: float
    mean: float
    magnitude: float

    def within(self, limit: float) -> bool:
        """Whether the difference is below a limit, for images whose values go to 1; not where it is not finite."""
        return self.largest < limit * max(1.0, self.magnitude)


def difference(pairs: Iterable[tuple[Tensor, Tensor]]) -> Difference:
    """Compare images with those that are right.

    Args:
        pairs: (Image, right image), each of any shape.

    Returns:
        The largest difference of all; the largest is NaN or infinite where an image is.
    """
    largest, total, count, magnitude = 0.0, 0.0, 0, 0.0
    for image, right in pairs:
        apart = (image.float() - right).abs()
        bound = float(apart.max())
        largest = bound if bound != bound else max(largest, bound)
        total, count = total + float(apart.sum()), count + apart.numel()
        magnitude = max(magnitude, float(right.abs().max()))
    return Difference(largest, total / max(count, 1), magnitude)
