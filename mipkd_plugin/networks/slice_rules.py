"""Which channels the tensors of BasicSR's networks share, and which modules are blocks in a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from mipkd_plugin.utils.errors import MipkdError

Axes = tuple[str, ...]
"""The channels along each axis of a weight, by name; '' for an axis of which everything is kept.

``a+b`` is an axis of several parts; along ``a*`` r² entries in a row are one channel, as PixelShuffle has it.
"""


ANEW = 'train from random weights'

SAME_SETTINGS = 'give both networks the same settings but for width and depth'


class SliceError(MipkdError):
    """A student cannot start as a slice of this teacher.

    Attributes:
        what: What is wrong.
        remedy: What to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        self.what = what
        self.remedy = remedy
        super().__init__(f'{what}; {remedy}')


@dataclass(frozen=True)
class Row:
    """Blocks in a row, of which a shallower network has fewer.

    Attributes:
        path: Pattern of the path of the module that holds them.
        first: Number of its children before the blocks.
        size: Number of its children that are one block.
        last: Number of its children after the blocks.
    """

    path: str
    first: int = 0
    size: int = 1
    last: int = 0


@dataclass(frozen=True)
class Family:
    """An architecture.

    Attributes:
        rows: Its blocks.
        axes: Channels of the weight of a module, or of a parameter, by pattern of its path. ``{0}`` and ``{1}`` stand
            for what the groups of the pattern have matched.
        same: Attributes by which two networks must not differ, as a path of attributes.
        gates: Pattern of modules that weigh channels rather than write them.
    """

    rows: tuple[Row, ...]
    axes: Mapping[str, Axes]
    same: tuple[str, ...] = ()
    gates: str = ''


_RESIDUAL = {r'(body\.\d+)\.conv1': ('{0}', 'stream'), r'(body\.\d+)\.conv2': ('stream', '{0}')}
_UPSAMPLE = {r'upsample\.0': ('up*', 'stream'), r'upsample\.\d+': ('up*', 'up')}
_ENDS = {'conv_first': ('stream', ''), 'conv_after_body': ('stream', 'stream')}

EDSR = Family((Row('body'), ), {**_ENDS, **_RESIDUAL, **_UPSAMPLE, 'conv_last': ('', 'up')},
              ('img_range', 'mean', 'body.0.res_scale'))

MSRRESNET = Family((Row('body'), ), {
    **_ENDS, **_RESIDUAL, 'upconv1': ('up*', 'stream'), 'upconv2': ('up*', 'up'), 'conv_hr': ('hr', 'up'),
    'conv_last': ('', 'hr')}, ('upscale', 'body.0.res_scale'))

RCAN = Family((Row('body'), Row(r'body\.\d+\.residual_group')), {
    **_ENDS, r'(.+\.rcab)\.0': ('{0}', 'stream'), r'(.+\.rcab)\.2': ('stream', '{0}'),
    r'(.+\.attention)\.1': ('{0}', 'stream'), r'(.+\.attention)\.3': ('stream', '{0}'),
    r'body\.\d+\.conv': ('stream', 'stream'), **_UPSAMPLE, 'conv_last': ('', 'up')},
    ('img_range', 'mean', 'body.0.residual_group.0.res_scale'), r'.+\.attention\.3')

RRDBNET = Family((Row('body'), ), {
    **_ENDS, **{rf'(.+\.rdb\d)\.conv{n}': (f'{{0}}.{n}' if n < 5 else 'stream',
                                          '+'.join(['stream', *(f'{{0}}.{m}' for m in range(1, n))]))
                for n in range(1, 6)},
    'conv_body': ('stream', 'stream'), 'conv_up1': ('up1', 'stream'), 'conv_up2': ('up2', 'up1'),
    'conv_hr': ('hr', 'up2'), 'conv_last': ('', 'hr')}, ('scale', ))

_HEADS = r'(.+\.attn)'
SWINIR = Family((Row('layers'), Row(r'layers\.\d+\.residual_group\.blocks', size=2)), {
    **_ENDS, r'patch_embed\.norm': ('stream', ), 'absolute_pos_embed': ('', '', 'stream'),
    r'.+\.norm[12]': ('stream', ), 'norm': ('stream', ),
    rf'{_HEADS}\.relative_position_bias_table': ('', '{0}.heads'),
    rf'{_HEADS}\.qkv': ('{0}.qk+{0}.qk+{0}.v', 'stream'), rf'{_HEADS}\.proj': ('stream', '{0}.v'),
    r'(.+\.mlp)\.fc1': ('{0}', 'stream'), r'(.+\.mlp)\.fc2': ('stream', '{0}'),
    r'layers\.\d+\.conv': ('stream', 'stream'),
    r'(conv_after_body|layers\.\d+\.conv)\.0': ('{0}.0', 'stream'),
    r'(conv_after_body|layers\.\d+\.conv)\.2': ('{0}.2', '{0}.0'),
    r'(conv_after_body|layers\.\d+\.conv)\.4': ('stream', '{0}.2'),
    r'conv_before_upsample\.0': ('', 'stream'), r'upsample\.\d+': ('', ''), r'conv_up[12]': ('', ''),
    'conv_hr': ('', ''), 'conv_last': ('', '')},
    ('img_range', 'mean', 'upscale', 'upsampler', 'ape', 'patch_norm',
     'layers.0.residual_group.blocks.0.window_size'))
"""The width behind the trunk is always 64. ``pixelshuffledirect`` and no upsampler go on from the stream."""

_DIRECT = {r'upsample\.0': ('', 'stream'), 'conv_last': ('', 'stream')}
_IN_BASICSR = {'EDSR': EDSR, 'MSRResNet': MSRRESNET, 'RCAN': RCAN, 'RRDBNet': RRDBNET, 'SwinIR': SWINIR}
NAMES = (*_IN_BASICSR, 'SRVGGNetCompact')
"""The architectures that have a slice."""


def family_of(net: nn.Module) -> Family | None:
    """The family of a network; None if it has none: only classes of BasicSR have one, as others may differ."""
    name = type(net).__name__
    if not type(net).__module__.startswith('basicsr.archs.'):
        return None
    if name == 'SRVGGNetCompact':
        return _compact(int(net.num_conv))  # type: ignore[arg-type]
    family = _IN_BASICSR.get(name)
    if family is SWINIR and net.upsampler not in ('pixelshuffle', 'nearest+conv'):
        return Family(family.rows, {**_DIRECT, **family.axes, **_DIRECT}, family.same)  # the first that fits counts
    if family in (EDSR, RCAN) and not len(net.upsample):  # type: ignore[arg-type]
        return Family(family.rows, {**family.axes, 'conv_last': ('', 'stream')}, family.same, family.gates)
    return family


def _compact(convolutions: int) -> Family:
    """SRVGGNetCompact: convolutions and activations in turn, none of which shares its channels with a later one."""
    axes: dict[str, Axes] = {r'body\.0': ('0', '')}
    for number in range(1, convolutions + 1):
        axes[rf'body\.{2 * number}'] = (str(number), str(number - 1))
    axes |= {rf'body\.{2 * number + 1}': (str(number), ) for number in range(convolutions + 1)}
    axes[rf'body\.{2 * convolutions + 2}'] = ('', str(convolutions))
    return Family((Row('body', first=2, size=2, last=1), ), axes, ('upscale', 'act_type'))


def axes_of(family: Family, name: str, dimensions: int) -> Axes | None:
    """Channels along the axes of a parameter; None if no rule fits.

    Args:
        family: The architecture of its network.
        name: Its name.
        dimensions: Number of its axes.

    Returns:
        A name for each axis.
    """
    module, _, kind = name.rpartition('.')
    for path in (name, module) if kind in ('weight', 'bias') else (name, ):
        for pattern, axes in family.axes.items():
            found = re.fullmatch(pattern, path)
            if found is not None:
                own = tuple(axis.format(*found.groups()) for axis in axes)
                return (own + ('', ) * dimensions)[:dimensions]
    return None
