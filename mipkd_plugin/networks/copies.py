"""A copy of a network that runs by itself: without taps, without gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from torch import nn

from mipkd_plugin.networks import answers, features


def frozen_copy(net: nn.Module) -> nn.Module:
    """Copy a network, tapped or not. Hooks of its own, such as the one that chooses the output, are copied too.

    Args:
        net: The network; it stays as it is.

    Returns:
        The copy, in eval mode; its weights need no gradient.
    """
    found = copy.deepcopy(net).requires_grad_(False).eval()
    for module in found.modules():
        for number in [number for number, hook in module._forward_hooks.items() if _is_tap(hook)]:
            del module._forward_hooks[number]
            module._forward_hooks_with_kwargs.pop(number, None)
    for parameter in found.parameters():
        parameter.grad = None
    return found


def _is_tap(hook: Callable[..., Any]) -> bool:
    """Whether a hook is one of a TappedNet: it belongs to the network that was tapped, not to a copy."""
    return getattr(hook, '__module__', '') in (answers.__name__, features.__name__)
