"""Folders or LMDBs of HR and LR images for BasicSR's ``PairedImageDataset``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mipkd_plugin.commands.prepare.workers import (
    Job,
    PrepareError,
    Tile,
    do_all,
    find_images,
    image_size,
    write_bytes,
    write_lmdb,
)

SCALES = (2, 3, 4, 8)
MANIFEST = 'prepare.json'


@dataclass(frozen=True)
class Settings:
    """What is asked for; checked on construction."""

    scale: int
    lmdb: bool = False
    crop: int | None = None
    step: int | None = None

    def __post_init__(self) -> None:
        if self.scale not in SCALES:
            raise PrepareError(f'--scale {self.scale}: must be one of {", ".join(map(str, SCALES))}.')
        if (self.crop is None) != (self.step is None):
            raise PrepareError('--crop and --step belong together; give both, e.g. --crop 480 --step 240.')
        for flag, value in (('--crop', self.crop), ('--step', self.step)):
            if value is not None and (value <= 0 or value % self.scale):
                raise PrepareError(f'{flag} {value}: must be a positive multiple of the scale, {self.scale}; '
                                   'otherwise LR and HR tiles would not lie on each other.')

    def tiles(self, stem: str, width: int, height: int) -> list[Tile]:
        """What is cut from one HR image: tiles, or all of it, trimmed to a multiple of the scale."""
        height, width = height // self.scale * self.scale, width // self.scale * self.scale
        if self.crop is None or self.step is None or min(height, width) < self.crop:
            return [(stem, 0, 0, height, width)]
        crop, step = self.crop, self.step
        tops, lefts = (sorted({*range(0, side - crop + 1, step), side - crop}) for side in (height, width))
        corners = [(top, left) for top in tops for left in lefts]
        return [(f'{stem}_s{number:03d}', *corner, crop, crop) for number, corner in enumerate(corners, 1)]


@dataclass(frozen=True)
class Summary:
    """What ``prepare`` did.

    Attributes:
        hr: Folder or LMDB of the HR images.
        lr: Folder or LMDB of the LR images.
        images: Number of source images.
        pairs: Number of HR-LR pairs made of them.
        written: Number of source images worked on in this run; 0 if all was there already.
        whole: Names of images too small for ``crop``, which were kept whole.
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
            lines.append(f'Smaller than --crop and kept whole: {", ".join(self.whole)}')
        backend = 'lmdb' if self.hr.suffix == '.lmdb' else 'disk'
        lines += ['For the dataset in an option file:', f'    dataroot_gt: {self.hr}',
                  f'    dataroot_lq: {self.lr}', f'    io_backend: {{type: {backend}}}']
        return '\n'.join(lines)


class _Manifest:
    """``prepare.json``: what an output folder holds, so that a later run can continue it or refuse to mix."""

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
        """Scales share one HR set if they trim the images alike; otherwise later ones get their own."""
        sets = self.content['sets']
        for name in (f'HR{ending}', f'HR_x{self.settings.scale}{ending}'):
            if name not in sets or sets[name]['tiles'] == self.digest:
                return name
        raise PrepareError(f'{self.path}: does not fit the images; name another --out, or delete this one.')

    def _join(self) -> None:
        """Take over the manifest of an earlier run.

        Raises:
            PrepareError: There is none, or it was made from other images or with other tiles.
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
                               f'(see {self.path}); name another folder, or delete this one.')

    def finished(self, name: str) -> bool:
        """LMDBs get their name only when complete; folders are entered as finished."""
        entry = self.content['sets'].get(name)
        if entry is None or not (self.out / name).is_dir():
            return False
        if name.endswith('.lmdb'):
            return True
        return entry['finished'] and len(list((self.out / name).glob('*.png'))) == self.count

    def folder(self, name: str) -> Path:
        """Where the images of a set are written (an LMDB is made from them afterwards)."""
        return self.out / (f'.images_{name}' if self.settings.lmdb else name)

    def save(self, finished: bool) -> None:
        for name in (self.hr, self.lr):
            self.content['sets'][name] = {'tiles': self.digest, 'finished': finished or self.finished(name)}
        write_bytes(self.path, json.dumps(self.content, indent=1).encode())


def prepare(hr: Path | Sequence[Path], scale: int, out: Path, lmdb: bool = False, crop: int | None = None,
            step: int | None = None, workers: int | None = None) -> Summary:
    """Make the HR and LR images of a BasicSR ``PairedImageDataset``: ``out/HR`` and ``out/LRbicx<scale>``.

    HR is trimmed at the right and bottom to a multiple of ``scale``, which BasicSR demands in training. LR is
    made of the whole trimmed image; tiles are cut afterwards, from both at the same place. Run it again to
    continue an interrupted run, or with another scale to add that scale: it shares HR if it trims every image
    alike (as with DIV2K), and gets an ``out/HR_x<scale>`` of its own if not. Gray images become three equal
    channels.

    Args:
        hr: Folder, or several, of 8-bit gray or RGB images: png, jpg, bmp.
        scale: 2, 3, 4 or 8.
        out: Folder to fill. It must be new, empty, or made by an earlier run from the same files.
        lmdb: Write ``HR.lmdb`` and ``LRbicx<scale>.lmdb`` with equal keys in place of folders.
        crop: Side of the HR tiles; None keeps whole images. Smaller images stay whole.
        step: Distance of the HR tiles; the last ones end at the border.
        workers: Processes; None takes all cores if there is enough to do.

    Returns:
        Where the two sets lie, and what was written.

    Raises:
        PrepareError: The request or an image is not as it must be. All but damaged image data is found before
            anything is written.
    """
    settings = Settings(scale, lmdb, crop, step)
    if workers is not None and workers < 1:
        raise PrepareError(f'--workers {workers}: must be at least 1.')
    out, folders = Path(out), [Path(hr)] if isinstance(hr, (str, Path)) else [Path(folder) for folder in hr]
    sources = find_images(folders)
    for folder in folders:
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise PrepareError(f'--out {out}: lies in the HR folder {folder}; name a folder outside it.')
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
    """Write what is missing; returns the number of source images this took."""
    compression = 1 if manifest.settings.lmdb else 3  # an LMDB is read again and again: fast, not small
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
