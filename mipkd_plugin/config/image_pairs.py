"""Check the images on disk: they exist, form HR-LR pairs, and their sizes fit the scale."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lmdb

from mipkd_plugin.config.image_folders import check_folder, files_of
from mipkd_plugin.config.image_sizes import Pair, check_sizes
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.data.stores import Found, in_folder, in_lmdb
from mipkd_plugin.utils.lmdb_files import damage_of
from mipkd_plugin.utils.words import some

_META_LINE = re.compile(r'(?P<name>.+) \((?P<height>\d+),(?P<width>\d+),\d+\) \d+')


def check_image_pairs(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    """Check one ``PairedImageDataset`` on disk.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.

    Returns:
        Number of pairs, or None if they cannot be counted.
    """
    pairs = find_pairs(ctx, where, options)
    if pairs is None:
        return None
    broken = [found for pair in pairs for found in (pair.hr, pair.lr) if found.header is None]
    if broken:
        text = options['dataroot_gt']
        ctx.add(where, f'cannot be read as images: {some([f"{found.image} {found.reason}" for found in broken])}',
                f'create the LMDB again: {_prepare_line(ctx, where, text, True)}' if text.endswith('.lmdb') else
                'restore them, or remove them together with their partners')
    check_sizes(ctx, where, pairs, options.get('gt_size'), ctx.path(options['dataroot_gt']))
    return len(pairs)


def find_pairs(ctx: Context, where: str, options: Mapping[str, Any]) -> list[Pair] | None:
    """Find the pairs of one ``PairedImageDataset`` on disk, with their headers.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.

    Returns:
        The pairs, or None if they cannot be told; then there is a problem.
    """
    backend = options['io_backend'].get('type')
    roots = {key: ctx.path(options[key]) for key in ('dataroot_gt', 'dataroot_lq')}
    as_lmdb = backend == 'lmdb'
    listed = bool(options.get('meta_info_file'))
    found = [_check_root(ctx, f'{where}.{key}', options[key], root, as_lmdb, listed) for key, root in roots.items()]
    if not all(found) or backend not in ('lmdb', 'disk'):
        return None
    hr_root, lr_root = roots['dataroot_gt'], roots['dataroot_lq']
    if as_lmdb:
        return _pairs_of_lmdb(ctx, where, hr_root, lr_root)
    return _pairs_of_folders(ctx, where, hr_root, lr_root, options)


def _check_root(ctx: Context, where: str, text: str, root: Path, as_lmdb: bool, listed: bool) -> bool:
    """Whether there is something to read at ``root``."""
    if as_lmdb and root.suffix != '.lmdb':
        ctx.add(where, f'{text} does not end in .lmdb, but io_backend is lmdb', *_other_backend(ctx, where, 'disk'))
        return False
    if as_lmdb and not text.endswith('.lmdb'):
        ctx.add(where, f'{text} must end in .lmdb for BasicSR, without a slash',
                fix={where: text[:text.rfind('.lmdb') + len('.lmdb')]})
        return False
    if not as_lmdb and root.suffix == '.lmdb':
        ctx.add(where, f'{text} is an LMDB, but io_backend is disk', *_other_backend(ctx, where, 'lmdb'))
        return False
    if not os.path.isdir(root):
        reason = 'is not a folder' if os.path.exists(root) else 'does not exist'
        ctx.add(where, f'{text} {reason}; looked for {root}',
                f'fix the path, or create it: {_prepare_line(ctx, where, text, as_lmdb)}')
        return False
    if not as_lmdb:
        return check_folder(ctx, where, text, root, listed)
    missing = [name for name in ('data.mdb', 'meta_info.txt') if not os.path.isfile(root / name)]
    damage = f'has no {" and no ".join(missing)}' if missing else damage_of(root)
    if damage:
        ctx.add(where, f'{text} {damage}: the LMDB is incomplete' if missing else f'{text} is damaged: {damage}',
                f'delete the LMDB and create it again: {_prepare_line(ctx, where, text, as_lmdb)}')
    return not damage


def _other_backend(ctx: Context, where: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The remedy for images that the backend does not read; HR and LR images need the same one."""
    above = where.rpartition('.')[0]
    options = ctx.section(*above.split('.'))
    roots = [ctx.path(options[key]) for key in ('dataroot_gt', 'dataroot_lq')]
    if {root.suffix == '.lmdb' for root in roots} != {kind == 'lmdb'}:
        return 'name two folders of images, or two LMDBs', {}
    fix = {f'{above}.io_backend': {'type': kind}}
    return in_words(fix), fix


def _prepare_line(ctx: Context, where: str, text: str, as_lmdb: bool) -> str:
    flags = ' --lmdb' if as_lmdb else ''
    if as_lmdb and where.startswith('datasets.train'):
        flags += ' --crop 480 --step 240'
    return f'mipkd prepare --hr DIR --scale {ctx.scale} --out {Path(text).parent}{flags}'


def _pairs_of_folders(ctx: Context, where: str, hr_root: Path, lr_root: Path,
                      options: Mapping[str, Any]) -> list[Pair] | None:
    lr_names = files_of(lr_root)
    if options.get('meta_info_file'):
        hr_names = _listed(ctx, f'{where}.meta_info_file', options['meta_info_file'], hr_root)
        if hr_names is None:
            return None
    else:
        hr_names = files_of(hr_root)
        if len(hr_names) != len(lr_names):
            alone = _unpaired(hr_names, lr_names, options)
            ctx.add(where, f'{len(hr_names)} HR images in {hr_root}, but {len(lr_names)} LR images in '
                    f'{lr_root}; unpaired: {alone}', 'create both from the same images')
            return None
    wanted = [_lr_name(name, options) for name in hr_names]
    missing = sorted(set(wanted) - set(lr_names))
    if missing:
        template = options.get('filename_tmpl', '{}')
        endings = sorted({Path(name).suffix for name in lr_names if Path(name).stem in {Path(m).stem for m in missing}})
        fix: dict[str, Any] = {}
        if endings:
            remedy = (f'the LR images end in {" or ".join(endings)}, and BasicSR wants the ending of the HR image: '
                      'make both with mipkd prepare, which writes .png')
        else:
            found = _fitting_template(hr_names, lr_names)
            fix = {} if found is None else {f'{where}.filename_tmpl': found}
            remedy = in_words(fix) if fix else 'fix filename_tmpl, or rename the images'
        ctx.add(f'{where}.dataroot_lq', f'for filename_tmpl {template!r} the LR images {some(missing)} are '
                f'missing in {lr_root}, which holds {some(lr_names)}', remedy, fix)
        return None
    return [Pair(name, *both) for name, *both in
            zip(hr_names, in_folder(hr_root, hr_names), in_folder(lr_root, wanted), strict=True)]


def _fitting_template(hr_names: Sequence[str], lr_names: Sequence[str]) -> str | None:
    """The ``filename_tmpl`` with which each HR image has an LR image; None without one."""
    first, there = Path(hr_names[0]), set(lr_names)
    stems = [Path(name).stem for name in lr_names if Path(name).suffix == first.suffix and first.stem in name]
    templates = dict.fromkeys(stem.replace(first.stem, '{}', 1) for stem in stems if '{' not in stem)
    return next((template for template in templates if '{}' in template and all(
        _lr_name(name, {'filename_tmpl': template}) in there for name in hr_names)), None)


def _listed(ctx: Context, where: str, text: str, hr_root: Path) -> list[str] | None:
    """The names of HR images in a ``meta_info_file``."""
    listing = ctx.root / text  # BasicSR expands no ~ here
    if not os.path.isfile(listing):
        ctx.add(where, f'does not exist; looked for {listing}', 'fix the path')
        return None
    try:
        names = [line.strip().split(' ')[0] for line in listing.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        ctx.add(where, f'{listing} cannot be read as text ({error})', 'name a text file with one HR image a line')
        return None
    blank = [str(number) for number, name in enumerate(names, 1) if not name]
    if blank or not names:
        what = f'has no name in line {some(blank)}' if blank else 'is empty'
        ctx.add(where, f'{listing} {what}; each line must name an HR image', 'delete the blank lines' if blank else
                'list the HR images, or remove meta_info_file', {} if blank else {where: REMOVE})
        return None
    gone = [name for name in names if not os.path.isfile(hr_root / name)]
    if gone:
        ctx.add(where, f'lists {some(gone)}, which {hr_root} does not hold', 'fix the list')
        return None
    return names


def _lr_name(hr_name: str, options: Mapping[str, Any]) -> str:
    path = Path(hr_name)
    return f'{options.get("filename_tmpl", "{}").format(path.stem)}{path.suffix}'


def _unpaired(hr_names: Sequence[str], lr_names: Sequence[str], options: Mapping[str, Any]) -> str:
    wanted = {_lr_name(name, options): name for name in hr_names}
    there = set(lr_names)
    return some([name for lr, name in wanted.items() if lr not in there] +
                [name for name in lr_names if name not in wanted])


def _pairs_of_lmdb(ctx: Context, where: str, hr_root: Path, lr_root: Path) -> list[Pair] | None:
    sets: list[dict[str, Found]] = []
    for key, root in (('dataroot_gt', hr_root), ('dataroot_lq', lr_root)):
        entries = _lmdb_entries(ctx, f'{where}.{key}', root)
        if entries is None:
            return None
        sets.append(entries)
    alone = sorted(set(sets[0]) ^ set(sets[1]))
    if alone:
        ctx.add(where, f'{len(sets[0])} HR images in {hr_root}, {len(sets[1])} LR images in {lr_root}; '
                f'in only one of them: {some(alone)}',
                'create both from the same images with mipkd prepare --lmdb')
        return None
    return [Pair(name, found, sets[1][name]) for name, found in sets[0].items()]


def _lmdb_entries(ctx: Context, where: str, root: Path) -> dict[str, Found] | None:
    """The images of an LMDB, if ``meta_info.txt`` lists exactly these, with their sizes."""
    again = 'create the LMDB again with mipkd prepare --lmdb'
    try:
        lines = (root / 'meta_info.txt').read_text(encoding='utf-8').splitlines()
        stored = in_lmdb(root)
    except (OSError, UnicodeDecodeError, lmdb.Error) as error:
        ctx.add(where, f'{root} cannot be read ({error})', again)
        return None
    matches = [_META_LINE.fullmatch(line) for line in lines]
    if not lines or not all(matches):
        ctx.add(where, f'{root / "meta_info.txt"} does not list images as `name.png (h,w,c) level`', again)
        return None
    listed = {m['name'].split('.')[0]: (int(m['height']), int(m['width'])) for m in matches if m}
    if len(listed) != len(lines) or len(stored) != len(lines):
        ctx.add(where, f'{root} lists {len(lines)} images but holds {len(stored)} (names must be '
                'unique up to the first dot)', again)
        return None
    if set(listed) != set(stored):
        ctx.add(where, f'{root} lists {some(sorted(set(listed) - set(stored)))}, and does not hold it', again)
        return None
    other = [f'{name} as {size[0]}×{size[1]}, and it is {header.height}×{header.width}' for name, size in listed.items()
             if (header := stored[name].header) and (header.height, header.width) != size]
    if other:
        ctx.add(where, f'{root / "meta_info.txt"} lists {some(other)}', again)
        return None
    return stored
