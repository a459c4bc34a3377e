"""Tracing a run of a network: each operation on tensors and each call of a module is written down."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from mipkd_plugin.networks.features import Watch, first_tensor
from mipkd_plugin.networks.layouts import is_ambiguous, layout_of, layout_of_kind
from mipkd_plugin.networks.trace import Call, Shaped, Trace, shapes_in
from mipkd_plugin.utils.errors import FOREIGN_ERRORS


def traced(net: nn.Module, lq: Tensor, run: Callable[[Tensor], Any] | None = None) -> Trace:
    """Run a network once and write down what happens, without gradient.

    Modes, weights and random numbers are the caller's business. Operations are counted by PyTorch's flop counter:
    matrix products, convolutions and attention.

    Args:
        net: The network.
        lq: Images (N, C, H, W); they are copied.
        run: What to call in place of ``net``.

    Returns:
        The run.
    """
    trace = Trace(net, tuple(lq.shape))
    mode = _Dataflow(trace)
    with _watched(net, mode), torch.no_grad():
        lq = lq.clone()
        mode.holds[_memory(lq)] = 0
        with mode:
            trace.output = mode.joined((run or net)(lq))
    trace.work = mode.work
    return trace


def traced_surely(net: nn.Module, lq: Tensor) -> Trace:
    """A traced run in which no layout is guessed.

    As many channels as rows or columns fit two layouts. Then a run over images of twice the width tells which it is, if
    the network takes them.

    Args:
        net: The network.
        lq: Images (N, C, H, W), smooth ones.

    Returns:
        The run over ``lq``.
    """
    trace = traced(net, lq)
    unsure = [call for call in trace.calls if call.layout is not None
              and is_ambiguous(shapes_in(call.output)[0].shape, trace.lq)]
    if unsure:
        wider, watch = torch.cat([lq, lq.flip(3)], 3), Watch({call.path: call.module for call in unsure})
        with suppress(*FOREIGN_ERRORS), watch.watching() as seen, torch.no_grad():
            net(wider)
            for call in unsure:
                feature = first_tensor(seen[call.path][call.number][0])
                like = None if feature is None else layout_of(feature, tuple(wider.shape))
                call.layout = layout_of_kind(shapes_in(call.output)[0].shape, trace.lq, like) or call.layout
        watch.close()
    return trace


def smooth_images(like: Tensor) -> Tensor:
    """Random images in [0, 1] in which neighbors are alike, of the shape of ``like`` (N, C, H, W)."""
    count, channels, height, width = like.shape
    coarse = torch.rand(count, channels, -(-height // 8) + 1, -(-width // 8) + 1)
    images = functional.interpolate(coarse, size=(height, width), mode='bilinear', align_corners=True)
    return images.to(like.device, like.dtype)


def tensors_in(tree: object) -> list[Tensor]:
    """All tensors in nested tuples, lists and dicts, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _memory(tensor: Tensor) -> StorageWeakRef:
    """What stands for a tensor's memory. As long as it is kept, no other memory gets the same one."""
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _shaped(leaf: object) -> object:
    return Shaped(tuple(leaf.shape), leaf.dtype) if isinstance(leaf, Tensor) else leaf


class _Dataflow(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operation on tensors."""

    def __init__(self, trace: Trace) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = trace
        self.holds: dict[StorageWeakRef, int] = {}
        self.stack: list[int] = []
        self.work = 0
        self._pauses = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block nothing is written down."""
        self._pauses = True
        try:
            yield
        finally:
            self._pauses = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._pauses:
            return func(*args, **kwargs)
        inputs = tensors_in((args, kwargs))
        memories = {_memory(tensor) for tensor in inputs}
        sources = tuple(sorted({self.holds[memory] for memory in memories if memory in self.holds}))
        output = func(*args, **kwargs)
        packet = func._overloadpacket
        if packet in flop_registry:
            self.work += flop_registry[packet](*args, **kwargs, out_val=output)
        name = packet.__name__
        fresh = name.endswith('_like') or name.startswith('new_') or not sources
        for tensor in _written(func, args, kwargs):
            self._write(_memory(tensor), sources)
        for tensor in tensors_in(output):
            memory = _memory(tensor)
            if memory not in memories:
                if fresh:
                    self.holds.pop(memory, None)
                else:
                    self.holds[memory] = self.new_value(sources)
        return output

    def new_value(self, sources: tuple[int, ...]) -> int:
        self.trace.sources.append(sources)
        self.trace.makers.append(self.stack[-1] if self.stack else -1)
        return len(self.trace.sources) - 1

    def _write(self, memory: StorageWeakRef, sources: tuple[int, ...]) -> None:
        before = self.holds.get(memory)
        if before is not None:
            self.trace.overwritten.add(before)
        if sources:
            self.holds[memory] = self.new_value(sources)

    def joined(self, tree: object) -> int | None:
        """The value of all tensors in a tree; several values become one."""
        memories = [memory for memory in map(_memory, tensors_in(tree)) if memory in self.holds]
        values = tuple(sorted({self.holds[memory] for memory in memories}))
        if len(values) < 2:
            return values[0] if values else None
        joint = self.new_value(values)
        self.holds.update(dict.fromkeys(memories, joint))
        return joint


def _written(func: Any, args: Sequence[Any], kwargs: Any) -> list[Tensor]:
    """Tensors that an operation writes into."""
    found: list[object] = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            found.append(args[index] if index < len(args) else kwargs.get(argument.name))
    return tensors_in(found)


@contextmanager
def _watched(net: nn.Module, mode: _Dataflow) -> Iterator[None]:
    """Inside the block the calls of all modules are written down."""
    trace, counts = mode.trace, dict[str, int]()
    given: list[list[int]] = []

    def enter(path: str) -> Callable[..., None]:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            counts[path] = counts.get(path, 0) + 1
            parent = mode.stack[-1] if mode.stack else -1
            trace.calls.append(Call(path, module, counts[path] - 1, parent, len(trace.sources), (mode.work, 0)))
            mode.stack.append(len(trace.calls) - 1)
            given.append([id(tensor) for tensor in _in_containers((args, kwargs))])
        return before

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = trace.calls[mode.stack.pop()]
        before, now = given.pop(), _in_containers((args, kwargs))
        added = [tensor for tensor in now if id(tensor) not in before]
        call.fills = bool(added)
        call.value = mode.joined([output, added]) if added else mode.joined(output)
        call.end, call.work = len(trace.sources), (call.work[0], mode.work)
        call.output = tree_map(_shaped, output)
        first = next(iter(tensors_in(output)), None)
        if first is not None and first.dim() in (3, 4) and first.is_floating_point():
            with mode.paused():
                call.layout = layout_of(first, trace.lq)

    handles = []
    for path, module in net.named_modules():
        handles.append(module.register_forward_pre_hook(enter(path), with_kwargs=True))
        handles.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_containers(arguments: tuple[Any, Any]) -> list[Tensor]:
    """Tensors in lists and dicts among the arguments of a call."""
    args, kwargs = arguments
    return [tensor for value in (*args, *kwargs.values()) if isinstance(value, (list, dict))
            for tensor in tensors_in(value)]
