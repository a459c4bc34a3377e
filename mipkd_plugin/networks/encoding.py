"""A frozen network as an encoder of images: its features at some taps, with a gradient that reaches the images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.features import first_tensor, inspect_tap
from mipkd_plugin.networks.layouts import Layout
from mipkd_plugin.networks.replay import without_reentrant_checkpoints
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.networks.views import View


class _Enough(BaseException):
    """All features are there: what comes behind the last tap is not run."""


def encode(net: TappedNet, images: Tensor, taps: Sequence[str]) -> list[Tensor]:
    """Run a network on images up to the last of some taps. Nothing is recorded, and no later run sees anything of it.

    It runs uncompiled, in its own mode, number format and layout. Gradients pass through it to the images, though not
    into weights that are frozen; under ``torch.no_grad()`` there are none.

    Args:
        net: The network.
        images: (N, C, H, W), of any size that it takes, such as (N, 3, sH, sW).
        taps: Some of its taps.

    Returns:
        For each tap its feature (N, C', H', W').

    Raises:
        TapError: A module did not return a feature that can be read as a map.
    """
    views = [View.of(tap) for tap in taps]
    found: dict[str, Tensor] = {}

    def run(x: Tensor) -> Tensor:
        found.clear()
        found.update({path: _as_map(net, path, output, images)
                      for path, output in _outputs(net.net, x.clone(), {view.path for view in views}).items()})
        # one tensor, so that a cast network scales the gradients of all features alike
        return torch.cat([found[view.path].flatten() for view in views]) if net.execution.casts else x

    net._mode.keep()
    flat = net.execution.run(run, images)
    if not net.execution.casts:
        return [view.show(found[view.path]) for view in views]
    parts = torch.split(flat, [found[view.path].numel() for view in views])
    return [view.show(part.view(found[view.path].shape)) for view, part in zip(views, parts)]


def _outputs(net: nn.Module, images: Tensor, paths: set[str]) -> dict[str, Any]:
    """What some modules return in a run, which ends when all of them have."""
    seen: dict[str, Any] = {}

    def hook(path: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            seen[path] = output
            if len(seen) == len(paths):
                raise _Enough
        return keep

    handles = [net.get_submodule(path).register_forward_hook(hook(path)) for path in paths]
    try:
        with without_reentrant_checkpoints():
            net(images)
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _as_map(net: TappedNet, path: str, output: Any, images: Tensor) -> Tensor:
    known = net.infos[path].layout if path in net.infos else ''
    info, feature = inspect_tap(path, [(output, None)], images, known), first_tensor(output)
    if info.problem or feature is None:
        raise TapError([f'tap {path!r} of {type(net.net).__name__}: {info.problem}'])
    return Layout(info.layout, info.height, info.width).to_map(net.execution.leave(feature, images.dtype))
