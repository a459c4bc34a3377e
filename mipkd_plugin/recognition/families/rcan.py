"""RCAN of BasicSR, and the official release (https://github.com/yulunzhang/RCAN)."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.recognition.families.shifted import official_choices, official_names, shift_choices
from mipkd_plugin.recognition.layout import Family, Found, Layout, quotient, upsample_scale


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('conv_first.weight')
    squeezed = layout.kernel('body.0.residual_group.0.rcab.3.attention.1.weight')[0]
    network: dict[str, Any] = {
        'type': 'RCAN', 'num_in_ch': num_in_ch, 'num_out_ch': layout.kernel('conv_last.weight')[0],
        'num_feat': num_feat, 'num_group': layout.count('body'),
        'num_block': layout.count('body.0.residual_group'), 'squeeze_factor': _squeeze_factor(num_feat, squeezed),
        'upscale': upsample_scale(layout, 'upsample')}
    return Found(network, network['upscale'], layout.state, choices=shift_choices((1, 0.1)))


def _squeeze_factor(num_feat: int, squeezed: int) -> int:
    """The usual factor that leaves this many channels; the division rounds down, so several may."""
    fitting = [factor for factor in range(1, num_feat + 1) if num_feat // factor == squeezed]
    if not fitting:
        return quotient(num_feat, squeezed, 'channels')
    return 16 if 16 in fitting else fitting[0]


def _read_official(layout: Layout) -> Found:
    groups = layout.count('body') - 1
    names = {f'body.{groups}': 'conv_after_body'}
    for group in range(groups):
        blocks = layout.count(f'body.{group}.body') - 1
        names[f'body.{group}.body.{blocks}'] = f'body.{group}.conv'
        for block in range(blocks):
            old, new = f'body.{group}.body.{block}.body', f'body.{group}.residual_group.{block}.rcab'
            names |= {f'{old}.0': f'{new}.0', f'{old}.2': f'{new}.2', f'{old}.3.conv_du.0': f'{new}.3.attention.1',
                      f'{old}.3.conv_du.2': f'{new}.3.attention.3'}
    found = _read(Layout(official_names(layout, names)))
    # the official blocks do not scale their residuals
    return Found(found.network, found.scale, found.state, 'official RCAN', *official_choices(layout, (1, )))


FAMILIES = (
    Family('RCAN', ('conv_first.weight', 'body.0.residual_group.0.rcab.0.weight', 'conv_last.weight'), _read),
    Family('official RCAN', ('head.0.weight', 'body.0.body.0.body.3.conv_du.0.weight', 'tail.1.weight'),
           _read_official))
