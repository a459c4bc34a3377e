"""Make folders or LMDBs of HR and LR images for BasicSR's ``PairedImageDataset``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipkd_plugin.preparation.workers import (
    Job,
    PrepareError,
    Tile,
    do_all,
    find_images,
    image_size,
    write_lmdb,
)
from mipkd_plugin.utils.files import write_text

SCALES = (2, 3, 4, 8)
MANIFEST = 'prepare.json'


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


@dataclass(frozen=True)
class Summary:
    """The result of ``prepare``.

    Attributes:
        hr: Folder or LMDB of the HR images.
        lr: Folder or LMDB of the LR images.
        images: Number of source images.
        pairs: Number of HR-LR pairs.
        written: Number of source images that this run processed; 0 if all pairs existed already.
        whole: Names of the images that are smaller than ``crop`` and stay whole.
    """

    hr: Path
    lr: Path
    images: int
    pairs: int
    written: int
    whole: list[str]

    def __str__(self) -> str:
        done = f'{self.written} of {self.images} images done in this run' if self.written else 'nothing to do'
        lines = [f'{self.pairs} pairs from {self.images} images: {done}.']
        if self.whole:
            lines.append(f'Smaller than --crop, kept whole: {", ".join(self.whole)}')
        backend = 'lmdb' if self.hr.suffix == '.lmdb' else 'disk'
        lines += ['For the dataset in an option file:', f'    dataroot_gt: {self.hr}',
                  f'    dataroot_lq: {self.lr}', f'    io_backend: {{type: {backend}}}']
        return '\n'.join(lines)


class _Manifest:
    """``prepare.json``: the content of an output folder. A later run uses it to continue, or to refuse other data."""

    def __init__(self, out: Path, settings: Settings, sources: list[Path], tiles: list[list[Tile]]) -> None:
        self.out, self.settings, self.path = out, settings, out / MANIFEST
        stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sources]
        self.content: dict[str, Any] = {
            'crop': settings.crop, 'step': settings.step, 'sources': stamps, 'sets': {}}
        self.count = sum(len(cut) for cut in tiles)
        self.digest = hashlib.sha256(json.dumps(tiles).encode()).hexdigest()
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            self._join()
        ending = '.lmdb' if settings.lmdb else ''
        self.lr = f'LRbicx{settings.scale}{ending}'
        self.hr = self._hr_name(ending)

    def _hr_name(self, ending: str) -> str:
        """The name of the HR set. Scales share a set if they crop the images to the same size; others get their own."""
        sets = self.content['sets']
        for name in (f'HR{ending}', f'HR_x{self.settings.scale}{ending}'):
            if name not in sets or sets[name]['tiles'] == self.digest:
                return name
        raise PrepareError(f'{self.path}: does not fit the images; name another --out, or delete this folder.')

    def _join(self) -> None:
        """Continue the manifest of an earlier run.

        Raises:
            PrepareError: There is no manifest, or it belongs to other images or other tiles.
        """
        if not self.path.is_file():
            raise PrepareError(f'--out {self.out}: is not empty and was not made by mipkd prepare; '
                               'name a new folder.')
        try:
            before = json.loads(self.path.read_text(encoding='utf-8'))
            keys = {'sources': 'HR files', 'crop': '--crop', 'step': '--step'}
            different = [what for key, what in keys.items() if before[key] != self.content[key]]
            self.content['sets'] = before['sets']
        except (ValueError, KeyError, TypeError) as error:
            raise PrepareError(f'{self.path}: is damaged ({error!r}); delete the folder.') from error
        if different:
            raise PrepareError(f'--out {self.out}: was made with other {" and other ".join(different)} '
                               f'(see {self.path}); name another folder, or delete this folder.')

    def finished(self, name: str) -> bool:
        """Whether a set is complete. An LMDB gets its name only then; the manifest says it of a folder."""
        entry = self.content['sets'].get(name)
        if entry is None or not (self.out / name).is_dir():
            return False
        if name.endswith('.lmdb'):
            return True
        return entry['finished'] and len(list((self.out / name).glob('*.png'))) == self.count

    def folder(self, name: str) -> Path:
        """The folder for the images of a set; an LMDB is made from it afterwards."""
        return self.out / (f'.images_{name}' if self.settings.lmdb else name)

    def save(self, finished: bool) -> None:
        for name in (self.hr, self.lr):
            self.content['sets'][name] = {'tiles': self.digest, 'finished': finished or self.finished(name)}
        write_text(self.path, json.dumps(self.content, indent=1))


def prepare(hr: Path | Sequence[Path], scale: int, out: Path, lmdb: bool = False, crop: int | None = None,
            step: int | None = None, workers: int | None = None) -> Summary:
    """Make the HR and LR images of a BasicSR ``PairedImageDataset``: ``out/HR`` and ``out/LRbicx<scale>``.

    BasicSR trains only on HR images whose sides are multiples of ``scale``, so HR images are cropped at the right and
    bottom. Each LR image is made from the whole cropped image; tiles are then cut from both at the same place. Gray
    images become three equal channels.

    Run it again to continue an interrupted run, or to add another scale. A scale shares ``out/HR`` if it crops every
    image to the same size (as with DIV2K); otherwise it gets its own ``out/HR_x<scale>``.

    Args:
        hr: Folder, or several, of 8-bit gray or RGB images: png, jpg, bmp.
        scale: 2, 3, 4 or 8.
        out: Folder to fill. It must be new, empty, or made by an earlier run from the same files.
        lmdb: Write ``HR.lmdb`` and ``LRbicx<scale>.lmdb`` with equal keys instead of folders.
        crop: Side of the HR tiles; None keeps whole images. Smaller images stay whole.
        step: Distance between HR tiles; the last tiles end at the border.
        workers: Number of processes; None takes all cores if there is enough work.

    Returns:
        The places of the two sets, and what this run wrote.

    Raises:
        PrepareError: An argument or an image does not fit. Only damaged image data is found late; everything else is
            found before anything is written.
    """
    settings = Settings(scale, lmdb, crop, step)
    if workers is not None and workers < 1:
        raise PrepareError(f'--workers {workers}: must be at least 1.')
    out, folders = Path(out), [Path(hr)] if isinstance(hr, (str, Path)) else [Path(folder) for folder in hr]
    sources = find_images(folders)
    for folder in folders:
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise PrepareError(f'--out {out}: is inside the HR folder {folder}; name a folder outside it.')
    tiles = [settings.tiles(path.stem, *image_size(path, scale, lmdb)) for path in sources]
    names = [tile[0] for cut in tiles for tile in cut]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise PrepareError(f'two tiles would both become {twice}.png; rename the source image {twice}.')
    manifest = _Manifest(out, settings, sources, tiles)
    written = 0
    if not (manifest.finished(manifest.hr) and manifest.finished(manifest.lr)):
        out.mkdir(parents=True, exist_ok=True)
        manifest.save(finished=False)
        written = _make(manifest, sources, tiles, workers)
        manifest.save(finished=True)
    whole = [path.name for path, cut in zip(sources, tiles, strict=True) if crop and cut[0][0] == path.stem]
    return Summary(out / manifest.hr, out / manifest.lr, len(sources), len(names), written, whole)


def _make(manifest: _Manifest, sources: list[Path], tiles: list[list[Tile]], workers: int | None) -> int:
    """Write the missing images; return the number of source images processed."""
    compression = 1 if manifest.settings.lmdb else 3  # training reads an LMDB again and again: better fast than small
    todo = [name for name in (manifest.hr, manifest.lr) if not manifest.finished(name)]
    folders = {name: manifest.folder(name) for name in todo}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    hr, lr = folders.get(manifest.hr), folders.get(manifest.lr)
    jobs = [Job(path, manifest.settings.scale, cut, hr, lr, compression)
            for path, cut in zip(sources, tiles, strict=True)]
    jobs = [job for job in jobs if job.missing()]
    do_all(jobs, workers)
    for name, folder in folders.items():
        if manifest.settings.lmdb:
            write_lmdb(folder, manifest.out / name, compression)
    return len(jobs)
