"""The same detail of an image as several networks show it: choose the details, and draw them side by side.

Images are uint8, (H, W, 3), BGR, as OpenCV and BasicSR's metrics take them. Nothing here draws random numbers.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
from basicsr.metrics import calculate_psnr, calculate_ssim
from numpy.typing import NDArray
from torch import Tensor

from mipkd_plugin.data.matlab_bicubic import bicubic_upsample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Pixels = NDArray[np.uint8]
LR, BICUBIC, TEACHER, HR = 'LR', 'bicubic', 'teacher', 'HR'
"""Labels of the panels beside those of students."""
SMALLEST = 11
"""The side of the smallest image that SSIM can be computed of."""
_LARGEST_WHOLE = 512
_LEAST = 1e-3


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, image: NDArray[Any]) -> NDArray[Any]:
        """This part of an image (H, W) or (H, W, C)."""
        return image[self.top:self.top + self.height, self.left:self.left + self.width]


@dataclass(frozen=True)
class Panel:
    """A detail as one method shows it.

    Attributes:
        label: Name of the method.
        image: The detail.
        note: What stands below the label, such as the PSNR.
    """

    label: str
    image: Pixels
    note: str = ''


@dataclass(frozen=True)
class Strip:
    """One row of a picture: a whole image with its detail framed, then the detail as each method shows it.

    Attributes:
        name: Name of the image.
        whole: The whole image.
        box: The detail.
        panels: The methods, left to right.
    """

    name: str
    whole: Pixels
    box: Box
    panels: Sequence[Panel]


def choose_boxes(images: Sequence[Pixels], truth: Pixels | None, size: int, count: int = 1,
                 border: int = 0) -> list[Box]:
    """Choose square details where images differ most and where detail is, without overlap.

    A square counts as the mean difference in brightness between the images (the largest minus the smallest value of
    each pixel), times the contrast there (standard deviation of the brightness of ``truth``).

    Args:
        images: The images to compare, all of one size; of a single one, its difference from ``truth`` counts.
        truth: The original; None takes the contrast from the mean of the images.
        size: Side of a square; cut to what the image has.
        count: Number of squares; fewer come back where no more fit.
        border: Pixels at each edge that are left out, where the image is large enough.

    Returns:
        The squares, the best first.
    """
    gray = [cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(np.float64) for image in images]
    model = np.mean(gray, 0) if truth is None else cv2.cvtColor(truth, cv2.COLOR_BGR2GRAY).astype(np.float64)
    gray += [model] if len(gray) == 1 else []
    rows, columns = model.shape
    height, width = min(size, rows), min(size, columns)
    spread = _means(np.max(gray, 0) - np.min(gray, 0), height, width)
    contrast = np.sqrt(np.maximum(_means(model ** 2, height, width) - _means(model, height, width) ** 2, 0))
    score = (spread + _LEAST) * (contrast + _LEAST)
    edge = [border if side - long > 2 * border else 0 for side, long in ((rows, height), (columns, width))]
    allowed = np.zeros(score.shape, bool)
    allowed[edge[0]:score.shape[0] - edge[0], edge[1]:score.shape[1] - edge[1]] = True
    score[~allowed] = -1
    found: list[Box] = []
    while len(found) < count and score.max() >= 0:
        top, left = map(int, np.unravel_index(score.argmax(), score.shape))
        found.append(Box(top, left, height, width))
        score[max(top - height + 1, 0):top + height, max(left - width + 1, 0):left + width] = -1
    return found


def _means(values: NDArray[Any], height: int, width: int) -> NDArray[np.float64]:
    """Mean over each window; entry (y, x) belongs to the window that begins there."""
    sums = cv2.integral(values, sdepth=cv2.CV_64F)
    total = sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]
    mean: NDArray[np.float64] = total / (height * width)
    return mean


def enlarged(lr: Pixels, scale: int) -> tuple[Pixels, Pixels]:
    """An LR image in the size of HR: every pixel as a square, and by MATLAB's bicubic interpolation of 8 bits.

    Args:
        lr: The LR image.
        scale: Scale factor.

    Returns:
        Both images.
    """
    squares = lr.repeat(scale, 0).repeat(scale, 1)
    return squares, squares if scale == 1 else bicubic_upsample(lr, scale)


def as_picture(image: NDArray[Any] | Tensor) -> Pixels:
    """Round an image in [0, 1] as BasicSR does.

    Args:
        image: Array (H, W, 3), BGR; or tensor (C, H, W) or (1, C, H, W), RGB or gray.

    Returns:
        The image.
    """
    if isinstance(image, Tensor):
        array = image.detach().float().cpu().reshape(image.shape[-3:]).permute(1, 2, 0).numpy()
        image = np.broadcast_to(array[:, :, ::-1], (*array.shape[:2], 3))
    return np.ascontiguousarray(np.rint(image.clip(0, 1) * 255).astype(np.uint8))


def measured(image: Pixels, truth: Pixels, border: int) -> tuple[float, float]:
    """PSNR (dB) and SSIM of the Y channel, by BasicSR's own functions.

    Args:
        image: The image.
        truth: The original, of the same size.
        border: Pixels left out at each edge.

    Returns:
        PSNR and SSIM; SSIM is NaN for an image smaller than :data:`SMALLEST`.
    """
    is_small = min(image.shape[:2]) - 2 * border < SMALLEST
    return psnr(image, truth, border), (math.nan if is_small else float(
        calculate_ssim(image, truth, crop_border=border, test_y_channel=True)))


def psnr(image: Pixels, truth: Pixels, border: int) -> float:
    """PSNR (dB) alone, as :func:`measured` computes it; NaN for an image that is all border."""
    if min(image.shape[:2]) <= 2 * border:
        return math.nan
    return float(calculate_psnr(image, truth, crop_border=border, test_y_channel=True))


def draw(strips: Sequence[Strip], note: str = '') -> Pixels:
    """Draw strips below each other.

    Args:
        strips: The strips, all with the same number of panels.
        note: A line of text at the bottom.

    Returns:
        The picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    columns = 1 + max(len(strip.panels) for strip in strips)
    figure = Figure(figsize=(2 * columns, 2.4 * len(strips) + 0.4 * bool(note)), dpi=120, layout='constrained')
    axes = figure.subplots(len(strips), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, strip in zip(axes, strips):
        shown, factor = _reduced(strip.whole)
        line[0].imshow(shown[:, :, ::-1])
        line[0].set_title(_title(strip.name), fontsize=10)
        top, left, height, width = (side * factor for side in strip.box)
        line[0].add_patch(Rectangle((left, top), width, height, fill=False, edgecolor='yellow', lw=2))
        for axis, panel in zip(line[1:], strip.panels):
            axis.imshow(panel.image[:, :, ::-1], interpolation='nearest')
            axis.set_title(f'{_title(panel.label)}\n{panel.note}' if panel.note else _title(panel.label),
                           fontsize=10)
    if note:
        figure.supxlabel(note, fontsize=10)
    return _rendered(figure)


def without_math(text: str) -> str:
    """A text that Matplotlib draws as it is, without mathematics."""
    return text.replace('$', r'\$')


def _title(text: str, longest: int = 22) -> str:
    """A text for a title, cut in its middle if it is long."""
    half = (longest - 1) // 2
    return without_math(text if len(text) <= longest else f'{text[:half]}…{text[-half:]}')


def _reduced(image: Pixels) -> tuple[Pixels, float]:
    """An image of moderate size, and its factor: in a picture it is small anyway."""
    factor = min(1, _LARGEST_WHOLE / max(image.shape[:2]))
    if factor == 1:
        return image, 1
    height, width = (max(round(side * factor), 1) for side in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), factor  # type: ignore[return-value]


def _rendered(figure: Figure) -> Pixels:
    """Draw a figure. Its edges are cut close."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')  # the font lacks letters of some languages
        figure.savefig(file, format='png', bbox_inches='tight', pad_inches=0.15)
    return cv2.imdecode(np.frombuffer(file.getvalue(), np.uint8), cv2.IMREAD_COLOR)  # type: ignore[return-value]


def as_png(picture: Pixels) -> bytes:
    """The content of a PNG file."""
    return cv2.imencode('.png', picture)[1].tobytes()
