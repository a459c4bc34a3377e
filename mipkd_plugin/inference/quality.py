"""PSNR and SSIM of networks on a folder of images, as BasicSR's validation measures them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from basicsr.metrics import calculate_psnr, calculate_ssim
from basicsr.utils import img2tensor, tensor2img
from numpy.typing import NDArray
from torch import Tensor

from mipkd_plugin.data.headers import SUFFIXES, BrokenImageError, header_of_file
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample, bicubic_upsample
from mipkd_plugin.data.reading import decode
from mipkd_plugin.inference.images import luma
from mipkd_plugin.inference.tiles import Enlarger
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.words import some

CONVENTION = ('Y channel, border of scale pixels cut off, rounded to 8 bits: calculate_psnr and calculate_ssim of '
              'BasicSR with test_y_channel')
BICUBIC = 'bicubic'
_WINDOW = 11  # of SSIM
_CROPPED = 16  # pixels of an image that its low-resolution image may leave out: people crop to multiples of 12


class QualityError(MipkdError):
    """A folder of images cannot be measured on."""


@dataclass(frozen=True)
class Quality:
    """PSNR and SSIM, the mean over images.

    Attributes:
        psnr: In dB.
        ssim: From -1 to 1.
        images: (PSNR, SSIM) of each image by the name of its file.
    """

    psnr: float
    ssim: float
    images: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class ImagePair:
    """A high-resolution image and the low-resolution image of it.

    Attributes:
        name: Name of the file.
        hr: (1, 3, sH, sW), RGB, from 0 to 1, of whole multiples of the scale.
        lr: (1, 3, H, W), likewise.
    """

    name: str
    hr: Tensor
    lr: Tensor


def pairs_of(hr: Path, scale: int, lr: Path | None = None) -> list[tuple[Path, Path | None]]:
    """The images of a folder, and the low-resolution image of each.

    Args:
        hr: Folder of high-resolution images; its subfolders are not searched.
        scale: Scale factor.
        lr: Folder of low-resolution images of the same names, or with ``x2`` behind the name as in DIV2K; None to
            make them.

    Returns:
        The files, sorted by name; the second is None where it is to be made.

    Raises:
        QualityError: A folder cannot be read, holds no images, or lacks partners.
    """
    files = images_in(hr)
    if lr is None:
        return [(file, None) for file in files]
    by_stem = {file.stem: file for file in images_in(lr)}
    found = [by_stem.get(file.stem, by_stem.get(f'{file.stem}x{scale}')) for file in files]
    lacking = [file.name for file, partner in zip(files, found) if partner is None]
    if lacking:
        raise QualityError(f'{lr}: holds no image for {some(lacking)} of {hr}; low-resolution images have the name of '
                           f'their high-resolution image, or x{scale} behind it')
    return list(zip(files, found))


def images_in(folder: Path) -> list[Path]:
    """The images of a folder by their ending.

    Returns:
        The files, sorted by name.

    Raises:
        QualityError: The folder cannot be read, or holds none.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise QualityError(f'{folder}: cannot be read: {error.strerror}; name a folder of images') from error
    files = _images_among(entries)
    if not files:
        inner = [str(path) for path in entries if _holds_images(path)]
        raise QualityError(f'{folder}: holds no images (subfolders are not searched; endings: '
                           f'{" ".join(SUFFIXES)}); ' + (
            f'name the folder that holds them: {some(inner)}' if inner else 'name a folder that holds some'))
    return files


def _images_among(paths: Iterable[Path]) -> list[Path]:
    return [path for path in paths if path.suffix.lower() in SUFFIXES and not path.name.startswith('.')
            and path.is_file()]


def _holds_images(folder: Path) -> bool:
    try:
        return bool(_images_among(folder.iterdir()))
    except OSError:  # a file, or a folder of others
        return False


def check_pairs(hr: Path, scale: int, lr: Path | None = None) -> None:
    """Look at the headers of all images of a folder before the work; arguments as in :func:`pairs_of`.

    Raises:
        QualityError: An image cannot be used.
    """
    for file, partner in pairs_of(hr, scale, lr):
        _require_fit(file, partner, _size(file), None if partner is None else _size(partner), scale)


def _size(path: Path) -> tuple[int, ...]:
    with _named(path):
        return header_of_file(path, every_chunk=False)[:2]


def _require_fit(file: Path, partner: Path | None, high: Sequence[int], low: Sequence[int] | None, scale: int) -> None:
    if min(high[:2]) < (least := _WINDOW + 2 * scale):
        raise QualityError(f'{file}: has {high[1]}×{high[0]} pixels, and PSNR and SSIM need '
                           f'{least}×{least} or more; take it out of the folder')
    if low is None:
        return
    sides = [(side, scale * small) for side, small in zip(high[:2], low[:2])]
    is_small = any(side < wanted for side, wanted in sides)
    if not is_small and all(side <= max(wanted + _CROPPED, 1.2 * wanted) for side, wanted in sides):
        return
    why = 'they do not fit' if is_small else f'give low-resolution images of x{scale}'  # BasicSR crops in silence
    raise QualityError(f'{partner}: has {low[1]}×{low[0]} pixels, which are {scale * low[1]}×{scale * low[0]} at '
                       f'scale {scale}, and {file} has {high[1]}×{high[0]}; {why}')


def read_pairs(hr: Path, scale: int, lr: Path | None = None) -> Iterator[ImagePair]:
    """Read a folder of high-resolution images, with low-resolution images as :func:`pairs_of` finds them.

    A low-resolution image that is to be made is made as MATLAB's ``imresize`` does. High-resolution images are cropped
    to it, as in BasicSR's validation.

    Yields:
        Each pair, in turn.

    Raises:
        QualityError: An image cannot be used.
    """
    for file, partner in pairs_of(hr, scale, lr):
        high = _decoded(file)
        _require_fit(file, partner, high.shape, None, scale)
        low = bicubic_downsample(high, scale) if partner is None else _decoded(partner)
        _require_fit(file, partner, high.shape, low.shape, scale)
        height, width = (scale * side for side in low.shape[:2])
        yield ImagePair(file.name, _tensor(high[:height, :width]), _tensor(low))


def measure(networks: Mapping[str, Enlarger], pairs: Iterator[ImagePair], scale: int,
            on_image: Callable[[ImagePair, dict[str, Tensor]], None] | None = None) -> dict[str, Quality]:
    """Measure networks on pairs of images, and bicubic enlargement beside them.

    Args:
        networks: Networks by name; :data:`BICUBIC` names no network.
        pairs: From :func:`read_pairs`.
        scale: Scale factor.
        on_image: Called behind each image with the pair and the enlarged images by name, not rounded.

    Returns:
        The quality of each network and of ``bicubic``, by name.

    Raises:
        QualityError: An image cannot be used, or there is none.
    """
    scores: dict[str, dict[str, tuple[float, float]]] = {name: {} for name in (BICUBIC, *networks)}
    for pair in pairs:
        outputs = {BICUBIC: bicubic(pair.lr, scale)}
        for name, network in networks.items():
            outputs[name] = network(pair.lr if network.channels == 3 else luma(pair.lr))
        for name, output in outputs.items():
            scores[name][pair.name] = score(output, pair.hr, scale)
        if on_image is not None:
            on_image(pair, outputs)
    if not scores[BICUBIC]:
        raise QualityError('there are no images to measure on')
    means = {name: [statistics.fmean(column) for column in zip(*images.values())] for name, images in scores.items()}
    return {name: Quality(means[name][0], means[name][1], images) for name, images in scores.items()}


def score(output: Tensor, hr: Tensor, scale: int) -> tuple[float, float]:
    """PSNR and SSIM of one image, as BasicSR's validation measures them.

    Args:
        output: (1, 3, H, W), RGB, from 0 to 1; or (1, 1, H, W), luma.
        hr: (1, 3, H, W), RGB.
        scale: Number of pixels to cut off at the border.

    Returns:
        PSNR in dB, and SSIM.
    """
    images = [tensor2img([image]) for image in (output, hr if output.shape[1] == 3 else luma(hr))]
    options = {'crop_border': scale, 'test_y_channel': output.shape[1] == 3}
    return float(calculate_psnr(*images, **options)), float(calculate_ssim(*images, **options))


def bicubic(lr: Tensor, scale: int) -> Tensor:
    """Bicubic enlargement as MATLAB computes it for 8 bits: (1, 3, H, W) to (1, 3, sH, sW), from 0 to 1."""
    return _tensor(bicubic_upsample(tensor2img([lr]), scale))


def _decoded(path: Path) -> NDArray[np.uint8]:
    with _named(path):
        return decode(path.read_bytes())


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors of reading an image name it."""
    try:
        yield
    except OSError as error:
        raise QualityError(f'{path}: cannot be read: {error.strerror}') from error
    except BrokenImageError as error:
        raise QualityError(f'{path}: {error}; restore it, or take it out of the folder') from error


def _tensor(image: NDArray[Any]) -> Tensor:
    tensor: Tensor = img2tensor(image.astype(np.float32) / 255., bgr2rgb=True, float32=True)
    return torch.as_tensor(tensor)[None]
