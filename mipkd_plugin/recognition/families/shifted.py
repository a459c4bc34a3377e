"""What EDSR and RCAN share: images shifted by a mean and stretched, and the names of the official releases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.recognition.layout import Layout, UnfitError

DIV2K_MEAN = [0.4488, 0.4371, 0.4040]
_SHIFTS: tuple[tuple[float, list[float]], ...] = (
    (255.0, DIV2K_MEAN), (255.0, [0.0, 0.0, 0.0]), (1.0, DIV2K_MEAN), (1.0, [0.0, 0.0, 0.0]))


def shift_choices(res_scales: Sequence[float]) -> tuple[dict[str, Any], ...]:
    """Values of ``res_scale``, ``img_range`` and ``rgb_mean`` in use; those by convention first.

    Args:
        res_scales: Values of ``res_scale``, the likelier first.

    Returns:
        All combinations.
    """
    return tuple({'res_scale': scale, 'img_range': img_range, 'rgb_mean': list(mean)}
                 for scale in res_scales for img_range, mean in _SHIFTS)


def official_choices(layout: Layout, res_scales: Sequence[float]) -> tuple[tuple[dict[str, Any], ...], tuple[str, ...]]:
    """What is left to choose for a state dict with official names, and a note on what its layers say.

    Args:
        layout: With official names.
        res_scales: Values of ``res_scale``, the likelier first.

    Returns:
        The choices, and notes.
    """
    shift, choices = shift_of(layout), shift_choices(res_scales)
    left = [values for values in choices if all(values[key] == shift[key] for key in shift)]
    if 'img_range' in shift:  # other means than the usual ones are known too
        return tuple({'res_scale': scale, **shift} for scale in res_scales), (
            'img_range and rgb_mean are those of its layers sub_mean and add_mean', )
    return tuple(left), ('rgb_mean is that of its layers sub_mean and add_mean', ) if shift else ()


def shift_of(layout: Layout) -> dict[str, Any]:
    """``img_range`` and ``rgb_mean`` from the official layers ``sub_mean`` and ``add_mean``.

    These are 1x1 convolutions for images in [0, R]: the first computes x / std - R * mean / std.

    Args:
        layout: A state dict with official names.

    Returns:
        Both arguments; empty if there are no such layers, and without ``img_range`` if their mean is zero.

    Raises:
        UnfitError: The layers do something else.
    """
    if 'sub_mean.bias' not in layout:
        return {}
    weight, bias = layout.state['sub_mean.weight'].double().flatten(1), layout.state['sub_mean.bias'].double()
    if weight.shape != (3, 3) or not torch.allclose(weight, torch.eye(3, dtype=torch.float64), atol=1e-3):
        raise UnfitError('sub_mean does more than to subtract a mean of three colors')
    added = layout.state.get('add_mean.bias')
    if added is not None and not torch.allclose(added.double(), -bias, atol=1e-2 * (1 + float(bias.abs().max()))):
        raise UnfitError('add_mean does not add what sub_mean subtracts')
    if not bool(bias.any()):
        return {'rgb_mean': [0.0, 0.0, 0.0]}
    img_range = 255.0 if float(bias.abs().max()) > 1 else 1.0
    return {'img_range': img_range, 'rgb_mean': [round(value / -img_range, 4) for value in bias.tolist()]}


def official_names(layout: Layout, blocks: Mapping[str, str]) -> dict[str, Tensor]:
    """The state dict under BasicSR's names.

    Args:
        layout: With the official names ``head``, ``body``, ``tail``.
        blocks: BasicSR's name by official name of each module of the body.

    Returns:
        Tensor by BasicSR's name.
    """
    names = {'head.0': 'conv_first', 'tail.1': 'conv_last', **blocks}

    def name_of(name: str) -> str | None:
        module, _, kind = name.rpartition('.')
        if module in ('sub_mean', 'add_mean'):
            return None
        if module.startswith('tail.0.'):
            return name.replace('tail.0.', 'upsample.', 1)
        return f'{names.get(module, module)}.{kind}'

    return layout.renamed(name_of)
