"""Decode all images of all data sets, as training does: a header says nothing about the pixels behind it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lmdb
from tqdm import tqdm

from mipkd_plugin.config.data_set_tables import PAIRS, WITH_KERNELS
from mipkd_plugin.config.hr_images import find_hr_images
from mipkd_plugin.config.image_folders import files_of
from mipkd_plugin.config.image_pairs import find_pairs
from mipkd_plugin.config.image_sizes import images_of
from mipkd_plugin.config.problems import Context, require_clean
from mipkd_plugin.data.headers import SUFFIXES, BrokenImageError, any_size
from mipkd_plugin.data.reading import decode
from mipkd_plugin.data.stores import Stored, in_lmdb, lmdb_at
from mipkd_plugin.utils.cores import cores
from mipkd_plugin.utils.lmdb_files import damage_of
from mipkd_plugin.utils.words import some

_MOST_NAMED = 20


def decode_images(opt: Mapping[str, Any], root: Path | None = None, threads: int | None = None) -> int:
    """Decode every image that training, validation or testing will read, with a progress bar.

    Args:
        opt: The options, already checked.
        root: Folder that relative paths start from; default: the working directory.
        threads: Number of threads; default: one for each core.

    Returns:
        Number of images.

    Raises:
        OptionError: Some cannot be decoded; the message names them, by path or by key and LMDB.
    """
    ctx = Context(opt, 'train' in opt, root=root or Path.cwd())
    sets = {f'datasets.{name}': _images(ctx, f'datasets.{name}', options)
            for name, options in ctx.section('datasets').items() if isinstance(options, Mapping)}
    ctx.problems.clear()  # the check has named these
    images = list(dict.fromkeys(image for found in sets.values() for image in found))
    reasons = _reasons(images, threads or cores())
    for where, found in sets.items():
        broken = [f'{image} {reasons[image]}' for image in dict.fromkeys(found) if reasons[image]]
        if broken:
            kind = ctx.section(*where.split('.')).get('type')
            along = (' together with their partners' if kind in PAIRS else
                     ' and their lines of meta_info' if kind in WITH_KERNELS else '')
            ctx.add(where, f'{len(broken)} of {len(set(found))} images cannot be decoded: {some(broken, _MOST_NAMED)}',
                    f'restore them, or remove them{along}; make an LMDB again')
    require_clean(ctx.problems, opt)
    return len(images)


def _images(ctx: Context, where: str, options: Mapping[str, Any]) -> list[Stored]:
    """The images of a data set: those of its pairs, or all that lie in its folders."""
    if options.get('type') in PAIRS:
        return images_of(find_pairs(ctx, where, options) or [])
    if options.get('type') in WITH_KERNELS:
        return [found.image for found in find_hr_images(ctx, where, options) or []]
    found = []
    for key, text in options.items():
        folder = ctx.path(text) if str(key).startswith('dataroot') and isinstance(text, str) else None
        if folder is not None and folder.suffix == '.lmdb' and os.path.isdir(folder) and not damage_of(folder):
            found += [Stored(folder, name) for name in in_lmdb(folder)]
        elif folder is not None and os.path.isdir(folder):
            found += [Stored(folder, name) for name in files_of(folder) if Path(name).suffix.lower() in SUFFIXES]
    return found


def _reasons(images: list[Stored], threads: int) -> dict[Stored, str]:
    """Why each image cannot be decoded; '' if it can. OpenCV leaves Python's lock while it decodes."""
    with ExitStack() as stack:
        roots = {image.root: image.root.resolve() for image in images if image.root.suffix == '.lmdb'}
        environments = {root: stack.enter_context(lmdb_at(root)) for root in set(roots.values())}
        stack.enter_context(any_size())  # here, as threads that did it would disturb each other
        pool = ThreadPoolExecutor(threads)
        stack.callback(pool.shutdown, cancel_futures=True)
        found = pool.map(lambda image: _reason(image, environments.get(roots.get(image.root, image.root))), images)
        return dict(zip(images, tqdm(found, 'decode', len(images), unit='image'), strict=True))


def _reason(image: Stored, environment: lmdb.Environment | None) -> str:
    try:
        if environment is None:
            data = (image.root / image.name).read_bytes()
        else:
            with environment.begin() as transaction:
                data = transaction.get(image.name.encode()) or b''
        decode(data)
    except BrokenImageError as error:
        return str(error)
    except (OSError, lmdb.Error) as error:
        return f'cannot be read ({error})'
    return ''
