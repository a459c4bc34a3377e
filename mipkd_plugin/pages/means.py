"""Means over all images of what is measured of each method."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from dataclasses import dataclass, field

from mipkd_plugin.pages.scenes import Scene, Values


@dataclass(frozen=True)
class Scores:
    """What was measured of a method; NaN where nothing was.

    Attributes:
        psnr: PSNR to HR in dB.
        ssim: SSIM to HR.
        to_teachers: PSNR in dB to the images of each teacher, by its label.
        niqe: NIQE; None if it was not asked for.
    """

    psnr: float = math.nan
    ssim: float = math.nan
    to_teachers: dict[str, float] = field(default_factory=dict)
    niqe: float | None = None


class Means:
    """The means, which grow with each image.

    Attributes:
        images: Number of images.
        without_niqe: Names of the images that NIQE cannot be measured of for every method. They are left out of the
            means of NIQE, so that these are of the same images.
    """

    def __init__(self) -> None:
        self.images = 0
        self.without_niqe: list[str] = []
        self._values: dict[str, list[Values]] = defaultdict(list)
        self._to_teachers: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._niqe: dict[str, list[float]] = {}

    def add(self, scene: Scene) -> None:
        """Count an image."""
        self.images += 1
        for shot in scene.shots:
            if shot.values is not None:
                self._values[shot.label].append(shot.values)
            for teacher, value in shot.to_teachers.items():
                self._to_teachers[shot.label][teacher].append(value)
        niqe = {shot.label: shot.niqe for shot in scene.shots if shot.niqe is not None}
        is_whole = not any(map(math.isnan, niqe.values()))
        for label, value in niqe.items():
            self._niqe.setdefault(label, []).extend([value] if is_whole else [])
        if not is_whole:
            self.without_niqe.append(scene.name)

    def of(self, label: str) -> Scores:
        """The means of a method."""
        values, niqe = self._values.get(label, []), self._niqe.get(label)
        return Scores(_mean([psnr for psnr, _ in values]), _mean([ssim for _, ssim in values]),
                      {teacher: _mean(found) for teacher, found in self._to_teachers.get(label, {}).items()},
                      None if niqe is None else _mean(niqe))


def _mean(values: list[float]) -> float:
    return statistics.fmean(values) if values else math.nan
