"""The images of a data set on disk, in a folder or an LMDB: their headers and their content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import lmdb

from mipkd_plugin.data.headers import BrokenImageError, Header, header_of_bytes, header_of_file


class Stored(NamedTuple):
    """An image in a folder or in an LMDB.

    Attributes:
        root: The folder or the LMDB.
        name: Name of the file, or key.
    """

    root: Path
    name: str

    def __str__(self) -> str:
        return f'{self.name} of {self.root}' if self.root.suffix == '.lmdb' else str(self.root / self.name)


class Found(NamedTuple):
    """An image and its header, or the reason why it has none."""

    image: Stored
    header: Header | None
    reason: str = ''


_OPEN: WeakValueDictionary[tuple[str, int], lmdb.Environment] = WeakValueDictionary()


def shared_lmdb(path: str, **flags: Any) -> lmdb.Environment:
    """Open an LMDB for reading, or take the one that is open already: a process may open an LMDB only once.

    Args:
        path: Its folder.
        flags: Arguments of ``lmdb.open``.

    Returns:
        The LMDB; it is closed when nobody uses it any more.

    Raises:
        lmdb.Error: It cannot be opened.
        OSError: There is none.
    """
    key = _key(Path(path))
    found = _OPEN.get(key)
    if found is None:
        found = _OPEN[key] = lmdb.open(path, **flags)
    return found


def _key(root: Path) -> tuple[str, int]:
    """One LMDB has one key, however its path is written, and a new version of it has another."""
    return str(root.resolve()), (root / 'data.mdb').stat().st_ino


@contextmanager
def lmdb_at(root: Path) -> Iterator[lmdb.Environment]:
    """Open an LMDB for reading as BasicSR does, and close it after the block.

    Args:
        root: Its folder.

    Yields:
        The LMDB.

    Raises:
        lmdb.Error: It cannot be opened.
        OSError: There is none.
    """
    found = _OPEN.get(_key(root))
    if found is not None:
        yield found
        return
    with lmdb.open(str(root), readonly=True, lock=False, readahead=False) as environment:
        yield environment


def in_folder(root: Path, names: Iterable[str]) -> list[Found]:
    """The headers of images in a folder; a file is read again only if it has changed.

    Args:
        root: The folder.
        names: Names of the images.

    Returns:
        The images in the same order.
    """
    return [_of_version(Stored(root, name), *_version(root / name)) for name in names]


def in_lmdb(root: Path) -> dict[str, Found]:
    """The headers of all images of an LMDB; it is read again only if it has changed.

    Args:
        root: Its folder.

    Returns:
        The images by key.

    Raises:
        lmdb.Error: It cannot be opened.
    """
    return _of_lmdb(root, *_version(root / 'data.mdb'))


def contents(images: list[Stored]) -> Iterator[tuple[Stored, bytes]]:
    """The content of each image, one after the other; empty for a key that an LMDB does not hold.

    Args:
        images: The images.

    Yields:
        An image, and the content of its file.

    Raises:
        lmdb.Error: An LMDB cannot be opened.
        OSError: A file cannot be read.
    """
    for root in dict.fromkeys(image.root for image in images):
        names = [image.name for image in images if image.root == root]
        if root.suffix == '.lmdb':
            with lmdb_at(root) as environment, environment.begin() as transaction:
                for name in names:
                    yield Stored(root, name), transaction.get(name.encode()) or b''
        else:
            for name in names:
                yield Stored(root, name), (root / name).read_bytes()


def _version(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@cache
def _of_version(image: Stored, changed: int, length: int) -> Found:
    try:
        return Found(image, header_of_file(image.root / image.name, every_chunk=False))
    except BrokenImageError as error:
        return Found(image, None, str(error))
    except OSError as error:
        return Found(image, None, f'cannot be read ({error.strerror})')


@cache
def _of_lmdb(root: Path, changed: int, length: int) -> dict[str, Found]:
    found = {}
    with lmdb_at(root) as environment, environment.begin(buffers=True) as transaction:
        for key, value in transaction.cursor():
            image = Stored(root, bytes(key).decode('utf-8', 'replace'))
            try:
                found[image.name] = Found(image, header_of_bytes(value, every_chunk=False))
            except BrokenImageError as error:
                found[image.name] = Found(image, None, str(error))
    return found
