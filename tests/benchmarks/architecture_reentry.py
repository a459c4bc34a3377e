"""Whether a feature that re-enters a network gives the right image and the right gradient: for architectures.py."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from mipkd_plugin.networks.modes import calmed
from mipkd_plugin.networks.tapped_net import TappedNet


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
    """Largest relative error of the slope of ``finish`` along its gradient, over all taps, in the mode of a step.

    A gradient that is cut off or doubled somewhere shows here; rounding and kinks of activations are some per cent.
    """
    errors = []
    with torch.no_grad():
        features = net(lq.clone()).features
    for path, feature in features.items():
        def image(x: Tensor, path: str = path) -> Tensor:
            torch.manual_seed(0)
            output = net.finish(lq.clone(), path, x)
            return output * torch.linspace(-1, 1, output.numel()).view_as(output)

        x = feature.detach().clone().requires_grad_()
        plain = image(x)
        gradient, = torch.autograd.grad(plain.sum(), x)
        step = 0.01 * feature.norm() / gradient.norm().clamp_min(1e-30) * gradient
        with torch.no_grad():
            slope = float((image(feature + step) - image(feature - step)).double().sum() / 2)
            rounding = float(plain.norm()) * torch.finfo(plain.dtype).eps
        expected = float((gradient * step).sum())
        errors.append(abs(slope - expected) / max(abs(expected), 20 * rounding))
    return max(errors)
