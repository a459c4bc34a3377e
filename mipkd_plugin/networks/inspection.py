"""What a network allows: which modules can be tapped, and whether features can re-enter it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.execution import PLAIN
from mipkd_plugin.networks.features import NetPass, TapInfo
from mipkd_plugin.networks.modes import calmed
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.finite import is_finite

_SAME = 1e-6
_NEARLY_SAME = 1e-3  # another number format or compiled code
_SAME_MODE = 1e-5
_SHOWS = 10


def list_taps(net: nn.Module, lq: Tensor) -> list[TapInfo]:
    """Look at every module of a network as a possible tap, in a probe run on images (N, C, H, W).

    Returns:
        One entry a module, in the network's own order; ``problem`` says why one cannot be tapped.
    """
    with TappedNet(net, [path for path, _ in net.named_modules() if path]) as tapped:
        return list(tapped.probe(lq)[0].values())


def settle(tapped: TappedNet, lq: Tensor, paths: Sequence[str]) -> str:
    """Find the mode in which features can re-enter a network at taps, and check that they do.

    A frozen network is tried in eval mode. If that fails, it is tried in the calm training mode, which is taken if its
    images are the same: re-parameterized networks in eval mode often take no gradient, or one image at a time.

    Args:
        tapped: The network.
        lq: Images (N, C, H, W).
        paths: Taps, shallow to deep.

    Returns:
        What is wrong, or ''.
    """
    problem = _tried(tapped, lq, paths)
    if not problem or not tapped.frozen:
        return problem
    try:
        calmed_down(tapped, lq)
        if not _tried(tapped, lq, paths):
            return ''
    except TapError:
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
    error = _differs(tapped.image(lq[:1]), reference)
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
    if tapped.frozen:
        try:
            return tapped.probe(lq)
        except FOREIGN_ERRORS:
            with suppress(*FOREIGN_ERRORS):
                calmed_down(tapped, lq)
    return tapped.probe(lq)


def _tried(tapped: TappedNet, lq: Tensor, paths: Sequence[str]) -> str:
    try:
        return reentry_problem(tapped, lq, paths)
    except TapError as error:
        return str(error)
    except FOREIGN_ERRORS as error:
        name = type(tapped.net).__name__
        return f'{name} fails on two images and their gradient: {type(error).__name__}: {error}'


def reentry_problem(tapped: TappedNet, lq: Tensor, paths: Sequence[str]) -> str:
    """Check that features can re-enter at ``paths``, with two images and with gradients.

    The network's own feature must give its own image again, as far as two of its runs agree; another feature must give
    another one; and a gradient must come back.

    Args:
        tapped: The network, tapped there.
        lq: Images (N, C, H, W).
        paths: Taps, shallow to deep.

    Returns:
        What is wrong, or ''.

    Raises:
        TapError: No feature can re-enter at one of them.
    """
    name, images = type(tapped.net).__name__, torch.cat([lq, lq.flip(3)])[:2]
    tapped.prepare(images, paths)
    with torch.random.fork_rng(devices=[lq.device] if lq.is_cuda else []), (
            nullcontext() if tapped.frozen else calmed(tapped.net)):
        with torch.no_grad():
            run, again = tapped(images), tapped(images)
            if not is_finite(run.output):
                return f'{name} makes images that are not finite from random images in [0, 1]'
            for path, until in zip(paths, [*paths[1:], None]):
                problem = _problem_at(tapped, images, run, again, path, until)
                if problem:
                    return f'{name}: {problem}'
        return _gradient_problem(tapped, images, run, paths[0])


def _problem_at(tapped: TappedNet, images: Tensor, run: NetPass, again: NetPass, path: str, until: str | None) -> str:
    """What is wrong where a feature re-enters at ``path``; also with the way from there to ``until``."""
    feature = run.features[path]
    spread = max(_differs(again.output, run.output), *(
        _differs(again.features[p], run.features[p]) for p in (path, until) if p is not None))
    allowed = max(2 * spread, _SAME if tapped.execution == PLAIN else _NEARLY_SAME)
    image = tapped.finish(images, path, feature)
    error = _differs(image, run.output)
    if error <= allowed and until is not None:
        error = _differs(tapped.segment(feature, path, until, images), run.features[until])
    if error > allowed:
        random = '; two runs of it differ, so it is random' if spread else ''
        return (f'its own feature, put in place at {path!r}, gives another result (by {error:.1e} of the largest '
                f'value), so no feature can re-enter there{random}')
    noise = feature + torch.randn_like(feature) * feature.std()
    if _differs(tapped.finish(images, path, noise), image) <= _SHOWS * max(error, spread):
        return f'noise at {path!r} does not show in the image, so a feature that re-enters there has no effect'
    return ''


def _gradient_problem(tapped: TappedNet, images: Tensor, run: NetPass, path: str) -> str:
    feature = run.features[path].detach().requires_grad_()
    with torch.enable_grad():
        image = tapped.finish(images, path, feature)
        gradient = torch.autograd.grad(image.sum(), feature, allow_unused=True)[0] if image.requires_grad else None
    if gradient is None or not bool(gradient.abs().sum() > 0):
        return f'{type(tapped.net).__name__}: no gradient comes back to {path!r}'
    return '' if is_finite(gradient) else f'{type(tapped.net).__name__}: the gradient at {path!r} is not finite'


def _differs(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors, over the largest value of the second."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))
