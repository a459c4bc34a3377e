"""Running a network from the middle: what came before a module is answered, not computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import checkpoint
from torch.utils._pytree import tree_map

from mipkd_plugin.networks.trace import Shaped, Trace
from mipkd_plugin.utils.replacing import replaced

Key = tuple[str, int]
"""Module path, and which of its calls."""

_CHEAP = 0.05


@dataclass(frozen=True)
class Plan:
    """How a network runs from the output of one module to that of another one, or to the image.

    Attributes:
        after: Path of the module whose output is put in place.
        until: Path of the module whose output ends the run; None: the image.
        blank: Calls before ``after`` that nothing behind it needs: they answer with zeros that take no memory.
        recorded: Calls before ``after`` whose own answers are needed, and too much work to compute again.
    """

    after: str
    until: str | None
    blank: frozenset[Key]
    recorded: frozenset[Key]


class ReachedError(BaseException):
    """The module that ends a run has answered; no ``except Exception`` of a network catches it.

    Attributes:
        output: What it returned.
    """

    def __init__(self, output: object) -> None:
        self.output = output
        super().__init__('the last module has answered')


def plan(trace: Trace, after: str, until: str | None = None, *, records: bool = True) -> Plan:
    """Find out what a run from the middle needs of what came before.

    Args:
        trace: A traced run of the network.
        after: Path of a module that was called once.
        until: Path of a deeper one, or None for the image.
        records: Whether answers of an earlier run may be used; else all that is needed is computed.

    Returns:
        The plan.
    """
    start = trace.call(after)
    goal = trace.output if until is None else trace.call(until).value
    number = next(index for index, call in enumerate(trace.calls) if call is start)
    around = set(trace.ancestors(number))
    before = {index for index, call in enumerate(trace.calls) if index < number and index not in around
              and call.end <= start.begin and (call.parent in around or call.parent == -1) and call.path
              and call.value is not None and not call.passes}  # what does not see the images is run: it may be needed

    def answered(value: int) -> int | None:
        """The call before ``after`` in which a value was made."""
        return next((index for index in trace.ancestors(trace.makers[value]) if index in before), None)

    stops = {start.value}
    needed = _makers(trace, goal, stops, answered)
    cost = sum(trace.calls[index].own_work for index in needed)
    recorded: set[int] = set()
    if records and cost > _CHEAP * trace.work:
        makers = _makers(trace, goal, stops, answered, into=False)
        if not any(trace.calls[index].value in trace.overwritten for index in makers):  # a record would change too
            needed = recorded = makers
    key = {index: (trace.calls[index].path, trace.calls[index].number) for index in before}
    return Plan(after, until, frozenset(key[index] for index in before - needed),
                frozenset(key[index] for index in recorded))


def _makers(trace: Trace, goal: int | None, stops: set[int | None], answered: Callable[[int], int | None],
            into: bool = True) -> set[int]:
    """Calls before the start that made what a goal needs; ``into`` also looks at what they needed themselves."""
    found: set[int] = set()

    def ends(value: int) -> bool:
        if value in stops:
            return True
        index = answered(value)
        if index is not None:
            found.add(index)
        return index is not None and not into

    if goal is not None:
        trace.reached(goal, ends)
    return found


@contextmanager
def answering(net: nn.Module, answers: Mapping[Key, Callable[..., Any]]) -> Iterator[None]:
    """Inside the block, some calls of modules are answered by functions of their arguments.

    Args:
        net: The network.
        answers: Path and number of a call → what takes its place.
    """
    by_path: dict[str, dict[int, Callable[..., Any]]] = {}
    for (path, number), answer in answers.items():
        by_path.setdefault(path, {})[number] = answer
    modules = {path: net.get_submodule(path) for path in by_path}
    before = {path: module.__dict__.get('forward') for path, module in modules.items()}
    try:
        for path, module in modules.items():
            module.__dict__['forward'] = _counting(module.forward, by_path[path])
        yield
    finally:
        for path, module in modules.items():
            if before[path] is None:
                module.__dict__.pop('forward', None)
            else:
                module.__dict__['forward'] = before[path]


def _counting(forward: Callable[..., Any], answers: Mapping[int, Callable[..., Any]]) -> Callable[..., Any]:
    """A forward method that gives another answer in some of its calls."""
    number = 0

    def answer(*args: Any, **kwargs: Any) -> Any:
        nonlocal number
        number += 1
        return answers.get(number - 1, forward)(*args, **kwargs)

    return answer


def blank(output: object, of: int, like: Tensor) -> object:
    """An output of the shapes of a run over ``of`` images, all zeros, for images ``like``; it takes no memory."""
    def zeros(leaf: object) -> object:
        if not isinstance(leaf, Shaped):
            return leaf
        shape = leaf.shape
        if shape and shape[0] % of == 0:
            shape = (shape[0] // of * len(like), *shape[1:])
        return torch.zeros((), dtype=leaf.dtype, device=like.device).expand(shape)

    return tree_map(zeros, output)


def with_first(output: object, first: Tensor) -> object:
    """A copy of an output, nested as it may be, whose first tensor is another one."""
    waiting = True

    def replace(leaf: object) -> object:
        nonlocal waiting
        if waiting and isinstance(leaf, (Tensor, Shaped)):
            waiting = False
            return first
        return leaf

    return tree_map(replace, output)


class _Through:
    """Takes the place of PyTorch's checkpoint function: calls, and keeps everything."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: object, *args: Any) -> Any:
        """Call the function."""
        return function(*args)


def _nothing_saved(*args: Any, **kwargs: Any) -> Iterator[None]:
    yield


class _NotReentrant:
    """Takes the place of PyTorch's re-entrant checkpoint function: the kind that is not re-entrant."""

    @staticmethod
    def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Call the function."""
        return checkpoint.checkpoint(function, *args, use_reentrant=False, preserve_rng_state=preserve)


_CHECKPOINTS: dict[str, Any] = {
    'CheckpointFunction': _Through, '_checkpoint_without_reentrant_generator': _nothing_saved,
    '_checkpoint_without_reentrant_generator_impl': _nothing_saved}  # the last two: before and since PyTorch 2.14


@contextmanager
def without_checkpoints() -> Iterator[None]:
    """Inside the block gradient checkpointing keeps all tensors: what it runs again would miss our answers."""
    with replaced(checkpoint, _CHECKPOINTS):
        yield


@contextmanager
def without_reentrant_checkpoints() -> Iterator[None]:
    """Inside the block gradient checkpointing is never re-entrant: modules inside it then return tensors with gradient.

    A re-entrant one runs its modules without gradient first, and what a hook sees of them trains nothing.
    """
    with replaced(checkpoint, {'CheckpointFunction': _NotReentrant}):
        yield
