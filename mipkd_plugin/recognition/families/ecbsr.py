"""ECBSR of BasicSR (https://github.com/xindongzhang/ECBSR), before its branches are merged."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.recognition.layout import Family, Found, Layout, quotient, whole_root


def _read(layout: Layout) -> Found:
    num_channel, num_in_ch = layout.kernel('backbone.0.conv3x3.weight')
    last = layout.count('backbone') - 1
    shuffled = quotient(layout.kernel(f'backbone.{last}.conv3x3.weight')[0], num_in_ch, 'channels of the last layer')
    scale = whole_root(shuffled, 'channels of the last layer')
    network: dict[str, Any] = {
        'type': 'ECBSR', 'num_in_ch': num_in_ch, 'num_out_ch': num_in_ch, 'num_block': last - 1,
        'num_channel': num_channel, 'scale': scale}
    kinds = ('prelu', ) if 'backbone.0.act.weight' in layout else ('relu', 'linear', 'softplus')
    choices = tuple({'with_idt': identity, 'act_type': kind} for kind in kinds for identity in (False, True))
    return Found(network, scale, layout.state, choices=choices)


FAMILIES = (Family('ECBSR', ('backbone.0.conv3x3.weight', 'backbone.0.conv1x1_3x3.k0'), _read), )
