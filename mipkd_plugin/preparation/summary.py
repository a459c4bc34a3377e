"""What ``mipkd prepare`` tells at its end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mipkd_plugin.utils.words import counted, some


@dataclass(frozen=True)
class Summary:
    """The result of ``prepare``.

    Attributes:
        hr: Folder or LMDB of the HR images.
        lr: Folder or LMDB of the LR images; None if HR images alone were asked for.
        images: Number of source images.
        pairs: Number of HR-LR pairs, or of HR images.
        written: Number of source images that this run processed; 0 if all pairs existed already.
        whole: Names of the images, or of versions of them, that are smaller than ``crop`` and stay whole.
        dropped: Names of the images that are gone since the last run, and with them what was made of them.
        left_out: Files and subfolders of the HR folders that are not read.
        foreign: Files among the results that ``mipkd prepare`` did not make.
        also: Other sets of the folder that this run has changed too.
        meta_info: The list of HR images alone in a folder; None for pairs and for LMDBs.
        too_small: Names of the images, or of versions of them, that are left out for their size.
    """

    hr: Path
    lr: Path | None
    images: int
    pairs: int
    written: int
    whole: list[str]
    dropped: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    also: list[str] = field(default_factory=list)
    meta_info: Path | None = None
    too_small: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = f'{self.written} of {self.images} images done in this run' if self.written else 'nothing to do'
        made, read = counted(self.pairs, 'pair' if self.lr else 'HR image'), counted(self.images, 'image')
        lines = [f'{made} from {read}: {done}.']
        if self.dropped:
            lines[0] = lines[0].replace('nothing to do', 'nothing to make')
            lines.append(f'Gone since the last run, and removed here too: {some(self.dropped)}')
        if self.also:
            lines.append(f'Brought up to date as well: {", ".join(self.also)}')
        if self.whole:
            names = ', '.join(self.whole) if self.lr else some(self.whole)
            lines.append(f'Smaller than --crop, kept whole: {names}')
        if self.too_small:
            lines.append(f'Left out, smaller than --min-side: {some(self.too_small)}')
        if self.left_out:
            lines.append(f'Left out, as only .png, .jpg, .jpeg and .bmp files are read, and no subfolders: '
                         f'{some(self.left_out)}')
        if self.foreign:
            lines.append(f'Not made by mipkd prepare, but BasicSR will read it: {some(self.foreign)}; move it away'
                         if self.lr else f'Not made by mipkd prepare, and not in meta_info: {some(self.foreign)}')
        return '\n'.join([*lines, 'For the dataset in an option file:', *self._options()])

    def _options(self) -> list[str]:
        """The lines of the data set in an option file."""
        options = {'type': None if self.lr else 'RealESRGANDataset', 'dataroot_gt': self.hr, 'dataroot_lq': self.lr,
                   'meta_info': self.meta_info,
                   'io_backend': f'{{type: {"lmdb" if self.hr.suffix == ".lmdb" else "disk"}}}'}
        return [f'    {key}: {value}' for key, value in options.items() if value is not None]
