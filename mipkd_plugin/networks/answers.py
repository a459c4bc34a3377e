"""What the calls of some modules gave in the last runs of a network."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.replay import Key, with_first
from mipkd_plugin.networks.trace import Call

_REMEMBERED = 4


class Answer:
    """What one call of a module gave in a run.

    Attributes:
        output: What it returned; its containers are copies.
        filled: Copies of the lists and dicts it was given, as it left them; empty if it did not fill any.
    """

    def __init__(self, output: object, filled: tuple[object, ...]) -> None:
        self.output = output
        self.filled = filled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Give the same answer again."""
        for given, copy in zip(_containers(args, kwargs), self.filled):
            _refill(given, copy)
        return tree_map(lambda leaf: leaf, self.output)

    def with_first(self, first: Tensor) -> Answer:
        """The same answer but for its first tensor."""
        return Answer(with_first(self.output, first), self.filled)


class Recorder:
    """Keeps the answers of some calls of a run.

    Args:
        net: The network.
    """

    def __init__(self, net: nn.Module) -> None:
        self._net = net
        self._handles: dict[str, Any] = {}
        self._wanted: dict[Key, bool] = {}
        self._counts: dict[str, int] = {}
        self._now: dict[Key, Answer] | None = None
        self._passes: list[tuple[weakref.ref[Tensor], weakref.ref[NetPass], dict[Key, Answer]]] = []

    def want(self, calls: Iterable[Call]) -> None:
        """Keep the answers of these calls from now on."""
        for call in calls:
            self._wanted[call.path, call.number] = call.fills
            if call.path not in self._handles:
                module = self._net.get_submodule(call.path)
                self._handles[call.path] = module.register_forward_hook(self._hook(call.path), with_kwargs=True)

    def begin(self) -> None:
        """A run begins."""
        self._counts.clear()
        self._now = {}

    def end(self, lq: Tensor, run: NetPass | None) -> None:
        """The run has ended; its answers live as long as the pass."""
        answers, self._now = self._now, None
        if run is not None and answers:
            self._passes = [*self._passes, (weakref.ref(lq), weakref.ref(run, self._drop), answers)][-_REMEMBERED:]

    def of(self, lq: Tensor) -> dict[Key, Answer]:
        """Answers of the run over these very images; empty if there is none."""
        return next((answers for images, _, answers in reversed(self._passes)
                     if images() is lq), {})

    def _drop(self, run: weakref.ref[NetPass]) -> None:
        self._passes = [entry for entry in self._passes if entry[1] is not run]

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles.values():
            handle.remove()
        self._handles.clear()
        self._passes.clear()

    def _hook(self, path: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._now is None:
                return
            number = self._counts.get(path, 0)
            self._counts[path] = number + 1
            fills = self._wanted.get((path, number))
            if fills is not None:
                containers = tuple(_containers(args, kwargs)) if fills else ()
                self._now[path, number] = Answer(*tree_map(lambda leaf: leaf, (output, containers)))
        return keep


def _containers(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [value for value in (*args, *kwargs.values()) if isinstance(value, (list, dict))]


def _refill(given: Any, copy: Any) -> None:
    """Put into a list or dict, and those inside it, what a copy holds."""
    if isinstance(given, dict):
        for key, value in copy.items():
            if isinstance(value, (list, dict)) and key in given:
                _refill(given[key], value)
            else:
                given[key] = value
        return
    for index, value in enumerate(copy):
        if index < len(given) and isinstance(value, (list, dict)) and isinstance(given[index], (list, dict)):
            _refill(given[index], value)
        elif index < len(given):
            given[index] = value
        else:
            given.append(value)
    del given[len(copy):]
