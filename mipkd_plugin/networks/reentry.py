"""What a tapped network knows about itself: traced runs, and plans to run it from the middle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from mipkd_plugin.networks.answers import Answer, Recorder
from mipkd_plugin.networks.dataflow import smooth_images, traced_surely
from mipkd_plugin.networks.replay import (
    Key,
    Plan,
    ReachedError,
    answering,
    blank,
    plan,
    with_first,
    without_checkpoints,
)
from mipkd_plugin.networks.trace import Call, Trace, shapes_in
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.networks.way import Way

_SAMPLES = 3


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

        Raises:
            TapError: ``until`` has not run.
        """
        trace, answers = self.trace(lq), self.recorder.of(known)
        given = self._given(trace, answers, (lq, after, until), native)
        if until is not None:
            given[until, 0] = _reaching(self.net.get_submodule(until))
        with answering(self.net, given), without_checkpoints():
            try:
                output: object = self.net(lq.clone() if trace.changes_input else lq)
            except ReachedError as reached:
                return reached.output
        if until is not None:
            raise TapError([f'{until!r} of {type(self.net).__name__} did not run after {after!r}: the network does not '
                            'run all of its modules in each pass'])
        return output

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
            key: _Blank(trace.call(*key).output, lq, trace.call(*key).value in trace.overwritten)
            for key in made.blank}
        given.update({key: answers[key] for key in made.recorded})
        given[after, 0] = own.with_first(native) if own else lambda *args, **kwargs: with_first(call.output, native)
        return given


def _returns_more(call: Call) -> bool:
    """Whether a module gives more than its feature."""
    return call.fills or len(shapes_in(call.output)) > 1


class _Blank:
    """An answer of zeros, with memory of their own where the network writes into them (``res += x``)."""

    def __init__(self, output: object, lq: Tensor, written: bool) -> None:
        self.output = output
        self.lq = lq
        self.written = written

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        zeros = blank(self.output, _SAMPLES, self.lq)
        return tree_map(lambda leaf: leaf.contiguous() if isinstance(leaf, Tensor) else leaf,
                        zeros) if self.written else zeros


def _reaching(module: nn.Module) -> Callable[..., Any]:
    forward = module.forward

    def run(*args: Any, **kwargs: Any) -> Any:
        raise ReachedError(forward(*args, **kwargs))

    return run
