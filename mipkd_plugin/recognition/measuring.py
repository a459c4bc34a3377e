"""Arguments that a state dict does not show: by convention, or those whose output is clearly nearest to the input."""

from __future__ import annotations

from typing import Any

from torch import nn

from mipkd_plugin.recognition.layout import Found


def choose(found: Found, net: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Choose among the values of arguments that a state dict does not show.

    Args:
        found: What a family has read.
        net: The network with its weights, and the values by convention.

    Returns:
        The values, and what was assumed or measured.
    """
    return dict(found.choices[0]) if found.choices else {}, ()
