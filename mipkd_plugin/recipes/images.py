"""The images of ``mipkd distill``: which files a folder gives, which are held out, and whether LR images fit."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mipkd_plugin.data.headers import BrokenImageError, Header, header_of_file
from mipkd_plugin.preparation.sources import SUFFIXES
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.words import counted, some

MOST_HELD_OUT = 8
_ONE_IN = 10
_HR = 'HR'


class DataError(MipkdError):
    """The images cannot be used; the message says which, why, and what to do."""


@dataclass
class Found:
    """The images of a folder and its subfolders.

    Attributes:
        flag: The option that named the folder.
        root: The folder; of a folder with a subfolder ``HR`` that one.
        files: The images, sorted by path.
        notes: What was decided, for the user.
    """

    flag: str
    root: Path
    files: list[Path]
    notes: list[str] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """The folders that hold the images."""
        return list(dict.fromkeys(path.parent for path in self.files))

    @property
    def is_flat(self) -> bool:
        """Whether all images lie in the folder itself."""
        return self.folders == [self.root]


def find(flag: str, root: Path, out: Path | None = None) -> Found:
    """Find the images of a folder, however deep; a folder with a subfolder ``HR`` means that subfolder.

    Args:
        flag: The option that names the folder, for messages.
        root: The folder.
        out: Folder of the results, which must not lie inside.

    Returns:
        The images.

    Raises:
        DataError: There is no such folder, it holds no images, or it holds ``out``.
    """
    if not os.path.isdir(root):
        what = ('is a file, not a folder' if os.path.exists(root) else
                f'there is no such folder (looked in {Path.cwd()})')
        raise DataError(f'{flag} {root}: {what}.\n   -> Name a folder of images.')
    notes = []
    if os.path.isdir(root / _HR):
        root = root / _HR
        notes.append(f'{flag}: its subfolder {root} is used')
    if out is not None and root.resolve() in (out.resolve(), *out.resolve().parents):
        raise DataError(f'--out {out}: is inside the folder of {flag}, {root}, so its images would be taken for '
                        f'images of {flag}.\n   -> Name a folder outside of it: --out {_outside(out)}')
    files, others = _walk(root)
    if not files:
        there = f' It holds {some(others)}.' if others else ' It is empty.'
        raise DataError(f'{flag} {root}: holds no images ({", ".join(SUFFIXES)}), nor do its subfolders.{there}\n'
                        '   -> Name the folder of the images.')
    found = Found(flag, root, files, notes)
    if not found.is_flat:
        notes.append(f'{flag}: {counted(len(files), "image")} in {counted(len(found.folders), "folder")}, subfolders '
                     'included')
    return found


def _outside(out: Path) -> str:
    return f'../{out.name}'


def _walk(root: Path) -> tuple[list[Path], list[str]]:
    files: list[Path] = []
    others: list[Path] = []
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith('.'))
        for name in sorted(name for name in names if not name.startswith('.')):
            path = Path(folder) / name
            (files if path.suffix.lower() in SUFFIXES else others).append(path)
    return sorted(files), [path.name for path in others] + [
        folder.name for folder in sorted(root.iterdir()) if folder.is_dir()]


def same_images(files: Iterable[Path], others: Iterable[Path]) -> list[Path]:
    """Which files have a copy, byte by byte, among the others.

    Args:
        files: Files to look at.
        others: Files to compare them with.

    Returns:
        Those of the first that are also among the second.

    Raises:
        OSError: A file cannot be read.
    """
    by_size: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        by_size[path.stat().st_size].append(path)
    known: dict[Path, str] = {}

    def digest(path: Path) -> str:
        if path not in known:
            known[path] = hashlib.sha256(path.read_bytes()).hexdigest()
        return known[path]

    found = []
    for path in files:
        candidates = by_size.get(path.stat().st_size, ())
        if any(os.path.samefile(path, other) or digest(path) == digest(other) for other in candidates):
            found.append(path)
    return found


def held_out(files: Sequence[Path]) -> list[Path]:
    """The images to validate on if the user names none: whole images, evenly spaced, one in ten and at most eight.

    Args:
        files: All images, sorted.

    Returns:
        Those to hold out.

    Raises:
        DataError: There are not enough images.
    """
    if len(files) < 2:
        raise DataError(f'--hr: holds one image, {files[0]}, and some must be held out to see how good the student '
                        'is.\n   -> Add images, or name others to validate on: --val DIR')
    count = min(MOST_HELD_OUT, max(1, len(files) // _ONE_IN))
    step = len(files) / count
    return [files[int((number + 0.5) * step)] for number in range(count)]


def headers(files: Sequence[Path]) -> dict[Path, Header]:
    """The headers of images.

    Args:
        files: The images.

    Returns:
        The header of each.

    Raises:
        DataError: Some cannot be read; the message names them.
    """
    found, problems = {}, []
    for path in files:
        try:
            found[path] = header_of_file(path, every_chunk=False)
        except BrokenImageError as error:
            problems.append(f'{path}: {error}')
        except OSError as error:
            problems.append(f'{path}: cannot be read ({error.strerror or error})')
    if problems:
        more = f'\n… and {len(problems) - 20} more' if len(problems) > 20 else ''
        raise DataError('\n'.join(problems[:20]) + f'{more}\n   -> Fix or remove these files.')
    return found


def template_of(hr: Sequence[Path], lr: Sequence[Path], scale: int) -> str | None:
    """How LR images are named after their HR images: ``{}``, or ``{}x4`` as in DIV2K; None if neither fits."""
    names = {path.stem for path in lr}
    for template in ('{}', f'{{}}x{scale}'):
        if all(template.format(path.stem) in names for path in hr):
            return template
    return None


def scale_between(hr: Header, lr: Header, cropped: bool) -> float | None:
    """The scale between two images of a pair, or None if their sides do not agree on one.

    Args:
        hr: Header of the HR image.
        lr: Header of the LR image.
        cropped: Whether the HR image may be larger by less than the scale, as in validation.

    Returns:
        The scale; a fraction if the sizes are no multiples.
    """
    tall, wide = hr.height / lr.height, hr.width / lr.width
    whole = int(tall)
    if cropped and 0 < whole == int(wide) and (hr.height // whole, hr.width // whole) == (lr.height, lr.width):
        return whole
    return tall if abs(tall - wide) < 1e-9 else None
