"""Names and shapes of a state dict, and what a family of networks reads from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

_MOST_PER_TENSOR = 4  # modules of a sequence for each tensor: activations have none


class UnfitError(Exception):
    """A state dict is not of the family that was tried; the text says why."""


class Layout:
    """Names and shapes of a state dict.

    Attributes:
        state: Tensor by name.
    """

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self.state = state

    def __contains__(self, name: str) -> bool:
        return name in self.state

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor.

        Args:
            name: Its name.

        Returns:
            The shape.

        Raises:
            UnfitError: There is no tensor of this name.
        """
        if name not in self.state:
            raise UnfitError(f'{name} is missing')
        return tuple(self.state[name].shape)

    def kernel(self, name: str) -> tuple[int, int]:
        """(Output channels, input channels) of a convolution.

        Args:
            name: Name of its weight.

        Returns:
            Both numbers.

        Raises:
            UnfitError: There is no weight of a convolution of this name.
        """
        shape = self.shape(name)
        if len(shape) != 4:
            raise UnfitError(f'{name} {shape} is no kernel of a convolution')
        return shape[0], shape[1]

    def count(self, prefix: str) -> int:
        """Number of modules in a sequence, from the highest number in it.

        Args:
            prefix: Name of the sequence, as in ``body``.

        Returns:
            The number; 0 if there is no such sequence.

        Raises:
            UnfitError: A number is larger than the number of tensors.
        """
        start = f'{prefix}.'
        numbers = (name[len(start):].split('.', 1)[0] for name in self.state if name.startswith(start))
        found = max((int(number[:9]) + 1 for number in numbers if number.isascii() and number.isdigit()), default=0)
        if found > _MOST_PER_TENSOR * len(self.state):
            raise UnfitError(f'{prefix} has a module of number {found - 1:,d}, and the file {len(self.state)} tensors')
        return found

    def renamed(self, name_of: Callable[[str], str | None]) -> dict[str, Tensor]:
        """The tensors under other names.

        Args:
            name_of: The new name of an old one; None leaves the tensor out.

        Returns:
            Tensor by new name.
        """
        found = ((name_of(name), tensor) for name, tensor in self.state.items())
        return {name: tensor for name, tensor in found if name is not None}


@dataclass(frozen=True)
class Found:
    """What a family has read from a state dict.

    Attributes:
        network: As in an option file: ``{type: EDSR, num_in_ch: 3, …}``.
        scale: Scale factor.
        state: Tensor by the names of that network.
        source: Whose layout the file has.
        choices: Values of arguments that a state dict does not show; the first are those by convention.
        notes: What else was assumed.
    """

    network: dict[str, Any]
    scale: int
    state: Mapping[str, Tensor]
    source: str = 'BasicSR'
    choices: tuple[dict[str, Any], ...] = ()
    notes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Family:
    """How to recognize the networks of a family.

    Attributes:
        name: For messages.
        signature: Names that every state dict of the family has.
        read: Reads the arguments; raises :class:`UnfitError`.
    """

    name: str
    signature: tuple[str, ...]
    read: Callable[[Layout], Found]


def whole_root(number: int, what: str) -> int:
    """The square root of a number that must be a square.

    Args:
        number: The number.
        what: What it counts, for the message.

    Returns:
        The root.

    Raises:
        UnfitError: It is no square.
    """
    root = math.isqrt(max(number, 0))
    if number <= 0 or root * root != number:
        raise UnfitError(f'{what}, {number}, is no square')
    return root


def quotient(number: int, divisor: int, what: str) -> int:
    """The quotient of a division without a rest.

    Args:
        number: The number.
        divisor: By what.
        what: What is divided, for the message.

    Returns:
        The quotient.

    Raises:
        UnfitError: There is a rest.
    """
    if divisor < 1 or number % divisor:
        raise UnfitError(f'{what}, {number}, is no multiple of {divisor}')
    return number // divisor


def upsample_scale(layout: Layout, prefix: str) -> int:
    """Scale factor of convolutions that pixel shuffles follow, as in ``Upsample`` of BasicSR.

    Args:
        layout: The state dict.
        prefix: Name of the sequence.

    Returns:
        The product of all factors; 1 if there is none.
    """
    scale = 1
    for index in range(0, layout.count(prefix), 2):
        outputs, inputs = layout.kernel(f'{prefix}.{index}.weight')
        factor = f'channels of {prefix}.{index}'
        scale *= whole_root(quotient(outputs, inputs, factor), factor)
    return scale
