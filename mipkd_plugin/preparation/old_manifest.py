"""Continue a folder whose ``prepare.json`` is of the first format: it tells only all images together and all tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mipkd_plugin.preparation.lmdb_sets import entries_of
from mipkd_plugin.preparation.manifest import (
    UNKNOWN,
    ImageSet,
    Known,
    Made,
    Manifest,
    Name,
    SetName,
    parsed,
)
from mipkd_plugin.preparation.settings import Settings
from mipkd_plugin.preparation.sources import Source, digests

_SCALE = re.compile(r'(?:LRbicx|HR_x)(\d+)(?:\.lmdb)?')


@dataclass
class _Set:
    tiles: str
    finished: bool


@dataclass
class _Content:
    """What ``prepare.json`` held: name, length and time of change of each image, and the digest of all tiles."""

    crop: int | None
    step: int | None
    sources: list[tuple[Name, int, int]]
    sets: dict[SetName, _Set]


def converted(text: str, out: Path, settings: Settings, sources: Sequence[Source]) -> Manifest:
    """Convert a manifest of the first format. What was made of unchanged images is kept.

    Args:
        text: Content of ``prepare.json``.
        out: Its folder.
        settings: The request; its tiles are those of the manifest.
        sources: The images of the request.

    Returns:
        The manifest in the new format, not yet saved.

    Raises:
        ValueError: The content does not fit.
    """
    before = parsed(text, _Content)
    manifest = Manifest(out, before.crop, before.step)
    stamps = {Path(name).stem: (name, size, changed) for name, size, changed in before.sources}
    # earlier versions copied an image with an EXIF orientation as it was, and made its LR image without turning it
    same = [source for source in sources if source.header.orientation == 1 and
            stamps.get(source.stem) == (source.path.name, source.size, source.changed)]
    found = digests(same)
    manifest.sources = {stem: Known(name, '', size, changed, '') for stem, (name, size, changed) in stamps.items()}
    manifest.sources.update({source.stem: manifest.known(source, found[source.stem]) for source in same})
    for name, entry in before.sets.items():
        images = ImageSet(name, _scale(name, before.sets, settings.scale), entry.finished)
        images.made = _made(images, out, settings, same, found, [*stamps])
        manifest.sets[name] = images
    return manifest


def _scale(name: str, sets: Mapping[str, _Set], asked: int) -> int:
    """The scale that a set was made for; HR images belong to the LR images with the same tiles."""
    match = _SCALE.fullmatch(name)
    if match:
        return int(match[1])
    partners = [_SCALE.fullmatch(other) for other, entry in sets.items()
                if other.startswith('LR') and entry.tiles == sets[name].tiles]
    return min((int(partner[1]) for partner in partners if partner), default=asked)


def _made(images: ImageSet, out: Path, settings: Settings, same: Sequence[Source], found: Mapping[str, str],
          stems: Sequence[str]) -> dict[str, Made]:
    """What a set holds of each image. Names in the manner of an image that has changed or is gone count as its own."""
    packed = entries_of(out / images.name) if images.lmdb else {}
    files = {path.stem: path.stat().st_size for path in images.folder(out).glob('*.png')
             if not path.name.startswith('.')}
    there = packed or files
    made: dict[str, Made] = {}
    taken: set[str] = set()
    for stem, cut in settings.cut(same, images.scale).items():
        names = [tile[0] for tile in cut]
        taken |= set(names)
        made[stem] = Made(found[stem], {name: (there[name], UNKNOWN) if name in there else None for name in names},
                          packed=bool(packed))
    for stem in stems:
        if stem not in made:
            pattern = re.compile(re.escape(stem) + (r'(_s\d{3,})?' if settings.crop else ''))
            names = [name for name in there if pattern.fullmatch(name) and name not in taken]
            made[stem] = Made(None, dict.fromkeys(names), packed=bool(packed))
    return made
