"""Seconds that the check of the images takes: 800 pairs of 2K PNGs in folders, and tiles in an LMDB.

    python tests/benchmarks/check_images.py            # headers only, as basicsr train and mipkd check read them
    python tests/benchmarks/check_images.py --decode   # and all pixels, as mipkd check --decode does

The PNGs are a few images of 2040×1356 and about 5 MB, linked under many names; the files are in the page cache.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np

import mipkd_plugin  # noqa: F401  (before basicsr, which it repairs)
import basicsr  # noqa: F401
from mipkd_plugin.config.decoding import decode_images
from mipkd_plugin.config.image_pairs import check_image_pairs
from mipkd_plugin.config.problems import Context

SCALE = 4
HEIGHT, WIDTH = 1356, 2040
DISTINCT = 4


def encoded(height: int, width: int, noise: int, seed: int) -> bytes:
    """A PNG with the entropy of a photograph."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.int16)
    image += rng.integers(-noise, noise + 1, image.shape, dtype=np.int16)
    return bytes(cv2.imencode('.png', image.clip(0, 255).astype(np.uint8))[1])


def make_folders(root: Path, pairs: int) -> dict[str, Any]:
    """Make ``pairs`` pairs out of a few images."""
    for name, scale in (('HR', 1), ('LR', SCALE)):
        (root / name).mkdir()
        for index in range(pairs):
            path = root / name / f'{index:04d}.png'
            if index < DISTINCT:
                path.write_bytes(encoded(HEIGHT // scale, WIDTH // scale, 12, index))
            else:
                os.link(root / name / f'{index % DISTINCT:04d}.png', path)
    return {'type': 'PairedImageDataset', 'dataroot_gt': str(root / 'HR'), 'dataroot_lq': str(root / 'LR'),
            'io_backend': {'type': 'disk'}, 'gt_size': 192}


def make_lmdbs(root: Path, tiles: int) -> dict[str, Any]:
    """Make LMDBs of ``tiles`` pairs of tiles; flat ones, as only their heads and ends are read."""
    for name, side in (('HR.lmdb', 480), ('LR.lmdb', 480 // SCALE)):
        tile = encoded(side, side, 1, 0)
        with lmdb.open(str(root / name), map_size=2 * tiles * (len(tile) + 8192) + 2 ** 24) as environment, \
                environment.begin(write=True) as transaction:
            for index in range(tiles):
                transaction.put(f'{index:05d}'.encode(), tile)
        (root / name / 'meta_info.txt').write_text(
            ''.join(f'{index:05d}.png ({side},{side},3) 1\n' for index in range(tiles)))
    return {'type': 'PairedImageDataset', 'dataroot_gt': str(root / 'HR.lmdb'), 'dataroot_lq': str(root / 'LR.lmdb'),
            'io_backend': {'type': 'lmdb'}, 'gt_size': 192}


def measure(options: dict[str, Any], decode: bool) -> None:
    """Print how long the check of one data set takes."""
    opt = {'scale': SCALE, 'datasets': {'train': options}, 'train': {}}
    ctx = Context(opt, is_train=True)
    begin = time.perf_counter()
    pairs = check_image_pairs(ctx, 'datasets.train', options)
    seconds = time.perf_counter() - begin
    if ctx.problems or not pairs:
        raise SystemExit(f'the check found {ctx.problems}')
    sys.stdout.write(f'{options["io_backend"]["type"]:5} {pairs:6,d} pairs, headers  {seconds:7.2f} s '
                     f'({1000 * seconds / pairs / 2:.2f} ms an image)\n')
    if decode:
        begin = time.perf_counter()
        count = decode_images(opt)
        seconds = time.perf_counter() - begin
        sys.stdout.write(f'{options["io_backend"]["type"]:5} {pairs:6,d} pairs, pixels   {seconds:7.2f} s '
                         f'({1000 * seconds / count:.2f} ms an image, {len(os.sched_getaffinity(0))} cores)\n')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=800)
    parser.add_argument('--tiles', type=int, default=10_000)
    parser.add_argument('--decode', action='store_true')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        options = make_folders(root, args.pairs)
        size = (root / 'HR' / '0000.png').stat().st_size
        sys.stdout.write(f'HR images of {HEIGHT}×{WIDTH} and {size / 1e6:.1f} MB\n')
        measure(options, args.decode)
        measure(make_lmdbs(root, args.tiles), args.decode)


if __name__ == '__main__':
    main()
