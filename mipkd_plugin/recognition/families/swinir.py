"""SwinIR, whose layout is the same in BasicSR and in the official release (https://github.com/JingyunLiang/SwinIR)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mipkd_plugin.recognition.layout import Family, Found, Layout, UnfitError, quotient, upsample_scale, whole_root

_BLOCK = 'layers.{}.residual_group.blocks.{}'
_USUAL_SIZE = 64


def _read(layout: Layout) -> Found:
    embed_dim, in_chans = layout.kernel('conv_first.weight')
    layers = layout.count('layers')
    depths = [layout.count(f'layers.{index}.residual_group.blocks') for index in range(layers)]
    tables = [layout.shape(f'{_BLOCK.format(index, 0)}.attn.relative_position_bias_table') for index in range(layers)]
    window = (whole_root(tables[0][0], 'rows of the position bias') + 1) // 2
    upsampler, upscale = _upsampler(layout, in_chans)
    img_size, notes = _img_size(layout, window, max(depths, default=0))
    network: dict[str, Any] = {
        'type': 'SwinIR', 'upscale': upscale, 'in_chans': in_chans, 'img_size': img_size, 'window_size': window,
        'embed_dim': embed_dim, 'depths': depths, 'num_heads': [table[1] for table in tables],
        'mlp_ratio': _mlp_ratio(embed_dim, layout.shape(f'{_BLOCK.format(0, 0)}.mlp.fc1.weight')[0]),
        'upsampler': upsampler, 'resi_connection': '3conv' if 'conv_after_body.0.weight' in layout else '1conv'}
    for key, given, usual in (('qkv_bias', f'{_BLOCK.format(0, 0)}.attn.qkv.bias' in layout, True),
                              ('patch_norm', 'patch_embed.norm.weight' in layout, True),
                              ('ape', 'absolute_pos_embed' in layout, False)):
        if given != usual:
            network[key] = given
    choices: tuple[dict[str, Any], ...] = ({'img_range': 1.0}, {'img_range': 255.0})
    if upsampler == '':  # with 255 any weights leave an image as it is, nearly, so nothing can be measured
        value = 255.0 if window == 7 else 1.0  # official networks for JPEG have windows of 7, and 255
        choices, notes = ({'img_range': value}, ), (*notes, f'img_range {value} was assumed: a weights file does not '
                                                    'show it')
    return Found(network, upscale, layout.state, 'BasicSR and official SwinIR', choices, notes)


def _upsampler(layout: Layout, in_chans: int) -> tuple[str, int]:
    """Name of the last part, and its scale factor."""
    if 'conv_up1.weight' in layout:
        if 'conv_up2.weight' not in layout:
            raise UnfitError('it enlarges x2 with nearest+conv, and that of BasicSR does so x4 only')
        return 'nearest+conv', 4
    if 'conv_before_upsample.0.weight' in layout:
        return 'pixelshuffle', upsample_scale(layout, 'upsample')
    if 'upsample.0.weight' in layout:
        channels = layout.kernel('upsample.0.weight')[0]
        return 'pixelshuffledirect', whole_root(quotient(channels, in_chans, 'channels of upsample'),
                                                'channels of upsample')
    return '', 1


def _img_size(layout: Layout, window: int, depth: int) -> tuple[int | list[int], tuple[str, ...]]:
    """``img_size``: from the attention mask or the position embedding, or a usual one with a note."""
    mask = next((tensor for name, tensor in layout.state.items() if name.endswith('.attn_mask')), None)
    if mask is not None:
        high, wide = _windows(mask)
        return _size(high * window, wide * window), ()
    has_buffers = f'{_BLOCK.format(0, 0)}.attn.relative_position_index' in layout
    if 'absolute_pos_embed' in layout:
        return whole_root(layout.shape('absolute_pos_embed')[1], 'positions of the embedding'), ()
    if has_buffers and window > 1 and depth > 1:
        return window, ('no attention mask is saved, so no window is shifted: its img_size was that of one window', )
    usual = _USUAL_SIZE // window * window if window < _USUAL_SIZE else 2 * window
    return usual, (f'img_size is not in the file: {usual} was assumed, which changes no result', )


def _size(high: int, wide: int) -> int | list[int]:
    return high if high == wide else [high, wide]


def _windows(mask: Tensor) -> tuple[int, int]:
    """Windows in height and width: masks of the last column and of the last row hold more than zeros."""
    masked = mask.flatten(1).bool().any(1)
    wide = int(torch.argmax(masked.int())) + 1
    return quotient(len(masked), wide, 'windows of the attention mask'), wide


def _mlp_ratio(embed_dim: int, hidden: int) -> float:
    """The ratio that gives so many hidden channels, which are rounded down."""
    ratio = hidden / embed_dim
    short = next((round(ratio, digits) for digits in range(1, 8) if int(embed_dim * round(ratio, digits)) == hidden),
                 ratio)
    if int(embed_dim * short) != hidden:
        short = (hidden + 0.5) / embed_dim
    return int(short) if short == int(short) else short


FAMILIES = (Family('SwinIR', ('conv_first.weight', 'layers.0.residual_group.blocks.0.attn.relative_position_bias_table',
                              'norm.weight'), _read), )
