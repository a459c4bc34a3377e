"""The request of ``mipkd prepare``, and how it cuts an image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mipkd_plugin.preparation.multiscale import smaller_sizes
from mipkd_plugin.preparation.sources import PrepareError, Source
from mipkd_plugin.preparation.workers import Tile

SCALES = (2, 3, 4, 8)


@dataclass(frozen=True)
class Settings:
    """The request; the constructor checks it.

    Attributes:
        scale: The scale of the LR images; 1 with ``gt_only``.
        lmdb: Whether LMDBs are asked for.
        crop: Side of the tiles.
        step: Distance between tiles.
        gt_only: Whether HR images alone are asked for.
        multiscale: Whether smaller versions of each HR image are asked for too; only with ``gt_only``.
        min_side: Shortest side of an image that is taken; smaller ones are left out.
    """

    scale: int
    lmdb: bool = False
    crop: int | None = None
    step: int | None = None
    gt_only: bool = False
    multiscale: bool = False
    min_side: int = 1

    def __post_init__(self) -> None:
        if self.scale not in SCALES and not self.gt_only:
            raise PrepareError(f'--scale {self.scale}: must be one of {", ".join(map(str, SCALES))}.')
        if (self.crop is None) != (self.step is None):
            example = '--crop 400 --step 200' if self.gt_only else '--crop 480 --step 240'
            raise PrepareError(f'--crop and --step need each other; give both, e.g. {example}.')
        for flag, value in (('--crop', self.crop), ('--step', self.step)):
            if value is not None and value <= 0 and self.gt_only:
                raise PrepareError(f'{flag} {value}: must be at least 1.')
            if value is not None and (value <= 0 or value % self.scale):
                raise PrepareError(f'{flag} {value}: must be a positive multiple of the scale, {self.scale}; '
                                   'otherwise LR and HR tiles do not match.')
        if self.min_side < 1:
            raise PrepareError(f'--min-side {self.min_side}: must be at least 1.')
        if self.crop is not None and self.min_side > self.crop:
            raise PrepareError(f'--min-side {self.min_side}: leaves nothing, as tiles have {self.crop} pixels a side '
                               f'(--crop); give at most {self.crop}.')

    def versions(self, stem: str, width: int, height: int) -> dict[str, tuple[int, int] | None]:
        """The names of an HR image and of its smaller versions, with the sizes of the latter."""
        sizes = smaller_sizes(height, width) if self.multiscale else []
        return {stem: None, **{f'{stem}T{number}': size for number, size in enumerate(sizes)}}

    def tiles(self, stem: str, width: int, height: int) -> list[Tile]:
        """The tiles of one HR image and of its smaller versions, or all of them whole; those too small are left out."""
        return [tile for name, size in self.versions(stem, width, height).items()
                for tile in self._tiles(name, *(size or (height, width)), size)
                if min(tile.height, tile.width) >= self.min_side]

    def _tiles(self, name: str, height: int, width: int, size: tuple[int, int] | None) -> list[Tile]:
        """The tiles of one version, or the whole version cropped to a multiple of the scale."""
        height, width = height // self.scale * self.scale, width // self.scale * self.scale
        if self.crop is None or self.step is None or min(height, width) < self.crop:
            return [Tile(name, 0, 0, height, width, size)]
        crop, step = self.crop, self.step
        tops, lefts = (sorted({*range(0, side - crop + 1, step), side - crop}) for side in (height, width))
        corners = [(top, left) for top in tops for left in lefts]
        return [Tile(f'{name}_s{number:03d}', *corner, crop, crop, size) for number, corner in enumerate(corners, 1)]

    def cut(self, sources: Sequence[Source], scale: int) -> dict[str, list[Tile]]:
        """The tiles of all images for a scale, by stem.

        Args:
            sources: The images.
            scale: The scale, of this request or of another set in the folder.

        Returns:
            The tiles; an image of which nothing is taken is not in it.

        Raises:
            PrepareError: Two tiles have one name, or all images are too small.
        """
        settings = replace(self, scale=scale)
        tiles = {source.stem: settings.tiles(source.stem, source.header.width, source.header.height)
                 for source in sources}
        owners: dict[str, Source] = {}
        for source in sources:
            for tile in tiles[source.stem]:
                other = owners.setdefault(tile.name, source)
                if other is not source:
                    what = 'tiles' if self.crop else 'images'
                    raise PrepareError(f'two {what} would both become {tile.name}.png, one of {other.path} and one of '
                                       f'{source.path}; rename one of these two.')
        if sources and not owners:
            most = max(min(source.header.height, source.header.width) for source in sources)
            raise PrepareError(f'--min-side {self.min_side}: all images are smaller; the shorter side of the largest '
                               f'has {most} pixels.')
        return {stem: cut for stem, cut in tiles.items() if cut}

    def whole(self, sources: Sequence[Source], tiles: Mapping[str, Sequence[Tile]]) -> list[str]:
        """Names of the images and versions that are smaller than the tiles and stay whole."""
        if self.crop is None:
            return []
        found = []
        for source in sources:
            versions = self.versions(source.stem, source.header.width, source.header.height)
            found += [source.path.name if tile.size is None else f'{tile.name}.png'
                      for tile in tiles.get(source.stem, ()) if tile.name in versions]
        return found

    def too_small(self, sources: Sequence[Source]) -> list[str]:
        """Names of the images and versions that are left out because they are too small."""
        everything = replace(self, min_side=1)
        return [source.path.name if tile.size is None else f'{tile.name}.png'
                for source in (sources if self.min_side > 1 else ())
                for tile in everything.tiles(source.stem, source.header.width, source.header.height)
                if min(tile.height, tile.width) < self.min_side]
