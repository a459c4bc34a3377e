"""Whether a feature that re-enters a network gives the right image and the right gradient: for architectures.py."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.features import first_tensor
from mipkd_plugin.networks.modes import calmed
from mipkd_plugin.networks.replay import with_first, without_checkpoints
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.views import View


class TrialError(Exception):
    """What a step did wrong."""


def calm(net: TappedNet) -> AbstractContextManager[None]:
    """Inside the block, a student is in the calm training mode; a teacher has the mode that the package has chosen."""
    return nullcontext() if net.frozen else calmed(net.net)


def reentry_error(net: TappedNet, lq: Tensor) -> float:
    """Largest |finish(own feature) − own image| over all taps.

    Raises:
        TrialError: Noise in place of a feature does not change the image.
    """
    errors = []
    with calm(net), torch.no_grad():
        run = net(lq.clone())
        for path, feature in run.features.items():
            errors.append(float((net.finish(lq.clone(), path, feature) - run.output).abs().max()))
            noisy = net.finish(lq.clone(), path, feature + torch.randn_like(feature) * feature.std())
            if noisy.equal(run.output):
                raise TrialError(f'noise in place of the feature at {path} changes nothing')
    return max(errors)


def gradient_error(net: TappedNet, lq: Tensor) -> float:
    """Largest difference between the gradient of ``finish`` and that of a full run at a tap, over the largest value."""
    errors = []
    with calm(net):
        net(lq)
        for path in net.taps:
            view = View.of(path)
            full = _FullRun(net, lq, view.path)
            feature = view.show(full.feature.detach()).requires_grad_()
            gradient, = torch.autograd.grad((net.finish(lq, path, feature) * full.weights).sum(), feature)
            expected = view.show(full.gradient)
            errors.append(float((gradient - expected).abs().max() / expected.abs().max().clamp_min(1e-30)))
    return max(errors)


class _FullRun:
    """A run of the whole network, and the gradient at the feature of one module: as maps."""

    def __init__(self, net: TappedNet, lq: Tensor, path: str) -> None:
        seen: list[Tensor] = []

        def enter(module: nn.Module, args: Any, output: Any) -> Any:
            seen.append(first_tensor(output).detach().requires_grad_())
            return with_first(output, seen[0].clone())

        handle = net.net.get_submodule(path).register_forward_hook(enter)
        with torch.enable_grad(), without_checkpoints():
            output = net.net(lq.clone())
        handle.remove()
        self.weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        gradient, = torch.autograd.grad((output * self.weights).sum(), seen[0])
        layout = net.trace(lq).call(path).layout
        self.feature, self.gradient = layout.to_map(seen[0].detach()), layout.to_map(gradient)
