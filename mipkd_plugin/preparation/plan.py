"""What a run of ``mipkd prepare`` has to do: make what is new or has changed, remove what is gone, keep the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mipkd_plugin.preparation.lmdb_sets import COMPRESSION, entries_of
from mipkd_plugin.preparation.manifest import UNKNOWN, ImageSet, Known, Made
from mipkd_plugin.preparation.name_lists import NameList
from mipkd_plugin.preparation.sources import PrepareError, Source, digest
from mipkd_plugin.preparation.workers import FileRecord, Job, Target, Tile
from mipkd_plugin.utils.words import some

_COMPRESSION = 3  # of PNGs in folders


@dataclass
class Changes:
    """What is to be done for one set.

    Attributes:
        images: The set.
        out: The output folder.
        targets: What to make, by stem.
        anew: Stems of the images of which all files are made again.
        wanted: All files that the set should hold.
        stale: Files to remove, by stem: those of images that are gone or are cut otherwise now.
        gone: Stems of the images that are gone.
        foreign: Files in its folder that were not made by ``mipkd prepare``.
        refused: Why something must not be overwritten or removed.
        listed: The list of its images; None if it needs none.
    """

    images: ImageSet
    out: Path
    targets: dict[str, Target] = field(default_factory=dict)
    anew: set[str] = field(default_factory=set)
    wanted: set[str] = field(default_factory=set)
    stale: dict[str, list[str]] = field(default_factory=dict)
    gone: list[str] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    listed: NameList | None = None

    def claim(self) -> None:
        """Enter what will be made as begun: whatever has these names from now on is ours."""
        for stem, target in self.targets.items():
            made = self.images.made.setdefault(stem, Made())
            if stem in self.anew:
                if made.packed:
                    made.old = sorted({*made.old, *made.files})
                made.sha256, made.packed = None, False
            made.files.update({tile[0]: None for tile in target.tiles})

    def remove_stale(self) -> None:
        """Remove the files that are not needed any more, and forget them. An LMDB loses its entries later."""
        for stem, names in self.stale.items():
            made = self.images.made[stem]
            for name in names:
                if not made.packed and name not in self.wanted:  # another image may have taken over the name
                    (self.images.folder(self.out) / f'{name}.png').unlink(missing_ok=True)
                if not (self.images.lmdb and stem in self.gone):
                    made.files.pop(name, None)
            if stem in self.gone and not self.images.lmdb:
                del self.images.made[stem]

    def jobs(self, sources: Sequence[Source]) -> list[tuple[Source, Target]]:
        """What to make, with its source image."""
        return [(source, self.targets[source.stem]) for source in sources if source.stem in self.targets]


def changes_of(images: ImageSet, out: Path, tiles: Mapping[str, list[Tile]], current: Mapping[str, str]) -> Changes:
    """Compare a set with the source images.

    Args:
        images: The set.
        out: The output folder.
        tiles: The tiles that it should hold, by stem.
        current: SHA-256 of the source images, by stem; an image without one is new.

    Returns:
        What is to be done.
    """
    found, folder = Changes(images, out), images.folder(out)
    found.wanted = {tile.name for cut in tiles.values() for tile in cut}
    packed = entries_of(out / images.name) if images.lmdb else {}
    files = {path.stem: path.stat().st_size for path in folder.glob('*.png') if not path.name.startswith('.')}
    for stem, cut in tiles.items():
        made, names = images.made.get(stem, Made()), {tile[0] for tile in cut}
        same = made.sha256 is not None and made.sha256 == current.get(stem) and set(made.files) == names
        missing = [tile for tile in cut if not _is_there(made, tile[0], packed if made.packed else files)]
        if not same or missing and made.packed:
            found.anew.add(stem)
            missing = cut
        if set(made.files) - names:
            found.stale[stem] = sorted(set(made.files) - names)
        if missing:
            found.targets[stem] = Target(images.name, folder, 1 if images.name.startswith('HR') else images.scale,
                                         missing, images.scale, COMPRESSION if images.lmdb else _COMPRESSION)
    found.gone = [stem for stem in images.made if stem not in tiles]
    found.stale.update({stem: sorted(images.made[stem].files) for stem in found.gone})
    if not images.lmdb:
        _check_owned(found, folder, files)
    return found


def _is_there(made: Made, name: str, there: Mapping[str, int]) -> bool:
    record = made.files.get(name)
    return record is not None and there.get(name) == record[0]


def _check_owned(found: Changes, folder: Path, files: Mapping[str, int]) -> None:
    """Refuse to touch files that ``mipkd prepare`` did not make, or that somebody has changed since."""
    owned = found.images.owned()
    names = {tile[0] for target in found.targets.values() for tile in target.tiles}
    names |= {name for stale in found.stale.values() for name in stale}
    for name in sorted(names & set(files)):
        path = folder / f'{name}.png'
        if name not in owned:
            found.refused.append(f'{path} was not made by mipkd prepare, and would be overwritten; move it away.')
        elif not _unchanged(path, owned[name], files[name]):
            found.refused.append(f'{path} has changed since mipkd prepare made it, and would be overwritten; move it '
                                 'away, or delete it.')
    if os.path.isdir(folder):
        found.foreign = [path for path in sorted(folder.iterdir()) if not path.name.startswith('.')
                         and not (path.suffix == '.png' and path.stem in {*owned, *names})]


def _unchanged(path: Path, record: FileRecord | None, size: int) -> bool:
    """Whether a file is as it was made; one that was only begun, or made by an older version, counts as ours."""
    if record is None or record[1] == UNKNOWN:
        return True
    return size == record[0] and digest(path.read_bytes())[:16] == record[1]


def merged(changes: Sequence[Changes], sources: Sequence[Source]) -> list[Job]:
    """One job for each source image, for all sets."""
    targets: dict[str, list[Target]] = {}
    for found in changes:
        for source, target in found.jobs(sources):
            targets.setdefault(source.stem, []).append(target)
    return [Job(source, targets[source.stem]) for source in sources if source.stem in targets]


def require_allowed(changes: Sequence[Changes]) -> None:
    """Raise if something must not be touched.

    Args:
        changes: The changes of all sets.

    Raises:
        PrepareError: Files would be overwritten or removed that are not ours; the message names them.
    """
    refused = [text for found in changes for text in found.refused]
    if refused:
        raise PrepareError('\n'.join(refused[:20] + ([f'… and {len(refused) - 20} more'] if refused[20:] else [])))


def check_gone(known: Mapping[str, Known], sources: Sequence[Source], out: Path, given: Sequence[Path]) -> list[str]:
    """Find the images that are gone, and refuse a request that is for other images.

    Args:
        known: The images that the output folder was made from, by stem.
        sources: The images of this request.
        out: The output folder.
        given: The folders of this request.

    Returns:
        Names of the images that are gone.

    Raises:
        PrepareError: Images of the earlier request still exist and are not in this one, or most of them are missing.
    """
    stems, folders = {source.stem for source in sources}, {str(folder.resolve()) for folder in given}
    missing = [entry for stem, entry in known.items() if stem not in stems]
    moved = [entry for entry in missing if entry.folder not in folders]
    still = [Path(entry.folder) / entry.file for entry in moved if entry.folder]
    still = [path for path in still if os.path.exists(path)]
    if still:
        raise PrepareError(f'--out {out}: was made with other HR files: {some(still)}; name all of their folders with '
                           '--hr, or name another --out.')
    if moved and 2 * len(missing) > len(known):
        raise PrepareError(f'--out {out}: was made with other HR files: {len(missing)} of {len(known)} are not in --hr '
                           f'({some([entry.file for entry in missing])}); name the folders that hold them, or name '
                           'another --out.')
    return [entry.file for entry in missing]
