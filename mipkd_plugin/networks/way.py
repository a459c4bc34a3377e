"""The way of a feature back into a network: from the map that a loss sees to what a module returns, and back."""

from __future__ import annotations

from torch import Tensor

from mipkd_plugin.networks.layouts import Layout
from mipkd_plugin.networks.trace import Trace, shapes_in
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.networks.views import View


class Way:
    """From the output of one module to that of another one, or to the image.

    Args:
        trace: A traced run over images of the size that the feature belongs to.
        after: Tap that the feature stands for.
        until: Deeper tap; None: the image.

    Attributes:
        after: Path of the first module.
        until: Path of the second one, or None.

    Raises:
        TapError: No feature can re-enter there, or ``until`` does not follow from ``after``.
    """

    def __init__(self, trace: Trace, after: str, until: str | None) -> None:
        self._name = type(trace.net).__name__
        self._trace = trace
        self._entered = View.of(after)
        self._left = None if until is None else View.of(until)
        self.after = self._entered.path
        self.until = None if self._left is None else self._left.path
        self._layout = self._layout_at(self.after)
        self._last = None if self.until is None else self._layout_at(self.until)
        if self.until is not None and not trace.follows(self.after, self.until):
            raise TapError([f'{self.until!r} does not follow from {self.after!r} in {self._name}'])

    def native(self, feature: Tensor) -> Tensor:
        """Bring a feature (N, C, H, W) into the layout of the first module.

        Returns:
            The feature as that module returns it.

        Raises:
            RuntimeError: It has another height or width.
        """
        feature, layout = self._entered.hide(feature), self._layout
        if feature.shape[2:] != (layout.height, layout.width):
            raise RuntimeError(f'{self.after!r} of {self._name} returns {layout.height}×{layout.width} for such '
                               f'images, got {feature.shape[2]}×{feature.shape[3]}')
        return layout.from_map(feature, shapes_in(self._trace.call(self.after).output)[0].shape)

    def shown(self, output: Tensor) -> Tensor:
        """What the second module has returned, as its tap shows it: a map (N, C, H, W); or the image as it is."""
        if self._left is None or self._last is None:
            return output
        return self._left.show(self._last.to_map(output))

    def _layout_at(self, path: str) -> Layout:
        """How a module lays out its feature, where a feature can re-enter."""
        times = self._trace.count(path)
        if times != 1:
            raise TapError([f'{path!r} runs {times} times in one forward pass of {self._name}, not once; no feature '
                            'can re-enter there'])
        layout = self._trace.call(path).layout
        if layout is None:
            raise TapError([f'{path!r} of {self._name} returns no feature, so none can re-enter there'])
        return layout
