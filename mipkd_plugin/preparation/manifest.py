"""``prepare.json``: what an output folder holds, and from which version of which source image each file was made.

A later run makes again what has changed, and removes what is gone. While a run works, it appends each finished image to
a journal beside it, so that nothing is lost if the run is killed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import StringConstraints, TypeAdapter, ValidationError

from mipkd_plugin.preparation.sources import Source
from mipkd_plugin.preparation.workers import Done, FileRecord
from mipkd_plugin.utils.files import write_text

MANIFEST = 'prepare.json'
JOURNAL = '.prepare.journal'
FORMAT = 2
UNKNOWN = ''
"""Digest of a file that an older version made."""


Name = Annotated[str, StringConstraints(pattern=r'^[^/.][^/]*$')]
"""Name of a file without its ending; it never leads into another folder."""
SetName = Annotated[str, StringConstraints(pattern=r'^(HR(_x[2348])?|LRbicx[2348])(\.lmdb)?$')]
Scale = Literal[1, 2, 3, 4, 8]
Read = TypeVar('Read')


@dataclass
class Made:
    """What a set holds of one source image.

    Attributes:
        sha256: Digest of the source image that the files were made from; None if they were only begun.
        files: Length and digest of each file, by name; None if it was only begun.
        packed: Whether they are in the LMDB of the set, rather than in the folder of its images.
        old: Entries of the LMDB that an earlier version of the source image left.
    """

    sha256: str | None = None
    files: dict[Name, FileRecord | None] = field(default_factory=dict)
    packed: bool = False
    old: list[Name] = field(default_factory=list)


@dataclass
class ImageSet:
    """A folder or an LMDB of HR or LR images.

    Attributes:
        name: Its name in the output folder.
        scale: HR images are cropped to a multiple of it, LR images are made for it; 1 for HR images alone.
        finished: Whether it was complete once; later runs keep it up to date.
        made: What it holds of each source image, by stem.
    """

    name: str
    scale: int
    finished: bool = False
    made: dict[Name, Made] = field(default_factory=dict)

    @property
    def lmdb(self) -> bool:
        """Whether it is an LMDB."""
        return self.name.endswith('.lmdb')

    def folder(self, out: Path) -> Path:
        """The folder for its images; an LMDB is made from it afterwards."""
        return out / (f'.images_{self.name}' if self.lmdb else self.name)

    def owned(self) -> dict[str, FileRecord | None]:
        """All files of the set that were made or begun."""
        return {name: record for made in self.made.values() for name, record in made.files.items()}


@dataclass
class Known:
    """A source image as it was when it was last read."""

    file: Name
    folder: str
    size: int
    changed: int
    sha256: str

    def same_version(self, source: Source) -> bool:
        """Whether name, length and time of change are still the same."""
        return (self.file, self.size, self.changed) == (source.path.name, source.size, source.changed)


@dataclass
class _Content:
    """What ``prepare.json`` holds."""

    format: Literal[2]
    crop: int | None
    step: int | None
    sources: dict[Name, Known]
    sets: dict[SetName, _Set]
    gt_only: bool = False
    multiscale: bool = False
    lists: dict[SetName, str] = field(default_factory=dict)


@dataclass
class _Set:
    scale: Scale
    finished: bool
    made: dict[Name, Made]


@dataclass
class _Line:
    """A line of the journal."""

    stem: Name
    known: Known
    files: dict[SetName, dict[Name, FileRecord]]


def parsed(text: str, kind: type[Read]) -> Read:
    """Read JSON of a certain kind.

    Args:
        text: The JSON.
        kind: A dataclass.

    Returns:
        The content.

    Raises:
        ValueError: It is of another kind; the message has the place.
    """
    try:
        return TypeAdapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f'{".".join(map(str, first["loc"]))}: {first["msg"]}') from None


class Manifest:
    """The content of an output folder.

    Args:
        out: The folder.
        crop: Side of the tiles.
        step: Distance between tiles.
        gt_only: Whether it holds HR images alone.
        multiscale: Whether it holds smaller versions of them too.

    Attributes:
        sources: The source images that it was made from, by stem.
        sets: Its sets of images, by name.
        lists: Digest of the list of each folder of HR images, by the name of the folder.
    """

    def __init__(self, out: Path, crop: int | None, step: int | None, gt_only: bool = False,
                 multiscale: bool = False) -> None:
        self.out, self.path, self.journal = out, out / MANIFEST, out / JOURNAL
        self.crop, self.step, self.gt_only, self.multiscale = crop, step, gt_only, multiscale
        self.sources: dict[str, Known] = {}
        self.sets: dict[str, ImageSet] = {}
        self.lists: dict[str, str] = {}

    @classmethod
    def load(cls, out: Path, text: str) -> Manifest:
        """Make a manifest of the content of ``prepare.json``, and of the journal of a run that was killed.

        Args:
            out: The folder.
            text: The content.

        Returns:
            The manifest.

        Raises:
            ValueError: The content does not fit.
        """
        content = parsed(text, _Content)
        if any((entry.scale == 1) != content.gt_only for entry in content.sets.values()):
            raise ValueError('sets: HR images alone have scale 1, and pairs never have it')
        manifest = cls(out, content.crop, content.step, content.gt_only, content.multiscale)
        manifest.sources, manifest.lists = content.sources, content.lists
        manifest.sets = {name: ImageSet(name, entry.scale, entry.finished, entry.made)
                         for name, entry in content.sets.items()}
        if os.path.isfile(manifest.journal):
            for line in manifest.journal.read_text(encoding='utf-8', errors='replace').splitlines():
                try:
                    done = parsed(line, _Line)
                except ValueError:  # the last line, cut
                    break
                manifest._enter(done.stem, done.known, done.files)
        return manifest

    def known(self, source: Source, sha256: str) -> Known:
        """The entry of a source image."""
        return Known(source.path.name, str(source.path.parent.resolve()), source.size, source.changed, sha256)

    def _enter(self, stem: str, known: Known, files: dict[str, dict[str, FileRecord]]) -> None:
        self.sources[stem] = known
        for name, written in files.items():
            if name in self.sets:
                made = self.sets[name].made.setdefault(stem, Made())
                made.sha256, made.packed = known.sha256, False
                made.files.update(written)

    def _text(self) -> str:
        content: dict[str, Any] = {
            'format': FORMAT, 'crop': self.crop, 'step': self.step,
            'sources': {stem: asdict(known) for stem, known in self.sources.items()},
            'sets': {name: {'scale': images.scale, 'finished': images.finished,
                            'made': {stem: asdict(made) for stem, made in images.made.items()}}
                     for name, images in self.sets.items()}}
        if self.gt_only:
            content.update(gt_only=True, multiscale=self.multiscale, lists=self.lists)
        return json.dumps(content, separators=(',', ':')) + '\n'

    def save(self) -> None:
        """Write ``prepare.json``, unless it is up to date; the journal is part of it then."""
        text = self._text()
        if not os.path.isfile(self.path) or self.path.read_text(encoding='utf-8') != text:
            write_text(self.path, text)
        self.journal.unlink(missing_ok=True)

    @contextmanager
    def recording(self) -> Iterator[Any]:
        """Inside the block, enter finished jobs with the function that it gets; at its end the manifest is saved."""
        with self.journal.open('w', encoding='utf-8') as journal:

            def enter(done: Done) -> None:
                known, stem = self.known(done.image, done.digest), done.image.stem
                self._enter(stem, known, done.files)
                journal.write(json.dumps({'stem': stem, 'known': asdict(known), 'files': done.files}) + '\n')
                journal.flush()

            yield enter
        self.save()
