"""A traced run of a network: all calls of modules, and which of their tensors follows from which."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from mipkd_plugin.networks.layouts import Layout


@dataclass(frozen=True)
class Shaped:
    """Stands for a tensor of a traced run.

    Attributes:
        shape: Its shape.
        dtype: Its type.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass
class Call:
    """One call of a module.

    Attributes:
        path: Module path.
        module: The module.
        number: How many times the module had been called before in this run.
        parent: Number of the call it was made in; -1 for the network itself.
        begin: Number of values that existed before.
        end: Number of values that existed afterwards.
        work: Operations (MACs × 2) that the run had done before, and afterwards.
        value: What the call returned, as a value of the graph; None if that does not depend on the images.
        output: What it returned, with a :class:`Shaped` for each tensor.
        layout: How its first tensor is laid out; None if it is no feature.
        fills: Whether it put tensors into lists or dicts that it was given.
    """

    path: str
    module: nn.Module
    number: int
    parent: int
    begin: int
    work: tuple[int, int]
    end: int = 0
    value: int | None = None
    output: Any = None
    layout: Layout | None = None
    fills: bool = False

    @property
    def own_work(self) -> int:
        """Operations done inside."""
        return self.work[1] - self.work[0]

    @property
    def passes(self) -> bool:
        """Whether it returned what it was given, as ``nn.Identity`` does."""
        return self.value is not None and self.value < self.begin


class Trace:
    """A traced run: values (numbered in the order in which they were made), and calls (in the order of their start).

    A value is what a tensor's memory holds at a time. All tensors that one call returns count as one value. The value 0
    is the input.

    Attributes:
        net: The network.
        lq: Shape of the images (N, C, H, W).
        sources: For each value those that it was computed from.
        makers: For each value the number of the innermost call that was running; -1: none.
        calls: The calls.
        output: The value that is the image; None if it does not depend on the input.
        overwritten: Values that were changed in place after they had been made.
        work: Operations of the whole run (MACs × 2).
    """

    def __init__(self, net: nn.Module, lq: tuple[int, ...]) -> None:
        self.net = net
        self.lq = lq
        self.sources: list[tuple[int, ...]] = [()]
        self.makers: list[int] = [-1]
        self.calls: list[Call] = []
        self.output: int | None = None
        self.overwritten: set[int] = set()
        self.work = 0
        self._calls: dict[str, list[Call]] = {}
        self._dominators: list[tuple[int, int]] | None = None

    @property
    def changes_input(self) -> bool:
        """Whether the network writes into the images it is given."""
        return 0 in self.overwritten

    def call(self, path: str, number: int = 0) -> Call:
        """The first call of a module that was called, or another one."""
        return self._by_path()[path][number]

    def count(self, path: str) -> int:
        """How many times a module was called."""
        return len(self._by_path().get(path, []))

    def ancestors(self, number: int) -> Iterator[int]:
        """Numbers of the calls around a call, from the inside to the outside, itself first."""
        while number >= 0:
            yield number
            number = self.calls[number].parent

    def depends(self, value: int, on: int) -> bool:
        """Whether a value was computed from another one."""
        return on in self.reached(value)

    def follows(self, first: str, second: str) -> bool:
        """Whether what one module returned was computed from what another one had returned before."""
        a, b = self.call(first), self.call(second)
        return a is not b and a.value is not None and b.value is not None and self.depends(b.value, a.value)

    def reached(self, value: int, stop: Callable[[int], bool] = lambda value: False) -> set[int]:
        """A value and all that it was computed from; what ``stop`` says is taken along, but not what it came from."""
        found, waiting = set(), [value]
        while waiting:
            now = waiting.pop()
            if now not in found:
                found.add(now)
                if not stop(now):
                    waiting += self.sources[now]
        return found

    def dominators(self, value: int) -> Iterator[int]:
        """Values that all of the input passes through on its way to a value, from the last to the first."""
        table = self._dominator_table()
        while value > 0:
            value = table[value][0]
            yield value

    def _by_path(self) -> dict[str, list[Call]]:
        if sum(map(len, self._calls.values())) != len(self.calls):
            self._calls = {}
            for call in self.calls:
                self._calls.setdefault(call.path, []).append(call)
        return self._calls

    def _dominator_table(self) -> list[tuple[int, int]]:
        """For each value its immediate dominator, and its depth in their tree."""
        if self._dominators is None:
            table = [(0, 0)]
            for sources in self.sources[1:]:
                common = sources[0]
                for other in sources[1:]:
                    while common != other:
                        if table[common][1] < table[other][1]:
                            other = table[other][0]
                        else:
                            common = table[common][0]
                table.append((common, table[common][1] + 1))
            self._dominators = table
        return self._dominators


def shapes_in(tree: object) -> list[Shaped]:
    """All tensors of an output of a traced run, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Shaped)]
