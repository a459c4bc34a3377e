"""``mipkd textures``: draw what the KRNets of a training run see in an image."""

from __future__ import annotations

import argparse
from pathlib import Path

from mipkd_plugin.commands.shared import add_option_file, read

HELP = 'draw what the KRNets of a training run see in an image'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd textures``."""
    add_option_file(parser)
    add = parser.add_argument
    add('--image', type=Path, required=True, metavar='FILE', help='low-resolution image: PNG or JPG')
    add('--iter', type=int, metavar='N', help='checkpoint to look at (default: latest)')
    add('--out', type=Path, metavar='DIR',
        help='folder for the sheets (default: results/textures_<run>_<iter>_<image>)')
    add('--size', type=int, default=128, metavar='N',
        help='largest side of the part of the image to look at, its middle; 0: all of it (default: 128)')


def run(args: argparse.Namespace) -> int:
    """Carry out ``mipkd textures``.

    Raises:
        MipkdError: Something is missing or does not fit; nothing was written.
    """
    opt = read(args).require_clean()
    from mipkd_plugin.commands.textures.look import draw

    return draw(opt, args)
