"""``mipkd taps``: list the modules of student and teacher that can be tapped."""

from __future__ import annotations

import argparse

from mipkd_plugin.commands.shared import add_option_file, read
from mipkd_plugin.utils.errors import UsageError

HELP = 'list the modules whose features can be distilled'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd taps``."""
    add_option_file(parser)
    parser.add_argument('--teacher', action='store_true', help='show only the teacher')
    parser.add_argument('--all', action='store_true', help='show all modules, not only trunk blocks and the top level')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd taps``."""
    opt = read(args)
    import torch

    from mipkd_plugin import config
    from mipkd_plugin.networks.inspection import list_taps
    from mipkd_plugin.networks.trunk import TapError, trunk_of

    built = config.build_for_taps(opt)
    channels, height, width = config.probe_shape(opt)
    if args.teacher and built.teacher is None:
        raise UsageError(f'{args.opt} has no teacher; leave out --teacher')
    for role, net in (('student', built.student), ('teacher', built.teacher)):
        if net is None or (args.teacher and role == 'student'):
            continue
        lq = torch.rand(1, channels, height, width)
        try:
            chain = trunk_of(net, lq)
            trunk, blocks = chain.name, chain.paths
        except TapError:
            trunk, blocks = '', []
        print(f'{role} {type(net).__name__}, {sum(p.numel() for p in net.parameters()):,d} parameters, on a patch of '
              f'{channels}×{height}×{width}; trunk: {trunk or "none found"}, {len(blocks)} blocks')
        for info in list_taps(net, lq):
            if args.all or info.path in blocks or '.' not in info.path:
                size = '' if info.problem else f'{info.channels}×{info.height}×{info.width}'
                mark = '*' if info.path in blocks else ' '
                print(f' {mark} {info.path:32} {size:>14}  {info.problem or "ok"}')
    print(' * block of the trunk: features can also re-enter the network here')
    return 0
