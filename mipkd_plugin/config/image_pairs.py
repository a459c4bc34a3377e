"""Check the images on disk: they exist, form HR-LR pairs, and their sizes fit the scale."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
from PIL import Image, UnidentifiedImageError

from mipkd_plugin.config.problems import Context

_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm')
_META_LINE = re.compile(r'(?P<name>.+) \((?P<height>\d+),(?P<width>\d+),\d+\) \d+')
_EXIF = re.compile(rb'exif', re.IGNORECASE)
_MOST_READ = 1000  # images whose size is read from disk; an LMDB lists all sizes in one file
Size = tuple[int, int]


class Pair(NamedTuple):
    """An HR image and its LR image; sizes are (height, width), or None if not read."""

    name: str
    hr: Size | None
    lr: Size | None


def check_image_pairs(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    """Check one ``PairedImageDataset`` on disk.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.

    Returns:
        Number of pairs, or None if they cannot be counted.
    """
    backend = options['io_backend'].get('type')
    roots = {key: ctx.path(options[key]) for key in ('dataroot_gt', 'dataroot_lq')}
    as_lmdb = backend == 'lmdb'
    found = [_check_root(ctx, f'{where}.{key}', options[key], root, as_lmdb) for key, root in roots.items()]
    if not all(found) or backend not in ('lmdb', 'disk'):
        return None
    hr_root, lr_root = roots['dataroot_gt'], roots['dataroot_lq']
    if as_lmdb:
        pairs = _pairs_of_lmdb(ctx, where, hr_root, lr_root)
    else:
        pairs = _pairs_of_folders(ctx, where, hr_root, lr_root, options)
    if pairs is not None:
        _check_sizes(ctx, where, pairs, options.get('gt_size'), hr_root)
    return len(pairs) if pairs is not None else None


def _check_root(ctx: Context, where: str, text: str, root: Path, as_lmdb: bool) -> bool:
    """Whether there is something to read at ``root``."""
    if as_lmdb and root.suffix != '.lmdb':
        ctx.add(where, f'{text} does not end in .lmdb, but io_backend is lmdb',
                'name an LMDB, or write type: disk')
        return False
    if not as_lmdb and root.suffix == '.lmdb':
        ctx.add(where, f'{text} is an LMDB, but io_backend is disk', 'write io_backend: {type: lmdb}')
        return False
    if not root.is_dir():
        reason = 'is not a folder' if root.exists() else 'does not exist'
        ctx.add(where, f'{text} {reason}; looked for {root}',
                f'fix the path, or create it: {_prepare_line(ctx, where, text, as_lmdb)}')
        return False
    needed = ('data.mdb', 'meta_info.txt') if as_lmdb else ()
    missing = [name for name in needed if not (root / name).is_file()]
    if missing:
        ctx.add(where, f'{text} has no {" and no ".join(missing)}: the LMDB is incomplete',
                f'create it again: {_prepare_line(ctx, where, text, as_lmdb)}')
        return False
    return as_lmdb or _check_folder(ctx, where, text, root)


def _prepare_line(ctx: Context, where: str, text: str, as_lmdb: bool) -> str:
    flags = ' --lmdb' if as_lmdb else ''
    if as_lmdb and where.startswith('datasets.train.'):
        flags += ' --crop 480 --step 240'
    return f'mipkd prepare --hr DIR --scale {ctx.scale} --out {Path(text).parent}{flags}'


def _files(root: Path) -> list[str]:
    """The files that BasicSR reads as images: all whose names do not start with a dot."""
    return sorted(entry.name for entry in root.iterdir()
                  if entry.is_file() and not entry.name.startswith('.'))


def _check_folder(ctx: Context, where: str, text: str, root: Path) -> bool:
    names = _files(root)
    if not names:
        ctx.add(where, f'{text} holds no images (sub-folders are not searched); looked in {root}',
                'name the folder that holds the images')
        return False
    others = [name for name in names if Path(name).suffix.lower() not in _SUFFIXES]
    if others:
        ctx.add(where, f'{text} holds {_some(others)}, and BasicSR reads every file as an image',
                'move all other files out of the folder')
    return not others


def _pairs_of_folders(ctx: Context, where: str, hr_root: Path, lr_root: Path,
                      options: Mapping[str, Any]) -> list[Pair] | None:
    lr_names = _files(lr_root)
    if options.get('meta_info_file'):
        listing = ctx.path(options['meta_info_file'])
        if not os.path.isfile(listing):
            ctx.add(f'{where}.meta_info_file', f'does not exist; looked for {listing}', 'fix the path')
            return None
        try:
            hr_names = [line.strip().split(' ')[0] for line in listing.read_text(encoding='utf-8').splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            ctx.add(f'{where}.meta_info_file', f'{listing} cannot be read as text ({error})',
                    'name a text file with one HR image a line')
            return None
        blank = [str(number) for number, name in enumerate(hr_names, 1) if not name]
        if blank or not hr_names:
            ctx.add(f'{where}.meta_info_file', f'{listing} has no name in line {_some(blank or ["1"])}',
                    'delete the blank lines, and name an HR image in each line')
            return None
        gone = [name for name in hr_names if not os.path.isfile(hr_root / name)]
        if gone:
            ctx.add(f'{where}.meta_info_file', f'lists {_some(gone)}, which {hr_root} does not hold', 'fix the list')
            return None
    else:
        hr_names = _files(hr_root)
        if len(hr_names) != len(lr_names):
            alone = _unpaired(hr_names, lr_names, options)
            ctx.add(where, f'{len(hr_names)} HR images in {hr_root}, but {len(lr_names)} LR images in '
                    f'{lr_root}; unpaired: {alone}', 'create both from the same images')
            return None
    wanted = [_lr_name(name, options) for name in hr_names]
    missing = sorted(set(wanted) - set(lr_names))
    if missing:
        template = options.get('filename_tmpl', '{}')
        ctx.add(f'{where}.dataroot_lq', f'for filename_tmpl {template!r} the LR images {_some(missing)} are '
                f'missing in {lr_root}, which holds {_some(lr_names)}',
                'fix filename_tmpl, or rename the images')
        return None
    few = range(min(len(hr_names), _MOST_READ))
    sizes = [(_image_size(hr_root / hr_names[i]), _image_size(lr_root / wanted[i])) for i in few]
    damaged = [str(root / names[i]) for i, pair in zip(few, sizes)
               for root, names, size in ((hr_root, hr_names, pair[0]), (lr_root, wanted, pair[1]))
               if size is None]
    if damaged:
        ctx.add(where, f'cannot be read as images: {_some(damaged)}', 'fix or delete them')
    return [Pair(name, *(sizes[i] if i in few else (None, None))) for i, name in enumerate(hr_names)]


def _lr_name(hr_name: str, options: Mapping[str, Any]) -> str:
    path = Path(hr_name)
    return f'{options.get("filename_tmpl", "{}").format(path.stem)}{path.suffix}'


def _unpaired(hr_names: Sequence[str], lr_names: Sequence[str], options: Mapping[str, Any]) -> str:
    wanted = {_lr_name(name, options): name for name in hr_names}
    alone = [name for lr, name in wanted.items() if lr not in lr_names]
    return _some(alone + [name for name in lr_names if name not in wanted])


def _pairs_of_lmdb(ctx: Context, where: str, hr_root: Path, lr_root: Path) -> list[Pair] | None:
    sizes: list[dict[str, Size]] = []
    for key, root in (('dataroot_gt', hr_root), ('dataroot_lq', lr_root)):
        lines = (root / 'meta_info.txt').read_text(encoding='utf-8').splitlines()
        matches = [_META_LINE.fullmatch(line) for line in lines]
        if not lines or not all(matches):
            ctx.add(f'{where}.{key}', f'{root / "meta_info.txt"} does not list images as `name.png (h,w,c) '
                    'level`', 'create the LMDB again with mipkd prepare --lmdb')
            return None
        entries = {m['name'].split('.')[0]: (int(m['height']), int(m['width'])) for m in matches if m}
        stored = _lmdb_entries(root, next(iter(entries)))
        if stored != len(lines) or len(entries) != len(lines):
            ctx.add(f'{where}.{key}', f'{root} lists {len(lines)} images but holds {stored} (names must be '
                    'unique up to the first dot)', 'create the LMDB again with mipkd prepare --lmdb')
            return None
        sizes.append(entries)
    alone = sorted(set(sizes[0]) ^ set(sizes[1]))
    if alone:
        ctx.add(where, f'{len(sizes[0])} HR images in {hr_root}, {len(sizes[1])} LR images in {lr_root}; '
                f'in only one of them: {_some(alone)}',
                'create both from the same images with mipkd prepare --lmdb')
        return None
    return [Pair(name, size, sizes[1][name]) for name, size in sizes[0].items()]


def _lmdb_entries(root: Path, key: str) -> int:
    """Number of entries of an LMDB; 0 if it is damaged or does not hold ``key``."""
    try:
        with lmdb.open(str(root), readonly=True, lock=False, readahead=False) as environment, \
                environment.begin() as transaction:
            return environment.stat()['entries'] if transaction.get(key.encode()) is not None else 0
    except lmdb.Error:
        return 0


def _check_sizes(ctx: Context, where: str, pairs: Sequence[Pair], gt_size: Any, hr_root: Path) -> None:
    scale = ctx.scale or 1
    training = where == 'datasets.train'
    known = [(pair.name, pair.hr, pair.lr) for pair in pairs if pair.hr and pair.lr]
    wrong = [(name, hr, lr) for name, hr, lr in known
             if (hr != (lr[0] * scale, lr[1] * scale) if training else
                 lr != (hr[0] // scale, hr[1] // scale))]
    if wrong:
        name, hr, lr = wrong[0]
        other = hr_root.with_name(f'{hr_root.stem}_x{scale}{hr_root.suffix}')
        remedy = f'set dataroot_gt to {other}, which mipkd prepare made for this scale' if other.is_dir() else (
            'create both with mipkd prepare, which crops HR to a multiple of the scale, or fix scale')
        ctx.add(where, f'scale {scale} does not fit {len(wrong)} of {len(known)} pairs, first {name}: HR '
                f'{hr[0]}×{hr[1]}, LR {lr[0]}×{lr[1]}', remedy)
    if training and isinstance(gt_size, int):
        small = [name for name, hr, _ in known if min(hr) < gt_size]
        if small:
            ctx.add(f'{where}.gt_size', f'{gt_size} is larger than {len(small)} of {len(known)} HR images: '
                    f'{_some(small)}', 'write a smaller gt_size, or remove these images')


def _image_size(path: Path) -> Size | None:
    """(height, width) as OpenCV decodes the file, or None if it is not an image."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _size_of_version(path, status.st_mtime_ns, status.st_size)


@cache
def _size_of_version(path: Path, changed: int, length: int) -> Size | None:
    """Size of an image. The cache reads each file once, however many methods a comparison checks."""
    try:
        with Image.open(path) as image:
            width, height = image.size
            # to find EXIF data behind the pixels of a PNG, Pillow would decode the whole image
            plain = image.format == 'PNG' and not _EXIF.search(path.read_bytes())
            turned = not plain and image.getexif().get(0x0112, 1) >= 5
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError):
        return None
    return (width, height) if turned else (height, width)


def _some(names: Sequence[str]) -> str:
    """The first three names, and how many follow."""
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
