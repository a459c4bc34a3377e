"""Enlarge a folder of images: where each result goes, what is there already, and what went wrong."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from mipkd_plugin.data.headers import BrokenImageError
from mipkd_plugin.inference.images import Picture, enlarge, read_picture, write_picture
from mipkd_plugin.inference.memory import LARGE, free_memory, memory_for
from mipkd_plugin.inference.tiles import EnlargeError, Enlarger, MemoryLackError
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.files import write_text
from mipkd_plugin.utils.locks import TakenError, alone
from mipkd_plugin.utils.words import gigabytes, some

RECORD = 'upscale.json'
"""What made the images of a folder, and of which images, beside them."""
_LOCK = '.upscale.lock'


class UpscaleError(MipkdError):
    """A folder cannot be filled with enlarged images."""


def outputs_for(files: list[Path], out: Path, ending: str) -> dict[Path, Path]:
    """Where each image goes: ``a.jpg`` to ``a.png``; beside an ``a.tif``, both keep their ending: ``a.jpg.png``.

    Args:
        files: The images, of different names.
        out: The folder of the results.
        ending: Format of the results.

    Returns:
        Result by image; all are different.
    """
    names = {file: file.stem for file in files}
    while True:  # a name with its ending may be that of another image without: a.jpg.png
        times = Counter(name.casefold() for name in names.values())
        longer = {file: file.name for file, name in names.items() if times[name.casefold()] > 1 and name != file.name}
        if not longer:
            return {file: out / f'{name}.{ending}' for file, name in names.items()}
        names.update(longer)


def describe(weights: Path, scale: int, ending: str, half: bool) -> dict[str, Any]:
    """What makes the images: the content of :data:`RECORD`."""
    with weights.open('rb') as stream:
        digest = hashlib.file_digest(stream, 'sha256') if hasattr(hashlib, 'file_digest') else hashlib.sha256(
            stream.read())
    return {'weights': weights.name, 'sha256': digest.hexdigest(), 'scale': scale, 'format': ending, 'fp16': half}


@contextmanager
def filling(out: Path, made_by: dict[str, Any], results: dict[Path, Path]) -> Iterator[dict[Path, Path]]:
    """Make the folder of the results, or go on in it; inside the block, nobody else fills it.

    Args:
        out: The folder.
        made_by: From :func:`describe`.
        results: Result by image.

    Yields:
        What is still to be made, result by image.

    Raises:
        UpscaleError: The folder holds results of other weights or of other images, another process fills it, or it
            cannot be written.
    """
    _known(out, made_by, results)  # refuses before anything is written
    with ExitStack() as stack:
        try:
            out.mkdir(parents=True, exist_ok=True)
            with suppress(OSError):  # the disk has no locks: work all the same
                stack.enter_context(alone(out / _LOCK, keep=False))
            known = _known(out, made_by, results)
            to_do = {file: result for file, result in results.items() if not os.path.lexists(result)}
            known.update((result.name, _state(file)) for file, result in to_do.items())
            write_text(out / RECORD, json.dumps({**made_by, 'images': known}, indent=1, ensure_ascii=False) + '\n')
        except TakenError as error:
            raise UpscaleError(f'{out}: another mipkd upscale is filling this folder ({error.holder}); wait until it '
                               'has finished, or give another folder as --out') from error
        except OSError as error:
            raise UpscaleError(f'{error.filename or out}: cannot be written: {error.strerror}; give another folder as '
                               '--out') from error
        yield to_do


def _known(out: Path, made_by: dict[str, Any], results: dict[Path, Path]) -> dict[str, Any]:
    """Check that what a folder holds is of the same weights and images.

    Returns:
        Name, size and time of each image by the name of its result, as :data:`RECORD` has them.

    Raises:
        UpscaleError: It is not.
    """
    try:
        found = json.loads((out / RECORD).read_text(encoding='utf-8'))
    except FileNotFoundError:
        found = None
    except (OSError, ValueError) as error:
        raise UpscaleError(f'{out / RECORD}: cannot be read ({getattr(error, "strerror", None) or error}); give '
                           'another folder as --out') from error
    there = {file: result for file, result in results.items() if os.path.lexists(result)}
    if found is None:
        if there:
            raise UpscaleError(f'{out}: holds {some(path.name for path in there.values())} already, and nothing says '
                               'what made them; give another folder as --out')
        return {}
    images = found.pop('images', {}) if isinstance(found, dict) else None
    if found != made_by or not isinstance(images, dict):
        other = [f'{key} {found.get(key)!r}, now {value!r}' for key, value in made_by.items()
                 if found.get(key) != value] if isinstance(found, dict) else []
        raise UpscaleError(f'{out}: holds images made in another way ({"; ".join(other) or RECORD}); give another '
                           'folder as --out')
    changed = [result.name for file, result in there.items() if images.get(result.name) != _state(file)]
    if changed:
        raise UpscaleError(f'{out}: holds {some(changed)}, made of another image of that name, or of this one before '
                           'it was changed; give another folder as --out, or remove the old results')
    return images


def _state(file: Path) -> dict[str, Any] | None:
    """What tells an image from another one, without reading it; None if it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return {'file': file.name, 'bytes': found.st_size, 'time': found.st_mtime_ns}


def upscale(file: Path, result: Path, enlarger: Enlarger, on_tile: Callable[[int, int], None] | None = None) -> None:
    """Enlarge one image file.

    Args:
        file: The image.
        result: Where the result goes; it is written whole or not at all.
        enlarger: The network.
        on_tile: Called behind each tile with the number of tiles done, and of all.

    Raises:
        UpscaleError: The image cannot be read or enlarged, or its format cannot hold the result; others may do.
        OSError: The result cannot be written.
    """
    try:
        picture = read_picture(file)
    except BrokenImageError as error:
        raise UpscaleError(f'{file}: {error}') from error
    except OSError as error:
        raise UpscaleError(f'{file}: cannot be read: {error.strerror or error}') from error
    _require_memory(file, picture, enlarger)
    try:
        enlarged = enlarge(picture, lambda lq: _finite(enlarger(lq, on_tile)), enlarger.channels)
        write_picture(result, enlarged)
    except MemoryLackError as error:
        raise UpscaleError(f'{file}: {error}; {_smaller(enlarger)}') from error
    except (EnlargeError, BrokenImageError) as error:
        raise UpscaleError(f'{file}: {error}') from error


def _require_memory(file: Path, picture: Picture, enlarger: Enlarger) -> None:
    """Refuse a large image that would fill the memory: the system may end the program without a word."""
    height, width = picture.size
    if enlarger.tile is None:
        wanted = height, width
    else:
        most = enlarger.tile + 2 * enlarger.context
        wanted = min(height, most), min(width, most)
    if wanted[0] * wanted[1] < LARGE:
        return
    needed = memory_for(enlarger.net, (enlarger.channels, *wanted), enlarger.multiple)
    free = free_memory(enlarger.device)
    if free is not None and needed > free:
        raise UpscaleError(f'{file}: {width}×{height} pixels would take about {gigabytes(needed)} of memory, and '
                           f'{gigabytes(free)} are free; {_smaller(enlarger)}')


def _smaller(enlarger: Enlarger) -> str:
    return 'use --tile 256' if enlarger.tile is None else f'use a smaller tile than --tile {enlarger.tile}'


def _finite(image: torch.Tensor) -> torch.Tensor:
    if not bool(torch.isfinite(image).all()):
        raise EnlargeError('the network makes numbers that are not finite of it; in half precision, leave out --fp16')
    return image
