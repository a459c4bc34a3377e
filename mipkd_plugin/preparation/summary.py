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
        lr: Folder or LMDB of the LR images.
        images: Number of source images.
        pairs: Number of HR-LR pairs.
        written: Number of source images that this run processed; 0 if all pairs existed already.
        whole: Names of the images that are smaller than ``crop`` and stay whole.
        dropped: Names of the images that are gone since the last run, and with them what was made of them.
        left_out: Files and subfolders of the HR folders that are not read.
        foreign: Files among the results that ``mipkd prepare`` did not make.
        also: Other sets of the folder that this run has changed too.
    """

    hr: Path
    lr: Path
    images: int
    pairs: int
    written: int
    whole: list[str]
    dropped: list[str] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)
    foreign: list[Path] = field(default_factory=list)
    also: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        done = f'{self.written} of {self.images} images done in this run' if self.written else 'nothing to do'
        made, read = counted(self.pairs, 'pair'), counted(self.images, 'image')
        lines = [f'{made} from {read}: {done}.']
        if self.dropped:
            lines[0] = lines[0].replace('nothing to do', 'nothing to make')
            lines.append(f'Gone since the last run, and removed here too: {some(self.dropped)}')
        if self.also:
            lines.append(f'Brought up to date as well: {", ".join(self.also)}')
        if self.whole:
            lines.append(f'Smaller than --crop, kept whole: {", ".join(self.whole)}')
        if self.left_out:
            lines.append(f'Left out, as only .png, .jpg, .jpeg and .bmp files are read, and no subfolders: '
                         f'{some(self.left_out)}')
        if self.foreign:
            lines.append(f'Not made by mipkd prepare, but BasicSR will read it: {some(self.foreign)}; move it away')
        backend = 'lmdb' if self.hr.suffix == '.lmdb' else 'disk'
        lines += ['For the dataset in an option file:', f'    dataroot_gt: {self.hr}',
                  f'    dataroot_lq: {self.lr}', f'    io_backend: {{type: {backend}}}']
        return '\n'.join(lines)
