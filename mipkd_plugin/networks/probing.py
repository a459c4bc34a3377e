"""Looking at the taps of a network in a probe run, in the mode that it can run in."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from mipkd_plugin.networks.conduct import differs, idle_reason
from mipkd_plugin.networks.features import TapInfo
from mipkd_plugin.networks.modes import buffers_restored
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError
from mipkd_plugin.utils.errors import FOREIGN_ERRORS

_SAME_MODE = 1e-5


def list_taps(net: nn.Module, lq: Tensor) -> list[TapInfo]:
    """Look at every module of a network as a possible tap, in a probe run on images (N, C, H, W).

    Returns:
        One entry a module, in the network's own order; ``problem`` says why one cannot be tapped.
    """
    with TappedNet(net, [path for path, _ in net.named_modules() if path]) as tapped:
        return list(tapped.probe(lq)[0].values())


def calmed_down(tapped: TappedNet, lq: Tensor) -> None:
    """Let a frozen network run in the calm training mode, if its images are those of eval mode.

    Args:
        tapped: The network.
        lq: Images (N, C, H, W).

    Raises:
        TapError: They are not, or it would change in that mode.
    """
    name, reference = type(tapped.net).__name__, tapped.image(lq[:1])
    before = {key: buffer.clone() for key, buffer in tapped.net.named_buffers()}
    tapped.calm()
    with buffers_restored(tapped.net):
        error = differs(tapped.image(lq[:1]), reference)
        moved = [key for key, buffer in tapped.net.named_buffers() if key in before and not buffer.equal(before[key])]
    if error <= _SAME_MODE and not moved:
        return
    tapped.calm(False)
    if moved:
        raise TapError([f'{name} changes its buffer {moved[0]!r} in training mode, and a teacher must stay as it is'])
    raise TapError([f'{name} makes other images in training mode, with dropout and normalization at rest, than in eval '
                    f'mode (by {error:.1e})'])


def probed(tapped: TappedNet, lq: Tensor) -> tuple[dict[str, TapInfo], Tensor]:
    """Look at the taps, see :meth:`~mipkd_plugin.networks.tapped_net.TappedNet.probe`.

    A frozen network that fails in eval mode is tried in the calm training mode.

    Returns:
        What ``probe`` returns.
    """
    infos, output = _probed(tapped, lq)
    for tap, info in infos.items():
        if not info.runs:
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
