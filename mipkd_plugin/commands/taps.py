"""``mipkd taps``: list the modules of student and teacher that can be tapped."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from mipkd_plugin.commands.shared import add_option_file, read
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, UsageError, failure_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mipkd_plugin.networks.chains import Chain
    from mipkd_plugin.networks.features import TapInfo

HELP = 'list the modules whose features can be distilled'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd taps``."""
    add_option_file(parser)
    parser.add_argument('--teacher', action='store_true', help='show only the teacher, or all teachers')
    parser.add_argument('--all', action='store_true', help='show all modules, not only trunk blocks and the top level')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd taps``."""
    opt = read(args)
    import torch

    from mipkd_plugin import config
    from mipkd_plugin.archs import AggregatedTeachers

    built = config.build_for_taps(opt)
    lq = torch.rand(1, *config.probe_shape(opt))
    if args.teacher and not built.teachers:
        raise UsageError(f'{args.opt} has no teacher; leave out --teacher')
    chains: dict[str, Chain | None] = {}
    infos: dict[str, dict[str, TapInfo]] = {}
    networks = {} if built.student is None or args.teacher else {'student': built.student}
    if built.aggregates and networks:  # alone it takes no LR images; so it is tapped as a teacher later
        networks = {'aggregator': AggregatedTeachers.of(networks['student'], built.teachers.values())}
    for role, net in (networks | {f'teacher {name}'.strip(): net for name, net in built.teachers.items()}).items():
        chains[role], infos[role] = _seen(role, net, lq, args.opt)
        _show(role, net, lq, chains[role], infos[role].values(), show_all=args.all)
    _propose(chains, infos, _numbers(opt))
    print(' * block of the trunk. Features can also re-enter a network there, and at most other modules.')
    return 0


def _seen(role: str, net: nn.Module, lq: Tensor, opt_file: str) -> tuple[Chain | None, dict[str, TapInfo]]:
    """The trunk of a network, and what was seen at each of its modules."""
    from mipkd_plugin.networks.probing import list_taps
    from mipkd_plugin.networks.trunk import TapError, trunk_of

    chain: Chain | None = None
    try:
        with suppress(TapError):
            chain = trunk_of(net, lq)
        return chain, {info.path: info for info in list_taps(net, lq)}
    except FOREIGN_ERRORS as error:
        size = '×'.join(map(str, lq.shape[1:]))
        said = str(error) if isinstance(error, MipkdError) else (
            f'{type(net).__name__} fails on a patch of {size}: {failure_of(error)}')
        raise UsageError(f'{role}: {said}\n-> mipkd check -opt {opt_file} says what to write') from error


def _show(role: str, net: nn.Module, lq: Tensor, chain: Chain | None, infos: Iterable[TapInfo], *,
          show_all: bool) -> None:
    """Print a network's trunk and what can be tapped."""
    size = '×'.join(map(str, lq.shape[1:]))
    parameters = sum(p.numel() for p in net.parameters())
    print(f'{role} {type(net).__name__}, {parameters:,d} parameters, on a patch of {size}')
    steps = {} if chain is None else dict(zip(chain.paths, chain.steps))
    if chain is None:
        print('trunk: none found')
    else:
        blocks = 'one block' if len(chain.calls) == 1 else f'{len(chain.calls)} blocks in a row'
        print(f'trunk: {chain.name}, {blocks}, {chain.span / chain.total:.0%} of the work'
              f'{"; in doubt: " + chain.doubt if chain.doubt else ""}')
        if chain.doubt:
            print(f'note: if these are not the blocks of the {role}, give pairs of your own: taps: [[student module, '
                  'teacher module], …]')
    for info in infos:
        if show_all or info.path in steps or '.' not in info.path:
            shape = '' if info.problem else f'{info.channels}×{info.height}×{info.width}'
            mark, work = ('*', f'{steps[info.path] / chain.total:6.1%}') if chain and info.path in steps else (' ', '')
            print(f' {mark} {info.path:32} {shape:>14} {work:>7}  {info.problem or "ok"}')


def _propose(chains: Mapping[str, Chain | None], infos: Mapping[str, Mapping[str, TapInfo]],
             numbers: Sequence[int]) -> None:
    """Print the pairs that a number of taps stands for."""
    student = chains.get('student')
    for role, teacher in chains.items():
        if student is None or teacher is None or role == 'student':
            continue
        most, of = min(len(student.calls), len(teacher.calls)), f' of {role}' * (role != 'teacher')
        for number in numbers:
            if number <= most:
                pairs = [_shown(infos['student'][s], infos[role][t])
                         for s, t in zip(student.spaced(number), teacher.spaced(number))]
                print(f'taps: {number}{of} means {", ".join(f"[{s}, {t}]" for s, t in pairs)}: equal work between them')
            else:
                print(f'taps: {number}{of} is too many, {most} at most')


def _shown(student: TapInfo, teacher: TapInfo) -> tuple[str, str]:
    """The views in which two taps are compared."""
    from mipkd_plugin.networks.views import fitting

    pair = [student, teacher]
    finer = 0 if student.height * student.width > teacher.height * teacher.width else 1
    view = fitting(pair[finer], pair[1 - finer])
    names = [student.path, teacher.path]
    names[finer] = names[finer] if view is None else str(view)
    return names[0], names[1]


def _numbers(opt: Mapping[str, Any]) -> list[int]:
    """The numbers of taps in the option file; 3 if there are none."""
    train = opt.get('train')
    losses = train.get('distill_opt') if isinstance(train, Mapping) else None
    losses = losses if isinstance(losses, list) else [losses]
    found = [loss['taps'] for loss in losses if isinstance(loss, Mapping) and type(loss.get('taps')) is int]
    return sorted({number for number in found if number > 0}) or [3]
