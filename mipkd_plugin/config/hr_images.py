"""Check the HR images of a data set that has no LR images: Real-ESRGAN's, whose model makes these itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mipkd_plugin.config.data_set_tables import crop_side
from mipkd_plugin.config.degradation import fitting_crop
from mipkd_plugin.config.image_roots import (
    add_unreadable,
    check_root,
    list_line,
    lmdb_entries,
    names_in_list,
)
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.data.stores import Found, in_folder
from mipkd_plugin.utils.words import some


def check_hr_images(ctx: Context, where: str, options: Mapping[str, Any]) -> int | None:
    """Check one ``RealESRGANDataset`` on disk: that its images can be read, and are as large as a crop.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.

    Returns:
        Number of images, or None if they cannot be counted.
    """
    images = find_hr_images(ctx, where, options)
    if images is None:
        return None
    broken = [found for found in images if found.header is None]
    if broken:
        add_unreadable(ctx, where, options['dataroot_gt'], broken, f'{len(broken)} of {len(images)} files ',
                       'and their lines of meta_info')
    _check_sizes(ctx, where, options, images)
    return len(images)


def _check_sizes(ctx: Context, where: str, options: Mapping[str, Any], images: Sequence[Found]) -> None:
    """Check that a crop fits into each image: BasicSR would fill it with what it mirrors at the borders."""
    crop = crop_side(ctx.opt)
    sides = [min(found.header.height, found.header.width) if found.header else crop for found in images]
    small = [found.image.name for found, side in zip(images, sides, strict=True) if side < crop]
    place = f'{where}.crop_size' if 'crop_size' in options else where
    if not small or not ctx.clean(place):
        return
    smaller = fitting_crop(ctx, min(sides))
    fix: dict[str, Any] = {f'{where}.crop_size': smaller} if smaller else {}
    if fix and options['type'] == 'RealESRGANDataset':
        fix = {f'{where}.type': 'RealESRGANCropDataset', **fix}
    remedies = [in_words(fix)] if fix else []
    if len(small) < len(images):
        remedies.append(f'leave these images out: mipkd prepare --gt-only does it with --min-side {crop}')
    verb = 'is' if len(small) == 1 else 'are'
    ctx.add(place, f'{len(small)} of {len(images)} images {verb} smaller than the crop of {crop}×{crop} pixels: '
            f'{some(small)}', ', or '.join(remedies) or 'train on larger images, or on smaller patches and crops', fix)


def _check_list_beside(ctx: Context, where: str, text: str, lmdb: str, entries: Mapping[str, Any]) -> None:
    """Check that a list beside an LMDB, which BasicSR does not read, leaves out nothing and adds nothing."""
    try:
        lines = (ctx.root / text).read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    if sorted(line.split(' ')[0].split('.')[0] for line in lines) != sorted(entries):
        ctx.add(where, f'{text} is not read with an LMDB: the training takes all images that meta_info.txt of {lmdb} '
                'lists', fix={where: REMOVE})


def find_hr_images(ctx: Context, where: str, options: Mapping[str, Any]) -> list[Found] | None:
    """Find the images of one ``RealESRGANDataset`` on disk, with their headers.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options, with keys and types already checked.

    Returns:
        The images, or None if they cannot be told; then there is a problem.
    """
    backend, text = options['io_backend'].get('type'), options['dataroot_gt']
    root, place, listing = ctx.path(text), f'{where}.dataroot_gt', f'{where}.meta_info'
    if backend not in ('lmdb', 'disk') or not check_root(ctx, place, text, root, backend == 'lmdb', listed=True):
        return None
    if backend == 'lmdb':
        entries = lmdb_entries(ctx, place, root)
        if entries is not None and isinstance(options.get('meta_info'), str) and ctx.clean(listing):
            _check_list_beside(ctx, listing, options['meta_info'], text, entries)
        return None if entries is None else list(entries.values())
    if not isinstance(options.get('meta_info'), str):
        if ctx.clean(listing):
            ctx.add(listing, f'is missing, and {options["type"]} reads the images that it lists', 'make a list of the '
                    f'images: {list_line(ctx, listing)}; and name it in meta_info')
        return None
    names = names_in_list(ctx, listing, options['meta_info'], root, needed=True)
    return None if names is None else in_folder(root, names)
