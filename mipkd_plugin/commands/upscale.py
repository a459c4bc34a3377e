"""``mipkd upscale``: enlarge images with a trained network."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipkd_plugin.commands.shared import add_option_file, read
from mipkd_plugin.commands.shared.networks import load_network, on_device
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.words import counted, some

if TYPE_CHECKING:
    from mipkd_plugin.inference.tiles import Enlarger

HELP = 'enlarge images with a student or a teacher'
_ENDINGS = ('png', 'jpg', 'webp', 'tif', 'bmp')
_UNREAD = ('.gif', '.heic', '.heif', '.avif', '.jp2', '.jxl', '.tga', '.psd', '.dng', '.cr2', '.cr3', '.nef', '.arw')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd upscale``."""
    add = parser.add_argument
    add('--weights', type=Path, required=True, metavar='FILE', help='weights of a student or a teacher')
    add('--images', type=Path, required=True, metavar='DIR', help='folder of images, or one image')
    add('--out', type=Path, required=True, metavar='DIR', help='folder to fill; typed again, the command goes on in it')
    add('--tile', type=int, metavar='N', help='side of a tile in pixels of the small image: less memory (default: the '
        'whole image at once)')
    add('--context', type=int, metavar='N', help='pixels that a tile sees around itself (default: as many as the '
        'network needs, measured)')
    add('--format', choices=_ENDINGS, default='png', help='format of the results (default: png). png and tif keep 16 '
        'bits; jpg and bmp hold no transparency')
    add('--fp16', action='store_true', help='compute in half precision, on a GPU')
    add('--device', choices=('cpu', 'cuda'), help='where to compute (default: on a GPU if there is one)')
    add('--section', default='network_g', metavar='NETWORK', help='with -opt: which of its networks the file belongs '
        'to: teacher, or the name of one of its teachers (default: network_g, the student)')
    add_option_file(parser, required=False, opt='option file that has the network (default: it is recognized from the '
                    'file)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd upscale``."""
    files = _images(args)
    loaded = load_network(args, args.weights, _section(args))
    from mipkd_plugin.inference.tiles import Enlarger
    from mipkd_plugin.inference.upscaling import describe, filling, outputs_for

    net = on_device(loaded.net, args.device)
    enlarger = Enlarger(net, loaded.scale, args.tile, args.context, args.fp16)
    results = outputs_for(files, args.out, args.format)
    made_by = describe(args.weights, loaded.scale, args.format, args.fp16)
    with filling(args.out, made_by, results) as to_do:
        print(f'{loaded.name}, x{loaded.scale}, on {enlarger.device.type}', flush=True)
        if enlarger.tile is not None and _any_larger(list(to_do), enlarger.tile):
            print(_about_tiles(enlarger, enlarger.tile), flush=True)
        began = time.perf_counter()
        problems = _enlarge_all(to_do, enlarger)
    done = len(to_do) - len(problems)
    there = len(results) - len(to_do)
    print(f'{counted(done, "image")} in {time.perf_counter() - began:.1f} s'
          f'{f", {there:,d} there already" if there else ""}: {args.out}')
    if problems:
        print(f'{counted(len(problems), "image")} left out:', *problems, sep='\n  ')
    others = _other_formats(args.images)
    if others:
        print(f'Not looked at: {some(others)}; convert them to png, and type the command again')
    return 1 if problems else 0


def _section(args: argparse.Namespace) -> str:
    """YAML path of the network that ``--section`` names: ``network_g``, or the block of a teacher."""
    if args.section == 'network_g':
        return 'network_g'
    from mipkd_plugin.config.teachers import teachers_of

    places = {teacher.name or 'teacher': teacher.place for teacher in teachers_of(read(args))}
    if args.section not in places:
        raise UsageError(f'--section {args.section}: {args.opt} has no such network; write '
                         f'{" or ".join(["network_g", *places])}')
    return places[args.section]


def _images(args: argparse.Namespace) -> list[Path]:
    """The images to enlarge, after a look at the arguments."""
    for name, least in (('tile', 1), ('context', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UsageError(f'--{name} must be {least} or more, not {value}')
    if args.context is not None and args.tile is None:
        raise UsageError('--context is for tiles; add --tile 256, or leave it out')
    if args.section != 'network_g' and args.opt is None:
        raise UsageError('--section needs an option file; add -opt FILE.yml, or leave it out')
    if os.path.exists(args.out) and not os.path.isdir(args.out):
        raise UsageError(f'--out {args.out} is a file; name a folder')
    folder = args.images if os.path.isdir(args.images) else args.images.parent
    if args.out.resolve() == folder.resolve():
        raise UsageError(f'--out {args.out} is the folder of the images; give another folder')
    if os.path.isfile(args.images):
        return [args.images]
    from mipkd_plugin.inference.quality import images_in

    return images_in(args.images)


def _other_formats(folder: Path) -> list[str]:
    """Images of a folder that cannot be read here."""
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _UNREAD) if folder.is_dir() else []


def _about_tiles(enlarger: Enlarger, tile: int) -> str:
    """What tiles do to the images; a deep network takes a while to measure."""
    text = f'tiles of {tile} with {enlarger.context} pixels around each'
    if enlarger.measures:
        reach, name = enlarger.reach, type(enlarger.net).__name__
        text += (', the same as the whole image to 1e-5' if reach.is_local else
                 f'; {name} looks further than that: on a random texture, tiles differ from the whole by up to '
                 f'{255 * reach.difference:.1g} of 255 levels')
    return text


def _any_larger(files: list[Path], tile: int) -> bool:
    from mipkd_plugin.data.headers import BrokenImageError, header_of_file

    for file in files:
        with suppress(BrokenImageError, OSError):
            header = header_of_file(file, every_chunk=False)
            if max(header.height, header.width) > tile:
                return True
    return False


def _enlarge_all(to_do: dict[Path, Path], enlarger: Enlarger) -> list[str]:
    """Enlarge all images; what is wrong with some does not stop the others.

    Returns:
        What went wrong, a line for each image.

    Raises:
        UsageError: A result cannot be written.
    """
    from tqdm import tqdm

    from mipkd_plugin.inference.upscaling import UpscaleError, upscale

    problems = []
    with tqdm(to_do.items(), unit='image', disable=None) as images:
        for file, result in images:
            images.set_postfix_str(file.name)
            with tqdm(unit='tile', leave=False, disable=None, delay=0.5) as tiles:
                def on_tile(done: int, total: int, bar: Any = tiles) -> None:
                    bar.total = total
                    bar.update(done - bar.n)

                try:
                    upscale(file, result, enlarger, on_tile)
                except UpscaleError as error:
                    problems.append(str(error))
                except OSError as error:
                    raise UsageError(f'{result}: cannot be written: {error.strerror or error}; the images before it '
                                     'are there. Typed again, the command goes on') from error
    return problems
