"""Build a data set as BasicSR will build it, and take samples of it."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import lmdb
from basicsr.utils.registry import DATASET_REGISTRY

from mipkd_plugin.config.examples import MEANINGS, backend_for
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.data.headers import BrokenImageError, header_of_file
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, failure_of
from mipkd_plugin.utils.lmdb_files import damage_of

READ_ERRORS = (*FOREIGN_ERRORS, cv2.error, lmdb.Error)
"""Errors of data sets and metrics."""
Size = tuple[int, int]


class Samples:
    """A data set, built as BasicSR builds it.

    Args:
        where: YAML path of the data set.
        options: Its options in the option file.
        dataset: The data set.
    """

    def __init__(self, where: str, options: Mapping[str, Any], dataset: Any) -> None:
        self.where, self.options, self.dataset = where, options, dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, ctx: Context, index: int) -> Mapping[str, Any] | None:
        """One sample, as the data loader gets it; None with a problem noted."""
        name = self.name(index) or f'sample {index}'
        with _explained(ctx, self.where, self.options, f'cannot read {name}'):
            sample = self.dataset[index]
            if isinstance(sample, Mapping):
                return sample
            ctx.add(self.where, f'{self.options["type"]} gives a {type(sample).__name__}, and BasicSR\'s models need a '
                    'dict', "return {'lq': …, 'gt': …, 'lq_path': …} in __getitem__()")
        return None

    def name(self, index: int) -> str:
        """File name or key of the low-resolution image of a sample; '' if the data set does not tell."""
        return Path(self._path(index)).name

    def sizes(self) -> dict[int, Size]:
        """(height, width) of each LR image by number of the sample, sorted by name, as far as they are known."""
        paths = {index: self._path(index) for index in range(len(self)) if self._path(index)}
        if (self.options.get('io_backend') or {}).get('type') == 'lmdb':
            listed = _sizes_of_lmdb(Path(str(getattr(self.dataset, 'lq_folder', ''))))
            found = {index: listed.get(path) for index, path in paths.items()}
        else:
            found = {index: _size_of_file(Path(path)) for index, path in paths.items()}
        return {index: size for index in sorted(found, key=self.name) if (size := found[index]) is not None}

    def close(self) -> None:
        """Close LMDBs: no process may open one twice, and the training opens them again."""
        client = getattr(getattr(self.dataset, 'file_client', None), 'client', None)
        for environment in dict(getattr(client, '_client', None) or {}).values():
            environment.close()

    def _path(self, index: int) -> str:
        paths = getattr(self.dataset, 'paths', None)
        entry = paths[index] if isinstance(paths, list) and index < len(paths) else None
        entry = entry.get('lq_path') if isinstance(entry, Mapping) else entry
        return entry if isinstance(entry, str) else ''


def build_samples(ctx: Context, where: str, options: Mapping[str, Any]) -> Samples | None:
    """Build a data set; leave its options unchanged.

    A pool of crops would read all images: in its place, the class is built that it draws them from.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options.

    Returns:
        The data set; None with a problem noted, or if it cannot be built here without risk.
    """
    name = options.get('type')
    found = lookup(DATASET_REGISTRY, 'PairedImageDataset' if name == 'CropPoolDataset' else name)
    backend = options.get('io_backend')
    if found is None or isinstance(backend, Mapping) and backend.get('type') not in ('disk', 'lmdb'):
        return None
    for key, value in options.items() if backend and backend['type'] == 'lmdb' else ():
        if str(key).startswith('dataroot') and isinstance(value, str) and os.path.isdir(ctx.path(value)):
            damage = damage_of(ctx.path(value))
            if damage:
                ctx.add(f'{where}.{key}', f'{value} is damaged: {damage}', 'create the LMDB again')
                return None
    with _explained(ctx, where, options, f'{name} cannot be built'):
        dataset = found(_parsed(ctx, where, options))
        if len(dataset) > 0:
            return Samples(where, options, dataset)
        ctx.add(where, 'holds no images', 'name the folder or the list that holds them')
    return None


def _parsed(ctx: Context, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a data set as BasicSR's ``parse_options`` hands them on."""
    opt: dict[str, Any] = copy.deepcopy(dict(options))
    if 'cache_data' in opt:
        opt['cache_data'] = False  # frames are read when the run begins
    opt['phase'] = where.removeprefix('datasets.').split('_')[0]
    if 'scale' in ctx.opt:
        opt['scale'] = ctx.opt['scale']
    for key, value in opt.items():
        if isinstance(value, str) and key in ('dataroot_gt', 'dataroot_lq'):
            opt[key] = os.path.expanduser(value)
        if isinstance(value, str) and key.startswith(('dataroot', 'meta_info')) and ctx.root != Path.cwd():
            opt[key] = os.path.join(ctx.root, opt[key])
    return opt


@contextmanager
def _explained(ctx: Context, where: str, options: Mapping[str, Any], doing: str) -> Iterator[None]:
    """Turn an error of a data set into a problem, at the option that it is about if that can be told."""
    try:
        yield
    except MipkdError as error:
        ctx.add(where, str(error), 'fix or remove the image')
    except READ_ERRORS as error:
        key = error.args[0] if type(error) is KeyError and error.args else None
        file = getattr(error, 'filename', None)
        place = next((f'{where}.{k}' for k, value in options.items() if file is not None and value == file), where)
        if isinstance(key, str) and key not in options:
            ctx.add(f'{where}.{key}', f'is missing, and {options.get("type")} needs it',
                    f'add {key}: {MEANINGS.get(key, "its docstring says what it is")}',
                    {f'{where}.{key}': {'type': backend_for(options)}} if key == 'io_backend' else {})
        elif isinstance(file, str):
            ctx.add(place, f'{doing}: {file} {"cannot be read" if os.path.exists(file) else "does not exist"}; '
                    f'looked for {ctx.root / file}', 'fix the path')
        else:
            ctx.add(where, f'{doing}: {failure_of(error)}', 'fix the option or the image that the message is about')


def _size_of_file(path: Path) -> Size | None:
    """(height, width) in the header of an image file; None if there is none."""
    try:
        header = header_of_file(path, every_chunk=False)
    except (BrokenImageError, OSError):
        return None
    return header.height, header.width


def _sizes_of_lmdb(root: Path) -> dict[str, Size]:
    """(height, width) by key, from ``meta_info.txt``: lines as ``0001.png (480,480,3) 1``."""
    listing, sizes = root / 'meta_info.txt', {}
    for line in listing.read_text(encoding='utf-8').splitlines() if os.path.isfile(listing) else ():
        numbers = line.partition('(')[2].partition(')')[0].split(',')
        if len(numbers) == 3 and all(number.strip().isdigit() for number in numbers):
            sizes[line.split('.')[0]] = int(numbers[0]), int(numbers[1])
    return sizes
