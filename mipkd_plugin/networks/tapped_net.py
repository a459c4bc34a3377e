"""A network whose forward also returns features, and that can be entered again in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.features import NetPass, TapInfo, inspect_tap, map_to_tokens, tokens_to_map
from mipkd_plugin.networks.trunk import TapError, blocks_around, evaluating, nearest, skipping, substituted


class TappedNet:
    """Wraps a network, unedited, so that its forward pass also returns the features at named modules.

    Forward hooks by module path; they are silent outside the wrapper's own calls and removed by ``close()`` (or at
    the end of a ``with`` block). Tokens (N, HW, C) are turned into maps (N, C, H, W) here and back again, so that
    nobody else ever sees tokens. The wrapper is no ``nn.Module``: ``model.train()`` and ``state_dict()`` pass it by.

    Args:
        net: The network, unwrapped (no ``DistributedDataParallel``).
        taps: Module paths, shallow to deep; kept in the given order.
        frozen: For a teacher: no gradient to its weights, ``eval()`` now and before each call, no gradient in
            ``__call__``. Gradients still pass through ``segment`` and ``finish`` to their inputs.
        runner: What to call in place of ``net`` for a full forward pass, such as its
            ``DistributedDataParallel`` wrapper.
        execution: Number format, memory layout and compilation of a frozen network; its weights are cast in place.
            Images and features outside stay as they are.

    Raises:
        TapError: A path does not exist.
        TypeError: ``net`` is a parallel wrapper.
        ValueError: ``execution`` is not the default, and the network is not frozen or has a ``runner``.
    """

    def __init__(self, net: nn.Module, taps: Sequence[str] = (), *, frozen: bool = False,
                 runner: Callable[[Tensor], Tensor] | None = None, execution: Execution = PLAIN) -> None:
        if isinstance(net, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            raise TypeError(f'TappedNet needs the bare network, got {type(net).__name__}; '
                            'pass net.module, and the wrapper as runner')
        if execution != PLAIN and (not frozen or runner is not None):
            raise ValueError(f'only a frozen network without a runner can be {execution}, as a teacher is')
        modules = dict(net.named_modules())
        unknown = [f'tap {path!r} does not exist in {type(net).__name__}{nearest(path, modules)}'
                   for path in taps if path not in modules or not path]
        if unknown:
            raise TapError(unknown)
        self.net = net
        self.taps = tuple(taps)
        self.frozen = frozen
        self.execution = execution
        self.infos: dict[str, TapInfo] = {}
        self._raw: dict[str, list[tuple[Tensor, int | None]]] | None = None
        self._calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self.blocks = blocks_around(net, self.taps)
        self._handles = [modules[path].register_forward_hook(self._recorder(path)) for path in dict.fromkeys(taps)]
        self._handles += [modules[path].register_forward_pre_hook(self._call_recorder(path), with_kwargs=True)
                          for path in self.blocks]
        if frozen:
            net.requires_grad_(False)
            net.eval()
        execution.prepare(net)
        self._runner = runner if runner is not None else execution.runner(net)

    def __call__(self, lq: Tensor, weights: Mapping[str, Tensor] | None = None) -> NetPass:
        """Run the network.

        Args:
            lq: Images (N, C, H, W).
            weights: Parameter name → tensor that takes its place in this call alone, which goes past the ``runner``.

        Returns:
            The output and the features at the taps, as maps.

        Raises:
            TapError: A tap did not see exactly one tensor, or its tensor cannot be read as a map.
        """
        raw, output = self._run(lq, self._runner if weights is None else substituted(self.net, weights))
        return NetPass(output, {path: self._as_map(path, raw[path], lq) for path in self.taps})

    def image(self, lq: Tensor) -> Tensor:
        """Run the network on images (N, C, H, W) of any size and return the output alone; nothing is recorded."""
        self._keep_eval()
        with torch.no_grad() if self.frozen else nullcontext():
            return self.execution.run(self._runner, lq)

    def probe(self, lq: Tensor) -> tuple[dict[str, TapInfo], Tensor]:
        """Run the network on images (N, C, H, W), without gradient and in eval mode, and look at every tap.

        Refuses a tap whose module does not run exactly once, returns no tensor, or whose output is changed in place
        later (EDSR's ``conv_after_body``).

        Returns:
            Path → what was seen, ``problem`` being '' where the tap can be used; and the output of the network.
        """
        with evaluating(self.net):
            raw, output = self._run(lq, self.net)
        self.infos = {path: inspect_tap(path, raw[path], lq) for path in self.taps}
        return self.infos, output

    def segment(self, feature: Tensor, after: str, until: str) -> Tensor:
        """Run the blocks behind ``after`` up to and including ``until``, and nothing else.

        Args:
            feature: Map (N, C, H, W) that stands for the output of block ``after``.
            after: Path of a trunk block.
            until: Path of a deeper block of the same trunk.

        Returns:
            Map (N, C', H, W): what ``until`` returns.

        Raises:
            TapError: One of the paths is no block of the trunk, or they are in the wrong order.
            RuntimeError: The blocks take further arguments and the network has not run at this size yet.
        """
        start, stop = self._block_index(after), self._block_index(until)
        if start >= stop:
            raise TapError([f'no block to run from {after!r} to {until!r}: the second must lie deeper'])
        self._keep_eval()
        height, width = feature.shape[2:]
        tokens = self._is_tokens(after)

        def blocks(x: Tensor) -> Tensor:
            for path in self.blocks[start + 1:stop + 1]:
                args, kwargs = self._arguments(path, after, (height, width))
                x = self.net.get_submodule(path)(x, *args, **kwargs)
            return x

        x = self.execution.run(blocks, map_to_tokens(feature) if tokens else feature)
        return tokens_to_map(x, height, width) if tokens else x

    def finish(self, lq: Tensor, after: str, feature: Tensor) -> Tensor:
        """Run what comes after block ``after``, as if that block had returned ``feature``.

        The blocks up to and including ``after`` are not computed. The layers before the trunk are: the global skip
        connection adds their output to the trunk's.

        Args:
            lq: Images (N, C, H, W), for the global skip.
            after: Path of a trunk block.
            feature: Map (N, C, H', W') in place of its output.

        Returns:
            Image (N, C, sH, sW).

        Raises:
            TapError: ``after`` is no block of the trunk.
        """
        index = self._block_index(after)
        native = map_to_tokens(feature) if self._is_tokens(after) else feature
        self._keep_eval()

        def rest(lq: Tensor, native: Tensor) -> Tensor:
            with skipping(self.net, self.blocks[:index], self.blocks[index], native):
                image: Tensor = self.net(lq)
                return image

        return self.execution.run(rest, lq, native)

    def close(self) -> None:
        """Remove all hooks: the network is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def __enter__(self) -> TappedNet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, lq: Tensor,
             runner: Callable[[Tensor], Tensor]) -> tuple[dict[str, list[tuple[Tensor, int | None]]], Tensor]:
        self._check_open()
        self._keep_eval()
        self._raw = {path: [] for path in self.taps}
        self._calls.clear()
        try:
            with torch.no_grad() if self.frozen else nullcontext():
                output = self.execution.run(runner, lq)
            return self._raw, output
        finally:
            self._raw = None

    def _check_open(self) -> None:
        if not self._handles and self.taps:
            raise RuntimeError(f'this TappedNet of {type(self.net).__name__} was closed')

    def _keep_eval(self) -> None:
        if self.frozen and self.net.training:
            self.net.eval()

    def _recorder(self, path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: Any, output: Any) -> None:
            if self._raw is not None:  # compiled code has no version counters; the eager probe has looked at them
                known = isinstance(output, Tensor) and not torch.compiler.is_compiling()
                self._raw[path].append((output, output._version if known else None))
        return record

    def _call_recorder(self, path: str) -> Callable[..., None]:
        def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._raw is not None:
                self._calls[path] = (args[:1] and (None, *args[1:]), kwargs)  # without the feature itself
        return record

    def _as_map(self, path: str, seen: list[tuple[Tensor, int | None]], lq: Tensor) -> Tensor:
        info = inspect_tap(path, seen, lq)
        if info.problem:
            raise TapError([f'tap {path!r} of {type(self.net).__name__}: {info.problem}'])
        self.infos[path] = info
        output = self.execution.leave(seen[0][0], lq.dtype)
        return tokens_to_map(output, info.height, info.width) if info.tokens else output

    def _block_index(self, path: str) -> int:
        self._check_open()
        if path not in self.blocks:
            trunk = self.blocks[0].rpartition('.')[0] if self.blocks else None
            raise TapError([f'{path!r} is no block of the trunk {trunk!r} of {type(self.net).__name__}; '
                            'a feature can only re-enter the network between trunk blocks'])
        return self.blocks.index(path)

    def _is_tokens(self, path: str) -> bool:
        if path not in self.infos:
            raise RuntimeError(f'block {path!r} is not tapped or {type(self.net).__name__} has not run yet; '
                               'name it in taps and run probe() or the network first')
        return self.infos[path].tokens

    def _arguments(self, path: str, after: str, size: tuple[int, int]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        name = type(self.net).__name__
        if path not in self._calls:
            raise RuntimeError(f'block {path!r} of {name} has not run yet; run the network first')
        args, kwargs = self._calls[path]
        if not args:
            raise TapError([f'block {path!r} of {name} is called with keywords only: no feature can re-enter there'])
        known = self.infos[after]
        if (args[1:] or kwargs) and size != (known.height, known.width):
            raise RuntimeError(f'the blocks of {name} take arguments that belong to features of '
                               f'{known.height}×{known.width}, got {size[0]}×{size[1]}; run it at this size first')
        return args[1:], kwargs
