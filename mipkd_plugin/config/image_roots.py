"""Where the images of a data set are: folders, LMDBs, and lists of names."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lmdb

from mipkd_plugin.config.data_set_tables import crop_side, gives_kernels
from mipkd_plugin.config.image_folders import check_folder
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.data.stores import Found, in_lmdb
from mipkd_plugin.utils.lmdb_files import damage_of
from mipkd_plugin.utils.words import some

_META_LINE = re.compile(r'(?P<name>.+) \((?P<height>\d+),(?P<width>\d+),\d+\) \d+')


def check_root(ctx: Context, where: str, text: str, root: Path, as_lmdb: bool, listed: bool) -> bool:
    """Whether there is something to read at a root.

    Args:
        ctx: Where problems go.
        where: YAML path of the root.
        text: The root as it is written there.
        root: Its path.
        as_lmdb: Whether the backend reads an LMDB.
        listed: Whether a file lists the images.

    Returns:
        Whether there is.
    """
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
                f'fix the path, or create it: {prepare_line(ctx, where, text, as_lmdb)}')
        return False
    if not as_lmdb:
        return check_folder(ctx, where, text, root, listed)
    missing = [name for name in ('data.mdb', 'meta_info.txt') if not os.path.isfile(root / name)]
    damage = f'has no {" and no ".join(missing)}' if missing else damage_of(root)
    if damage:
        ctx.add(where, f'{text} {damage}: the LMDB is incomplete' if missing else f'{text} is damaged: {damage}',
                f'delete the LMDB and create it again: {prepare_line(ctx, where, text, as_lmdb)}')
    return not damage


def _other_backend(ctx: Context, where: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The remedy for images that the backend does not read; HR and LR images need the same one."""
    above = where.rpartition('.')[0]
    options = ctx.section(*above.split('.'))
    roots = [ctx.path(options[key]) for key in ('dataroot_gt', 'dataroot_lq') if isinstance(options.get(key), str)]
    if {root.suffix == '.lmdb' for root in roots} != {kind == 'lmdb'}:
        return 'name two folders of images, or two LMDBs', {}
    fix = {f'{above}.io_backend': {'type': kind}}
    return in_words(fix), fix


def prepare_line(ctx: Context, where: str, text: str, as_lmdb: bool) -> str:
    """The command that makes the images of a data set."""
    trains, degraded = where.startswith('datasets.train'), gives_kernels(ctx.opt)
    if degraded and not trains:
        return _degrade_line(ctx, where, text)
    flags = ' --lmdb' if as_lmdb else ''
    if as_lmdb and trains:
        flags += ' --crop 400 --step 200' if degraded else ' --crop 480 --step 240'
    if degraded:
        flags += f' --min-side {crop_side(ctx.opt)}'  # the check refuses smaller images
    makes = '--gt-only' if degraded else f'--scale {ctx.scale}'
    return f'mipkd prepare --hr DIR {makes} --out {Path(text).parent}{flags}'


def _degrade_line(ctx: Context, where: str, text: str) -> str:
    """The command that makes pairs to validate on, where the model degrades; it fills a new folder, with HR and LQ."""
    above, out = where.rpartition('.')[0], Path(text).parent
    options = ctx.section(*above.split('.'))
    wanted = {'dataroot_gt': str(out / 'HR'), 'dataroot_lq': str(out / 'LQ')}
    named = all(str(Path(str(options[key]))) == wanted[key] for key in wanted if key in options)
    folder = ctx.path(str(out))
    is_free = not os.path.lexists(folder) or os.path.isdir(folder) and not os.listdir(folder)
    out = out if is_free else out / 'degraded'
    source = getattr(ctx.opt, 'source', None) or 'FILE.yml'
    line = f'mipkd degrade -opt {source} --hr DIR --out {out}'
    if named and is_free:
        return line
    fix = {key: str(out / Path(path).name) for key, path in wanted.items() if key in options}
    if block(options, 'io_backend').get('type') != 'disk':
        fix['io_backend'] = '{type: disk}'
    return f'{line}; then {", and ".join(f"write {key}: {value}" for key, value in fix.items())}'


def lines_of_list(ctx: Context, where: str, text: str, holds: str = 'an HR image',
                  needed: bool = False) -> list[str] | None:
    """The lines of a text file that lists images; None with a problem noted.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file.
        text: The file as it is written there; BasicSR expands no ~ in it.
        holds: What a line must hold.
        needed: Whether the data set cannot do without the list.

    Returns:
        At least one line, none of them blank.
    """
    listing, key = ctx.root / text, where.rpartition('.')[2]
    if not os.path.isfile(listing):
        ctx.add(where, f'{"is not a file" if os.path.exists(listing) else "does not exist"}; looked for {listing}',
                f'fix the path, or make the list: {list_line(ctx, where)}' if needed else 'fix the path')
        return None
    try:
        lines = [line.strip() for line in listing.read_text(encoding='utf-8').splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        ctx.add(where, f'{listing} cannot be read as text ({error})', f'name a text file with {holds} in each line')
        return None
    blank = [str(number) for number, line in enumerate(lines, 1) if not line]
    if blank or not lines:
        what = f'has no name in line {some(blank)}' if blank else 'is empty'
        again = f'list the images: {list_line(ctx, where)}' if needed else f'list the images, or remove {key}'
        ctx.add(where, f'{listing} {what}; each line must name {holds}', 'delete the blank lines' if blank else again,
                {} if blank or needed else {where: REMOVE})
        return None
    return lines


def list_line(ctx: Context, where: str) -> str:
    """A command that lists the HR images of a data set, by the YAML path of the list; no subfolders."""
    options = ctx.section(*where.rpartition('.')[0].split('.'))
    root, listing = (shlex.quote(str(options.get(key) or other)) for key, other in (
        ('dataroot_gt', 'DIR'), ('meta_info', 'meta_info.txt')))
    return f"find -L {root} -maxdepth 1 -type f ! -name '*.txt' -printf '%P\\n' | sort > {listing}"


def names_in_list(ctx: Context, where: str, text: str, hr_root: Path, needed: bool = False) -> list[str] | None:
    """The names of HR images that a file lists, all of which are there; None with a problem noted.

    Args:
        ctx: Where problems go.
        where: YAML path that names the file.
        text: The file as it is written there.
        hr_root: The folder that holds the images.
        needed: Whether the data set cannot do without the list.

    Returns:
        The names.
    """
    lines = lines_of_list(ctx, where, text, needed=needed)
    if lines is None:
        return None
    names = [line.split(' ')[0] for line in lines]
    return names if are_there(ctx, where, names, hr_root) else None


def are_there(ctx: Context, where: str, names: list[str], root: Path) -> bool:
    """Whether a folder holds all images that a file lists."""
    gone = [name for name in names if not os.path.isfile(root / name)]
    if gone:
        ctx.add(where, f'lists {len(gone)} of {len(names)} images that {root} does not hold: {some(gone)}',
                'fix the list')
    return not gone


def lmdb_entries(ctx: Context, where: str, root: Path) -> dict[str, Found] | None:
    """The images of an LMDB, if ``meta_info.txt`` lists exactly these, with their sizes; None with a problem noted."""
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


def add_unreadable(ctx: Context, where: str, text: str, broken: Sequence[Found], who: str, along: str) -> None:
    """Note files that are no images.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        text: Its ``dataroot_gt``.
        broken: The files.
        who: What to call them, or ''.
        along: What to remove with them.
    """
    ctx.add(where, f'{who}cannot be read as images: {some([f"{found.image} {found.reason}" for found in broken])}',
            f'create the LMDB again: {prepare_line(ctx, where, text, True)}' if text.endswith('.lmdb') else
            f'restore them, or remove them {along}')
