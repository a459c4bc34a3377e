"""``meta_info_HR.txt``: which images of a folder BasicSR's ``RealESRGANDataset`` reads, one name a line.

The list is there only while the folder is complete: it goes before the first image changes, and comes after the last.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mipkd_plugin.preparation.manifest import ImageSet, Manifest
from mipkd_plugin.preparation.sources import digest
from mipkd_plugin.preparation.workers import Tile
from mipkd_plugin.utils.files import write_bytes


class NameList:
    """The list of a folder of HR images. An LMDB has a list of its own.

    Args:
        manifest: The manifest; it knows which list is ours.
        images: The folder.
        tiles: The images that it holds in the end.
    """

    def __init__(self, manifest: Manifest, images: ImageSet, tiles: Iterable[Tile]) -> None:
        self.manifest, self.name = manifest, images.name
        self.path = manifest.out / f'meta_info_{images.name}.txt'
        self.content = ''.join(f'{name}.png\n' for name in sorted(tile.name for tile in tiles)).encode()

    def refused(self) -> list[str]:
        """Why a file in its place must not be overwritten."""
        if not os.path.lexists(self.path) or self._is_right():
            return []
        known = self.manifest.lists.get(self.name)
        if known is None or not os.path.isfile(self.path):
            return [f'{self.path} was not made by mipkd prepare, and would be overwritten; move it away.']
        if digest(self.path.read_bytes()) != known:
            return [f'{self.path} has changed since mipkd prepare made it, and would be overwritten; move it away, or '
                    'delete it.']
        return []

    def withdraw(self, changing: bool) -> None:
        """Remove a list that is not right, or will not be while images change."""
        if os.path.lexists(self.path) and (changing or not self._is_right()):
            self.path.unlink()

    def record(self) -> None:
        """Enter the list in the manifest, which is to be saved before the list is written: then it is known as ours."""
        self.manifest.lists[self.name] = digest(self.content)

    def write(self) -> None:
        """Write the list, unless it is there.

        Raises:
            OSError: It cannot be written.
        """
        if not self._is_right():
            write_bytes(self.path, self.content)

    def _is_right(self) -> bool:
        return os.path.isfile(self.path) and self.path.read_bytes() == self.content


def path_of_list(out: Path, name: str) -> Path | None:
    """The list of a set of HR images; None for an LMDB, which has its own."""
    return None if name.endswith('.lmdb') else out / f'meta_info_{name}.txt'
