"""One image as several networks show it: details, values, and errors, small enough to keep."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mipkd_plugin.inference.naturalness import niqe
from mipkd_plugin.inference.pictures import (
    BICUBIC,
    HR,
    LR,
    Box,
    Panel,
    Pixels,
    Strip,
    choose_boxes,
    draw,
    enlarged,
    measured,
    psnr,
)

Values = tuple[float, float]


def number(value: float, digits: int) -> str:
    """A number with so many digits behind the point; a dash for none."""
    return '–' if math.isnan(value) else '∞' if math.isinf(value) else f'{value:.{digits}f}'


@dataclass(frozen=True)
class Look:
    """How images are looked at.

    Attributes:
        scale: Scale factor.
        crops: Number of details of an image.
        crop_size: Side of a detail in pixels of the enlarged image.
        largest: Longest side of a whole image in the page; larger ones are reduced.
        largest_error: Longest side of a map of errors.
        niqe: Whether NIQE is measured: up to half a second an image of 768×512.
    """

    scale: int
    crops: int = 2
    crop_size: int = 96
    largest: int = 640
    largest_error: int = 320
    niqe: bool = False


@dataclass(frozen=True)
class Shot:
    """What one method makes of an image.

    Attributes:
        label: The method.
        whole: The whole image, reduced.
        crops: The details, pixel by pixel.
        values: PSNR (dB) and SSIM of the whole image; None without an original.
        crop_values: The same of each detail.
        error: |SR - HR| of the whole image, mean over the colors, reduced by means, in levels of 0 to 255.
        crop_errors: The same of each detail, not reduced.
        niqe: NIQE of the whole image; NaN if it is too small for that, None if it was not asked for.
        to_teachers: PSNR (dB) to the image of each other network that is a teacher, by its label.
    """

    label: str
    whole: Pixels
    crops: list[Pixels]
    values: Values | None = None
    crop_values: Sequence[Values] = ()
    error: NDArray[np.float32] | None = None
    crop_errors: Sequence[NDArray[np.float32]] = ()
    niqe: float | None = None
    to_teachers: Mapping[str, float] = field(default_factory=dict)

    @property
    def note(self) -> str:
        """PSNR and NIQE of the whole image, short; '' without them."""
        return ', '.join([*([f'{number(self.values[0], 2)} dB'] if self.values else []),
                          *([f'NIQE {number(self.niqe, 2)}'] if self.niqe is not None else [])])


@dataclass(frozen=True)
class Scene:
    """An image as all methods show it.

    Attributes:
        name: Name of the image.
        size: Height and width of the enlarged image.
        boxes: The details.
        shots: What each method makes of it: LR, bicubic, the networks, HR.
        difference: How much the compared networks differ, mean over the pixels, in levels of 0 to 255.
    """

    name: str
    size: tuple[int, int]
    boxes: list[Box]
    shots: list[Shot]
    difference: float

    def strips(self) -> list[Strip]:
        """Each detail as a row of a picture."""
        whole = self.shots[-1].whole
        factor = whole.shape[0] / self.size[0]
        rows = []
        for part, box in enumerate(self.boxes):
            framed = Box(*(round(side * factor) for side in box))
            rows.append(Strip(self.name, whole, framed, [
                Panel(shot.label, shot.crops[part], shot.note) for shot in self.shots]))
        return rows


def draw_scenes(scenes: Sequence[Scene]) -> Pixels:
    """Draw the best detail of each image as every method shows it.

    Args:
        scenes: The images, all with the same methods.

    Returns:
        The picture.
    """
    shots = scenes[0].shots
    said = ['PSNR (dB)'] if any(shot.values is not None for shot in shots) else []
    said += ['NIQE (lower is better)'] if any(shot.niqe is not None for shot in shots) else []
    return draw([scene.strips()[0] for scene in scenes], f'{" and ".join(said)} of the whole image, Y channel' if said
                else '')


def look_at(name: str, lr: Pixels, outputs: Mapping[str, Pixels], compared: Sequence[str], hr: Pixels | None,
            look: Look) -> Scene:
    """Put together what several networks make of an image.

    Args:
        name: Name of the image.
        lr: The LR image.
        outputs: The enlarged images by the names of the networks.
        compared: Networks whose differences choose the details; of a single one, its difference from bicubic counts.
            The others are teachers.
        hr: The original, of the size of the enlarged images; None if there is none.
        look: How to look.

    Returns:
        The scene.
    """
    squares, bicubic = enlarged(lr, look.scale)
    images = {BICUBIC: bicubic, **outputs}
    others = [outputs[label] for label in compared]
    others += [bicubic] if len(others) == 1 else []
    boxes = choose_boxes(others, hr, look.crop_size, look.crops, look.scale)
    shots = [_shot(LR, squares, None, boxes, look)]
    for label, image in images.items():
        distances = {teacher: psnr(image, made, look.scale) for teacher, made in outputs.items()
                     if teacher not in compared and teacher != label}
        shots.append(replace(_shot(label, image, hr, boxes, look), niqe=_niqe(image, look), to_teachers=distances))
    if hr is not None:
        shots.append(replace(_shot(HR, hr, None, boxes, look), niqe=_niqe(hr, look)))
    spread = np.ptp([cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float32) for image in others], axis=0)
    return Scene(name, (bicubic.shape[0], bicubic.shape[1]), boxes, shots, float(spread.mean()))


def _shot(label: str, image: Pixels, hr: Pixels | None, boxes: list[Box], look: Look) -> Shot:
    whole, crops = reduced(image, look.largest), [box.of(image).copy() for box in boxes]
    if hr is None:
        return Shot(label, whole, crops)
    error = np.abs(image.astype(np.float32) - hr).mean(2)
    return Shot(label, whole, crops, measured(image, hr, look.scale),
                [measured(box.of(image), box.of(hr), 0) for box in boxes], reduced(error, look.largest_error),
                [box.of(error).copy() for box in boxes])


def _niqe(image: Pixels, look: Look) -> float | None:
    return niqe(image, look.scale) if look.niqe else None


def reduced(image: NDArray[Any], largest: int) -> NDArray[Any]:
    """An image whose longest side has at most so many pixels; means of its pixels where it is larger."""
    factor = largest / max(image.shape[:2])
    if factor >= 1:
        return np.array(image)
    height, width = (max(round(side * factor), 1) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
