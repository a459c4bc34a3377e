"""One run of ``mipkd prepare``, alone in its folder: compare with the manifest, make, remove, and write LMDBs."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from mipkd_plugin.preparation.lmdb_sets import entries_of, recover, write_lmdb
from mipkd_plugin.preparation.manifest import FORMAT, MANIFEST, ImageSet, Manifest
from mipkd_plugin.preparation.name_lists import NameList, path_of_list
from mipkd_plugin.preparation.old_manifest import converted
from mipkd_plugin.preparation.plan import Changes, changes_of, check_gone, merged, require_allowed
from mipkd_plugin.preparation.settings import Settings
from mipkd_plugin.preparation.sources import PrepareError, Source, digests, refusals
from mipkd_plugin.preparation.summary import Summary
from mipkd_plugin.preparation.workers import Tile, do_all


class Run:
    """One run.

    Args:
        out: The output folder; no other process works in it.
        settings: The request.
        sources: Its images.
        folders: Their folders.

    Raises:
        PrepareError: The folder was made by another request, or its manifest is damaged.
    """

    def __init__(self, out: Path, settings: Settings, sources: list[Source], folders: list[Path]) -> None:
        self.out, self.settings, self.sources = out, settings, sources
        self.manifest = self._manifest()
        self.dropped = check_gone(self.manifest.sources, sources, out, folders)
        self.lr = None if settings.gt_only else self._set(f'LRbicx{settings.scale}')
        self.hr = self._set(self._hr_name())
        self.asked = [self.hr] if self.lr is None else [self.hr, self.lr]
        self.sets = self._sets()

    def _manifest(self) -> Manifest:
        """The manifest of an earlier run, or a new one."""
        path, asked = self.out / MANIFEST, self.settings
        if not os.path.isfile(path):
            return Manifest(self.out, asked.crop, asked.step, asked.gt_only, asked.multiscale)
        try:
            text = path.read_text(encoding='utf-8')
            content = json.loads(text)
            if content.get('format', FORMAT) != FORMAT:
                raise PrepareError(f'{path}: was made by another version of mipkd-plugin; update it, or name another '
                                   '--out.')
            different = _differences(content, asked)
            if not different:
                return (Manifest.load(self.out, text) if 'format' in content else
                        converted(text, self.out, self.settings, self.sources))
        except PrepareError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PrepareError(f'{path}: is damaged ({error}); delete the folder, or name another --out.') from error
        raise PrepareError(f'--out {self.out}: was made {" and ".join(different)} (see {path}); name another folder, '
                           'or delete this folder.')

    def _hr_name(self) -> str:
        """The name of the HR set. Scales share a set if they crop the images to the same size; others get their own."""
        sets, scale, ending = self.manifest.sets, self.settings.scale, '.lmdb' if self.settings.lmdb else ''
        own, common = f'HR_x{scale}', sets.get(f'HR{ending}')
        if f'{own}{ending}' in sets:
            return own
        if common is None or self._cut(scale) == self._cut(common.scale):
            return 'HR'
        return own

    def _cut(self, scale: int) -> dict[str, list[Tile]]:
        return self.settings.cut(self.sources, scale)

    def _set(self, name: str) -> ImageSet:
        """A set of this request; a new one if there is none."""
        full = f'{name}.lmdb' if self.settings.lmdb else name
        return self.manifest.sets.setdefault(full, ImageSet(full, self.settings.scale))

    def _sets(self) -> list[ImageSet]:
        """The sets of this request, and all others that were complete once and still exist."""
        sets = self.manifest.sets
        for name, images in list(sets.items()):
            if images.lmdb:
                recover(self.out / name)
            if images in self.asked:
                continue
            if not os.path.isdir(self.out / name) and not os.path.isdir(images.folder(self.out)):
                del sets[name]  # removed by hand
        found = [images for images in sets.values() if images.finished or images in self.asked]
        problems = [text for images in found for source in self.sources
                    for text in refusals(source, images.scale, images.lmdb, self._is_listed(images))]
        if problems:
            raise PrepareError(problems[0])
        return found

    def run(self, workers: int | None, left_out: list[Path]) -> Summary:
        """Do what is to be done.

        Args:
            workers: Number of processes; None decides.
            left_out: What the folders of the images hold besides, for the summary.

        Returns:
            The summary.

        Raises:
            PrepareError: Images are damaged, or files would be overwritten that are not ours.
        """
        cuts = {images.scale: self._cut(images.scale) for images in self.sets}
        current = self._current()
        changes = [changes_of(images, self.out, cuts[images.scale], current) for images in self.sets]
        for found in changes:
            if self._is_listed(found.images):
                found.listed = NameList(self.manifest, found.images, chain(*cuts[found.images.scale].values()))
                found.refused += found.listed.refused()
        require_allowed(changes)
        for found in changes:
            if found.listed is not None:
                found.listed.withdraw(bool(found.targets or found.stale))
        jobs = merged(changes, self.sources)
        if jobs or any(found.stale for found in changes):
            for found in changes:
                found.claim()
            self.manifest.save()
            for found in changes:
                found.remove_stale()
                if found.targets:
                    found.images.folder(self.out).mkdir(exist_ok=True)
        if jobs:
            with self.manifest.recording() as enter:
                problems = do_all(jobs, workers, enter)
            if problems:
                raise PrepareError('\n'.join([*problems[:20], 'All other images are done; after that, run the command '
                                              'again to continue.']))
        self._finish(changes)
        return self._summary(changes, cuts[self.settings.scale], len(jobs), left_out)

    def _summary(self, changes: Sequence[Changes], tiles: Mapping[str, list[Tile]], written: int,
                 left_out: list[Path]) -> Summary:
        foreign = [path for found in changes if found.images in self.asked for path in found.foreign]
        also = [found.images.name for found in changes if found.images not in self.asked
                and (found.targets or found.stale)]
        lr = None if self.lr is None else self.out / self.lr.name
        return Summary(self.out / self.hr.name, lr, len(self.sources),
                       sum(map(len, tiles.values())), written, self.settings.whole(self.sources, tiles), self.dropped,
                       left_out, foreign, also, None if lr else path_of_list(self.out, self.hr.name),
                       self.settings.too_small(self.sources))

    def _is_listed(self, images: ImageSet) -> bool:
        """Whether ``RealESRGANDataset`` needs a list beside the images."""
        return self.settings.gt_only and not images.lmdb

    def _current(self) -> dict[str, str]:
        """SHA-256 of the images that were read before; of those whose time of change is new, by reading them again."""
        known = self.manifest.sources
        touched = [source for source in self.sources
                   if source.stem in known and not known[source.stem].same_version(source)]
        found = digests(touched)
        for source in self.sources:
            before = known.get(source.stem)
            if before is not None:
                known[source.stem] = self.manifest.known(source, found.get(source.stem, before.sha256))
        return {stem: entry.sha256 for stem, entry in known.items()}

    def _finish(self, changes: Sequence[Changes]) -> None:
        """Write the LMDBs, and save what there is now."""
        packed = []
        for found in changes:
            images = found.images
            if images.lmdb and _must_pack(images, found, self.out):
                fresh = [name for stem, made in images.made.items() if not made.packed and stem not in found.gone
                         for name in made.files]
                dropped = [name for stem, made in images.made.items()
                           for name in (*made.old, *(made.files if stem in found.gone else ()))]
                write_lmdb(self.out / images.name, images.folder(self.out), fresh, dropped)
                for stem in found.gone:
                    del images.made[stem]
                for made in images.made.values():
                    made.packed, made.old = True, []
                packed.append((images, fresh))
        stems = {source.stem for source in self.sources}
        self.manifest.sources = {stem: known for stem, known in self.manifest.sources.items() if stem in stems}
        for images in self.asked:
            images.finished = True
        lists = [found.listed for found in changes if found.listed is not None]
        for names in lists:
            names.record()
        self.manifest.save()
        for names in lists:
            names.write()
        for images, fresh in packed:
            for name in fresh:
                (images.folder(self.out) / f'{name}.png').unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                images.folder(self.out).rmdir()


def _differences(content: Mapping[str, Any], asked: Settings) -> list[str]:
    """In which options a folder was made otherwise, as words that follow "was made"."""
    other = [f'--{key}' for key, value in (('crop', asked.crop), ('step', asked.step)) if content[key] != value]
    found = [f'with other {" and other ".join(other)}'] if other else []
    for key, value in (('gt_only', asked.gt_only), ('multiscale', asked.multiscale)):
        if content.get(key, False) != value:
            found.append(f'{"without" if value else "with"} --{key.replace("_", "-")}')
    return found


def _must_pack(images: ImageSet, found: Changes, out: Path) -> bool:
    return bool(found.gone) or any(not made.packed or made.old for made in images.made.values()) or not entries_of(
        out / images.name)
