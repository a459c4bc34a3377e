"""The source images of ``mipkd prepare``: which files are read, and which of them cannot become a pair."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from mipkd_plugin.data.headers import BrokenImageError, Header, any_size, header_of_file
from mipkd_plugin.utils.cores import cores
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.words import some

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
_MOST_NAMED = 20


class PrepareError(MipkdError):
    """The data cannot be prepared; the message says what is wrong, where, and how to fix it."""


@dataclass(frozen=True)
class Source:
    """A source image.

    Attributes:
        path: The file.
        size: Its length in bytes.
        changed: When it was changed, in ns.
        header: Its header.
    """

    path: Path
    size: int
    changed: int
    header: Header

    @property
    def stem(self) -> str:
        """Name without its ending; the name of what is made from it."""
        return self.path.stem


def find_images(folders: Sequence[Path], only: Collection[Path] | None = None) -> tuple[list[Path], list[Path]]:
    """List the image files of all folders.

    Args:
        folders: The folders.
        only: Images of the folders to list; None lists all.

    Returns:
        The files, sorted by name within each folder; and what is left out: files of other kinds, and subfolders.

    Raises:
        PrepareError: A folder is missing or holds no images, or two files differ only in their suffix.
    """
    files: dict[str, Path] = {}
    left_out: list[Path] = []
    for folder in folders:
        if not os.path.isdir(folder):
            raise PrepareError(f'--hr {folder}: there is no such folder (looked in {Path.cwd()}).')
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith('.'))
        found = [path for path in entries if path.suffix.lower() in SUFFIXES and os.path.isfile(path)
                 and (only is None or path in only)]
        others = [path for path in entries if path not in set(found)]
        if not found:
            there = f' It holds {some([path.name for path in others])}.' if others else ''
            raise PrepareError(f'--hr {folder}: holds no images ({", ".join(SUFFIXES)}); '
                               f'subfolders are not searched.{there}')
        left_out += others
        for path in found:
            if path.stem in files:
                raise PrepareError(f'{files[path.stem]} and {path} would become the same file; rename one of them.')
            files[path.stem] = path
    return list(files.values()), left_out


def read_sources(paths: Iterable[Path], scale: int, lmdb: bool, listed: bool = False) -> list[Source]:
    """Read the headers of all images, and refuse those that cannot become a pair.

    Args:
        paths: The images.
        scale: Scale factor.
        lmdb: Whether the names of the files become keys of an LMDB.
        listed: Whether they become lines of the list that ``RealESRGANDataset`` reads.

    Returns:
        The images.

    Raises:
        PrepareError: Some cannot be used; the message names them, says why and what to do.
    """
    sources, problems = [], []
    for path in paths:
        try:
            status = path.stat()
            source = Source(path, status.st_size, status.st_mtime_ns, _usable_header(path))
        except PrepareError as error:
            problems.append(str(error))
            continue
        except OSError as error:
            problems.append(f'{path}: cannot be read ({error.strerror or error}); fix or remove the file.')
            continue
        sources.append(source)
        problems += refusals(source, scale, lmdb, listed)
    if problems:
        more = [f'… and {len(problems) - _MOST_NAMED} more'] if len(problems) > _MOST_NAMED else []
        raise PrepareError('\n'.join(problems[:_MOST_NAMED] + more))
    return sources


def refusals(source: Source, scale: int, lmdb: bool, listed: bool) -> list[str]:
    """Why an image cannot become a pair of this scale, an entry of an LMDB, or a line of a list."""
    found, header = [], source.header
    if min(header.height, header.width) < scale:
        found.append(f'{source.path}: {header.width}x{header.height} pixels are too few for x{scale}; '
                     'remove the file.')
    if lmdb and ('.' in source.stem or not source.stem.isascii() or not source.stem.isprintable()):
        found.append(f'{source.path}: an LMDB key must be printable ASCII without "." (BasicSR cuts the key there); '
                     'rename the file, or leave out --lmdb.')
    better = ''.join(letter if letter.isprintable() and not letter.isspace() else '_' for letter in source.path.name)
    if listed and better != source.path.name:
        found.append(f'{source.path}: a name must have no spaces and only printable characters (BasicSR cuts the lines '
                     f'of meta_info at a space); rename the file, for instance to {better}.')
    return found


def _usable_header(path: Path) -> Header:
    """The header of an image that can become 8-bit RGB without loss."""
    try:
        header = header_of_file(path)
        with any_size(), Image.open(path) as image:
            mode, transparent = image.mode, 'transparency' in image.info
    except BrokenImageError as error:
        raise PrepareError(f'{path}: cannot be read (it {error}); fix or remove the file.') from error
    except (OSError, SyntaxError, ValueError) as error:
        raise PrepareError(f'{path}: cannot be read ({error}); fix or remove the file.') from error
    if mode.startswith('I') or header.bits == 16:
        raise PrepareError(f'{path}: has 16 bits per channel; convert it to 8 bits first.')
    if mode in ('RGBA', 'LA', 'PA') or transparent:
        raise PrepareError(f'{path}: has an alpha channel; remove it first.')
    if mode not in ('1', 'L', 'P', 'RGB'):
        raise PrepareError(f'{path}: is stored as {mode}; convert it to 8-bit RGB first.')
    return header


def digest(data: bytes) -> str:
    """The SHA-256 of some bytes."""
    return hashlib.sha256(data).hexdigest()


def digests(sources: Sequence[Source]) -> dict[str, str]:
    """The SHA-256 of each file, with a progress bar, as this reads all of them.

    Args:
        sources: The images.

    Returns:
        The digests by stem.

    Raises:
        OSError: A file cannot be read.
    """
    if not sources:
        return {}
    with ThreadPoolExecutor(cores()) as pool:
        found = pool.map(lambda source: digest(source.path.read_bytes()), sources)
        return {source.stem: value for source, value in
                zip(sources, tqdm(found, 'compare', len(sources), unit='image'), strict=True)}
