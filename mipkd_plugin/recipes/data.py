"""The data sets of ``mipkd distill``: what is trained and validated on, and how it is prepared."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mipkd_plugin.data.headers import Header
from mipkd_plugin.preparation.settings import SCALES
from mipkd_plugin.preparation.sources import PrepareError, read_sources
from mipkd_plugin.recipes.images import (
    DataError,
    Found,
    find,
    headers,
    held_out,
    same_images,
    scale_between,
    template_of,
)
from mipkd_plugin.recipes.pairs import Pairs
from mipkd_plugin.utils.words import some


@dataclass(frozen=True)
class Data:
    """The training and validation images of a run, and notes on what was decided."""

    train: Pairs
    val: Pairs
    notes: tuple[str, ...]


def plan(hr: Path, lr: Path | None, val: Path | None, val_lr: Path | None, scale: int, out: Path) -> Data:
    """Decide what to train and validate on. Writes nothing.

    Args:
        hr: Folder of HR images for training.
        lr: Folder of their LR images; None has them made.
        val: Folder of HR images for validation; None holds some of the training images out.
        val_lr: Folder of their LR images; None takes those beside ``val`` if they fit, or has them made.
        scale: Scale factor of the teacher.
        out: Folder of the results.

    Returns:
        The data sets.

    Raises:
        DataError: Folders or images do not fit; the message says which, why, and what to do.
        PrepareError: LR images cannot be made of some images.
    """
    if scale not in SCALES and (lr is None or val is not None and val_lr is None):
        raise DataError(f'the teacher is for x{scale}, and LR images are made for x{", x".join(map(str, SCALES))} only.'
                        '\n   -> Give your own: --lr DIR, and --val-lr DIR with --val')
    found = find('--hr', hr, out)
    notes = list(found.notes)
    if val is None:
        if val_lr is not None:
            raise DataError(f'--val-lr {val_lr}: has no HR images beside it.\n   -> Name them too: --val DIR')
        chosen = held_out(found.files)
        notes.append(f'held out to validate on, as --val is not given: {some([p.name for p in chosen], 8)}')
        other = Found('--hr', found.root, chosen)
    else:
        other = find('--val', val, out)
        notes += other.notes
    left_out = same_images(found.files, other.files)
    if left_out and val is not None:
        notes.append(f'never trained on, as --val has {"them" if len(left_out) > 1 else "it"} too: '
                     f'{some([path.name for path in left_out])}')
    training = replace(found, files=[path for path in found.files if path not in set(left_out)])
    if not training.files:
        raise DataError(f'--hr {hr}: all its images are those of --val {other.root} too, and nothing is left to train '
                        'on.\n   -> Name other images: --hr DIR, or leave out --val: some of --hr are held out')
    beside = val_lr or (_beside(other, scale) if val is not None else lr)
    if beside is not None and val is not None and val_lr is None:
        notes.append(f'--val: the LR images beside it are used, {beside}')
    if lr is not None and val is not None and val_lr is None:
        notes.append('--val: its LR images are bicubic; if those of --lr are not, give --val-lr too')
    folder = out / 'data'
    held = val is None
    train, checked = _all(
        lambda: _pairs('train', '--lr', training, lr, scale, folder / 'train', found.files),
        lambda: _pairs('val', '--lr' if held else '--val-lr', other, beside, scale, folder / 'val',
                       found.files if held else other.files))
    return Data(train, checked, tuple(notes))


def _all(*makers: Callable[[], Pairs]) -> list[Pairs]:
    """What all of these make; the images that some of them cannot use are named together."""
    made, problems = [], []
    for make in makers:
        try:
            made.append(make())
        except PrepareError as error:
            problems.append(str(error))
    if problems:
        raise PrepareError('\n'.join(problems))
    return made


def _pairs(name: str, flag: str, found: Found, lr: Path | None, scale: int, folder: Path,
           all_files: Sequence[Path]) -> Pairs:
    """The pairs of some images; ``all_files`` are those of the whole folder."""
    called = 'held_out' if name == 'val' and found.flag == '--hr' else _name_of(found.root)
    if lr is None:
        sources = read_sources(found.files, scale, lmdb=False)
        _require_unlike_names(found.files)
        return Pairs(called, tuple(found.files), folder / 'HR', folder / f'LRbicx{scale}',
                     {source.path: source.header for source in sources}, made_in=folder)
    if not found.is_flat:
        raise DataError(f'{found.flag} {found.root}: has subfolders, and with {flag} all HR images must lie in one '
                        f'folder.\n   -> Name a folder without subfolders, or leave out {flag}: LR images are made')
    small = find(flag, lr)
    template = template_of(found.files, small.files, scale)
    if template is None or not small.is_flat:
        first = found.files[0].stem
        raise DataError(f'{flag} {lr}: lacks LR images of {found.flag}: for {found.files[0].name} it needs {first}.png '
                        f'or {first}x{scale}.png, and it holds {some([path.name for path in small.files])}.\n   -> '
                        f'Name the folder of the LR images, or leave out {flag}: they are made')
    by_stem = {path.stem: path for path in small.files}
    partners = [by_stem[template.format(path.stem)] for path in found.files]
    large, tiny = headers(found.files), headers(partners)
    for path, partner in zip(found.files, partners):
        _require_scale(flag, path, large[path], partner, tiny[partner], scale, name == 'val')
    listed = folder.with_suffix('.txt') if len(found.files) < max(len(all_files), len(small.files)) else None
    if listed is not None and any(' ' in path.name or path.suffix != partner.suffix
                                  for path, partner in zip(found.files, partners)):
        raise DataError(f'{found.flag} {found.root}: BasicSR reads a part of a folder only if names have no spaces and '
                        'HR and LR images have one ending.\n   -> Rename the images, or name others to validate on '
                        'with --val')
    return Pairs(called, tuple(found.files), found.root, small.root, large, template=template, listed=listed)


def _name_of(root: Path) -> str:
    """A folder's name for the log; of ``Set5/HR`` that is ``Set5``."""
    path = root.resolve()
    name = path.parent.name if path.name == 'HR' else path.name
    return re.sub(r'[^\w-]+', '_', name).strip('_') or 'images'


def _require_scale(flag: str, path: Path, large: Header, partner: Path, small: Header, scale: int,
                   cropped: bool) -> None:
    """Refuse a pair of another scale than the teacher's."""
    between = scale_between(large, small, cropped)
    if between == scale:
        return
    sizes = f'{partner} is {small.width}x{small.height}, {path} is {large.width}x{large.height}'
    what = (f'are 1/{between:.3g} of the HR images' if between is not None and between > 1 else
            f'are not 1/{scale} of the HR images')
    exact = '' if cropped else ', exactly: no pixel of an HR image may be left over'
    raise DataError(f'{flag}: the LR images {what}, and the teacher is for x{scale} ({sizes}).\n   -> Name the LR '
                    f'images for x{scale}{exact}; or leave out {flag}: they are made')


def _require_unlike_names(files: Sequence[Path]) -> None:
    first: dict[str, Path] = {}
    for path in files:
        if path.stem in first:
            raise DataError(f'{first[path.stem]} and {path} have one name, and what is made of them would too.\n   -> '
                            'Rename one of them, or name a single folder')
        first[path.stem] = path


def _beside(found: Found, scale: int) -> Path | None:
    """The folder ``LRbicx<scale>`` beside the HR images, if it holds a partner of the right size for each of them."""
    folder = found.root.parent / f'LRbicx{scale}'
    if not found.is_flat or not os.path.isdir(folder):
        return None
    try:
        _pairs('val', '--val-lr', found, folder, scale, folder, found.files)
    except DataError:
        return None
    return folder
