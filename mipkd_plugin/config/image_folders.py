"""Check a folder of images: BasicSR reads every file in it, and no file in its subfolders."""

from __future__ import annotations

import os
from pathlib import Path

from mipkd_plugin.config.problems import Context
from mipkd_plugin.data.headers import SUFFIXES
from mipkd_plugin.utils.words import some


def files_of(root: Path) -> list[str]:
    """The files that BasicSR reads as images: all whose names do not start with a dot."""
    return sorted(entry.name for entry in root.iterdir()
                  if os.path.isfile(entry) and not entry.name.startswith('.'))


def check_folder(ctx: Context, where: str, text: str, root: Path, listed: bool = False) -> bool:
    """Check that a folder holds images and nothing else; subfolders with images are noted.

    Args:
        ctx: Where problems and notes go.
        where: YAML path of the folder.
        text: The folder as it is written there.
        root: The folder.
        listed: Whether a file lists the images to read, so that nothing is left out by mistake.

    Returns:
        Whether it can be used.
    """
    try:
        names = files_of(root)
        inner = [folder.name for folder in sorted(root.iterdir()) if os.path.isdir(folder) and _holds_images(folder)]
    except OSError as error:
        ctx.add(where, f'{error.filename or root} cannot be read: {error.strerror}', 'change its permissions')
        return False
    others = [name for name in names if Path(name).suffix.lower() not in SUFFIXES]
    if not names and not listed:
        ctx.add(where, f'{text} holds no images (sub-folders are not searched); looked in {root}',
                f'name the folder that holds the images: {some([f"{text}/{name}" for name in inner])}' if inner else
                'name the folder that holds the images', {where: f'{text.rstrip("/")}/{inner[0]}'} if inner else {})
    elif others and not listed:
        ctx.add(where, f'{text} holds {some(others)}, and BasicSR reads every file as an image',
                'move all other files out of the folder')
    elif inner and not listed:
        ctx.notes.append(f'{where}: BasicSR reads no subfolders, and leaves out the images in '
                         f'{some([f"{text}/{name}" for name in inner])}')
    return ctx.clean(where)


def _holds_images(folder: Path) -> bool:
    if folder.name.startswith('.'):
        return False
    return any(path.suffix.lower() in SUFFIXES for path in folder.iterdir())
