"""MambaLite of this package."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.recognition.layout import Family, Found, Layout, quotient, whole_root


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('conv_first.weight')
    shuffled = quotient(layout.kernel('upsample.0.weight')[0], num_in_ch, 'channels of upsample')
    upscale = whole_root(shuffled, 'channels of upsample')
    inner, num_state = layout.shape('body.0.scans.0.log_decay')
    network: dict[str, Any] = {
        'type': 'MambaLite', 'num_in_ch': num_in_ch, 'num_out_ch': num_in_ch, 'num_feat': num_feat,
        'num_block': layout.count('body'), 'expand': quotient(inner, num_feat, 'width of a block'),
        'num_state': num_state, 'upscale': upscale}
    return Found(network, upscale, layout.state, 'MambaLite')


FAMILIES = (Family('MambaLite', ('conv_first.weight', 'body.0.scans.0.log_decay', 'upsample.0.weight'), _read), )
