"""MSRResNet of BasicSR."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.recognition.layout import Family, Found, Layout, quotient, whole_root


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('conv_first.weight')
    shuffled = quotient(layout.kernel('upconv1.weight')[0], num_feat, 'channels of upconv1')
    upscale = 4 if 'upconv2.weight' in layout else whole_root(shuffled, 'channels of upconv1')
    network: dict[str, Any] = {
        'type': 'MSRResNet', 'num_in_ch': num_in_ch, 'num_out_ch': layout.kernel('conv_last.weight')[0],
        'num_feat': num_feat, 'num_block': layout.count('body'), 'upscale': upscale}
    return Found(network, upscale, layout.state)


FAMILIES = (Family('MSRResNet', ('conv_first.weight', 'body.0.conv1.weight', 'upconv1.weight', 'conv_hr.weight'),
                   _read), )
