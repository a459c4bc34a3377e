"""The LMDBs that ``mipkd prepare`` makes: what they hold, and how a new version takes the place of an old one."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import lmdb
from basicsr.utils.lmdb_util import LmdbMaker
from tqdm import tqdm

from mipkd_plugin.data.headers import BrokenImageError, header_of_bytes
from mipkd_plugin.data.stores import lmdb_at
from mipkd_plugin.preparation.sources import PrepareError
from mipkd_plugin.utils.lmdb_files import damage_of

COMPRESSION = 1
"""Level of PNG compression: training reads an LMDB again and again, so better fast than small."""

_OURS = ('data.mdb', 'lock.mdb', 'meta_info.txt')


def entries_of(path: Path) -> dict[str, int]:
    """Length of each entry of an LMDB, by key; nothing if there is none, or if it is damaged or incomplete."""
    if not os.path.isfile(path / 'meta_info.txt') or damage_of(path):
        return {}
    try:
        with lmdb_at(path) as environment, environment.begin(buffers=True) as transaction:
            return {bytes(key).decode('utf-8', 'replace'): len(value) for key, value in transaction.cursor()}
    except (lmdb.Error, OSError):
        return {}


def recover(path: Path) -> None:
    """Finish or take back the exchange of an LMDB, if a run was killed in the middle of it."""
    old = path.with_name(f'.old_{path.name}')
    if os.path.isdir(old) and not os.path.exists(path):
        os.rename(old, path)
    elif os.path.isdir(old):
        _remove_old(old, path)


def write_lmdb(path: Path, images: Path, fresh: Iterable[str], dropped: Iterable[str]) -> None:
    """Write an LMDB that BasicSR can read, from a folder of PNGs and from what the LMDB of this name holds already.

    The new version is written beside the old one and gets its name only when it is complete.

    Args:
        path: The LMDB.
        images: The folder.
        fresh: Names of the images to take from the folder.
        dropped: Entries of the old version to leave out; all others are kept.

    Raises:
        PrepareError: It cannot be written, for instance because the disk is full.
    """
    part, new = path.with_name(f'.part_{path.name}'), set(fresh)
    shutil.rmtree(part, ignore_errors=True)  # left by an interrupted run; LmdbMaker would exit
    lengths = {name: length for name, length in entries_of(path).items() if name not in new and name not in dropped}
    lengths.update({name: (images / f'{name}.png').stat().st_size for name in new})
    pages = sum(length // 4096 + 3 for length in lengths.values())
    try:
        with ExitStack() as stack:
            old = stack.enter_context(stack.enter_context(lmdb_at(path)).begin()) if set(lengths) - new else None
            maker = LmdbMaker(str(part), map_size=2 * 4096 * pages + 2**24, batch=500, compress_level=COMPRESSION)
            for name in tqdm(sorted(lengths), f'write {path.name}', unit='image'):
                data = old.get(name.encode()) if old and name not in new else (images / f'{name}.png').read_bytes()
                header = header_of_bytes(data or b'', every_chunk=False)
                maker.put(data, name, (header.height, header.width, 3))
            maker.close()
    except (lmdb.Error, BrokenImageError) as error:
        raise PrepareError(f'{path}: cannot be written ({error}); is the disk full? Then make room, and run the '
                           'command again.') from error
    _exchange(part, path)


def _exchange(part: Path, path: Path) -> None:
    """Put a new LMDB into the place of an old one."""
    old = path.with_name(f'.old_{path.name}')
    if os.path.exists(path):
        os.rename(path, old)
    os.replace(part, path)
    if os.path.isdir(old):
        _remove_old(old, path)


def _remove_old(old: Path, path: Path) -> None:
    """Remove the old version; other files in its folder go to the new one."""
    for file in old.iterdir():
        if file.name in _OURS:
            file.unlink()
        else:
            os.replace(file, path / file.name)
    old.rmdir()
