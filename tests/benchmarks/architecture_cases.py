"""The architectures of architectures.py, at small sizes, and what a person would tap in them.

A line is (name, class or function, options of both, of the narrow one, of the wide one, taps) and what differs from
scale 2 and 16×16 images.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

from benchmarks.architecture_trials import Case
from torch import nn

from mipkd_plugin.networks.outputs import select_output

Options = Mapping[str, Any]
IO = {'num_in_ch': 3, 'num_out_ch': 3}
LAYERS = ('layers.#', )
WINDOWED = {'img_size': 16, 'in_chans': 3, 'window_size': 8, 'mlp_ratio': 2, 'depths': [2, 2, 2, 2],
            'num_heads': [2, 2, 2, 2], 'upscale': 2}
RECTANGLES = {'img_size': 16, 'upscale': 2, 'depth': [2, 2, 2, 2], 'num_heads': [2, 2, 2, 2]}


def case(name: str, place: str, common: Options, narrow: Options, wide: Options, taps: tuple[str, ...],
         output: int | None = None, **others: Any) -> Case:
    """An architecture whose module is imported when it is built; ``output`` chooses the image, as the option does."""
    module, _, attribute = place.partition(':')

    def build(is_wide: bool) -> nn.Module:
        net: nn.Module = getattr(importlib.import_module(module), attribute)(**common, **(wide if is_wide else narrow))
        if output is not None:
            select_output(net, output)
        return net

    return Case(name, build, taps, **others)


def widths(option: str, narrow: Any, wide: Any) -> tuple[Options, Options]:
    """One option that makes a network narrow or wide."""
    return {option: narrow}, {option: wide}


def basicsr_cases() -> list[Case]:
    """BasicSR's own architectures for single images."""
    feat = widths('num_feat', 8, 16)
    embed = widths('embed_dim', 12, 24)
    swin = {**WINDOWED, 'upsampler': 'pixelshuffledirect'}
    blocks = {**IO, 'num_block': 4}
    lines: list[tuple[Any, ...]] = [
        ('EDSR', 'edsr_arch:EDSR', {**blocks, 'upscale': 2}, *feat, ('body.#', )),
        ('RCAN', 'rcan_arch:RCAN', {**IO, 'num_group': 3, 'num_block': 2, 'squeeze_factor': 4, 'upscale': 2}, *feat,
         ('body.#', )),
        ('MSRResNet', 'srresnet_arch:MSRResNet', {**blocks, 'upscale': 2}, *feat, ('body.#', )),
        ('RRDBNet-x4', 'rrdbnet_arch:RRDBNet', {**blocks, 'num_grow_ch': 4, 'scale': 4}, *feat, ('body.#', ),
         {'scale': 4}),
        ('RRDBNet-x2', 'rrdbnet_arch:RRDBNet', {**blocks, 'num_grow_ch': 4, 'scale': 2}, *feat, ('body.#', ),
         {'note': 'pixel-unshuffle first'}),
        ('SRVGGNetCompact', 'srvgg_arch:SRVGGNetCompact', {**IO, 'num_conv': 6, 'upscale': 2}, *feat, ('body.#', )),
        ('ECBSR', 'ecbsr_arch:ECBSR', {**blocks, 'num_block': 6, 'with_idt': False, 'act_type': 'prelu', 'scale': 2},
         *widths('num_channel', 8, 16), ('backbone.#', )),
        ('RIDNet', 'ridnet_arch:RIDNet', {'in_channels': 3, 'out_channels': 3, 'num_block': 3},
         *widths('mid_channels', 16, 32), ('body.#', ), {'scale': 1}),
        ('SwinIR-light', 'swinir_arch:SwinIR', swin, *embed, LAYERS),
        ('SwinIR-classical', 'swinir_arch:SwinIR', {**WINDOWED, 'upsampler': 'pixelshuffle'}, *embed, LAYERS),
        ('SwinIR-real', 'swinir_arch:SwinIR', {**WINDOWED, 'upscale': 4, 'upsampler': 'nearest+conv',
                                               'resi_connection': '3conv'}, *embed, LAYERS, {'scale': 4})]
    return [case(line[0], f'basicsr.archs.{line[1]}', *line[2:6], source='BasicSR', **(line[6] if line[6:] else {}))
            for line in lines]


def spandrel_cases() -> list[Case]:
    """Those for super-resolution of spandrel 0.4.2."""
    dim, embed = widths('dim', 16, 32), widths('embed_dim', 16, 32)
    features = widths('feature_channels', 16, 32)
    lines: list[tuple[Any, ...]] = [
        ('ATD', 'ATD', {**WINDOWED, 'category_size': 32, 'num_tokens': 16, 'upsampler': 'pixelshuffledirect'},
         *embed, LAYERS),
        ('CRAFT', 'CRAFT', {'window_size': 16, 'num_heads': [2, 2, 2, 2], 'upscale': 2}, *embed, LAYERS, {'size': 32}),
        ('SRVGGNetCompact', 'Compact', {'num_conv': 6, 'upscale': 2}, *widths('num_feat', 8, 16), ('body.#', )),
        ('DAT', 'DAT', {**RECTANGLES, 'split_size': [4, 8], 'expansion_factor': 2, 'upsampler': 'pixelshuffledirect'},
         *embed, LAYERS),
        ('DCTLSA', 'DCTLSA', {'num_head': 4, 'upscale': 2}, *widths('nf', 16, 32), ('B#', )),
        ('DITN', 'DITN', {'ITL_blocks': 1, 'SAL_blocks': 1, 'UFONE_blocks': 4, 'upscale': 2}, *dim, ('UFONE.#', )),
        ('DITN-one', 'DITN', {'upscale': 2}, *dim, ('UFONE.0.ITLs.#', 'UFONE.0.SALs.#'), {'note': 'one group'}),
        ('DRCT', 'DRCT', {**WINDOWED, 'upsampler': 'pixelshuffle', 'gc': 8}, *embed, LAYERS),
        ('ESRGAN', 'ESRGAN', {'num_blocks': 4, 'scale': 4}, *widths('num_filters', 8, 16), ('model.1.sub.#', ),
         {'scale': 4}),
        ('ESRGAN-plus', 'ESRGAN', {'num_blocks': 4, 'scale': 4, 'plus': True}, *widths('num_filters', 8, 16),
         ('model.1.sub.#', ), {'scale': 4}),
        ('ESRGAN-x2plus', 'ESRGAN', {'num_blocks': 4, 'scale': 4, 'in_nc': 12, 'shuffle_factor': 2},
         *widths('num_filters', 8, 16), ('model.1.sub.#', ), {'note': 'pixel-unshuffle first'}),
        ('FDAT', 'FDAT', {'scale': 2, 'num_groups': 4, 'depth_per_group': 2, 'num_heads': 2, 'mid_dim': 16},
         *embed, ('groups.#', )),
        ('GRL', 'GRL', {'img_size': 16, 'upscale': 2, 'depths': [2, 2, 2, 2], 'num_heads_window': [1, 1, 1, 1],
                        'num_heads_stripe': [1, 1, 1, 1], 'window_size': 8, 'stripe_size': [8, 8], 'mlp_ratio': 2,
                        'anchor_window_down_factor': 2, 'upsampler': 'pixelshuffledirect'}, *embed, LAYERS),
        ('HAT', 'HAT', {**WINDOWED, 'squeeze_factor': 4}, *embed, LAYERS),
        ('MMRealSR', 'MMRealSR', {**IO, 'scale': 4, 'num_degradation': 2, 'num_block': 4, 'num_grow_ch': 32},
         *widths('num_feat', 32, 64), ('body.#', ), {'scale': 4, 'output': 0, 'note': '`output: 0`'}),
        ('MoESR', 'MoESR', {'scale': 2, 'n_blocks': 4, 'n_block': 2, 'upsample_dim': 16}, *dim, ('blocks.#', )),
        ('MoSR', 'MoSR', {'upscale': 2, 'n_block': 6}, *dim, ('gblocks.#', )),
        ('OmniSR', 'OmniSR', {'res_num': 3, 'up_scale': 2}, *widths('num_feat', 16, 32), ('residual_layer.#', )),
        ('PLKSR', 'PLKSR', {'n_blocks': 6, 'upscaling_factor': 2}, *dim, ('feats.#', )),
        ('RealPLKSR', 'PLKSR:RealPLKSR', {'n_blocks': 6, 'upscaling_factor': 2}, *dim, ('feats.#', )),
        ('RealPLKSR-dysample', 'PLKSR:RealPLKSR', {'n_blocks': 6, 'upscaling_factor': 2, 'dysample': True}, *dim,
         ('feats.#', )),
        ('RCAN-official', 'RCAN', {'scale': 2, 'n_resgroups': 4, 'n_resblocks': 2, 'reduction': 4},
         *widths('n_feats', 8, 16), ('body.#', ), {'note': 'as by its authors'}),
        ('RCAN-unshuffle', 'RCAN', {'scale': 2, 'n_resgroups': 4, 'n_resblocks': 2, 'reduction': 4,
                                    'unshuffle_mod': True, 'norm': False},
         *widths('n_feats', 8, 16), ('body.#', ), {'note': 'pixel-unshuffle first'}),
        ('RealCUGAN', 'RealCUGAN:UpCunet2x', {}, {}, {}, ('unet1', 'unet2'), {'size': 24, 'note': 'U-Net'}),
        ('RGT', 'RGT', {**RECTANGLES, 'mlp_ratio': 2, 'split_size': [4, 8]}, *embed, LAYERS),
        ('SAFMN', 'SAFMN', {'n_blocks': 6, 'upscaling_factor': 2}, *dim, ('feats.#', )),
        ('SAFMN-BCIE', 'SAFMNBCIE', {'n_blocks': 4, 'num_layers': 2, 'upscaling_factor': 2}, *dim, ('feats.#', ),
         {'scale': 1, 'note': 'pixel-unshuffle first'}),
        ('SPAN', 'SPAN', {**IO, 'upscale': 2}, *features, ('block_#', )),
        ('SPAN-nonorm', 'SPAN', {**IO, 'upscale': 2, 'norm': False}, *features, ('block_#', )),
        ('SeemoRe', 'SeemoRe', {'scale': 2, 'num_experts': 3, 'num_layers': 6}, *widths('embedding_dim', 16, 32),
         ('body.#', )),
        ('SwiftSRGAN', 'SwiftSRGAN', {'num_blocks': 4, 'upscale_factor': 2}, *widths('num_channels', 8, 16),
         ('residual.#', )),
        ('Swin2SR', 'Swin2SR', {**WINDOWED, 'upsampler': 'pixelshuffledirect'}, *embed, LAYERS),
        ('SwinIR', 'SwinIR', {**WINDOWED, 'upsampler': 'pixelshuffledirect'}, *embed, LAYERS),
        ('SwinIR-unshuffle', 'SwinIR', {**WINDOWED, 'upscale': 4, 'upsampler': 'pixelshuffle',
                                        'start_unshuffle': 2}, *embed, LAYERS, {'note': 'pixel-unshuffle first'})]
    return [case(line[0], f'spandrel.architectures.{line[1] if ":" in line[1] else f"{line[1]}:{line[1]}"}',
                 *line[2:6], source='spandrel', **(line[6] if line[6:] else {})) for line in lines]


def all_cases() -> tuple[list[Case], list[str]]:
    """The architectures of the packages that are installed, and why others are skipped."""
    if importlib.util.find_spec('spandrel') is None:
        return basicsr_cases(), ['spandrel is not installed: pip install --no-deps spandrel einops safetensors']
    return [*basicsr_cases(), *spandrel_cases()], []
