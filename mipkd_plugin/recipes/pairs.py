"""HR and LR images of one data set: where they lie, how they are prepared, and into which tiles they are cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mipkd_plugin.data.headers import Header
from mipkd_plugin.preparation.pairs import prepare
from mipkd_plugin.utils.files import write_text
from mipkd_plugin.utils.words import counted

TILES = (120, 240, 480)
"""Sides of the HR tiles that training images are cut into; multiples of all scales."""
MOST_TILES = 20_000
LMDB_FROM = 1000


@dataclass(frozen=True)
class Pairs:
    """HR and LR images of one data set.

    Attributes:
        name: Its name in the option file.
        files: The HR images of the user.
        gt: Folder or LMDB of HR images for the option file.
        lq: The same of LR images.
        headers: Headers of the HR images.
        made_in: Folder that ``mipkd prepare`` fills; None for LR images of the user.
        tile: Side of the HR tiles; None for whole images.
        lmdb: Whether they become LMDBs.
        template: Name of an LR image for the name of its HR image.
        listed: File that lists the images to use; None for all of the folder.
    """

    name: str
    files: tuple[Path, ...]
    gt: Path
    lq: Path
    headers: dict[Path, Header]
    made_in: Path | None = None
    tile: int | None = None
    lmdb: bool = False
    template: str = '{}'
    listed: Path | None = None

    def smallest(self, scale: int) -> tuple[int, Path]:
        """The shortest LR side among the images, in pixels, and the image that has it."""
        return min((min(header.height, header.width) // scale, path) for path, header in self.headers.items())

    def count(self) -> int:
        """Number of pairs, tiles counted; an estimate for overlapping tiles."""
        if self.tile is None:
            return len(self.files)
        return sum(max(1, -(-header.height // self.tile)) * max(1, -(-header.width // self.tile))
                   if min(header.height, header.width) >= self.tile else 1 for header in self.headers.values())

    def entries(self) -> dict[str, Any]:
        """The data set in the option file, without what is for training only."""
        found: dict[str, Any] = {'name': self.name, 'dataroot_gt': str(self.gt), 'dataroot_lq': str(self.lq)}
        if self.template != '{}':
            found['filename_tmpl'] = self.template
        if self.listed is not None:
            found['meta_info_file'] = str(self.listed)
        return {**found, 'io_backend': {'type': 'lmdb' if self.gt.suffix == '.lmdb' else 'disk'}}

    def make(self, scale: int, workers: int | None) -> str:
        """Prepare what is not prepared yet.

        Args:
            scale: Scale factor.
            workers: Number of processes; None decides.

        Returns:
            What was done, in words.

        Raises:
            PrepareError: An image is damaged.
            OSError: A file cannot be written.
        """
        if self.made_in is not None:
            folders = list(dict.fromkeys(path.parent for path in self.files))
            done = prepare(folders, scale, self.made_in, self.lmdb, self.tile, self.tile, workers, self.files)
            return f'{counted(done.pairs, "pair")} in {self.made_in}' + ('' if done.written else ', nothing to do')
        if self.listed is not None:
            self.listed.parent.mkdir(parents=True, exist_ok=True)
            write_text(self.listed, ''.join(f'{path.name}\n' for path in self.files))
        return f'{counted(len(self.files), "pair")} of {self.gt} and {self.lq}, as they are'


def cut(pairs: Pairs, gt_size: int, is_pool: bool, scale: int) -> Pairs:
    """Decide on tiles and LMDBs of training images that are prepared.

    Tiles decode faster than whole photographs, of which a crop is a small part; a pool of crops decodes a whole image
    for each crop when it starts, so its tiles are small. An LMDB is for many files: one file instead of thousands.

    Args:
        pairs: The training images.
        gt_size: Side of the HR patch.
        is_pool: Whether all crops are drawn once, at the start.
        scale: Scale factor.

    Returns:
        The same images with tiles and places.
    """
    if pairs.made_in is None:
        return pairs
    area = sum(header.height * header.width for header in pairs.headers.values())
    sides = [side for side in TILES if side >= 1.25 * gt_size and (is_pool or side == TILES[-1])]
    tile = next((side for side in sides if area / side ** 2 <= MOST_TILES), sides[-1] if sides else None)
    if tile is not None and all(max(h.height, h.width) < 1.5 * tile for h in pairs.headers.values()):
        tile = None
    found = replace(pairs, tile=tile)
    named_well = all('.' not in path.stem and path.stem.isascii() for path in pairs.files)
    lmdb = found.count() >= LMDB_FROM and named_well
    ending = '.lmdb' if lmdb else ''
    return replace(found, lmdb=lmdb, gt=pairs.made_in / f'HR{ending}', lq=pairs.made_in / f'LRbicx{scale}{ending}')
