"""``mipkd report``: what teacher and student cost, and how good they are."""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mipkd_plugin.commands.shared import add_option_file, read
from mipkd_plugin.commands.shared.networks import Loaded, load_network, on_device, teachers_by_label
from mipkd_plugin.utils.errors import UsageError

if TYPE_CHECKING:
    from mipkd_plugin.inference.tiles import Enlarger

HELP = 'measure teacher and student: parameters, MACs, time, memory, PSNR'
_SIZES = ['64x64', '128x128', '256x256']


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd report``."""
    add_option_file(parser, required=False, opt='option file of the training: it has student, teacher and validation '
                    'images (default: networks are recognized from their files)')
    add = parser.add_argument
    add('--weights', type=Path, nargs='+', required=True, metavar='FILE', help='weights of one or several students')
    add('--teacher', type=Path, metavar='FILE', help="weights of the teacher (default: the option file's)")
    add('--images', type=Path, metavar='DIR', help='folder of high-resolution images for PSNR and SSIM (default: the '
        'validation images of the option file)')
    add('--lr', type=Path, metavar='DIR', help="folder of their low-resolution images (default: made as MATLAB's "
        'imresize does)')
    add('--sizes', nargs='+', default=_SIZES, metavar='WxH', help=f'sizes of low-resolution images to measure time and '
        f'memory with (default: {" ".join(_SIZES)})')
    add('--out', type=Path, metavar='FILE.md', help='also write the report to this file, and its numbers to FILE.json')
    add('--device', choices=('cpu', 'cuda'), help='where to measure (default: on a GPU if there is one)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd report``."""
    sizes = [_size(text) for text in args.sizes]
    files = _files(args.out)
    if args.lr is not None and args.images is None:
        raise UsageError('--lr needs --images, the folder of the high-resolution images')
    networks, weights = _load(args)
    hr, lr = _folders(args)
    from tqdm import tqdm

    from mipkd_plugin.compare.run_folders import code_version
    from mipkd_plugin.inference import report
    from mipkd_plugin.inference.quality import check_pairs, pairs_of

    enlarger = next(iter(networks.values()))
    if hr is not None:
        check_pairs(hr, enlarger.scale, lr)  # before the work
    steps = len(sizes) + (0 if hr is None else len(pairs_of(hr, enlarger.scale, lr)))
    with tqdm(total=steps, unit='step', leave=False, disable=None) as bar:
        data = report.measured(networks, sizes, bar.update)
        if hr is not None:
            report.add_quality(data, networks, hr, lr, bar.update)
    data.update(weights=weights, made=report.circumstances(enlarger.device, code_version()))
    text = report.as_markdown(data)
    print(text, end='')
    _write(files, text, data)
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r'(\d{1,5})[x×](\d{1,5})', text)
    if found is None or not (int(found[1]) and int(found[2])):
        raise UsageError(f'--sizes {text}: write width x height, as 128x128')
    return int(found[1]), int(found[2])


def _files(out: Path | None) -> list[Path]:
    """The two files to write; none of them may be there."""
    if out is None:
        return []
    files = [out if out.suffix == '.md' else out.with_name(f'{out.name}.md')]
    files.append(files[0].with_suffix('.json'))
    for file in files:
        if os.path.lexists(file):
            raise UsageError(f'--out {file} is there already; give another name')
    if not os.path.isdir(out.parent):
        raise UsageError(f'--out {out}: there is no folder {out.parent}; make it, or give another one')
    return files


def _load(args: argparse.Namespace) -> tuple[dict[str, Enlarger], dict[str, str]]:
    """All networks by role, on their device, and the files of their weights."""
    students = [load_network(args, path) for path in args.weights]
    roles = ['student'] if len(students) == 1 else [f'student {number}' for number in range(1, len(students) + 1)]
    loaded = dict(zip(roles, students))
    loaded = {**_teachers(args), **loaded}
    scales = {f'{one.path} x{one.scale}' for one in loaded.values()}
    if len({one.scale for one in loaded.values()}) > 1:
        raise UsageError(f'the networks enlarge by different factors: {", ".join(sorted(scales))}; compare networks of '
                         'one scale')
    from mipkd_plugin.inference.tiles import Enlarger

    return ({role: Enlarger(on_device(one.net, args.device), one.scale) for role, one in loaded.items()},
            {role: str(one.path) for role, one in loaded.items()})


def _teachers(args: argparse.Namespace) -> dict[str, Loaded]:
    """The teacher, or each of several, by role."""
    opt: Mapping[str, Any] = {} if args.opt is None else read(args)
    known = teachers_by_label(opt)
    if args.teacher is not None and len(known) > 1:
        raise UsageError(f'--teacher {args.teacher}: {args.opt} has several teachers, and their weights; leave '
                         '--teacher out, or leave out -opt: then networks are recognized from their files')
    if args.teacher is not None and (known or isinstance(opt.get('teacher'), Mapping)):
        known = {'teacher': (next(iter(known.values()), ('teacher', ''))[0], str(args.teacher))}
    if known or args.teacher is None:
        return {role: load_network(args, Path(weights), place) for role, (place, weights) in known.items()}
    return {'teacher': load_network(argparse.Namespace(opt=None, imports=args.imports), args.teacher)}


def _folders(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Folders of the images for PSNR; from the option file's validation data if they are folders."""
    if args.images is not None or args.opt is None:
        return args.images, args.lr
    from mipkd_plugin.config.problems import block

    found = block(read(args), 'datasets', 'val')
    folders = [Path(str(found.get(key))) for key in ('dataroot_gt', 'dataroot_lq')]
    if all(folder.is_dir() and folder.suffix != '.lmdb' for folder in folders):
        return folders[0], folders[1]
    return None, None


def _write(files: list[Path], text: str, data: dict[str, Any]) -> None:
    from mipkd_plugin.utils.files import write_text

    numbers = json.loads(json.dumps(data), parse_constant=str)  # JSON has no infinity: PSNR of equal images
    for file, content in zip(files, (text, json.dumps(numbers, indent=2, ensure_ascii=False) + '\n')):
        try:
            write_text(file, content)
        except OSError as error:
            raise UsageError(f'--out {file}: cannot be written: {error.strerror}') from error
        print(f'-> {file}')
