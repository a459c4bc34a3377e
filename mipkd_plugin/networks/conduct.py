"""How a network behaves: whether two of its runs agree, whether the images of a batch mix, how it runs in training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from mipkd_plugin.networks.dataflow import smooth_images
from mipkd_plugin.networks.features import first_tensor
from mipkd_plugin.networks.modes import buffers_restored, calmed, evaluating
from mipkd_plugin.networks.replay import without_reentrant_checkpoints
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.views import View
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import Draws, random_numbers_restored

_SAME = 1e-6
_MIXED = 1e-4
_NOISE = 10
_MORE_RUNS = 4
_UNIT = 16


@dataclass(frozen=True)
class Conduct:
    """What the runs of a network have in common, with dropout and normalization over the batch at rest.

    Attributes:
        spread: How far two runs over the same images differ at most, as a share of the largest value.
        tested: The same in eval mode. Above 0 the network is random.
        mixed: How far the result for one image changes with the other images of its batch in eval mode, as a share of
            the largest value; 0 if that is rounding, or if the network is random, as then nobody can tell.
    """

    spread: float = 0.0
    tested: float = 0.0
    mixed: float = 0.0


@dataclass(frozen=True)
class Training:
    """What a run of a network in training mode, forward and backward, has shown.

    Attributes:
        draws: Whether it draws random numbers, as dropout does.
        counts: Module path → how many times it ran, of each tap.
        unused: Taps whose features the image does not depend on.
        trains: Whether a gradient comes back from the image, if any parameter wants one.
    """

    draws: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    trains: bool = True


def patches_of(lq: Tensor) -> list[Tensor]:
    """Patches to try in turn, until a network takes one: a smaller one, of whole windows as they are common, and all.

    What is asked of it here does not depend on the size, and a third of the side costs a ninth.

    Args:
        lq: Images (N, C, H, W).

    Returns:
        Images of one size or two.
    """
    side = max(min(lq.shape[2:]) // 2 // _UNIT * _UNIT, _UNIT)
    return [lq[..., :side, :side], lq] if min(lq.shape[2:]) >= 2 * side else [lq]


def conduct_of(tapped: TappedNet, lq: Tensor) -> Conduct:
    """Compare runs of a network: the same image in two batches, and if the results differ the same batch twice.

    In eval mode, or in the calm training mode that it has been put into; a student in the calm training mode.

    Args:
        tapped: The network.
        lq: Images (N, C, H, W) that it takes; only their size counts.

    Returns:
        What they have in common, at all taps and in the image.
    """
    *smaller, lq = patches_of(lq)
    for patch in smaller:
        with suppress(*FOREIGN_ERRORS):
            return _conduct(tapped, patch)
    return _conduct(tapped, lq)


def _conduct(tapped: TappedNet, lq: Tensor) -> Conduct:
    with random_numbers_restored([lq.device] if lq.is_cuda else []), torch.no_grad():
        images = smooth_images(lq[:1].expand(3, -1, -1, -1)).chunk(3)
        with nullcontext() if tapped.frozen else calmed(tapped.net):
            found = _compared(tapped, images)
        if tapped.frozen or found == Conduct():
            return found
        with evaluating(tapped.net), suppress(*FOREIGN_ERRORS):  # what it does in training alone is its own business
            return replace(_compared(tapped, images), spread=found.spread)
        return found


def _compared(tapped: TappedNet, images: Sequence[Tensor]) -> Conduct:
    """Compare runs in the mode that the network is in, over three images."""
    one, two, three = images
    drawn = Draws(one.device)
    first, other = _results(tapped, one, two), _results(tapped, three, one)
    draws = bool(drawn)
    mixed = _largest((b[1], a[0]) for a, b in zip(first, other))
    if mixed <= _MIXED and not draws:
        return Conduct()
    spread = _largest(zip(_results(tapped, one, two), first))
    if spread > (0 if draws else _SAME):
        spread = max(spread, *(_largest(zip(_results(tapped, one, two), first)) for _ in range(_MORE_RUNS)))
        return Conduct(spread, spread)
    noise = _largest((a[1], a[0]) for a in _results(tapped, one, one))
    return Conduct(mixed=mixed if mixed > max(_MIXED, _NOISE * noise) else 0.0)


def in_training(net: nn.Module, lq: Tensor, taps: Sequence[str]) -> Training:
    """Run a network in training mode on two images, forward and backward. It stays as it is.

    Args:
        net: The network.
        lq: Images (N, C, H, W) that it takes; only their size counts.
        taps: Taps, perhaps views.

    Returns:
        What was seen.
    """
    *smaller, lq = patches_of(lq)
    for patch in smaller:
        with suppress(*FOREIGN_ERRORS):
            return _in_training(net, patch, taps)
    return _in_training(net, lq, taps)


def _in_training(net: nn.Module, lq: Tensor, taps: Sequence[str]) -> Training:
    paths = dict.fromkeys(View.of(tap).path for tap in taps)
    with training(net, lq.device), torch.enable_grad(), without_reentrant_checkpoints(), _recorded(net, paths) as seen:
        images = smooth_images(lq[:1].expand(2, -1, -1, -1))
        drawn = Draws(images.device)
        output = net(images)
        draws = bool(drawn)
        counts = {path: len(seen[path]) for path in paths}  # gradient checkpointing runs modules again on the way back
        features = {path: tensor for path in paths for tensor in seen[path][:1] if tensor.requires_grad}
        for feature in features.values():
            feature.retain_grad()
        if output.requires_grad:
            output.sum().backward()
        unused = [path for path, feature in features.items() if feature.grad is None]
        trains = output.requires_grad or not any(parameter.requires_grad for parameter in net.parameters())
    return Training(draws, counts, tuple(unused), trains)


def idle_reason(net: nn.Module, lq: Tensor, path: str, frozen: bool) -> str:
    """Say of a module that did not run in the mode in which its network distills whether it runs in the other one.

    Args:
        net: The network.
        lq: Images (N, C, H, W).
        path: Path of the module.
        frozen: Whether the network is a teacher, in eval mode.

    Returns:
        The end of a sentence.
    """
    with random_numbers_restored([lq.device] if lq.is_cuda else []), suppress(*FOREIGN_ERRORS), torch.no_grad(), (
            calmed(net) if frozen else evaluating(net)), _recorded(net, [path]) as seen:
        net(lq[:1].clone())
        if seen[path]:
            return ('its module runs in training mode alone, and a teacher runs in eval mode' if frozen else
                    'its module runs in eval mode alone, and never in training')
    return 'its module never runs'


@contextmanager
def training(net: nn.Module, device: torch.device) -> Iterator[None]:
    """Inside the block a network is in training mode; afterwards all of it, and random numbers, are as before.

    Args:
        net: The network.
        device: Where it is.
    """
    gradients = [(parameter, parameter.grad) for parameter in net.parameters()]
    buffers = {name: buffer.clone() for name, buffer in net.named_buffers()}
    with random_numbers_restored([device] if device.type == 'cuda' else []), calmed(net):
        net.train()
        for parameter, _ in gradients:
            parameter.grad = None
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
            with torch.no_grad():
                for name, buffer in net.named_buffers():
                    if name in buffers and buffer.shape == buffers[name].shape:
                        buffer.copy_(buffers[name])


def differs(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors, over the largest value of the second."""
    return float((a - b).abs().max() / b.abs().max().clamp_min(1e-12))


def _largest(pairs: Iterator[tuple[Tensor, Tensor]]) -> float:
    return max((differs(a, b) for a, b in pairs), default=0.0)


def _results(tapped: TappedNet, *images: Tensor) -> list[Tensor]:
    """The image, and the features at the taps that begin with the number of images."""
    paths = dict.fromkeys(View.of(tap).path for tap in tapped.taps)
    with _recorded(tapped.net, paths) as seen, buffers_restored(tapped.net):
        output = tapped.execution.run(tapped.net, torch.cat(images))
    features = [tensor for path in paths for tensor in seen[path] if tensor.is_floating_point()]
    return [output, *(feature for feature in features if feature.dim() and len(feature) == len(images))]


@contextmanager
def _recorded(net: nn.Module, paths: Sequence[str] | dict[str, None]) -> Iterator[dict[str, list[Tensor]]]:
    """Inside the block the first tensor that each call of some modules returns is kept."""
    seen: dict[str, list[Tensor]] = {path: [] for path in paths}

    def keep(path: str, output: object) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            seen[path].append(tensor)

    handles = [net.get_submodule(path).register_forward_hook(lambda m, args, output, p=path: keep(p, output))
               for path in paths]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
