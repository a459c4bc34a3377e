"""Images as ``data:`` URIs, and errors in colors on a common scale."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mipkd_plugin.inference.pictures import Pixels
from mipkd_plugin.pages.scenes import Scene

QUALITY = 85
"""Of whole images, which are WebP; details are exact."""
_SHARE = 99.5
_COLORS = 64


def exact(image: Pixels) -> str:
    """An image to the last bit, as a ``data:`` URI (PNG)."""
    return _uri('png', image, [cv2.IMWRITE_PNG_COMPRESSION, 9])


def compressed(image: Pixels) -> str:
    """An image with small losses, as a ``data:`` URI (WebP of :data:`QUALITY`)."""
    return _uri('webp', image, [cv2.IMWRITE_WEBP_QUALITY, QUALITY])


def colored(error: NDArray[np.float32], top: float) -> str:
    """Errors in colors, from dark for 0 to bright for ``top`` and above, as a ``data:`` URI (PNG of 64 colors)."""
    levels = (np.clip(error / top, 0, 1) * (_COLORS - 1)).round().astype(np.uint8)
    image = Image.fromarray(levels, 'P')
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, 'png', optimize=True)
    return _as_uri('png', file.getvalue())


def color_bar() -> str:
    """The colors of :func:`colored`, from 0 at the left to its top at the right."""
    return colored(np.linspace(0, 1, 4 * _COLORS, dtype=np.float32)[None].repeat(12, 0), 1)


@cache
def _palette() -> bytes:
    steps = np.linspace(0, 255, _COLORS).round().astype(np.uint8)
    colors: Pixels = cv2.applyColorMap(steps[None], cv2.COLORMAP_INFERNO)
    return colors[0, :, ::-1].tobytes()


def common_top(scenes: Iterable[Scene]) -> float:
    """The error that gets the brightest color: 99.5 % of all pixels of all maps of whole images are below it.

    Args:
        scenes: The images.

    Returns:
        A whole number of levels of 0 to 255, at least 1.
    """
    errors: Sequence[NDArray[np.float32]] = [shot.error.ravel() for scene in scenes for shot in scene.shots
                                             if shot.error is not None]
    return float(max(np.ceil(np.percentile(np.concatenate(errors), _SHARE)), 1)) if errors else 1.


def _uri(kind: str, image: Pixels, options: list[int]) -> str:
    return _as_uri(kind, cv2.imencode(f'.{kind}', image, options)[1].tobytes())


def _as_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
