"""What a tapped network knows about itself: traced runs, plans to run it from the middle, answers of its last runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mipkd_plugin.networks.dataflow import smooth_images, traced_surely
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.replay import Plan, ReachedError, answering, blank, plan, with_first, without_checkpoints
from mipkd_plugin.networks.trace import Call, Trace, shapes_in
from mipkd_plugin.networks.way import Way

Key = tuple[str, int]
"""Module path, and which of its calls."""

_SAMPLES = 2
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
            alive = [entry for entry in self._passes if entry[1]() is not None]
            self._passes = [*alive, (weakref.ref(lq), weakref.ref(run), answers)][-_REMEMBERED:]

    def of(self, lq: Tensor) -> dict[Key, Answer]:
        """Answers of the run over these very images; empty if there is none."""
        return next((answers for images, run, answers in reversed(self._passes)
                     if images() is lq and run() is not None), {})

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


class Reentry:
    """Runs a network from the middle.

    Args:
        net: The network.
        run: Runs a function of the images in the way the network runs: mode, number format.
        recorder: Keeps answers of its full runs.
    """

    def __init__(self, net: nn.Module, run: Callable[[Tensor, Callable[[Tensor], Any]], Trace],
                 recorder: Recorder) -> None:
        self.net = net
        self.recorder = recorder
        self._run = run
        self._traces: dict[tuple[int, ...], Trace] = {}
        self._plans: dict[tuple[object, ...], Plan] = {}
        self._ways: dict[tuple[object, ...], Way] = {}

    def trace(self, lq: Tensor) -> Trace:
        """A traced run over images of the size of ``lq`` (N, C, H, W)."""
        size = tuple(lq.shape[1:])
        if size not in self._traces:
            with torch.random.fork_rng(devices=[lq.device] if lq.is_cuda else []):
                images = smooth_images(lq[:1].detach().expand(_SAMPLES, *size))
                self._traces[size] = self._run(images, lambda x: traced_surely(self.net, x))
        return self._traces[size]

    def forget(self) -> None:
        """The network has changed: all traced runs are made again."""
        self._traces.clear()
        self._plans.clear()
        self._ways.clear()

    def way(self, lq: Tensor, after: str, until: str | None) -> Way:
        """The way from one tap to another one, or to the image, for images of the size of ``lq``."""
        key = (tuple(lq.shape[1:]), after, until)
        if key not in self._ways:
            self._ways[key] = Way(self.trace(lq), after, until)
        return self._ways[key]

    def plan(self, lq: Tensor, after: str, until: str | None, records: bool = True) -> Plan:
        """The plan to run from ``after`` to ``until``; what it wants to be recorded will be, from the next run on."""
        key = (tuple(lq.shape[1:]), after, until, records)
        if key not in self._plans:
            trace = self.trace(lq)
            self._plans[key] = made = plan(trace, after, until, records=records)
            if records:
                own = trace.call(after)
                more = [own] if _returns_more(own) else []
                more += [call for call in trace.calls if (call.path, call.number) in made.recorded]
                self.recorder.want(more)
        return self._plans[key]

    def run(self, lq: Tensor, after: str, native: Tensor, until: str | None, known: Tensor) -> object:
        """Run the network with another output of one module.

        Args:
            lq: Images (N, C, H, W), in the network's own number format.
            after: Path of that module.
            native: What it returns, in its own layout.
            until: Path of the module whose output is wanted; None for the image.
            known: The images as full runs have seen them.

        Returns:
            What ``until`` returned, or the network.

        """
        trace, answers = self.trace(lq), self.recorder.of(known)
        given = self._given(trace, answers, (lq, after, until), native)
        if until is not None:
            given[until, 0] = _reaching(self.net.get_submodule(until))
        with answering(self.net, given), without_checkpoints():
            try:
                return self.net(lq.clone() if trace.changes_input else lq)
            except ReachedError as reached:
                return reached.output

    def _given(self, trace: Trace, answers: dict[Key, Answer], way: tuple[Tensor, str, str | None],
               native: Tensor) -> dict[Key, Callable[..., Any]]:
        """What takes the place of calls: of the module that is entered, and of what came before."""
        lq, after, until = way
        made = self.plan(lq, after, until)
        if not made.recorded <= answers.keys():
            made = self.plan(lq, after, until, records=False)
        call, own = trace.call(after), answers.get((after, 0))
        if own is None and _returns_more(call):  # all but its first tensor is computed again
            forward = self.net.get_submodule(after).forward
            return {(after, 0): lambda *args, **kwargs: with_first(forward(*args, **kwargs), native)}
        given: dict[Key, Callable[..., Any]] = {
            key: _Blank(trace.call(*key).output, len(lq), trace.call(*key).value in trace.overwritten)
            for key in made.blank}
        given.update({key: answers[key] for key in made.recorded})
        given[after, 0] = own.with_first(native) if own else lambda *args, **kwargs: with_first(call.output, native)
        return given


def _returns_more(call: Call) -> bool:
    """Whether a module gives more than its feature."""
    return call.fills or len(shapes_in(call.output)) > 1


class _Blank:
    """An answer of zeros, with memory of their own where the network writes into them (``res += x``)."""

    def __init__(self, output: object, samples: int, written: bool) -> None:
        self.output = output
        self.samples = samples
        self.written = written

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        zeros = blank(self.output, self.samples, _SAMPLES)
        return tree_map(lambda leaf: leaf.contiguous() if isinstance(leaf, Tensor) else leaf,
                        zeros) if self.written else zeros


def _reaching(module: nn.Module) -> Callable[..., Any]:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        raise ReachedError(forward(*args, **kwargs))

    return run


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
