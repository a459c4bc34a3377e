"""Feature maps: from modules that return maps or tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from mipkd_plugin.networks.layouts import layout_of

Seen = dict[str, list[tuple[Any, int | None]]]
"""Path → for each time its module ran, what it returned and the version counter of its first tensor, if known."""


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
        layout: How the module lays it out, see :class:`~mipkd_plugin.networks.layouts.Layout`; ``map`` is (N, C, H, W).
        problem: Why the module cannot be tapped, or ''.
        runs: How many times the module ran.
    """

    path: str
    channels: int = 0
    height: int = 0
    width: int = 0
    layout: str = 'map'
    problem: str = ''
    runs: int = 1

    @property
    def tokens(self) -> bool:
        """Whether the module returns tokens (N, HW, C)."""
        return self.layout == 'tokens'


def inspect_tap(path: str, seen: Sequence[tuple[Any, int | None]], lq: Tensor, known: str = '') -> TapInfo:
    """Judge what one module returned during one forward pass.

    Args:
        path: Module path.
        seen: One (output, the version counter of its first tensor at that time) for each time the module ran; None if
            it is unknown.
        lq: Input of the network (N, C, H, W); gives the grid of tokens.
        known: Layout of the feature, if it was seen before.

    Returns:
        Shape of the feature, or the reason why it cannot be tapped.
    """
    if len(seen) != 1:
        return TapInfo(path, problem=f'its module runs {len(seen)} times in one forward pass, not once', runs=len(seen))
    output, version = seen[0]
    feature = first_tensor(output)
    if feature is None:
        return TapInfo(path, problem=f'its module returns {type(output).__name__}, not a tensor')
    layout = layout_of(feature, tuple(lq.shape), known)
    if layout is None:
        return TapInfo(path, problem=f'its output of shape {tuple(feature.shape)} is neither a map (N, C, H, W) '
                                     'nor tokens (N, HW, C)')
    problem = '' if version is None or feature._version == version else (
        'its output is changed in place after the module returned it; tap a trunk block instead')
    channels = feature.shape[1 if layout.kind in ('map', 'rows') else -1]
    return TapInfo(path, channels, layout.height, layout.width, layout.kind, problem)


def first_tensor(output: object) -> Tensor | None:
    """The feature among what a module returns: the first tensor."""
    return next((leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)), None)


class Watch:
    """Forward hooks that remember what modules return, inside a block.

    Args:
        modules: Path → module.

    Attributes:
        seen: What they have returned in this block; None outside.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self.seen: Seen | None = None
        self._paths = tuple(modules)
        self._handles = [module.register_forward_hook(self._hook(path)) for path, module in modules.items()]

    @property
    def is_closed(self) -> bool:
        """Whether it has no hooks."""
        return not self._handles

    @contextmanager
    def watching(self) -> Iterator[Seen]:
        """Inside the block the modules are watched."""
        self.seen = {path: [] for path in self._paths}
        try:
            yield self.seen
        finally:
            self.seen = None

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            if self.seen is not None:  # compiled code has no version counters; the eager probe has looked at them
                first = None if torch.compiler.is_compiling() else first_tensor(output)
                self.seen[path].append((output, None if first is None else first._version))
        return record
