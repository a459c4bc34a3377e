"""What a network allows: which modules can be tapped, and whether features can re-enter it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.conduct import Conduct, conduct_of, differs, idle_reason, patches_of, training
from mipkd_plugin.networks.execution import PLAIN
from mipkd_plugin.networks.features import NetPass, TapInfo
from mipkd_plugin.networks.modes import calmed
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, crash
from mipkd_plugin.utils.finite import is_finite
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_SAME = 1e-6
_NEARLY_SAME = 1e-3  # another number format or compiled code
_SAME_MODE = 1e-5
_OTHER_KERNELS = 1e-5
_SHOWS = 10


def list_taps(net: nn.Module, lq: Tensor) -> list[TapInfo]:
    """Look at every module of a network as a possible tap, in a probe run on images (N, C, H, W).

    Returns:
        One entry a module, in the network's own order; ``problem`` says why one cannot be tapped.
    """
    with TappedNet(net, [path for path, _ in net.named_modules() if path]) as tapped:
        return list(tapped.probe(lq)[0].values())


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


def calmed_down(tapped: TappedNet, lq: Tensor) -> None:
    """Let a frozen network run in the calm training mode, if its images are those of eval mode.

    Args:
        tapped: The network.
        lq: Images (N, C, H, W).

    Raises:
        TapError: They are not.
    """
    reference = tapped.image(lq[:1])
    tapped.calm()
    error = differs(tapped.image(lq[:1]), reference)
    if error > _SAME_MODE:
        tapped.calm(False)
        raise TapError([f'{type(tapped.net).__name__} makes other images in training mode, with dropout and '
                        f'normalization at rest, than in eval mode (by {error:.1e})'])


def probed(tapped: TappedNet, lq: Tensor) -> tuple[dict[str, TapInfo], Tensor]:
    """Look at the taps, see :meth:`~mipkd_plugin.networks.tapped_net.TappedNet.probe`.

    A frozen network that fails in eval mode is tried in the calm training mode.

    Returns:
        What ``probe`` returns.
    """
    infos, output = _probed(tapped, lq)
    for tap, info in infos.items():
        if info.problem.startswith('its module runs 0 times'):
            infos[tap] = replace(info, problem=idle_reason(tapped.net, lq, info.path, tapped.frozen))
    return infos, output


def _probed(tapped: TappedNet, lq: Tensor) -> tuple[dict[str, TapInfo], Tensor]:
    if tapped.frozen:
        try:
            return tapped.probe(lq)
        except FOREIGN_ERRORS:
            with suppress(*FOREIGN_ERRORS):
                calmed_down(tapped, lq)
    return tapped.probe(lq)


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
        with torch.no_grad():
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
        return self.tapped.finish(self.images, self.path, feature)

    def next(self, feature: Tensor) -> Tensor:
        """The next tap's feature with another one at this tap."""
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
        if gradient is None or not gradient.any():
            return f'no gradient comes back from {end} to {way.path!r}, so a feature that re-enters there has no effect'
        if not is_finite(gradient):
            return f'the gradient that comes back from {end} to {way.path!r} is not finite'
    with torch.no_grad():
        loud = _SHOWS if way.spread else 1  # louder than the network itself is
        noise = feature + loud * torch.randn_like(feature) * feature.std()
        moved = differs(way.image(noise), way.run.output)
    if moved <= max(_SHOWS * error if not way.spread else 0.0, 2 * way.spread):
        return f'noise at {way.path!r} does not show in the image, so a feature that re-enters there has no effect'
    return ''


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
