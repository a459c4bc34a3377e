"""``mipkd textures``: draw the textures that the KRNets of a training run extract from an image."""

from __future__ import annotations

import argparse
from pathlib import Path

from mipkd_plugin.commands.shared import add_option_file, read

HELP = 'draw the textures that the KRNets of a training run extract from an image'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd textures``."""
    add_option_file(parser)
    add = parser.add_argument
    add('--image', type=Path, required=True, metavar='FILE', help='low-resolution image: PNG or JPG')
    add('--iter', type=int, metavar='N', help='iteration of the checkpoint (default: latest)')
    add('--out', type=Path, metavar='DIR',
        help='folder for the sheets (default: results/textures_<run>_<iter>_<image>)')
    add('--size', type=int, default=128, metavar='N',
        help='largest side of the crop from the middle of the image; 0 takes the whole image (default: 128)')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd textures``."""
    from mipkd_plugin import config

    opt = read(args)
    config.require_clean(opt.problems, opt)
    from mipkd_plugin.commands.textures.look import draw

    return draw(opt, args)
