"""A network whose forward also returns features, and that can be entered again in the middle."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.answers import Recorder
from mipkd_plugin.networks.dataflow import smooth_images
from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.features import NetPass, Seen, TapInfo, Watch, first_tensor, inspect_tap
from mipkd_plugin.networks.layouts import Layout, is_ambiguous
from mipkd_plugin.networks.modes import Mode, calmed
from mipkd_plugin.networks.reentry import Reentry
from mipkd_plugin.networks.replay import without_reentrant_checkpoints
from mipkd_plugin.networks.trace import Trace
from mipkd_plugin.networks.trunk import TapError, nearest, substituted
from mipkd_plugin.networks.views import View


class TappedNet:
    """Wraps a network, unedited, so that its forward pass also returns the features at named modules.

    Forward hooks by module path; they are silent outside the wrapper's own calls and removed by ``close()`` (or at
    the end of a ``with`` block). Tokens and other layouts are turned into maps (N, C, H, W) here and back again, so
    that nobody else ever sees them. The wrapper is no ``nn.Module``: ``model.train()`` and ``state_dict()`` pass it by.

    Args:
        net: The network, unwrapped (no ``DistributedDataParallel``).
        taps: Module paths, shallow to deep, or names of views of them; kept in the given order.
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
        self._views = {tap: View.of(tap) for tap in taps}
        paths = list(dict.fromkeys(view.path for view in self._views.values()))
        unknown = [f'tap {path!r} does not exist in {type(net).__name__}{nearest(path, modules)}'
                   for path in paths if path not in modules or not path]
        if unknown:
            raise TapError(unknown)
        self.net = net
        self.taps = tuple(taps)
        self.frozen = frozen
        self.execution = execution
        self.infos: dict[str, TapInfo] = {}
        self._mode = Mode(net, frozen)
        self._copies: bool | None = None  # whether the network writes into its input; not known yet
        self._last: tuple[int, ...] = ()
        self._watch = Watch({path: modules[path] for path in paths})
        self._recorder = Recorder(net)
        self._reentry = Reentry(net, self._run_traced, self._recorder)
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
            TapError: A tap did not see exactly one feature, or what it saw cannot be read as a map.
        """
        self._recorder.begin()
        run = None
        try:
            raw, output = self._run(lq, self._runner if weights is None else substituted(self.net, weights))
            features = {path: self._as_map(path, raw[path], lq) for path in raw}
            run = NetPass(output, {tap: view.show(features[view.path]) for tap, view in self._views.items()})
        finally:
            self._recorder.end(lq, run if weights is None else None)
        return run

    def image(self, lq: Tensor) -> Tensor:
        """Run the network on images (N, C, H, W) of any size and return the output alone; nothing is recorded."""
        self._mode.keep()
        with torch.no_grad() if self.frozen else nullcontext():
            return self.execution.run(self._runner, lq.clone() if self._copies is not False else lq)

    def probe(self, lq: Tensor) -> tuple[dict[str, TapInfo], Tensor]:
        """Run the network on two images of the size of ``lq`` (N, C, H, W), without gradient, and look at every tap.

        Refuses a tap whose module does not run exactly once, returns no feature, or whose output is changed in place
        later (EDSR's ``conv_after_body``).

        Returns:
            Path → what was seen, ``problem`` being '' where the tap can be used; and the output of the network.
        """
        with torch.random.fork_rng(devices=[lq.device] if lq.is_cuda else []):
            lq = smooth_images(lq[:1].expand(2, -1, -1, -1))
        with self._mode.at_rest(), torch.no_grad():
            raw, output = self._run(lq, self.net)
        infos = {path: inspect_tap(path, seen, lq, self._known(path, seen, lq)) for path, seen in raw.items()}
        self.infos = infos | {tap: view.info(infos[view.path]) for tap, view in self._views.items()}
        return {tap: self.infos[tap] for tap in self.taps}, output

    def show(self, taps: Sequence[str]) -> None:
        """Let taps show other views of the same modules from now on, see :class:`~mipkd_plugin.networks.views.View`."""
        self.taps = tuple(taps)
        self._views = {tap: View.of(tap) for tap in taps}
        self.infos |= {tap: view.info(self.infos[view.path]) for tap, view in self._views.items()
                       if view.path in self.infos}

    def calm(self, calms: bool = True) -> None:
        """Let a frozen network run in the calm training mode from now on, or in eval mode again.

        See :func:`~mipkd_plugin.networks.modes.calm`. The traced runs are made again.
        """
        self._mode.calm(calms)
        self._reentry.forget()

    def trace(self, lq: Tensor) -> Trace:
        """A traced run over images of the size of ``lq`` (N, C, H, W); made once for a size."""
        return self._reentry.trace(lq)

    def prepare(self, lq: Tensor, paths: Sequence[str]) -> None:
        """Get ready for features that re-enter at taps, shallow to deep, for images of the size of ``lq``.

        From now on full runs keep what such a run needs of them and is too much work to compute again.
        """
        paths = [View.of(tap).path for tap in paths]
        for path, until in zip(paths, [*paths[1:], None]):
            self._reentry.plan(lq, path, until)
            self._reentry.plan(lq, path, None)

    def segment(self, feature: Tensor, after: str, until: str, lq: Tensor | None = None) -> Tensor:
        """Run what lies between two modules, and nothing else.

        Args:
            feature: Map (N, C, H, W) that stands for the output of module ``after``.
            after: Path of a tap.
            until: Path of a deeper tap.
            lq: Images (N, C, H, W) that the feature belongs to, for networks that look back; without them, zeros of
                the size of the last run's images.

        Returns:
            Map (N, C', H, W): what ``until`` returns.

        Raises:
            TapError: ``until`` does not follow from ``after``.
            RuntimeError: The network has not run yet, or not at the size that the feature belongs to.
        """
        if lq is None:
            if not self._last:
                raise RuntimeError(f'{type(self.net).__name__} has not run yet; run the network first')
            lq = feature.new_zeros(()).expand(len(feature), *self._last)
        return self._run_from(lq, after, feature, until)

    def finish(self, lq: Tensor, after: str, feature: Tensor) -> Tensor:
        """Run what comes after a module, as if it had returned ``feature``.

        What comes before is not computed, but for what is used again behind it: layers before a global skip
        connection are computed once more; where that is much, the answers of the last run over ``lq`` are used.

        Args:
            lq: Images (N, C, H, W).
            after: Path of a tap.
            feature: Map (N, C, H', W') in place of its output.

        Returns:
            Image (N, C, sH, sW).
        """
        return self._run_from(lq, after, feature, None)

    def close(self) -> None:
        """Remove all hooks: the network is as it was."""
        self._recorder.close()
        self._watch.close()

    def __enter__(self) -> TappedNet:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _run(self, lq: Tensor, runner: Callable[[Tensor], Tensor]) -> tuple[Seen, Tensor]:
        self._check_open()
        self._mode.keep()
        self._last = tuple(lq.shape[1:])
        own = lq.clone() if self._copies is not False else lq
        version = own._version
        with self._watch.watching() as seen, (torch.no_grad() if self.frozen else without_reentrant_checkpoints()):
            output = self.execution.run(runner, own)
        if self._copies is None:
            self._copies = own._version != version
        return seen, output

    def _run_traced(self, images: Tensor, trace: Callable[[Tensor], Trace]) -> Trace:
        """Make a traced run in the mode and the number format in which the network runs."""
        found: list[Trace] = []

        def run(images: Tensor) -> Tensor:
            found.append(trace(images))
            return images

        self._mode.keep()
        with nullcontext() if self.frozen else calmed(self.net):
            self.execution.run(run, images)
        return found[0]

    def _run_from(self, lq: Tensor, after: str, feature: Tensor, until: str | None) -> Tensor:
        self._check_open()
        self._mode.keep()
        way = self._reentry.way(lq, after, until)

        def run(images: Tensor, native: Tensor) -> Tensor:
            output = first_tensor(self._reentry.run(images, way.after, native, way.until, lq))
            if output is None:
                raise TapError([f'{way.until!r} of {type(self.net).__name__} returns no feature'])
            return output

        return way.shown(self.execution.run(run, lq, way.native(feature)))

    def _check_open(self) -> None:
        if self._watch.is_closed and self.taps:
            raise RuntimeError(f'this TappedNet of {type(self.net).__name__} was closed')

    def _known(self, path: str, seen: Sequence[tuple[Any, int | None]], lq: Tensor) -> str:
        """The layout that a traced run has found, where the shape of a feature alone does not tell it."""
        feature = first_tensor(seen[0][0]) if len(seen) == 1 else None
        if feature is None or not is_ambiguous(tuple(feature.shape), tuple(lq.shape)):
            return ''
        return str(getattr(self.trace(lq).call(path).layout, 'kind', ''))

    def _as_map(self, path: str, seen: list[tuple[Any, int | None]], lq: Tensor) -> Tensor:
        known = self.infos[path].layout if path in self.infos else ''
        info = inspect_tap(path, seen, lq, known)
        feature = first_tensor(seen[0][0]) if seen else None
        if info.problem or feature is None:
            raise TapError([f'tap {path!r} of {type(self.net).__name__}: {info.problem}'])
        self.infos[path] = info
        return Layout(info.layout, info.height, info.width).to_map(self.execution.leave(feature, lq.dtype))
