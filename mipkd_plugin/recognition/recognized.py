"""A recognized network, and how it is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import Tensor, nn

from mipkd_plugin.archs.supply import supplied
from mipkd_plugin.utils.bounds import build_bounded
from mipkd_plugin.utils.random_numbers import random_numbers_restored
from mipkd_plugin.utils.yaml_text import flow


@dataclass(frozen=True)
class Recognized:
    """The network that a weights file holds.

    Attributes:
        path: The file.
        network: As in an option file: ``{type: EDSR, num_in_ch: 3, …}``.
        scale: Scale factor.
        param_key: Key of the file under which the weights are; None if the file itself is the state dict.
        state: Tensor by the names of that network, in float32.
        source: Whose layout the file has: ``BasicSR``, ``official EDSR``, ``spandrel``, ….
        notes: What was assumed or measured.
    """

    path: Path
    network: dict[str, Any]
    scale: int
    param_key: str | None
    state: dict[str, Tensor]
    source: str
    notes: tuple[str, ...] = ()

    def build(self) -> nn.Module:
        """Build the network, with its weights loaded strictly.

        Returns:
            The network in eval mode.
        """
        net = build(self.network)
        net.load_state_dict(self.state)
        return net.eval()

    def as_yaml(self) -> str:
        """The block ``teacher`` of an option file that says what was recognized."""
        entries = {'network': self.network, 'weights': str(self.path), 'param_key': self.param_key}
        return 'teacher:\n' + ''.join(f'  {key}: {flow(value)}\n' for key, value in entries.items())


def network_class(name: str) -> type[nn.Module]:
    """The class of a network.

    Args:
        name: As in ``{type: EDSR}``.

    Returns:
        The class.

    Raises:
        LookupError: There is no such network.
    """
    import basicsr.archs  # noqa: F401  (registers BasicSR's networks)

    entries = dict(iter(ARCH_REGISTRY))
    found: type[nn.Module] | None = entries.get(name, entries.get(f'{name}_basicsr')) or supplied(name)
    if found is None:
        raise LookupError(f'there is no network {name!r}')
    return found


def build(network: Mapping[str, Any]) -> nn.Module:
    """Build a network; random numbers go on as if nobody had drawn any.

    Args:
        network: As in an option file.

    Returns:
        The network with random weights, in eval mode.

    Raises:
        TooLargeError: It would not fit into memory.
    """
    with random_numbers_restored():
        net: nn.Module = build_bounded(network_class(network['type']),
                                       {key: value for key, value in network.items() if key != 'type'})
    return net.eval()
