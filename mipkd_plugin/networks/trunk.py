"""Finding the trunk of a super-resolution network and choosing tap points on it."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mipkd_plugin.networks.chains import Chain, find_chain
from mipkd_plugin.networks.dataflow import smooth_images, traced_surely
from mipkd_plugin.networks.modes import calmed, evaluating
from mipkd_plugin.networks.views import View
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError


class TapError(MipkdError):
    """One or more taps cannot be used.

    Attributes:
        problems: One sentence each: what, where, how to fix it.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__('\n'.join(self.problems))


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint '; did you mean …?' with the nearest valid name, or '' when none is near."""
    match = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f'; did you mean {match[0]!r}?' if match else ''


def trunk_of(net: nn.Module, lq: Tensor) -> Chain:
    """Find the trunk of a network in a traced run, see :func:`~mipkd_plugin.networks.chains.find_chain`.

    The run is made in the calm training mode, in which a network has its full form, or else in eval mode. Modes and
    random numbers stay as they are.

    Args:
        net: Any network.
        lq: Images (N, C, H, W) that it takes; only their size counts.

    Returns:
        The trunk.

    Raises:
        TapError: The network has none.
    """
    with torch.random.fork_rng(devices=[lq.device] if lq.is_cuda else []):
        images = smooth_images(lq[:1])
        try:
            with calmed(net):
                trace = traced_surely(net, images)
        except FOREIGN_ERRORS:  # what it can do in eval mode is tried next
            with evaluating(net):
                trace = traced_surely(net, images)
    chain = find_chain(trace)
    if chain is None:
        raise TapError([f'{type(net).__name__} has no blocks in a row to place taps on; '
                        'give the taps as a list of [student module path, teacher module path]'])
    return chain


def resolve_taps(taps: int | Sequence[Sequence[str]] | None, student: nn.Module, teacher: nn.Module,
                 lq: Tensor, find: Callable[[nn.Module, Tensor], Chain] = trunk_of) -> list[tuple[str, str]]:
    """Turn the ``taps`` option of a loss into pairs of module paths, shallow to deep, in the given order.

    Args:
        taps: Number of evenly spaced taps over both trunks, or a list of [student path, teacher path], or None for
            a loss that needs no features.
        student: Student network.
        teacher: Teacher network.
        lq: Images (N, C, H, W) that both take.
        find: What finds the trunk of a network.

    Returns:
        Pairs (student module path, teacher module path).

    Raises:
        TapError: Too many taps, or module paths that do not exist; all of them are named.
    """
    if taps is None:
        return []
    if isinstance(taps, int):
        return _spaced_pairs(taps, student, teacher, lq, find)
    problems = missing_taps(taps, student, teacher)
    if problems:
        raise TapError(problems)
    return [(pair[0], pair[1]) for pair in taps]


def missing_taps(taps: Sequence[Sequence[str]], student: nn.Module, teacher: nn.Module) -> list[str]:
    """What is wrong with the paths of a list of taps, told without a run.

    Args:
        taps: Pairs [student module path, teacher module path].
        student: Student network.
        teacher: Teacher network.

    Returns:
        A sentence for each path that does not exist or is given twice.
    """
    problems = []
    for role, net, side in (('student', student, 0), ('teacher', teacher, 1)):
        names = [name for name, _ in net.named_modules() if name]
        paths = [pair[side] for pair in taps]
        for path in paths:
            if path not in names:
                module = View.of(path).path
                hint = f'; write {module!r} alone: how it is shown is chosen for its pair' if module in names else (
                    nearest(path, names))
                problems.append(f'tap {path!r} does not exist in the {role} {type(net).__name__}{hint}')
        twice = sorted({path for path in paths if paths.count(path) > 1})
        problems += [f'tap {path!r} of the {role} is given twice' for path in twice]
    return problems


def _spaced_pairs(num_taps: int, student: nn.Module, teacher: nn.Module, lq: Tensor,
                  find: Callable[[nn.Module, Tensor], Chain]) -> list[tuple[str, str]]:
    sides = []
    problems = []
    for role, net in (('student', student), ('teacher', teacher)):
        chain = find(net, lq)
        if num_taps < 1 or num_taps > len(chain.calls):
            problems.append(f'taps: {num_taps} is not between 1 and {len(chain.calls)}, the number of blocks in '
                            f'the trunk {chain.name!r} of the {role} {type(net).__name__}')
        else:
            sides.append(chain.spaced(num_taps))
    if problems:
        raise TapError(problems)
    return list(zip(*sides))


def substituted(net: nn.Module, weights: Mapping[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """The network with other weights and copies of its buffers; the network itself does not change.

    BatchNorm in training mode counts in the copies. Weights that are not given are copies too.

    Args:
        net: The network.
        weights: Parameter name → tensor that takes its place.

    Returns:
        What runs it on images (N, C, H, W).
    """
    given = {name: p.detach().clone() for name, p in net.named_parameters() if name not in weights}
    given |= {**weights, **{name: buffer.clone() for name, buffer in net.named_buffers()}}
    given = {f'net.{name}': tensor for name, tensor in given.items()}
    return lambda lq: functional_call(_Assigning(net), given, (lq, ))


class _Assigning(nn.Module):
    """Runs a network in which tensors stand in for parameters, and lets its modules assign them.

    PyTorch refuses ``self.scale = self.scale.to(x.device)`` where ``scale`` is no ``nn.Parameter``, but a tensor in its
    place. Inside the run such tensors are plain attributes.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, lq: Tensor) -> Any:
        own = [(module, module._parameters) for module in self.net.modules()]
        try:
            for module, parameters in own:
                stand_ins = {name: p for name, p in parameters.items() if p is not None
                             and not isinstance(p, nn.Parameter)}
                if stand_ins:
                    module.__dict__ |= {'_parameters': _Hiding(parameters, stand_ins), **stand_ins}
            return self.net(lq)
        finally:
            for module, parameters in own:
                if module._parameters is not parameters:
                    for name in module._parameters.hidden:  # type: ignore[attr-defined]
                        module.__dict__.pop(name, None)
                    module.__dict__['_parameters'] = parameters


class _Hiding(dict[str, Any]):
    """Parameters of a module of which some are not found by name, so that they can be assigned."""

    def __init__(self, parameters: Mapping[str, Any], hidden: Iterable[str]) -> None:
        super().__init__(parameters)
        self.hidden = frozenset(hidden)

    def __contains__(self, name: object) -> bool:
        return name not in self.hidden and super().__contains__(name)
