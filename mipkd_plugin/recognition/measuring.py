"""Arguments that a state dict does not show: by convention, or those whose output is clearly nearest to the input."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from mipkd_plugin.recognition.layout import Found
from mipkd_plugin.recognition.recognized import build
from mipkd_plugin.utils.errors import FOREIGN_ERRORS

_NEAR = 0.05
_CLEARLY = 2.0
_ALIKE = 1.5
_SIDE = 12


def choose(found: Found, net: nn.Module) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Choose among the values of arguments that a state dict does not show.

    A trained network makes of a smooth image nearly what bicubic interpolation makes of it. So the values by
    convention give way to others if their output is within 0.05 (root of the mean squared error) of that, and at
    least twice as near as theirs; of several that are nearly as near, the first in the list are taken. Random weights
    decide nothing.

    Args:
        found: What a family has read.
        net: The network with its weights, and the values by convention.

    Returns:
        The values, and what was assumed or measured.
    """
    if len(found.choices) < 2:
        return dict(found.choices[0]) if found.choices else {}, ()
    usual = found.choices[0]
    first = _distance(found, net)
    errors = [first]
    for values in found.choices[1:] if math.isfinite(first) else ():
        errors.append(_distance(found, _with(net, found, values)))
    best = min(errors)
    chosen = usual
    if best < _NEAR and _CLEARLY * best < first:
        chosen = next(values for values, error in zip(found.choices, errors) if error <= _ALIKE * best)
    return dict(chosen), (_note(found, chosen, errors), )


def _with(net: nn.Module, found: Found, values: Mapping[str, Any]) -> nn.Module:
    """The network with other values; those that are plain attributes of it are set, without building it again."""
    if not set(values) <= {'res_scale', 'img_range', 'rgb_mean'}:
        other = build({**found.network, **values})
        other.load_state_dict(net.state_dict())
        return other
    for module in net.modules():
        for key in {'res_scale', 'img_range'} & set(values):
            if hasattr(module, key):
                setattr(module, key, values[key])
    if 'rgb_mean' in values:
        setattr(net, 'mean', torch.tensor(values['rgb_mean']).view(1, -1, 1, 1))  # noqa: B010  (no module has it)
    return net


def _note(found: Found, chosen: Mapping[str, Any], errors: list[float]) -> str:
    """What was assumed or measured, in words."""
    varied = [key for key in chosen if any(values[key] != chosen[key] for values in found.choices)]
    named = ', '.join(f'{key} {chosen[key]}' for key in varied)
    hidden = f'a weights file does not show {", ".join(varied)}'
    own = errors[list(found.choices).index(dict(chosen))]
    if not own < _NEAR:
        return f'assumed: {named}; {hidden}'
    other = min(error for values, error in zip(found.choices, errors) if values != chosen)
    if _ALIKE * own > other:
        return (f'assumed: {named}; {hidden}, and on a smooth image other usual values do as well (distance from '
                f'bicubic interpolation {own:.2g}, with others {other:.2g})')
    return (f'measured: {named}; {hidden}. With these values the image is nearest to bicubic interpolation '
            f'(distance {own:.2g}; other usual values {other:.2g} or more)')


def _distance(found: Found, net: nn.Module) -> float:
    """How far the output is from bicubic interpolation, as the root of the mean squared error; infinity if unknown."""
    image = smooth_image(found.network)
    try:
        with torch.no_grad():
            output = net(image)
    except FOREIGN_ERRORS:
        return math.inf
    enlarged = F.interpolate(image, scale_factor=found.scale, mode='bicubic')
    if not isinstance(output, Tensor) or output.shape != enlarged.shape:
        return math.inf
    error = float((output - enlarged).square().mean().sqrt())
    return error if math.isfinite(error) else math.inf


def smooth_image(network: Mapping[str, Any]) -> Tensor:
    """A smooth image that a network takes; it becomes darker from left to right.

    Args:
        network: As in an option file.

    Returns:
        The image (1, C, H, W) with values in [0, 1].
    """
    window = network.get('window_size', 1)
    side = network['img_size'] if network.get('ape') else -(-_SIDE // window) * window
    height, width = side if isinstance(side, list) else (side, side)
    channels = network.get('num_in_ch', network.get('in_chans', 3))
    coarse = torch.rand(1, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    smooth = F.interpolate(coarse, size=(height, width), mode='bicubic', align_corners=True).clamp(0, 1)
    return smooth * torch.linspace(1, 0.1, width)
