"""The work of ``mipkd prepare``: read, downsample as MATLAB does, cut, write as PNG or LMDB."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path

import cv2
import numpy as np
import torch
from basicsr.utils.lmdb_util import LmdbMaker
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from mipkd_plugin.preparation.matlab_bicubic import bicubic_downsample
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.files import write_bytes

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
IMAGES_PER_WORKER = 8  # a worker takes seconds to start, so each needs enough work
Tile = tuple[str, int, int, int, int]  # name, top, left, height, width


class PrepareError(MipkdError):
    """The data cannot be prepared; the message says what is wrong, where, and how to fix it."""


def find_images(folders: Sequence[Path]) -> list[Path]:
    """List the image files of all folders.

    Args:
        folders: The folders.

    Returns:
        The files, sorted by name within each folder.

    Raises:
        PrepareError: A folder is missing or holds no images, or two files differ only in their suffix.
    """
    files: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise PrepareError(f'--hr {folder}: there is no such folder (looked in {Path.cwd()}).')
        found = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        found = [path for path in found if path.is_file() and not path.name.startswith('.')]
        if not found:
            raise PrepareError(f'--hr {folder}: holds no images ({", ".join(SUFFIXES)}); '
                               'subfolders are not searched.')
        for path in found:
            if path.stem in files:
                raise PrepareError(f'{files[path.stem]} and {path} would become the same file; rename one of them.')
            files[path.stem] = path
    return list(files.values())


def image_size(path: Path, scale: int, lmdb: bool) -> tuple[int, int]:
    """Read the size of an image from its header, and refuse an image that cannot become an 8-bit RGB pair.

    Args:
        path: The image.
        scale: Scale factor; the image must not be smaller.
        lmdb: Whether the name of the file becomes an LMDB key.

    Returns:
        Width and height.

    Raises:
        PrepareError: The image cannot be used; the message says why and what to do.
    """
    try:
        with Image.open(path) as image, open(path, 'rb') as file:
            png_depth = file.read(25)[-1] if image.format == 'PNG' else 8
            mode, transparent = image.mode, 'transparency' in image.info
            size: tuple[int, int] = image.size
    except (OSError, Image.DecompressionBombError) as error:
        raise PrepareError(f'{path}: cannot be read ({error}); fix or remove the file.') from error
    if mode.startswith('I') or png_depth == 16:
        raise PrepareError(f'{path}: has 16 bits per channel; convert it to 8 bits first.')
    if mode in ('RGBA', 'LA', 'PA') or transparent:
        raise PrepareError(f'{path}: has an alpha channel; remove it first.')
    if mode not in ('1', 'L', 'P', 'RGB'):
        raise PrepareError(f'{path}: is stored as {mode}; convert it to 8-bit RGB first.')
    if min(size) < scale:
        raise PrepareError(f'{path}: {size[0]}x{size[1]} pixels are too few for x{scale}; remove the file.')
    if lmdb and ('.' in path.stem or not path.stem.isascii()):
        raise PrepareError(f'{path}: an LMDB key must be ASCII without "." (BasicSR cuts the key there); '
                           'rename the file, or leave out --lmdb.')
    return size


@dataclass(frozen=True)
class Job:
    """One source image and its tiles, the unit of work of a worker. A folder of None is finished already."""

    source: Path
    scale: int
    tiles: list[Tile]
    hr: Path | None
    lr: Path | None
    compression: int

    def missing(self) -> bool:
        """Whether any file is missing."""
        return not all((folder / f'{tile[0]}.png').exists()
                       for folder in (self.hr, self.lr) if folder for tile in self.tiles)


def _write_png(path: Path, image: NDArray[np.uint8], compression: int) -> None:
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode('.png', bgr, [cv2.IMWRITE_PNG_COMPRESSION, compression])
    write_bytes(path, data.tobytes())


def _do(job: Job) -> None:
    try:
        with Image.open(job.source) as opened:
            image = np.asarray(opened.convert('RGB'))
            plain_png = opened.format == 'PNG' and opened.mode == 'RGB'
    except (OSError, SyntaxError) as error:  # Pillow reports a broken PNG chunk as SyntaxError
        raise PrepareError(f'{job.source}: cannot be decoded ({error}); fix or remove the file.') from error
    small = bicubic_downsample(image, job.scale) if job.lr else image
    for name, top, left, height, width in job.tiles:
        if job.lr and not (job.lr / f'{name}.png').exists():
            y, x, h, w = (value // job.scale for value in (top, left, height, width))
            _write_png(job.lr / f'{name}.png', small[y:y + h, x:x + w], job.compression)
        if job.hr and not (job.hr / f'{name}.png').exists():
            if plain_png and (height, width) == image.shape[:2]:
                write_bytes(job.hr / f'{name}.png', job.source.read_bytes())
            else:
                tile = image[top:top + height, left:left + width]
                _write_png(job.hr / f'{name}.png', tile, job.compression)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this worker when its parent ends; a killed parent would leave its workers waiting forever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def do_all(jobs: list[Job], workers: int | None) -> None:
    """Do the jobs with a progress bar, in this process or in several.

    Args:
        jobs: The jobs.
        workers: Number of processes; None decides by the number of cores and jobs.

    Raises:
        PrepareError: An image cannot be decoded.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    count = workers or min(cores, math.ceil(len(jobs) / IMAGES_PER_WORKER))
    if count <= 1:
        for job in tqdm(jobs, 'prepare', unit='image'):
            _do(job)
        return
    pool = ProcessPoolExecutor(count, _context(), _start_worker)
    try:
        running = [pool.submit(_do, job) for job in jobs]
        for done in tqdm(as_completed(running), 'prepare', len(jobs), unit='image'):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error: drop the queue


def _context() -> BaseContext:
    """Start fresh processes; on Linux a server imports BasicSR (seconds, 400 MB) once for all of them."""
    if not sys.platform.startswith('linux'):
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    return context


def write_lmdb(images: Path, lmdb: Path, compression: int) -> None:
    """Turn a folder of PNGs into an LMDB that BasicSR can read. The LMDB gets its name only when complete."""
    part = lmdb.with_name(f'.part_{lmdb.name}')
    shutil.rmtree(part, ignore_errors=True)  # left by an interrupted run; LmdbMaker would exit
    files = sorted(images.glob('*.png'))
    pages = sum(path.stat().st_size // 4096 + 3 for path in files)
    maker = LmdbMaker(str(part), map_size=2 * 4096 * pages + 2**24, batch=500, compress_level=compression)
    for path in tqdm(files, f'write {lmdb.name}', unit='image'):
        with Image.open(path) as image:
            width, height = image.size
        maker.put(path.read_bytes(), path.stem, (height, width, 3))
    maker.close()
    os.replace(part, lmdb)
    shutil.rmtree(images)
