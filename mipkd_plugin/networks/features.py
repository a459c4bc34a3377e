"""Feature maps: from modules that return maps or tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class NetPass:
    """One forward pass of a tapped network.

    Attributes:
        output: Super-resolved image (N, C, sH, sW), RGB in [0, 1], not clamped.
        features: Module path → feature map (N, C, H, W), in the order the taps were given.
    """

    output: Tensor
    features: Mapping[str, Tensor]

    def first(self, samples: int) -> NetPass:
        """The same pass over the first ``samples`` images of the batch."""
        if samples >= len(self.output):
            return self
        return NetPass(self.output[:samples], {path: feature[:samples] for path, feature in self.features.items()})


@dataclass(frozen=True)
class TapInfo:
    """What the probe run saw at one module.

    Attributes:
        path: Module path.
        channels: Width C of the feature.
        height: Height H of the feature, pixels.
        width: Width W of the feature, pixels.
        tokens: Whether the module returns tokens (N, HW, C) rather than a map (N, C, H, W).
        problem: Why the module cannot be tapped, or ''.
    """

    path: str
    channels: int = 0
    height: int = 0
    width: int = 0
    tokens: bool = False
    problem: str = ''


def inspect_tap(path: str, seen: Sequence[tuple[Tensor, int | None]], lq: Tensor) -> TapInfo:
    """Judge what one module returned during one forward pass.

    Args:
        path: Module path.
        seen: One (output, its version counter at that time) for each time the module ran; None if it is unknown.
        lq: Input of the network (N, C, H, W); gives the grid of tokens.

    Returns:
        Shape of the feature, or the reason why it cannot be tapped.
    """
    if len(seen) != 1:
        return TapInfo(path, problem=f'its module runs {len(seen)} times in one forward pass, not once')
    output, version = seen[0]
    if not isinstance(output, Tensor):
        return TapInfo(path, problem=f'its module returns {type(output).__name__}, not a tensor')
    size = _map_size(output, lq)
    if size is None:
        return TapInfo(path, problem=f'its output of shape {tuple(output.shape)} is neither a map (N, C, H, W) '
                                     'nor tokens (N, HW, C)')
    problem = '' if version is None or output._version == version else (
        'its output is changed in place after the module returned it; tap a trunk block instead')
    tokens = output.dim() == 3
    return TapInfo(path, output.shape[2 if tokens else 1], *size, tokens, problem)


def map_to_tokens(feature: Tensor) -> Tensor:
    """(N, C, H, W) → (N, HW, C).

    >>> import torch
    >>> feature = torch.rand(2, 3, 4, 5)
    >>> map_to_tokens(feature).shape
    torch.Size([2, 20, 3])
    >>> tokens_to_map(map_to_tokens(feature), 4, 5).equal(feature)
    True

    Returns:
        The tokens.
    """
    return feature.flatten(2).transpose(1, 2)


def tokens_to_map(tokens: Tensor, height: int, width: int) -> Tensor:
    """(N, HW, C) → (N, C, H, W)."""
    n, _, channels = tokens.shape
    return tokens.transpose(1, 2).reshape(n, channels, height, width)


def nearly_equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are the same but for rounding (kernels of a GPU may sum in another order)."""
    return a.shape == b.shape and bool(((a - b).abs().max() <= 1e-3 * b.abs().max()).item())


def _map_size(output: Tensor, lq: Tensor) -> tuple[int, int] | None:
    """(H, W) of a map, or of tokens on the grid of ``lq`` or of an integer multiple or fraction of it."""
    if output.dim() == 4:
        return output.shape[2], output.shape[3]
    if output.dim() != 3:
        return None
    height, width = lq.shape[2:]
    grids = [(height * f, width * f) for f in (1, 2, 3, 4, 8)]
    grids += [(height // f, width // f) for f in (2, 3, 4, 8) if height % f == 0 and width % f == 0]
    return next((grid for grid in grids if grid[0] * grid[1] == output.shape[1]), None)
