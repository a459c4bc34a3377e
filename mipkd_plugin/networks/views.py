"""How a tap shows its feature: as it is, or in a coarser grid, for a partner of another size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor
from torch.nn import functional

from mipkd_plugin.networks.features import TapInfo

Resample = Literal['area', 'bilinear']

LARGEST_FACTOR = 4
"""Channels grow with the square of the factor: 8 to 16 would take tens of GB."""

_NAME = re.compile(r'(?P<path>.+) (?P<how>unshuffled|area|bilinear) (?P<factor>\d+)(?:/(?P<over>\d+))?$')


@dataclass(frozen=True)
class View:
    """What a tap shows.

    Attributes:
        path: Module path.
        how: ``''``: the feature as it is; ``unshuffled``: each square of ``factor`` × ``factor`` pixels as the channels
            of one, which loses nothing; ``area`` or ``bilinear``: ``factor / over`` of its height and width.
        factor: See there.
        over: See there.
    """

    path: str
    how: str = ''
    factor: int = 1
    over: int = 1

    @classmethod
    def of(cls, name: str) -> View:
        """The view of a name such as ``body.3`` or ``body.3 unshuffled 2``."""
        found = _NAME.match(name)
        return cls(name) if found is None else cls(found['path'], found['how'], int(found['factor']),
                                                   int(found['over'] or 1))

    def __str__(self) -> str:
        """The name."""
        size = f'{self.factor}/{self.over}' if self.over > 1 else f'{self.factor}'
        return f'{self.path} {self.how} {size}' if self.how else self.path

    @property
    def loses(self) -> bool:
        """Whether the feature itself cannot be had back."""
        return self.how in ('area', 'bilinear')

    def show(self, feature: Tensor) -> Tensor:
        """The feature (N, C, H, W) as it is shown."""
        if self.how == 'unshuffled':
            return functional.pixel_unshuffle(feature, self.factor)
        if self.loses:
            size = self._size(feature.shape[2], feature.shape[3])
            return functional.interpolate(feature, size, mode=self.how, antialias=self.how == 'bilinear')
        return feature

    def hide(self, shown: Tensor) -> Tensor:
        """Undo :meth:`show`.

        Args:
            shown: The feature (N, C', H', W') as it is shown.

        Returns:
            The feature (N, C, H, W).

        Raises:
            ValueError: It cannot be had back.
        """
        if self.loses:
            raise ValueError(f'no feature can re-enter at {self}: it was resampled')
        return functional.pixel_shuffle(shown, self.factor) if self.how else shown

    def info(self, info: TapInfo) -> TapInfo:
        """What is shown of a tap."""
        channels, size = info.channels, self._size(info.height, info.width)
        if self.how == 'unshuffled':
            channels, size = channels * self.factor**2, (info.height // self.factor, info.width // self.factor)
        return replace(info, path=str(self), channels=channels, height=size[0], width=size[1])

    def _size(self, height: int, width: int) -> tuple[int, int]:
        return (height * self.factor // self.over, width * self.factor // self.over) if self.loses else (height, width)


def fitting(finer: TapInfo, coarser: TapInfo, resample: Resample | None = None) -> View | None:
    """The view of a tap in which it has the height and width of another one.

    Args:
        finer: The tap with more pixels.
        coarser: The other tap.
        resample: ``area`` or ``bilinear``: the view is resampled so. By default it is unshuffled, which takes a whole
            ratio up to 4.

    Returns:
        The view; None if there is none.
    """
    if resample:
        if finer.height * coarser.width != finer.width * coarser.height or not coarser.height:
            return None
        divisor = math.gcd(coarser.height, finer.height)
        return View(finer.path, resample, coarser.height // divisor, finer.height // divisor)
    factor = finer.height // max(coarser.height, 1)
    whole = (coarser.height * factor, coarser.width * factor) == (finer.height, finer.width)
    if whole and 1 <= factor <= LARGEST_FACTOR:
        return View(finer.path, 'unshuffled', factor) if factor > 1 else View(finer.path)
    return None
