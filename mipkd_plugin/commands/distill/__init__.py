"""``mipkd distill``: from a teacher's weights file and a folder of photographs to a trained student."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

from mipkd_plugin.utils.errors import UsageError

HELP = "train a small student from a teacher's weights file and a folder of images"
LOSSES = ('mipkd', 'krnet', 'logits', 'fitnets', 'at', 'rkd', 'fakd', 'crosskd', 'dukd', 'none')
PLACES = ('hr', 'lr', 'val', 'val_lr')
SETTINGS = ('loss', 'taps', 'chain', 'encoders', 'until', 'init', 'patch', 'batch', 'learning_rate', 'iterations',
            'crops', 'ema', 'val_freq', 'workers', 'threads', 'seed')
"""What is chosen where it is not given."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd distill``."""
    add = parser.add_argument
    add('--teacher', required=True, metavar='FILE', help="the teacher's weights; the network is recognized")
    add('--hr', type=Path, metavar='DIR', help='HR images to train on, subfolders included')
    add('--student', default='1/8', metavar='SIZE', help='ARCH:WIDTHxDEPTH such as EDSR:16x5, a share of the work of '
        "the teacher such as 1/8, or an option file with a network_g (default: 1/8)")
    add('--list', action='store_true', help='only show students of the teacher from 1/2 to 1/32')
    add('--out', type=Path, metavar='DIR', help='folder for the option file, prepared images, table and picture; its '
        'name is the name of the run (default: TEACHER_to_STUDENT)')
    add('--write-only', action='store_true', help='prepare the images and write the option file, but do not train')
    images = parser.add_argument_group('images')
    images.add_argument('--val', type=Path, metavar='DIR', help='HR images to validate on (default: some of --hr, '
                        'which are not trained on)')
    images.add_argument('--lr', type=Path, metavar='DIR', help='your own LR images of --hr (default: made by bicubic '
                        'downsampling, as by mipkd prepare)')
    images.add_argument('--val-lr', type=Path, metavar='DIR', help='your own LR images of --val (default: '
                        'LRbicx<scale> beside them if it fits, or made)')
    _add_settings(parser.add_argument_group('settings', 'What you do not give is chosen for the networks, the images '
                                            'and the machine, and printed with its reason.'))


def _add_settings(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add('--loss', choices=LOSSES, help='how to distill; none trains without a teacher')
    for name, kind, text in (
            ('taps', _whole(1), 'number of taps on both trunks'),
            ('until', _number(float, lambda value: 0 < value <= 1, 'above 0, and at most 1'),
             'share of the run that distills, fading out'),
            ('patch', _whole(1), 'side of the LR patches'), ('batch', _whole(1), 'images in an iteration'),
            ('learning-rate', _number(float, lambda value: 0 < value < 1, 'between 0 and 1'), 'of Adam at the start'),
            ('iterations', _whole(1), 'length of the training'),
            ('crops', _whole(0), 'size of the pool of fixed crops; 0: new crops in each iteration'),
            ('ema', _number(float, lambda value: 0 <= value < 1, 'at least 0, and below 1'),
             'decay of the moving average'),
            ('val-freq', _whole(1), 'iterations between validations'),
            ('workers', _whole(0), 'processes that read images'), ('threads', _up_to_cores(), 'CPU threads of PyTorch'),
            ('seed', _whole(0), 'of weights and crops')):
        add(f'--{name}', type=kind, metavar='N', help=text)
    add('--chain', choices=('yes', 'no'), help="the block chain of MiPKD, its dearest part")
    add('--encoders', choices=('shared', 'separate'), help='of MiPKD: one for both networks, or one for each')
    add('--init', choices=('teacher_slice', 'random'), help='what the student starts from: a slice of the teacher, or '
        'random weights')
    add('--set', action='append', metavar='A:B=VALUE', help='another entry of the option file, as in '
        '--set train:optim_g:type=AdamW; can be given several times')
    add('--import', dest='imports', action='append', metavar='FILE.py|MODULE', help='first import a file or module '
        'that registers your own networks or losses; can be given several times')


def _number(kind: Callable[[str], float], fits: Callable[[float], bool], range_: str) -> Callable[[str], float]:
    """A function for argparse that reads a number and says which are allowed."""
    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = float('nan')
        if not fits(value):
            raise argparse.ArgumentTypeError(f'must be {range_}, not {text}')
        return value

    return read


def _whole(least: int) -> Callable[[str], float]:
    return _number(lambda text: int(text.replace(',', '')), lambda value: value >= least,
                   f'a whole number, {least} or more')


def run(args: argparse.Namespace) -> int:
    """Carry out ``mipkd distill``."""
    from mipkd_plugin.commands.distill.stages import Distill

    return Distill(args).run()


def _up_to_cores() -> Callable[[str], float]:
    cores = os.cpu_count() or 1
    return _number(int, lambda value: 1 <= value <= cores, f'from 1 to {cores}, the cores of this machine')


def require_fitting(args: argparse.Namespace) -> None:
    """Refuse what does not go together.

    Args:
        args: The parsed arguments.

    Raises:
        UsageError: An option is missing, or two do not fit.
    """
    if args.loss in ('logits', 'dukd', 'none') and args.taps is not None:
        raise UsageError(f'--taps {args.taps}: --loss {args.loss} has no taps.\n   -> Leave one of them out')
    if args.chain is not None and args.loss not in (None, 'mipkd'):
        raise UsageError(f'--chain {args.chain}: only --loss mipkd has a chain.\n   -> Leave one of them out')
    if args.encoders is not None and args.loss not in (None, 'mipkd'):
        raise UsageError(f'--encoders {args.encoders}: only --loss mipkd has encoders.\n   -> Leave one of them out')
    if args.until is not None and args.loss == 'none':
        raise UsageError(f'--until {args.until:g}: --loss none does not distill at all.\n   -> Leave one of them out')
    if args.init == 'teacher_slice' and args.loss == 'none':
        raise UsageError('--init teacher_slice: --loss none trains without the teacher.\n   -> Leave one of them out')
    if args.out is not None and Path('experiments').resolve() in args.out.resolve().parents:
        raise UsageError(f'--out {args.out}: BasicSR keeps the run itself in experiments/{args.out.resolve().name}.\n'
                         f'   -> Name a folder outside of experiments: --out {args.out.resolve().name}')
    if args.hr is None and not args.list:
        raise UsageError('--hr DIR is missing: the folder of images to train on (only --list needs none)')
    if args.lr is not None and not os.path.exists(args.lr) and _is_number(str(args.lr)):
        raise UsageError(f'--lr {args.lr}: is the folder of LR images.\n   -> For the learning rate write '
                         f'--learning-rate {args.lr}')


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
