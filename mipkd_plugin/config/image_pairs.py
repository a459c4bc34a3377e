"""Check the images on disk: they exist, form HR-LR pairs, and their sizes fit the scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mipkd_plugin.config.image_folders import files_of
from mipkd_plugin.config.image_roots import (
    add_unreadable,
    are_there,
    check_root,
    lines_of_list,
    lmdb_entries,
    names_in_list,
)
from mipkd_plugin.config.image_sizes import Pair, check_sizes
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.data.stores import Found, in_folder
from mipkd_plugin.utils.words import some


def check_image_pairs(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    """Check one ``PairedImageDataset``, or another data set of pairs, on disk.

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
        add_unreadable(ctx, where, options['dataroot_gt'], broken, '', 'together with their partners')
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
    listed = bool(options.get('meta_info_file') or options.get('meta_info'))
    found = [check_root(ctx, f'{where}.{key}', options[key], root, as_lmdb, listed) for key, root in roots.items()]
    if not all(found) or backend not in ('lmdb', 'disk'):
        return None
    hr_root, lr_root = roots['dataroot_gt'], roots['dataroot_lq']
    if as_lmdb:
        return _pairs_of_lmdb(ctx, where, hr_root, lr_root)
    if options.get('meta_info') and options.get('type') == 'RealESRGANPairedDataset':
        return _pairs_of_list(ctx, f'{where}.meta_info', options['meta_info'], hr_root, lr_root)
    return _pairs_of_folders(ctx, where, hr_root, lr_root, options)


def _pairs_of_folders(ctx: Context, where: str, hr_root: Path, lr_root: Path,
                      options: Mapping[str, Any]) -> list[Pair] | None:
    lr_names = files_of(lr_root)
    if options.get('meta_info_file'):
        hr_names = names_in_list(ctx, f'{where}.meta_info_file', options['meta_info_file'], hr_root)
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


def _pairs_of_list(ctx: Context, where: str, text: str, hr_root: Path, lr_root: Path) -> list[Pair] | None:
    """The pairs of a file that names an HR image and an LR image in each line, as ``RealESRGANPairedDataset`` reads."""
    lines = lines_of_list(ctx, where, text, 'an HR image and an LR image, as HR/1.png, LR/1.png')
    if lines is None:
        return None
    split = [line.split(', ') for line in lines]
    odd = [str(number) for number, names in enumerate(split, 1) if len(names) != 2]
    if odd:
        ctx.add(where, f'{ctx.root / text} does not hold two names in line {some(odd)}: BasicSR splits each line at a '
                'comma and a blank', 'write an HR image and its LR image in each line, as HR/1.png, LR/1.png')
        return None
    hr_names, lr_names = [names[0] for names in split], [names[1] for names in split]
    if not are_there(ctx, where, hr_names, hr_root) or not are_there(ctx, where, lr_names, lr_root):
        return None
    return [Pair(name, *both) for name, *both in
            zip(hr_names, in_folder(hr_root, hr_names), in_folder(lr_root, lr_names), strict=True)]


def _fitting_template(hr_names: Sequence[str], lr_names: Sequence[str]) -> str | None:
    """The ``filename_tmpl`` with which each HR image has an LR image; None without one."""
    first, there = Path(hr_names[0]), set(lr_names)
    stems = [Path(name).stem for name in lr_names if Path(name).suffix == first.suffix and first.stem in name]
    templates = dict.fromkeys(stem.replace(first.stem, '{}', 1) for stem in stems if '{' not in stem)
    return next((template for template in templates if '{}' in template and all(
        _lr_name(name, {'filename_tmpl': template}) in there for name in hr_names)), None)


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
        entries = lmdb_entries(ctx, f'{where}.{key}', root)
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
