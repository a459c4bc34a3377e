"""EDSR of BasicSR, and the official release (EDSR-PyTorch, https://github.com/sanghyun-son/EDSR-PyTorch)."""

from __future__ import annotations

from typing import Any

from mipkd_plugin.recognition.families.shifted import official_choices, official_names, shift_choices
from mipkd_plugin.recognition.layout import Family, Found, Layout, upsample_scale


def _res_scales(num_feat: int, num_block: int) -> tuple[float, float]:
    """Both values in use, the likelier first: the paper scales the residuals of its large networks by 0.1."""
    return (0.1, 1) if num_feat >= 256 and num_block >= 32 else (1, 0.1)


def _read(layout: Layout) -> Found:
    num_feat, num_in_ch = layout.kernel('conv_first.weight')
    network: dict[str, Any] = {
        'type': 'EDSR', 'num_in_ch': num_in_ch, 'num_out_ch': layout.kernel('conv_last.weight')[0],
        'num_feat': num_feat, 'num_block': layout.count('body'), 'upscale': upsample_scale(layout, 'upsample')}
    choices = shift_choices(_res_scales(num_feat, network['num_block']))
    return Found(network, network['upscale'], layout.state, choices=choices)


def _read_official(layout: Layout) -> Found:
    blocks = layout.count('body') - 1
    names = {f'body.{blocks}': 'conv_after_body'}
    for index in range(blocks):
        names |= {f'body.{index}.body.0': f'body.{index}.conv1', f'body.{index}.body.2': f'body.{index}.conv2'}
    found = _read(Layout(official_names(layout, names)))
    res_scales = _res_scales(found.network['num_feat'], blocks)
    return Found(found.network, found.scale, found.state, 'official EDSR', *official_choices(layout, res_scales))


FAMILIES = (
    Family('EDSR', ('conv_first.weight', 'body.0.conv1.weight', 'conv_after_body.weight', 'conv_last.weight'), _read),
    Family('official EDSR', ('head.0.weight', 'body.0.body.0.weight', 'body.0.body.2.weight', 'tail.1.weight'),
           _read_official))
