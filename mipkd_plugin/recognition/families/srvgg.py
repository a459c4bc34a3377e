"""SRVGGNetCompact of BasicSR and Real-ESRGAN."""

from __future__ import annotations

import math
from typing import Any

from mipkd_plugin.recognition.layout import Family, Found, Layout, UnfitError


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('body.0.weight')
    is_prelu = 'body.1.weight' in layout
    last = max(index for index in range(layout.count('body')) if f'body.{index}.weight' in layout)
    num_out_ch, upscale = _shuffle(layout.kernel(f'body.{last}.weight')[0], num_in_ch)
    network: dict[str, Any] = {
        'type': 'SRVGGNetCompact', 'num_in_ch': num_in_ch, 'num_out_ch': num_out_ch, 'num_feat': num_feat,
        'num_conv': last // 2 - 1, 'upscale': upscale}
    choices = ({'act_type': 'prelu'}, ) if is_prelu else ({'act_type': 'relu'}, {'act_type': 'leakyrelu'})
    return Found(network, upscale, layout.state, choices=choices)


def _shuffle(channels: int, num_in_ch: int) -> tuple[int, int]:
    """(Output channels, scale factor) before a pixel shuffle: as many colors as come in, or more from a gray image."""
    for colors in dict.fromkeys([num_in_ch, *((3, 4, 2) if num_in_ch == 1 else ())]):
        upscale = math.isqrt(channels // colors)
        if upscale >= 1 and colors * upscale ** 2 == channels:
            return colors, upscale
    raise UnfitError(f'its last convolution has {channels} channels, and no scale factor makes {num_in_ch} of them')


FAMILIES = (Family('SRVGGNetCompact', ('body.0.weight', 'body.2.weight', 'body.2.bias'), _read), )
