"""Make folders or LMDBs of images for BasicSR: pairs for ``PairedImageDataset``, HR alone for ``RealESRGANDataset``."""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

from mipkd_plugin.preparation.manifest import MANIFEST
from mipkd_plugin.preparation.run import Run
from mipkd_plugin.preparation.settings import Settings
from mipkd_plugin.preparation.sources import PrepareError, find_images, read_sources
from mipkd_plugin.preparation.summary import Summary
from mipkd_plugin.utils.locks import TakenError, alone

LOCK = 'prepare.lock'


def prepare(hr: Path | Sequence[Path], scale: int, out: Path, lmdb: bool = False, crop: int | None = None,
            step: int | None = None, workers: int | None = None,
            only: Collection[Path] | None = None, min_side: int = 1) -> Summary:
    """Make the HR and LR images of a BasicSR ``PairedImageDataset``: ``out/HR`` and ``out/LRbicx<scale>``.

    BasicSR trains only on HR images whose sides are multiples of ``scale``, so HR images are cropped at the right and
    bottom. Each LR image is made from the whole cropped image; tiles are then cut from both at the same place. Gray
    images become three equal channels. An EXIF orientation is applied, and dropped.

    Run it again to continue an interrupted run, to add another scale, or after a change of the HR images: what is new
    or has changed is made, what is gone is removed, in all sets of the folder. A scale shares ``out/HR`` if it crops
    every image to the same size (as with DIV2K); otherwise it gets its own ``out/HR_x<scale>``.

    Args:
        hr: Folder, or several, of 8-bit gray or RGB images: png, jpg, bmp.
        scale: 2, 3, 4 or 8.
        out: Folder to fill. It must be new, empty, or made by an earlier run.
        lmdb: Write ``HR.lmdb`` and ``LRbicx<scale>.lmdb`` with equal keys instead of folders.
        crop: Side of the HR tiles; None keeps whole images. Smaller images stay whole.
        step: Distance between HR tiles; the last tiles end at the border.
        workers: Number of processes; None takes all cores if there is enough work.
        only: The images of the folders to take; None takes all.
        min_side: Shortest side of an image that is taken; smaller ones are left out.

    Returns:
        The places of the two sets, and what this run did.

    Raises:
        PrepareError: An argument or an image does not fit, another run fills the folder, or a file that would be
            overwritten was not made by ``prepare``. Only damaged image data is found late, after all other images are
            done; everything else is found before anything is written.
    """
    return _fill(Settings(scale, lmdb, crop, step, min_side=min_side), hr, out, workers, only)


def prepare_gt_only(hr: Path | Sequence[Path], out: Path, lmdb: bool = False, crop: int | None = None,
                    step: int | None = None, workers: int | None = None, multiscale: bool = False,
                    min_side: int = 1) -> Summary:
    """Make the HR images of a BasicSR ``RealESRGANDataset``, whose LR images are made in training.

    A folder ``out/HR`` gets the list ``out/meta_info_HR.txt``, which that data set reads; an LMDB has its list inside.
    Nothing is cropped to a multiple of a scale: the data set takes crops of 400. All else is as in :func:`prepare`.

    Args:
        hr: Folder, or several, of 8-bit gray or RGB images: png, jpg, bmp.
        out: Folder to fill. It must be new, empty, or made by an earlier run with the same ``crop``, ``step`` and
            ``multiscale``.
        lmdb: Write ``HR.lmdb`` instead of a folder.
        crop: Side of the tiles; None keeps whole images. Smaller images stay whole.
        step: Distance between tiles; the last tiles end at the border.
        workers: Number of processes; None takes all cores if there is enough work.
        multiscale: Add up to four smaller versions of each image, ``<stem>T0`` to ``<stem>T3``; tiles are cut from
            them as well.
        min_side: Shortest side of an image, or of a version of it, that is taken; smaller ones are left out.

    Returns:
        The place of the images, and what this run did.

    Raises:
        PrepareError: As in :func:`prepare`; also, a name that BasicSR would cut when it reads the list.
    """
    return _fill(Settings(1, lmdb, crop, step, True, multiscale, min_side), hr, out, workers, None)


def _fill(settings: Settings, hr: Path | Sequence[Path], out: Path, workers: int | None,
          only: Collection[Path] | None) -> Summary:
    """Do what is asked for, alone in the output folder."""
    if workers is not None and workers < 1:
        raise PrepareError(f'--workers {workers}: must be at least 1.')
    out, folders = Path(out), [Path(hr)] if isinstance(hr, (str, Path)) else [Path(folder) for folder in hr]
    paths, left_out = find_images(folders, only)
    for folder in folders:
        if folder.resolve() in (out.resolve(), *out.resolve().parents):
            raise PrepareError(f'--out {out}: is inside the HR folder {folder}; name a folder outside it.')
        if out.resolve() in folder.resolve().parents:
            raise PrepareError(f'--hr {folder}: is inside --out {out}; name the folder of the original images.')
    sources = read_sources(paths, settings.scale, settings.lmdb, settings.gt_only and not settings.lmdb)
    settings.cut(sources, settings.scale)
    _require_ours(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with alone(out / LOCK):
            return Run(out, settings, sources, folders).run(workers, left_out)
    except TakenError as error:
        raise PrepareError(f'--out {out}: another mipkd prepare is filling this folder; wait until it has finished.'
                           ) from error


def _require_ours(out: Path) -> None:
    """Refuse a folder that holds something, and no manifest."""
    if os.path.exists(out) and (not os.path.isdir(out) or not os.path.isfile(out / MANIFEST) and any(
            path.name != LOCK and not path.name.startswith(f'.{MANIFEST}') for path in out.iterdir())):
        what = 'is not empty and was not made by mipkd prepare' if os.path.isdir(out) else 'is a file'
        raise PrepareError(f'--out {out}: {what}; name a new folder.')
