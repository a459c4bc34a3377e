"""Check that the sizes of HR-LR pairs fit the scale, and that no EXIF orientation turns only one image of a pair."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import lmdb
import numpy as np
from numpy.typing import NDArray

from mipkd_plugin.config.examples import fitting
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.data.headers import Header
from mipkd_plugin.data.stores import Found, Stored, contents
from mipkd_plugin.utils.words import some

_MOST_COMPARED = 20  # pairs whose pixels are compared; one tool made them all
_CLEARLY = 0.8


class Pair(NamedTuple):
    """An HR image and its LR image.

    Attributes:
        name: Name of the HR image.
        hr: The HR image, with its header if it can be read.
        lr: The same of the LR image.
    """

    name: str
    hr: Found
    lr: Found


def check_sizes(ctx: Context, where: str, pairs: Sequence[Pair], gt_size: Any, hr_root: Path) -> None:
    """Check the sizes of all pairs of a data set; images without a header are passed over.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        pairs: Its pairs.
        gt_size: Side of the HR patch.
        hr_root: Folder or LMDB of the HR images.
    """
    scale = ctx.scale or 1
    training = where == 'datasets.train'
    known = [(pair, pair.hr.header, pair.lr.header) for pair in pairs if pair.hr.header and pair.lr.header]
    wrong = [(pair.name, hr, lr) for pair, hr, lr in known
             if ((hr.height, hr.width) != (lr.height * scale, lr.width * scale) if training else
                 (lr.height, lr.width) != (hr.height // scale, hr.width // scale))]
    if wrong:
        name, hr, lr = wrong[0]
        other = hr_root.with_name(f'{hr_root.stem}_x{scale}{hr_root.suffix}')
        remedy = f'set dataroot_gt to {other}, which mipkd prepare made for this scale' if os.path.isdir(other) else (
            'create both with mipkd prepare, which crops HR to a multiple of the scale, or fix scale')
        fix: dict[str, Any] = {f'{where}.dataroot_gt': str(other)} if other.is_dir() else {}
        ctx.add(where, f'scale {scale} does not fit {len(wrong)} of {len(known)} pairs, first {name}: HR '
                f'{_size(hr)}, LR {_size(lr)}', remedy, fix)
    if training and isinstance(gt_size, int):
        small = [pair.name for pair, hr, _ in known if min(hr.height, hr.width) < gt_size]
        if small:
            side = fitting(ctx, min(min(hr.height, hr.width) for _, hr, _ in known))
            fix = {f'{where}.gt_size': side} if side else {}
            ctx.add(f'{where}.gt_size', f'{gt_size} is larger than {len(small)} of {len(known)} HR images: '
                    f'{some(small)}', f'{in_words(fix)}, or remove these images' if fix else 'remove these images', fix)
    if ctx.clean(where):
        _check_turned(ctx, where, [pair for pair, hr, lr in known if hr.orientation != lr.orientation])


def _size(header: Header) -> str:
    turned = f' (turned by its EXIF orientation {header.orientation})' if header.orientation > 1 else ''
    return f'{header.height}×{header.width}{turned}'


def _check_turned(ctx: Context, where: str, pairs: Sequence[Pair]) -> None:
    """Check pairs of one size and two orientations: OpenCV turns each image by its own when it reads it.

    A tool that makes LR images from the stored pixels and drops the orientation leaves a pair that does not match.
    """
    turned = [pair for pair in pairs[:_MOST_COMPARED] if _match_only_as_stored(pair.hr, pair.lr)]
    if not turned:
        return
    hr, lr = (found.header.orientation for found in turned[0][1:] if found.header)
    ctx.add(where, f'{some([str(pair.hr.image) for pair in turned])}: the HR image has the EXIF orientation {hr}, the '
            f'LR image {lr}. Reading turns them differently, so they no longer match',
            'make both with mipkd prepare, which turns the pixels and drops the orientation')


@cache
def _match_only_as_stored(hr: Found, lr: Found) -> bool:
    """Whether HR and LR are alike as they are stored, rather than as they are read."""
    try:
        data = [content for _, content in contents([hr.image, lr.image])]
    except (OSError, lmdb.Error):
        return False
    flag = cv2.IMREAD_GRAYSCALE
    read, stored = ([_decoded(content, flags) for content in data]
                    for flags in (flag, flag | cv2.IMREAD_IGNORE_ORIENTATION))
    return min(_difference(*stored), _difference(stored[0], read[1]), _difference(read[0], stored[1])
               ) < _CLEARLY * _difference(*read)


def _decoded(data: bytes, flags: int) -> NDArray[Any] | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _difference(hr: NDArray[Any] | None, lr: NDArray[Any] | None) -> float:
    """Mean difference of an LR image and its HR image made as small."""
    if hr is None or lr is None or (hr.shape[0] > hr.shape[1]) != (lr.shape[0] > lr.shape[1]):
        return 255.0
    small = cv2.resize(hr, lr.shape[::-1], interpolation=cv2.INTER_AREA)
    return float(np.abs(small.astype(np.float32) - lr).mean())


def images_of(pairs: Sequence[Pair]) -> list[Stored]:
    """All images of some pairs."""
    return [found.image for pair in pairs for found in (pair.hr, pair.lr)]
