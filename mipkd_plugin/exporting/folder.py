"""What an exported file costs in PSNR on a folder of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from mipkd_plugin.exporting.student import Student
from mipkd_plugin.inference.quality import measure, read_pairs


@dataclass(frozen=True)
class Lost:
    """PSNR of a student before and after an export.

    Attributes:
        images: Number of images.
        before: PSNR of the student in PyTorch, in float32, in dB.
        after: PSNR of the file, in dB.
        worst: Largest loss on one image, in dB.
        where: Name of that image.
    """

    images: int
    before: float
    after: float
    worst: float
    where: str


class _Called:
    """Something to call on images, with what a measurement asks of a network."""

    def __init__(self, call: Callable[[Tensor], Tensor], channels: int) -> None:
        self.call, self.channels = call, channels

    def __call__(self, lq: Tensor) -> Tensor:
        return self.call(lq)


def loss_on(folder: Path, student: Student, call: Callable[[Tensor], Tensor]) -> Lost:
    """Measure a student and an exported file on the same images.

    Args:
        folder: High-resolution images; the low-resolution ones are made by bicubic reduction, as MATLAB does.
        student: The student in PyTorch.
        call: The file, called with images (N, C, H, W).

    Returns:
        PSNR of both.

    Raises:
        QualityError: The folder cannot be measured on.
    """
    networks = {'before': _Called(student, student.channels), 'after': _Called(call, student.channels)}
    found = measure(cast(Any, networks), read_pairs(folder, student.scale), student.scale)
    before, after = found['before'], found['after']
    losses = {name: before.images[name][0] - after.images[name][0] for name in before.images}
    worst = max(losses, key=lambda name: losses[name])
    return Lost(len(losses), before.psnr, after.psnr, losses[worst], worst)
