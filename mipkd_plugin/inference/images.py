"""Image files of any kind as tensors, and back: gray, alpha, 16 bits, color profile and orientation are kept."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from mipkd_plugin.data.headers import PNG, BrokenImageError, any_size
from mipkd_plugin.data.reading import whole_header
from mipkd_plugin.utils.files import write_bytes

FORMATS = {'png': 'PNG', 'jpg': 'JPEG', 'webp': 'WEBP', 'tif': 'TIFF', 'bmp': 'BMP'}
"""Formats that can be written, by ending; Pillow's name of each."""
_BITS_PER_SAMPLE = 258
_QUALITY = 95  # of jpg and webp (our choice)
_SPACES = (b'RGB ', b'GRAY', b'CMYK', b'Lab ')  # of color profiles
_ALPHA = ('png', 'tif', 'webp')
_TURNS: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1], 5: lambda a: a.swapaxes(0, 1),
    6: lambda a: a[::-1].swapaxes(0, 1), 7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: a[:, ::-1].swapaxes(0, 1)}
"""What makes an image upright, by EXIF orientation."""
_TO_Y = (65.481 / 255, 128.553 / 255, 24.966 / 255)
_TO_CB = (-37.797 / 255, -74.203 / 255, 112.0 / 255)
_TO_CR = (112.0 / 255, -93.786 / 255, -18.214 / 255)
_OFFSETS = (16 / 255, 128 / 255, 128 / 255)  # BT.601 as MATLAB and BasicSR compute it


@dataclass(frozen=True)
class Picture:
    """An image, as it stands in its file.

    Attributes:
        color: (1, 3, H, W), RGB, or (1, 1, H, W) for a gray image; float32 from 0 to 1.
        alpha: Opacity (1, 1, H, W), from 0 to 1; None without any.
        bits: Bits per channel: 8 or 16.
        profile: Its ICC color profile; None without any.
    """

    color: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    profile: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.color.shape[2], self.color.shape[3]


def read_picture(path: Path) -> Picture:
    """Read an image file, upright by its EXIF orientation, as OpenCV and BasicSR see it.

    A palette becomes colors. A transparent color becomes alpha.

    Args:
        path: The file.

    Returns:
        The image.

    Raises:
        BrokenImageError: It is not an image, is damaged, or is of a kind that cannot be enlarged.
        OSError: The file cannot be read.
    """
    data = path.read_bytes()
    header = whole_header(data)
    with any_size(), Image.open(io.BytesIO(data)) as opened:
        mode, profile = opened.mode, opened.info.get('icc_profile')
        is_turned = header.format == 'TIFF'  # its readers turn it
        image = _by_pillow(opened) if is_turned else None
    if image is None:
        image = _decoded(data)
    if image is None:
        raise BrokenImageError('cannot be decoded: it is damaged, or no image that OpenCV reads')
    if image.dtype not in (np.uint8, np.uint16):
        raise BrokenImageError(f'holds numbers of {image.dtype}; save it with 8 or 16 bits per channel')
    if header.orientation in _TURNS and not is_turned:
        image = _TURNS[header.orientation](image)
    if image.shape[:2] != (header.height, header.width):
        raise BrokenImageError(f'has {header.width}×{header.height} pixels by its header, but decodes to '
                               f'{image.shape[1]}×{image.shape[0]}')
    numbers = torch.from_numpy(image.astype(np.float32) / np.float32(np.iinfo(image.dtype).max))
    numbers = (numbers[..., None] if numbers.dim() == 2 else numbers).permute(2, 0, 1)[None]
    color = numbers[:, :1] if numbers.shape[1] == 1 or mode == 'LA' else numbers[:, :3].flip(1)
    alpha = numbers[:, 3:].contiguous() if numbers.shape[1] == 4 else None
    return Picture(color.contiguous(), alpha, 8 * image.dtype.itemsize, profile or None)


def write_picture(path: Path, picture: Picture) -> None:
    """Write an image in the format of its file's ending, as a whole or not at all.

    PNG and TIFF keep 16 bits; the others are rounded to 8. JPEG and WebP are of quality 95. A color profile is written
    only where it is for what is written: not that of CMYK, which OpenCV has made RGB of.

    Args:
        path: The file: png, jpg, webp, tif or bmp.
        picture: The image.

    Raises:
        BrokenImageError: The format cannot hold the image: JPEG and BMP have no alpha, and all but PNG a largest size.
        OSError: The file cannot be written.
    """
    ending = path.suffix.lower().removeprefix('.')
    picture = _with_fitting_profile(picture)
    if picture.alpha is not None and ending not in _ALPHA:
        raise BrokenImageError(f'is transparent, and {ending} holds no alpha; write png, tif or webp')
    if ending == 'png':
        data = _as_png(picture)
    elif ending == 'tif' and picture.bits == 16:
        data = cv2.imencode('.tif', numbers_of(picture))[1].tobytes()
    else:
        data = _as_pillow_writes(replace(picture, bits=8), FORMATS[ending])
    write_bytes(path, data)


def _with_fitting_profile(picture: Picture) -> Picture:
    space = (picture.profile or b'')[16:20]
    written = b'GRAY' if picture.color.shape[1] == 1 and picture.alpha is None else b'RGB '
    return replace(picture, profile=None) if space in _SPACES and space != written else picture


def numbers_of(picture: Picture) -> NDArray[Any]:
    """An image as OpenCV takes it: (H, W) if gray, else (H, W, 3) in BGR, or (H, W, 4) with alpha; rounded."""
    color = picture.color.flip(1)
    if picture.alpha is not None:
        color = torch.cat([color.expand(-1, 3, -1, -1), picture.alpha], 1)
    kind = np.uint16 if picture.bits == 16 else np.uint8
    numbers = (color[0].double().clamp(0, 1) * np.iinfo(kind).max).round().permute(1, 2, 0).numpy().astype(kind)
    return np.ascontiguousarray(numbers[..., 0] if numbers.shape[2] == 1 else numbers)


def enlarge(picture: Picture, run: Callable[[Tensor], Tensor], channels: int) -> Picture:
    """Enlarge an image with a network of three channels or of one.

    Of a gray image, a network of three channels gets three equal ones, and the mean of its output counts. A network
    of one channel gets luma, as BasicSR's ``color: y`` does; the two color differences are enlarged bicubically. Alpha
    goes through the network like a gray image, as in Real-ESRGAN; where it is the same everywhere, it stays so.

    Args:
        picture: The image.
        run: The network: (1, C, H, W) to (1, C, sH, sW).
        channels: C, 3 or 1.

    Returns:
        The enlarged image, of the same kind.
    """
    color = _through(picture.color, run, channels)
    alpha = picture.alpha
    if alpha is not None:
        if bool((alpha == alpha[0, 0, 0, 0]).all()):
            alpha = alpha[:, :, :1, :1].expand(-1, -1, *color.shape[2:])
        else:
            alpha = _through(alpha, run, channels)
    return replace(picture, color=color, alpha=alpha)


def luma(color: Tensor) -> Tensor:
    """Y of RGB (N, 3, H, W), from 16/255 to 235/255, as BasicSR's ``color: y`` computes it; (N, 1, H, W)."""
    return _mixed(color, _TO_Y, _OFFSETS[0])


def _through(image: Tensor, run: Callable[[Tensor], Tensor], channels: int) -> Tensor:
    color = image.expand(-1, 3, -1, -1)
    if channels == 3:
        enlarged = run(color.contiguous())
    else:
        y = run(luma(color)) - _OFFSETS[0]
        cb, cr = (functional.interpolate(_mixed(color, weights, 0), size=y.shape[2:], mode='bicubic')
                  for weights in (_TO_CB, _TO_CR))
        back = np.linalg.inv(np.array([_TO_Y, _TO_CB, _TO_CR])).tolist()
        enlarged = torch.cat([_mixed(torch.cat([y, cb, cr], 1), row, 0) for row in back], 1)
    return enlarged.clamp(0, 1).mean(1, keepdim=True) if image.shape[1] == 1 else enlarged.clamp(0, 1)


def _mixed(color: Tensor, weights: Any, offset: float) -> Tensor:
    return (color * color.new_tensor(weights).view(1, 3, 1, 1)).sum(1, keepdim=True) + offset


def _by_pillow(opened: Image.Image) -> NDArray[Any] | None:
    """A TIFF of 8 bits, which OpenCV multiplies with its alpha, or mixes up if it is gray with alpha; else None."""
    bits = getattr(opened, 'tag_v2', {}).get(_BITS_PER_SAMPLE, (1, ))
    if max(bits if isinstance(bits, tuple) else (bits, )) > 8:
        return None
    try:
        if opened.mode in ('LA', 'RGBA', 'PA', 'RGBa', 'La'):
            return cv2.cvtColor(np.asarray(opened.convert('RGBA')), cv2.COLOR_RGBA2BGRA)
        if opened.mode in ('L', '1'):
            return np.asarray(opened.convert('L'))
        return cv2.cvtColor(np.asarray(opened.convert('RGB')), cv2.COLOR_RGB2BGR)
    except (OSError, SyntaxError, ValueError) as error:
        raise BrokenImageError(f'cannot be decoded ({error})') from None


def _decoded(data: bytes) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None


def _as_png(picture: Picture) -> bytes:
    data: bytes = cv2.imencode('.png', numbers_of(picture))[1].tobytes()
    if picture.profile is None:
        return data
    content = b'iCCP' + b'ICC profile\0\0' + zlib.compress(picture.profile)
    chunk = struct.pack('>I', len(content) - 4) + content + struct.pack('>I', zlib.crc32(content))
    end = len(PNG) + 25  # behind IHDR
    return data[:end] + chunk + data[end:]


def _as_pillow_writes(picture: Picture, name: str) -> bytes:
    numbers = numbers_of(picture)
    if numbers.ndim == 3:
        numbers = cv2.cvtColor(numbers, cv2.COLOR_BGRA2RGBA if numbers.shape[2] == 4 else cv2.COLOR_BGR2RGB)
    stream = io.BytesIO()
    try:
        Image.fromarray(numbers).save(stream, name, icc_profile=picture.profile, quality=_QUALITY)
    except (OSError, ValueError) as error:
        raise BrokenImageError(f'cannot be written as {name} ({error}); write png') from None
    return stream.getvalue()
