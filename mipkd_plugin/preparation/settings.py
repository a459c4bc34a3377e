"""The request of ``mipkd prepare``, and how it cuts an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mipkd_plugin.preparation.sources import PrepareError, Source
from mipkd_plugin.preparation.workers import Tile

SCALES = (2, 3, 4, 8)


@dataclass(frozen=True)
class Settings:
    """The request; the constructor checks it."""

    scale: int
    lmdb: bool = False
    crop: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise PrepareError(f'--scale {self.scale}: must be one of {", ".join(map(str, SCALES))}.')
        if (self.crop is None) != (self.step is None):
            raise PrepareError('--crop and --step need each other; give both, e.g. --crop 480 --step 240.')
        for flag, value in (('--crop', self.crop), ('--step', self.step)):
            if value is not None and (value <= 0 or value % self.scale):
                raise PrepareError(f'{flag} {value}: must be a positive multiple of the scale, {self.scale}; '
                                   'otherwise LR and HR tiles do not match.')

    def tiles(self, stem: str, width: int, height: int) -> list[Tile]:
        """The tiles of one HR image, or the whole image cropped to a multiple of the scale."""
        height, width = height // self.scale * self.scale, width // self.scale * self.scale
        if self.crop is None or self.step is None or min(height, width) < self.crop:
            return [(stem, 0, 0, height, width)]
        crop, step = self.crop, self.step
        tops, lefts = (sorted({*range(0, side - crop + 1, step), side - crop}) for side in (height, width))
        corners = [(top, left) for top in tops for left in lefts]
        return [(f'{stem}_s{number:03d}', *corner, crop, crop) for number, corner in enumerate(corners, 1)]

    def cut(self, sources: Sequence[Source], scale: int) -> dict[str, list[Tile]]:
        """The tiles of all images for a scale, by stem.

        Args:
            sources: The images.
            scale: The scale, of this request or of another set in the folder.

        Returns:
            The tiles.

        Raises:
            PrepareError: Two tiles have one name.
        """
        settings = replace(self, scale=scale)
        tiles = {source.stem: settings.tiles(source.stem, source.header.width, source.header.height)
                 for source in sources}
        names: set[str] = set()
        for cut in tiles.values():
            for name, *_ in cut:
                if name in names:
                    raise PrepareError(f'two tiles would both become {name}.png; rename the source image {name}.')
                names.add(name)
        return tiles
