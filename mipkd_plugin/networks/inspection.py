"""Whether features can re-enter a network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.conduct import Conduct, conduct_of, differs, patches_of, training
from mipkd_plugin.networks.execution import PLAIN
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.modes import buffers_restored, calmed
from mipkd_plugin.networks.probing import calmed_down
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, crash
from mipkd_plugin.utils.finite import is_finite
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_SAME = 1e-6
_NEARLY_SAME = 1e-3  # another number format or compiled code
_OTHER_KERNELS = 1e-5
_SHOWS = 10
_LITTLE = 0.01


def settle(tapped: TappedNet, lq: Tensor, paths: Sequence[str], conduct: Conduct | None = None) -> str:
    """Find the mode in which features can re-enter a network at taps, and check that they do.

    A frozen network is tried in eval mode. If that fails, it is tried in the calm training mode, which is taken if its
    images are the same: re-parameterized networks in eval mode often take no gradient, or one image at a time.

    Args:
        tapped: The network.
        lq: Images (N, C, H, W).
        paths: Taps, shallow to deep.
        conduct: What its runs have in common, if that is known.

    Returns:
        What is wrong, or ''.
    """
    infos = dict(tapped.infos)
    for patch in patches_of(lq):
        problem = _settled(tapped, patch, paths, conduct)
        if not problem:
            tapped.prepare(lq, paths)
            break
    tapped.infos = infos
    return problem


def _settled(tapped: TappedNet, lq: Tensor, paths: Sequence[str], conduct: Conduct | None) -> str:
    problem = _tried(tapped, lq, paths, conduct)
    if not problem or not tapped.frozen:
        return problem
    try:
        calmed_down(tapped, lq)
        if not _tried(tapped, lq, paths, conduct):
            return ''
    except FOREIGN_ERRORS:  # a TapError, or what it raises in that mode
        pass
    tapped.calm(False)
    return problem


def _tried(tapped: TappedNet, lq: Tensor, paths: Sequence[str], conduct: Conduct | None) -> str:
    name = type(tapped.net).__name__
    try:
        return reentry_problem(tapped, lq, paths, conduct) or ('' if tapped.frozen else _training_problem(
            tapped, lq, paths))
    except TapError as error:
        return str(error)
    except FOREIGN_ERRORS as error:
        failure = crash(error, type(tapped.net))
        return f'no feature can re-enter {name}, tried with two images and their gradient: {failure}'


def reentry_problem(tapped: TappedNet, lq: Tensor, paths: Sequence[str], conduct: Conduct | None = None) -> str:
    """Check that features can re-enter at all ``paths``, with two images and with gradients.

    The network's own feature must give its own image and its own next feature again, as far as two of its runs agree;
    another feature must give another image; and a gradient must come back.

    Args:
        tapped: The network, tapped there.
        lq: Images (N, C, H, W).
        paths: Taps, shallow to deep.
        conduct: What its runs have in common, if that is known.

    Returns:
        What is wrong, or ''.

    Raises:
        TapError: No feature can re-enter at one of them.
    """
    name, images = type(tapped.net).__name__, _two(lq)
    conduct = conduct_of(tapped, lq) if conduct is None else conduct
    tapped.prepare(images, paths)
    with random_numbers_restored([lq.device] if lq.is_cuda else []), (
            nullcontext() if tapped.frozen else calmed(tapped.net)):
        with torch.no_grad(), buffers_restored(tapped.net):
            run = tapped(images)
        if not is_finite(run.output):
            return f'{name} makes images that are not finite from random images in [0, 1]'
        for path, until in zip(paths, [*paths[1:], None]):
            problem = _problem_at(_Way(tapped, images, run, conduct.spread, path, until))
            if problem:
                return f'{name}: {problem}'
    return ''


@dataclass(frozen=True)
class _Way:
    """What is checked at one tap: from there to the image, and to the next tap ``until``, if there is one."""

    tapped: TappedNet
    images: Tensor
    run: NetPass
    spread: float
    path: str
    until: str | None

    def image(self, feature: Tensor) -> Tensor:
        """The image with another feature at the tap."""
        with buffers_restored(self.tapped.net):
            return self.tapped.finish(self.images, self.path, feature)

    def next(self, feature: Tensor) -> Tensor:
        """The next tap's feature with another one at this tap."""
        with buffers_restored(self.tapped.net):
            return self.tapped.segment(feature, self.path, self.until or '', self.images)


def _problem_at(way: _Way) -> str:
    """What is wrong where a feature re-enters at a tap; also with the way from there to the next one."""
    feature, error = way.run.features[way.path], 0.0
    exact = max(2 * way.spread, _SAME if way.tapped.execution == PLAIN else _NEARLY_SAME)
    ends = [('the image', way.image, way.run.output)]
    if way.until is not None:
        ends.append((repr(way.until), way.next, way.run.features[way.until]))
    for end, goes, own in ends:
        result, gradient = _with_gradient(goes, feature)
        error = max(error, differs(result, own))
        if error > exact:  # other kernels may run where gradients are kept: without them it must be exact
            with torch.no_grad():
                again = differs(goes(feature), own)
            if again > exact or error > max(exact, _OTHER_KERNELS):
                random = '; two runs of it differ, so it is random' if way.spread else ''
                return (f'its own feature, put in place at {way.path!r}, gives another result (by {error:.1e} of the '
                        f'largest value), so no feature can re-enter there{random}')
        if gradient is None or not (gradient.any() or _reaches(way.tapped.net, goes, feature)):
            return f'no gradient comes back from {end} to {way.path!r}, so a feature that re-enters there has no effect'
        if not is_finite(gradient):
            return f'the gradient that comes back from {end} to {way.path!r} is not finite'
    with torch.no_grad():
        loud = _SHOWS if way.spread else 1  # louder than the network itself is
        noise = feature + loud * torch.randn_like(feature) * feature.std()
        moved = differs(way.image(noise), way.run.output)
    hidden = moved <= max(_SHOWS * error if not way.spread else 0.0, 2 * way.spread)
    if hidden and (way.spread or not _reaches(way.tapped.net, way.image, feature)):
        return f'noise at {way.path!r} does not show in the image, so a feature that re-enters there has no effect'
    return ''


def _reaches(net: nn.Module, goes: Callable[[Tensor], Tensor], feature: Tensor) -> bool:
    """Whether a feature shows in what comes out once layers that begin at zero have been trained a little."""
    weights = [(parameter, parameter.detach().clone()) for parameter in net.parameters()]
    with torch.no_grad():
        try:
            for parameter, own in weights:
                parameter.add_(_LITTLE * torch.randn_like(own))
            return differs(goes(feature + torch.randn_like(feature)), goes(feature)) > _SAME
        finally:
            for parameter, own in weights:
                parameter.copy_(own)


def _with_gradient(goes: Callable[[Tensor], Tensor], feature: Tensor) -> tuple[Tensor, Tensor | None]:
    """What comes out where a feature goes in, and a gradient of it: not of its sum, which may be constant."""
    entering = feature.detach().clone().requires_grad_()
    with torch.enable_grad():
        result = goes(entering)
        gradient = None
        if result.requires_grad:
            gradient = torch.autograd.grad(result, entering, torch.randn_like(result), allow_unused=True)[0]
    return result.detach(), gradient


def _training_problem(tapped: TappedNet, lq: Tensor, paths: Sequence[str]) -> str:
    """What is wrong where features go through all taps of a network that is in training mode, as in a step."""
    images = _two(lq)

    def through(feature: Tensor) -> Tensor:
        for path, until in zip(paths, paths[1:]):
            feature = tapped.segment(feature, path, until, images)
        return tapped.finish(images, paths[-1], feature)

    with training(tapped.net, lq.device):
        with torch.no_grad():
            run = tapped(images)
        gradient = _with_gradient(through, run.features[paths[0]])[1]
    return '' if gradient is not None else (
        f'{type(tapped.net).__name__}: in training mode no gradient comes back from the image to {paths[0]!r}')


def _two(lq: Tensor) -> Tensor:
    return torch.cat([lq, lq.flip(3)])[:2]
