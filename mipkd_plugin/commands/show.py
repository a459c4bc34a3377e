"""``mipkd show``: one HTML page with what several weights files make of the same images."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mipkd_plugin.commands.shared import add_option_file, read
from mipkd_plugin.commands.shared.networks import load_network, on_device, teachers_by_label
from mipkd_plugin.utils.errors import MipkdError

if TYPE_CHECKING:
    from mipkd_plugin.config import Options
    from mipkd_plugin.pages.gallery import Images
    from mipkd_plugin.pages.means import Means
    from mipkd_plugin.pages.methods import Method
    from mipkd_plugin.pages.page import Page
    from mipkd_plugin.pages.scenes import Look, Scene
    from mipkd_plugin.pages.table import Times

HELP = 'an HTML page with what several weights files make of the same images'


class ShowError(MipkdError):
    """The page cannot be made as it was asked for."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd show``."""
    add_option_file(parser, required=False, opt='option file with the network of the weights, and the teacher; without '
                    'it, each network is recognized from its file')
    add = parser.add_argument
    add('--weights', type=Path, nargs='+', required=True, metavar='FILE',
        help='weights files, such as net_g_latest.pth')
    add('--images', type=Path, metavar='DIR', help='high-resolution images (originals)')
    add('--lr', type=Path, metavar='DIR', help='low-resolution images of the same names (default: made from --images '
        'by bicubic interpolation); without --images the page has no PSNR to HR and no errors')
    add('--out', type=Path, metavar='FILE.html', help='the page (default: results/show_<name>.html)')
    add('--png', type=Path, metavar='FILE.png', help='also draw the details side by side')
    add('--names', nargs='+', metavar='NAME', help='names of the weights files in the page (default: their runs)')
    add('--crops', type=int, default=2, metavar='N', help='details of an image (default: 2)')
    add('--crop-size', type=int, metavar='N', help='side of a detail in high-resolution pixels (default: 96, or less '
        'where an image is smaller)')
    add('--most', type=int, default=8, metavar='N', help='images to show, those where the weights differ most; the '
        'table is about all (default: 8)')
    add('--tile', type=int, metavar='N', help='run the networks in tiles of N low-resolution pixels: takes less memory')
    add('--no-teacher', action='store_true', help='leave out the teacher of the option file')
    add('--niqe', action=argparse.BooleanOptionalAction, help='NIQE of all images, which needs no original; lower is '
        'better; about half a second for each 768x512 pixels and method (default: with --lr)')
    add('--force', action='store_true', help='replace --out and --png if they exist')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd show``."""
    _check_numbers(args)
    opt = _options(args)
    from mipkd_plugin.pages.methods import label_files

    labels = label_files(args.weights, args.names)
    out = args.out or Path('results') / f'show_{_file_name(opt, labels)}.html'
    for flag, path, endings in (('--out', out, ('.html', '.htm')), ('--png', args.png, ('.png', ))):
        if path is not None:
            _check_target(flag, path, endings, args.force)
    return _show(args, opt, labels, out)


def _check_numbers(args: argparse.Namespace) -> None:
    if args.images is None and args.lr is None:
        raise ShowError('--images DIR is missing: a folder of high-resolution images; or, where there are none, '
                        '--lr DIR with low-resolution ones')
    for flag, value, lowest, highest in (('--crops', args.crops, 1, 16), ('--crop-size', args.crop_size, 8, 1024),
                                         ('--most', args.most, 1, 200), ('--tile', args.tile, 8, 10**5)):
        if value is not None and not lowest <= value <= highest:
            raise ShowError(f'{flag} {value}: must be from {lowest} to {highest}')


def _options(args: argparse.Namespace) -> Options | None:
    if args.opt is None:
        if args.force_yml:
            raise ShowError('--force_yml changes entries of an option file; give one with -opt, or leave it out')
        return None
    opt = read(args)
    from mipkd_plugin import config

    config.require_clean(opt.problems, opt)
    return opt


def _file_name(opt: Options | None, labels: Sequence[str]) -> str:
    """A name for the page, of letters that every file system takes."""
    name = str(opt.get('name')) if opt is not None else '_'.join(labels)
    return ''.join(letter if letter.isalnum() or letter in '-_.' else '_' for letter in name)[:80] or 'page'


def _check_target(flag: str, path: Path, endings: tuple[str, ...], force: bool) -> None:
    """Check before the work that a file can be written."""
    if os.path.isdir(path):
        raise ShowError(f'{flag} {path}: is a folder; name a file in it, such as {path / f"show{endings[0]}"}')
    if path.suffix.lower() not in endings:
        raise ShowError(f'{flag} {path}: must end in {" or ".join(endings)}, as in {path.with_suffix(endings[0])}')
    if os.path.lexists(path) and not force:
        raise ShowError(f'{flag} {path}: exists; choose another name, or replace it with --force')
    folder = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK | os.X_OK):
        why = 'cannot be written to' if os.path.isdir(folder) else 'is a file, and no folder'
        raise ShowError(f'{flag} {path}: {folder} {why}; choose another place')


def _show(args: argparse.Namespace, opt: Options | None, labels: list[str], out: Path) -> int:
    from tqdm import tqdm

    from mipkd_plugin.inference.pictures import as_png
    from mipkd_plugin.pages.gallery import Images, look_at_all
    from mipkd_plugin.pages.methods import scale_of
    from mipkd_plugin.pages.page import render
    from mipkd_plugin.pages.scenes import Look, draw_scenes
    from mipkd_plugin.pages.table import time_all

    methods = _methods(args, opt, labels)
    scale = scale_of(methods)
    images = Images(args.images, args.lr, scale)
    look = Look(scale, args.crops, args.crop_size or 96, niqe=args.lr is not None if args.niqe is None else args.niqe)
    images.check(args.crop_size or 1)
    with tqdm(total=len(images), unit='image', desc='times', leave=False, disable=None) as bar:
        times = time_all(methods)
        bar.set_description('images')
        scenes, means = look_at_all(methods, images, look, args.most, bar.update)
    page = _page(args, methods, scenes, (means, times), images, look)
    _write('--out', out, render(page).encode())
    if args.png is not None:
        _write('--png', args.png, as_png(draw_scenes(scenes)))
    _print(page, out, args.png)
    return 0


def _methods(args: argparse.Namespace, opt: Options | None, labels: Sequence[str]) -> list[Method]:
    """All networks on their device, the teacher of the option file last."""
    from mipkd_plugin import config
    from mipkd_plugin.inference.tiles import Enlarger
    from mipkd_plugin.pages.methods import Method, require_files

    require_files(args.weights)
    try:
        loaded = [load_network(args, path) for path in args.weights]
    except config.OptionError as error:
        raise config.OptionError([replace(problem, remedy=f'{problem.remedy}; or leave out -opt: then the network is '
                                          'recognized from its file') if problem.where == '--weights' else problem
                                  for problem in error.problems], opt) from error
    teachers = {} if opt is None or args.no_teacher else teachers_by_label(opt)
    for label, (place, weights) in teachers.items():
        path = Path(weights).expanduser()
        if not os.path.isfile(path):
            raise ShowError(f'{args.opt}, {place}.weights: there is no {path}; put it there, or leave the teacher out '
                            'with --no-teacher')
        if label in labels:
            raise ShowError(f'--names {label!r}: is a teacher of {args.opt}; choose another')
        loaded.append(load_network(args, path, place))
    return [Method(label, one.path, Enlarger(on_device(one.net, None), one.scale, args.tile), label in teachers)
            for label, one in zip([*labels, *teachers], loaded)]


def _page(args: argparse.Namespace, methods: Sequence[Method], scenes: Sequence[Scene],
          measured: tuple[Means, Times], images: Images, look: Look) -> Page:
    from datetime import datetime

    from mipkd_plugin.pages.curves import draw_curves
    from mipkd_plugin.pages.gains import find_gains
    from mipkd_plugin.pages.methods import runs_of
    from mipkd_plugin.pages.page import Page
    from mipkd_plugin.pages.table import captions, entries_of
    from mipkd_plugin.version import __version__

    runs, count, (means, times) = runs_of(methods), len(images), measured
    compared = [method.label for method in methods if not method.teaches]
    facts = [('option file', str(args.opt)), ('made on', f'{datetime.now():%Y-%m-%d %H:%M}'),
             ('scale', f'x{images.scale}'), ('images', f'{count} of {args.images or args.lr}')]
    facts += [('LR images', str(args.lr))] if args.images and args.lr else []
    notes = []
    if args.images is None:
        notes.append('There are no originals, and so no PSNR to them, no SSIM and no errors.')
    elif args.lr is None:
        notes.append("LR images were made from the originals as MATLAB's imresize (bicubic) does.")
    return Page(' against '.join(compared) if len(compared) < 4 else f'{len(compared)} networks',
                facts if args.opt else facts[1:], entries_of(methods, means, times, runs), compared, scenes, count,
                look, captions(means, times, images.scale), runs, draw_curves(runs), find_gains(runs), notes,
                f'Made with mipkd show, mipkd-plugin {__version__}.')


def _write(flag: str, path: Path, content: bytes) -> None:
    from mipkd_plugin.utils.files import write_bytes

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, content)
    except OSError as error:
        raise ShowError(f'{flag} {path}: cannot be written: {error.strerror or error}; choose another place') from error


def _print(page: Page, out: Path, png: Path | None) -> None:
    from mipkd_plugin.pages.table import table_text

    for line in (*table_text(page.entries), '', *page.captions, ''):
        print(line)
    for path in (out, *([png] if png is not None else [])):
        print(f'{path} ({path.stat().st_size / 1e6:.1f} MB)')
    print(f'Open it in a browser: {out.resolve().as_uri()}')
