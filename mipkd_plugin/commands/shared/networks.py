"""Load trained networks, for the commands that run them."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mipkd_plugin.commands.shared import import_plugins, read
from mipkd_plugin.utils.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


class Loaded(NamedTuple):
    """A trained network.

    Attributes:
        net: The network, in eval mode, on the CPU.
        scale: Scale factor.
        path: The file of its weights.
        network: As in an option file.
    """

    net: nn.Module
    scale: int
    path: Path
    network: dict[str, Any]

    @property
    def name(self) -> str:
        """Class and file, for people."""
        return f'{type(self.net).__name__} of {self.path}'


def load_network(args: argparse.Namespace, weights: Path, section: str = 'network_g') -> Loaded:
    """Load a trained network: of the option file if there is one, otherwise as its file is recognized.

    Args:
        args: With ``opt``, ``force_yml`` and ``imports``.
        weights: The file.
        section: ``network_g``, or the YAML path of the block of a teacher, as ``teachers[1]``.

    Returns:
        The network.

    Raises:
        MipkdError: The file does not fit, or nothing is known that it fits.
        UsageError: The option file has no scale.
    """
    if args.opt is None:
        import_plugins(args)
        from mipkd_plugin.recognition import recognize

        found = recognize(weights)
        return Loaded(found.build(), found.scale, weights, found.network)
    opt = read(args)
    from mipkd_plugin.config.outputs import output_key
    from mipkd_plugin.config.problems import Context, block
    from mipkd_plugin.config.trained import NEWEST, load_trained
    from mipkd_plugin.networks.outputs import select_output

    scale = Context(opt, is_train=True).scale
    if scale is None:
        raise UsageError(f'{args.opt}: scale must be a whole number, not {opt.get("scale")!r}; write scale: 2')
    where = section if section == 'network_g' else f'{section}.network'
    key = NEWEST if section == 'network_g' else block(opt, section).get('param_key', NEWEST)
    net = load_trained(opt, weights, section, key)
    select_output(net, output_key(opt, where))
    return Loaded(net, scale, weights, dict(block(opt, *where.split('.'))))


def teachers_by_label(opt: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """The teachers of an option file whose weights are named.

    Args:
        opt: The options.

    Returns:
        (YAML path of its block, file) by label: ``teacher``, or ``teacher big`` if it is one of several.
    """
    from mipkd_plugin.config.teachers import teachers_of

    found = teachers_of(opt)
    return {f'teacher {teacher.name}' if len(found) > 1 else 'teacher': (teacher.place, str(teacher.options['weights']))
            for teacher in found if teacher.options.get('weights')}


def on_device(net: nn.Module, name: str | None) -> nn.Module:
    """Move a network to where it is to run.

    Args:
        net: The network.
        name: ``cpu`` or ``cuda``; None takes a GPU where there is one.

    Returns:
        The network.

    Raises:
        UsageError: There is no GPU that PyTorch can use.
    """
    import torch

    if name == 'cuda' and not torch.cuda.is_available():
        raise UsageError('--device cuda: PyTorch sees no GPU here; leave --device out')
    return net.to(name or ('cuda' if torch.cuda.is_available() else 'cpu'))
