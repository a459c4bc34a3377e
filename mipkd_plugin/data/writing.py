"""Writing images: a full disk is an error with the file's name and the reason.

BasicSR's ``imwrite`` says "Failed in writing images." for every reason (no BasicSR issue known), because OpenCV tells
none. :func:`apply` replaces it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import basicsr.utils.img_util as img_util
import cv2
from numpy.typing import NDArray

from mipkd_plugin.utils.files import remove
from mipkd_plugin.utils.replacing import replace_everywhere


def imwrite(img: NDArray[Any], file_path: str, params: Sequence[int] | None = None, auto_mkdir: bool = True) -> None:
    """Write an image, as BasicSR's function of this name does.

    Args:
        img: (H, W, C), BGR.
        file_path: The file; its ending gives the format.
        params: Parameters of OpenCV's encoder.
        auto_mkdir: Whether to make the folder.

    Raises:
        OSError: The file cannot be written; nothing is left of it.
        cv2.error: OpenCV does not know the format.
    """
    path = Path(file_path)
    if auto_mkdir:
        path.parent.mkdir(parents=True, exist_ok=True)
    content = cv2.imencode(path.suffix, img, list(params or ()))[1]
    try:
        path.write_bytes(content.tobytes())
    except OSError as error:
        remove(path)
        error.filename = error.filename or str(path)
        raise


def apply() -> None:
    """Replace BasicSR's function wherever it has been imported."""
    plain = img_util.imwrite
    replace_everywhere('basicsr', 'imwrite', plain, imwrite)
