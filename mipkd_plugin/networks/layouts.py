"""How a module lays out its feature: as a map, as tokens, with the channels last, or in windows."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

_FACTORS = (1, 2, 3, 4, 8)
_SMOOTHER = 0.8


@dataclass(frozen=True)
class Layout:
    """Where the channels, the rows and the columns of a feature are.

    Attributes:
        kind: ``map`` (N, C, H, W); ``last`` (N, H, W, C); ``tokens`` (N, HW, C); ``rows`` (N, C, HW); ``windows``
            (N · windows, S², C) or, in four dimensions, ``squares`` (N · windows, S, S, C).
        height: H.
        width: W.
    """

    kind: str
    height: int
    width: int

    def to_map(self, feature: Tensor) -> Tensor:
        """The feature as a map (N, C, H, W)."""
        if self.kind == 'map':
            return feature
        if self.kind == 'last':
            return feature.permute(0, 3, 1, 2).contiguous()
        if self.kind == 'tokens':
            return tokens_to_map(feature, self.height, self.width)
        if self.kind == 'rows':
            return feature.reshape(*feature.shape[:2], self.height, self.width)
        side, channels = self._side(feature), feature.shape[-1]
        grid = feature.reshape(-1, self.height // side, self.width // side, side, side, channels)
        return grid.permute(0, 5, 1, 3, 2, 4).reshape(-1, channels, self.height, self.width)

    def from_map(self, feature: Tensor, like: tuple[int, ...]) -> Tensor:
        """A map (N, C, H, W) in this layout.

        Args:
            feature: The map.
            like: Shape of a feature that the module itself has returned; gives the size of windows.

        Returns:
            The feature as the module would return it.
        """
        if self.kind == 'map':
            return feature
        if self.kind == 'last':
            return feature.permute(0, 2, 3, 1).contiguous()
        if self.kind == 'tokens':
            return map_to_tokens(feature)
        if self.kind == 'rows':
            return feature.flatten(2)
        side = _side_of(like)
        count, channels, height, width = feature.shape
        grid = feature.reshape(count, channels, height // side, side, width // side, side)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(-1, *like[1:-1], channels)

    def _side(self, feature: Tensor) -> int:
        return _side_of(tuple(feature.shape))


def is_ambiguous(shape: tuple[int, ...], lq: tuple[int, ...]) -> bool:
    """Whether the shape of a feature leaves a choice of layouts."""
    return len(_possible(shape, lq)) > 1


def layout_of_kind(shape: tuple[int, ...], lq: tuple[int, ...], like: Layout | None) -> Layout | None:
    """The layout of a shape that is of the same kind as another one, or None."""
    return next((layout for layout in _possible(shape, lq) if like is not None and layout.kind == like.kind), None)


def layout_of(feature: Tensor, lq: tuple[int, ...], known: str = '') -> Layout | None:
    """How a module has laid out its feature.

    The shape decides. Where it leaves a choice, the first one is taken, unless neighbors are far more alike in another:
    images are smooth.

    Args:
        feature: What it returned.
        lq: Shape of the network's input (N, C, H, W).
        known: The kind, if it is known.

    Returns:
        The layout, or None: it is none of those above.
    """
    found = [layout for layout in _possible(tuple(feature.shape), lq) if known in ('', layout.kind)]
    if len(found) < 2 or feature.is_meta:
        return found[0] if found else None
    rough = [_roughness(layout.to_map(feature)) for layout in found]
    smoothest = min(range(len(found)), key=rough.__getitem__)
    return found[smoothest if rough[smoothest] < _SMOOTHER * rough[0] else 0]


def _possible(shape: tuple[int, ...], lq: tuple[int, ...]) -> list[Layout]:
    samples, grids = lq[0], _grids(lq[2], lq[3])
    if len(shape) == 4 and shape[0] == samples:
        as_map, last = shape[2:], shape[1:3]
        found = [Layout('last', *last)] if last in grids else []
        padded = all(size <= side < 2 * size for size, side in zip(lq[2:], as_map))
        return [Layout('map', *as_map), *found] if as_map in grids or padded or not found else found
    if len(shape) == 3 and shape[0] == samples:
        grids = [*grids, *_enlarged(shape[1], lq), *_enlarged(shape[2], lq)]
        found = [Layout('tokens', *grid) for grid in grids if math.prod(grid) == shape[1]][:1]
        return found + [Layout('rows', *grid) for grid in grids if math.prod(grid) == shape[2]][:1]
    if len(shape) not in (3, 4) or shape[0] % samples:
        return []
    side, windows = _side_of(shape), shape[0] // samples
    kind = 'windows' if len(shape) == 3 else 'squares'
    return [Layout(kind, *grid) for grid in grids if side and not grid[0] % side and not grid[1] % side
            and math.prod(grid) == windows * side * side][:1]


def _grids(height: int, width: int) -> list[tuple[int, int]]:
    """Sizes that a feature may have: the size of the images, its multiples and its whole fractions."""
    grids = [(height * factor, width * factor) for factor in _FACTORS]
    return grids + [(height // f, width // f) for f in _FACTORS[1:] if height % f == 0 and width % f == 0]


def _enlarged(pixels: int, lq: tuple[int, ...]) -> list[tuple[int, int]]:
    """The size of images that a network has padded, in the same proportion."""
    height = math.isqrt(pixels * lq[2] // lq[3])
    width = height * lq[3] // lq[2]
    return [(height, width)] if height * width == pixels and lq[2] < height < 2 * lq[2] else []


def _side_of(shape: tuple[int, ...]) -> int:
    """Side of the windows of a shape (…, S², C) or (…, S, S, C); 0 if they are no squares."""
    if len(shape) == 4:
        return shape[1] if shape[1] == shape[2] else 0
    side = math.isqrt(shape[1])
    return side if side * side == shape[1] else 0


def _roughness(feature: Tensor) -> float:
    """Mean difference between neighbors of a map, over the spread of its channels."""
    spread = feature.std(dim=(2, 3), keepdim=True).mean()
    steps = (feature.diff(dim=2).abs().mean() + feature.diff(dim=3).abs().mean()) / 2
    return float((steps / (spread + 1e-12)).detach())


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
