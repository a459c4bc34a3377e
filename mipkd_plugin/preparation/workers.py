"""The work of ``mipkd prepare``: read, downsample as MATLAB does, cut, write as PNG."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mipkd_plugin.data.headers import PNG, BrokenImageError
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample
from mipkd_plugin.data.reading import decode
from mipkd_plugin.preparation.multiscale import shrunk
from mipkd_plugin.preparation.sources import PrepareError, Source, digest
from mipkd_plugin.utils.cores import cores
from mipkd_plugin.utils.files import write_bytes

IMAGES_PER_WORKER = 8  # a worker takes seconds to start, so each needs enough work
FileRecord = tuple[int, str]
"""Length and digest of a file that was written."""


class Tile(NamedTuple):
    """A part of an image, or all of it.

    Attributes:
        name: Name of its file, without the ending.
        top: First row.
        left: First column.
        height: Rows.
        width: Columns.
        size: Height and width of the smaller version of the image that it is cut from; None for the image itself.
    """

    name: str
    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Target:
    """The files of one set that are made from one source image.

    Attributes:
        name: Name of the set.
        folder: Folder of its images.
        scale: Scale factor of LR images; 1 for HR images.
        tiles: The tiles to write, in HR pixels.
        side: Height and width are cropped to a multiple of it.
        compression: Level of PNG compression.
    """

    name: str
    folder: Path
    scale: int
    tiles: list[Tile]
    side: int
    compression: int


@dataclass(frozen=True)
class Job:
    """One source image and what is made from it, the unit of work of a worker."""

    image: Source
    targets: list[Target]

    @property
    def source(self) -> Path:
        """The file."""
        return self.image.path


@dataclass(frozen=True)
class Done:
    """What a job has written.

    Attributes:
        image: The source image.
        digest: SHA-256 of the content that was read.
        files: Length and digest of each file that was written, by set and name.
    """

    image: Source
    digest: str
    files: dict[str, dict[str, FileRecord]]


def _do(job: Job) -> Done:
    status, data = job.source.stat(), job.source.read_bytes()
    if (status.st_size, status.st_mtime_ns) != (job.image.size, job.image.changed):
        raise PrepareError(f'{job.source}: has changed since this run began; run the command again.')
    try:
        image = decode(data)
    except BrokenImageError as error:
        raise PrepareError(f'{job.source}: cannot be decoded (it {error}); fix or remove the file.') from error
    plain = data.startswith(PNG) and data[24:26] == b'\x08\x02' and job.image.header.orientation == 1
    files: dict[str, dict[str, FileRecord]] = {}

    @functools.cache
    def version(scale: int, size: tuple[int, int] | None) -> NDArray[np.uint8]:
        if size is not None:
            return shrunk(image, size)
        return bicubic_downsample(image, scale) if scale > 1 else image

    for target in job.targets:
        files[target.name] = {tile.name: _write(target, tile, version(target.scale, tile.size), data if plain else b'')
                              for tile in target.tiles}
    return Done(job.image, digest(data), files)


def _write(target: Target, tile: Tile, image: NDArray[np.uint8], whole: bytes) -> FileRecord:
    """Write a tile as a PNG; an HR image that nothing is cut from is copied byte for byte."""
    top, left, height, width = (value // target.scale for value in (tile.top, tile.left, tile.height, tile.width))
    if whole and target.scale == 1 and tile.size is None and (height, width) == image.shape[:2]:
        data = whole
    else:
        part = image[top:top + height, left:left + width]
        data = cv2.imencode('.png', part, [cv2.IMWRITE_PNG_COMPRESSION, target.compression])[1].tobytes()
    write_bytes(target.folder / f'{tile.name}.png', data)
    return len(data), digest(data)[:16]


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


def do_all(jobs: list[Job], workers: int | None, done: Callable[[Done], None]) -> list[str]:
    """Do the jobs with a progress bar, in this process or in several.

    Args:
        jobs: The jobs.
        workers: Number of processes; None decides by the number of cores and jobs.
        done: Called with the result of each job.

    Returns:
        What was wrong with the images that could not be used; all others are done.

    Raises:
        PrepareError: A worker process was killed.
    """
    count = workers or min(cores(), math.ceil(len(jobs) / IMAGES_PER_WORKER))
    if count <= 1:
        return _collect((functools.partial(_do, job) for job in jobs), len(jobs), done)
    pool = ProcessPoolExecutor(count, _context(), _start_worker)
    try:
        running = [pool.submit(_do, job) for job in jobs]
        return _collect((future.result for future in as_completed(running)), len(jobs), done)
    except BrokenProcessPool:
        raise PrepareError('A worker process was killed; was there too little memory? What is done is kept: run the '
                           'command again, with fewer --workers.') from None
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C or an error: drop the queue


def _collect(results: Iterable[Callable[[], Done]], count: int, done: Callable[[Done], None]) -> list[str]:
    problems = []
    for result in tqdm(results, 'prepare', count, unit='image'):
        try:
            found = result()
        except PrepareError as error:
            problems.append(str(error))
        else:
            done(found)
    return problems


def _context() -> BaseContext:
    """Start fresh processes; on Linux a server imports BasicSR (seconds, 400 MB) once for all of them."""
    if not sys.platform.startswith('linux'):
        return multiprocessing.get_context('spawn')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([__name__])
    return context
