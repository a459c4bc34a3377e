"""What a network allows: which modules can be tapped, and whether features can re-enter it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from mipkd_plugin.networks.execution import PLAIN, Execution
from mipkd_plugin.networks.features import TapInfo, nearly_equal
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError, evaluating
from mipkd_plugin.utils.finite import is_finite


def list_taps(net: nn.Module, lq: Tensor) -> list[TapInfo]:
    """Look at every module of a network as a possible tap, in a probe run on images (N, C, H, W).

    Returns:
        One entry a module, in the network's own order; ``problem`` says why one cannot be tapped.
    """
    with TappedNet(net, [path for path, _ in net.named_modules() if path]) as tapped:
        return list(tapped.probe(lq)[0].values())


def reentry_problem(net: nn.Module, lq: Tensor, paths: Sequence[str], execution: Execution = PLAIN) -> str:
    """Check that features can re-enter at ``paths``: the network's own features must give its own output.

    Args:
        net: The network, unwrapped.
        lq: Images (N, C, H, W).
        paths: Trunk blocks, shallow to deep.
        execution: How it runs; a network that does not run in the default way is frozen.

    Returns:
        What is wrong, or ''. Finds networks that do more between their blocks than call them.
    """
    with evaluating(net), TappedNet(net, paths, frozen=execution != PLAIN, execution=execution) as tapped:
        run = tapped(lq)
        try:
            again = [tapped.segment(run.features[a], a, b) for a, b in zip(paths, paths[1:])]
            image = tapped.finish(lq, paths[0], run.features[paths[0]])
        except TapError as error:
            return str(error)
    if not is_finite(run.output):
        return f'{type(net).__name__} makes images that are not finite from random images in [0, 1]'
    pairs = [*zip(again, (run.features[path] for path in paths[1:])), (image, run.output)]
    return '' if all(nearly_equal(a, b) for a, b in pairs) else (
        f'{type(net).__name__} does more between the blocks of its trunk than call them in turn, so no '
        'feature can re-enter there')
