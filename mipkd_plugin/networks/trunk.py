"""Finding the trunk of a super-resolution network and choosing tap points on it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mipkd_plugin.utils.errors import MipkdError


class TapError(MipkdError):
    """One or more taps cannot be used.

    Attributes:
        problems: One sentence each: what, where, how to fix it.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__('\n'.join(self.problems))


def find_trunk(net: nn.Module) -> tuple[str, list[str]]:
    """Find the sequence of equal blocks that does the work: ``body`` of EDSR, RCAN, RRDBNet; ``layers`` of SwinIR.

    Rule (our choice): among the outermost ``nn.Sequential`` / ``nn.ModuleList`` modules whose children are all of
    one class and have parameters, the one with the most parameters.

    Args:
        net: Any network.

    Returns:
        Path of the trunk and the paths of its blocks, in the order in which the trunk holds them.

    Raises:
        TapError: The network has no such sequence.
    """
    best, best_size = '', 0
    accepted: list[str] = []
    for path, module in net.named_modules():
        if not isinstance(module, (nn.Sequential, nn.ModuleList)) or len(module) == 0:
            continue
        if any(path.startswith(outer + '.') for outer in accepted):
            continue
        if len({type(child) for child in module}) > 1 or any(not list(child.parameters()) for child in module):
            continue
        accepted.append(path)
        size = sum(p.numel() for p in module.parameters())
        if size > best_size:
            best, best_size = path, size
    if not best:
        raise TapError([f'{type(net).__name__} has no sequence of equal blocks to place taps on; '
                        'give the taps as a list of [student module path, teacher module path]'])
    return best, [f'{best}.{name}' for name, _ in net.get_submodule(best).named_children()]


def blocks_around(net: nn.Module, taps: Sequence[str]) -> list[str]:
    """Blocks that a feature can re-enter between: the siblings of the taps, or the found trunk, or none."""
    parents = {path.rpartition('.')[0] for path in taps}
    if len(parents) == 1:
        parent = parents.pop()
        container = net.get_submodule(parent)
        if isinstance(container, (nn.Sequential, nn.ModuleList)):
            return [f'{parent}.{name}' if parent else name for name, _ in container.named_children()]
    try:
        return find_trunk(net)[1]
    except TapError:
        return []


def evenly_spaced(num_blocks: int, num_taps: int) -> list[int]:
    """Space taps evenly over the blocks; the last one is the last block (our choice).

    >>> evenly_spaced(32, 4)
    [7, 15, 23, 31]

    Returns:
        Indices of ``num_taps`` blocks.
    """
    return [(2 * k * num_blocks + num_taps) // (2 * num_taps) - 1 for k in range(1, num_taps + 1)]


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint '; did you mean …?' with the nearest valid name, or '' when none is near."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f'; did you mean {match[0]!r}?' if match else ''


def resolve_taps(taps: int | Sequence[Sequence[str]] | None, student: nn.Module,
                 teacher: nn.Module) -> list[tuple[str, str]]:
    """Turn the ``taps`` option of a loss into pairs of module paths, shallow to deep, in the given order.

    Args:
        taps: Number of evenly spaced taps over both trunks, or a list of [student path, teacher path], or None for
            a loss that needs no features.
        student: Student network.
        teacher: Teacher network.

    Returns:
        Pairs (student module path, teacher module path).

    Raises:
        TapError: Too many taps, or module paths that do not exist; all of them are named.
    """
    if taps is None:
        return []
    if isinstance(taps, int):
        return _spaced_pairs(taps, student, teacher)
    problems = []
    for role, net, side in (('student', student, 0), ('teacher', teacher, 1)):
        names = [name for name, _ in net.named_modules() if name]
        paths = [pair[side] for pair in taps]
        for path in paths:
            if path not in names:
                problems.append(f'tap {path!r} does not exist in the {role} {type(net).__name__}{nearest(path, names)}')
        twice = sorted({path for path in paths if paths.count(path) > 1})
        problems += [f'tap {path!r} of the {role} is given twice' for path in twice]
    if problems:
        raise TapError(problems)
    return [(pair[0], pair[1]) for pair in taps]


def _spaced_pairs(num_taps: int, student: nn.Module, teacher: nn.Module) -> list[tuple[str, str]]:
    sides = []
    problems = []
    for role, net in (('student', student), ('teacher', teacher)):
        path, blocks = find_trunk(net)
        if num_taps < 1 or num_taps > len(blocks):
            problems.append(f'taps: {num_taps} is not between 1 and {len(blocks)}, the number of blocks in '
                            f'the trunk {path!r} of the {role} {type(net).__name__}')
        else:
            sides.append([blocks[i] for i in evenly_spaced(len(blocks), num_taps)])
    if problems:
        raise TapError(problems)
    return list(zip(*sides))


@contextmanager
def skipping(net: nn.Module, skipped: Sequence[str], replaced: str, output: Tensor) -> Iterator[None]:
    """Inside the block, ``skipped`` modules pass their input on and ``replaced`` returns ``output``, uncomputed."""
    answers: list[tuple[nn.Module, Callable[..., Tensor]]] = [
        (net.get_submodule(path), lambda x, *args, **kwargs: x) for path in skipped]
    answers.append((net.get_submodule(replaced), lambda *args, **kwargs: output))
    before = [module.__dict__.get('forward') for module, _ in answers]
    try:
        for module, answer in answers:
            module.__dict__['forward'] = answer
        yield
    finally:
        for (module, _), old in zip(answers, before):
            if old is None:
                module.__dict__.pop('forward', None)
            else:
                module.__dict__['forward'] = old


def substituted(net: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The network with other weights and copies of its buffers; the network itself does not change."""
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    return lambda lq: functional_call(net, {**weights, **buffers}, (lq, ))


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Inside the block: eval mode and no gradient; afterwards every module has its own mode again."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode
