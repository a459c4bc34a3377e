"""The architectures whose size a user can choose, and how their sizes are written: ``EDSR:64x16``.

The numbers are those of the constructor, from the outside in: width, blocks; width, groups, blocks in each group. Sizes
for a name alone are published ones: EDSR baseline (arXiv 1707.02921), RCAN (1807.02758) with the blocks of a
student, MSRResNet and RRDBNet (1809.00219), SwinIR light (2108.10257), HAT-S (2205.04437), DAT light (2308.03364),
SAFMN (2302.13800), SPAN (2311.12770), PLKSR tiny (2404.11848), ECBSR-M10C32 (ACM MM 2021), Real-ESRGAN's
SRVGGNetCompact (2107.10833).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY

from mipkd_plugin.config.registered import lookup, missing_package
from mipkd_plugin.utils.errors import UsageError

CHANNELS = ('num_in_ch', 'in_chans', 'in_ch', 'in_nc', 'in_channels', 'n_colors')
"""Arguments that hold the number of channels of an image, in the networks of BasicSR and spandrel."""
_COLOR = ('img_range', 'rgb_mean')
Size = tuple[int, ...]
_LANES = 16
NEAR = 1.3
"""A student has the work asked for up to this factor; what is farther off is not offered."""
PARTS = (2, 3, 4, 6, 8, 12, 16, 24, 32)
"""A list of students has one for each of these parts of the teacher's work."""
LIGHT = ('SRVGGNetCompact', 'SPAN', 'EDSR', 'SwinIR')
"""Architectures to offer where another one has no student."""


@dataclass(frozen=True)
class Family:
    """An architecture, and which of its arguments are its size.

    Attributes:
        name: Name of the class.
        keys: Arguments with the numbers of its notation: the width first, then what it has of blocks.
        size: Its published size, for the name alone.
        fixed: Further arguments of a student whose teacher is of another architecture.
        scale: Argument with the scale.
        channels: Arguments with the channels of images; none if it takes color images only.
        color_only: Whether it takes color images only, whatever its arguments say.
        step: What a width is a multiple of.
        grows: Whether the last number is a second width, which follows the first unless it is given.
        by_depth: Share of the saving (of its logarithm) that fewer blocks bring; the width brings the rest.
    """

    name: str
    keys: tuple[str, ...]
    size: Size
    fixed: Mapping[str, Any] = field(default_factory=dict)
    scale: str = 'upscale'
    channels: tuple[str, ...] = ('num_in_ch', 'num_out_ch')
    color_only: bool = False
    step: int = 1
    grows: bool = False
    by_depth: float = 1 / 2

    @property
    def notation(self) -> str:
        """How its size is written, as ``RCAN:num_feat x num_group x num_block``."""
        return f'{self.name}:{"x".join(word.upper() for word in self.words)}'

    @property
    def words(self) -> tuple[str, ...]:
        """What its numbers are."""
        last = ('grow', ) if self.grows else ('blocks_in_each', )
        return {1: ('width', ), 2: ('width', 'blocks'), 3: ('width', 'groups', *last)}[len(self.keys)]

    def text(self, size: Size) -> str:
        """A size in ``--student`` notation."""
        return f'{self.name}:{"x".join(map(str, size))}'

    def size_of(self, network: Mapping[str, Any]) -> Size:
        """The numbers of a network of this architecture."""
        return tuple(int(self._value(network, key)) for key in self.keys)

    def depth(self, size: Size) -> int:
        """Number of all blocks; 1 where it is not chosen."""
        return math.prod(size[1:2] if self.grows else size[1:])

    def completed(self, numbers: Size, like: Size) -> Size:
        """A size of which the last numbers may be missing, with those of another size in their place."""
        numbers = (*numbers, *like[len(numbers):len(like) - self.grows])
        if self.grows and len(numbers) < len(like):
            numbers += (max(4, 4 * round(numbers[0] * like[2] / like[0] / 4)), )
        return numbers

    def network(self, size: Size, base: Mapping[str, Any]) -> dict[str, Any]:
        """The network of a size, as in YAML; its other arguments are those of ``base``."""
        return {**base, **dict(zip(self.keys, size))}

    def base(self, teacher: Mapping[str, Any], scale: int, channels: int) -> dict[str, Any]:
        """All arguments of a student but its size, taken from its teacher as far as they are the same."""
        if teacher.get('type') == self.name:
            return dict(teacher)
        shared = {key: teacher[key] for key in _COLOR if key in teacher and key in self._defaults}
        return {'type': self.name, **dict.fromkeys(self.channels, channels), self.scale: scale, **self.fixed, **shared}

    def problem(self, size: Size, base: Mapping[str, Any]) -> str:
        """Why the architecture does not come in this size, and which sizes are close; '' if it does."""
        step, misfit = self._step(base), self.misfit(size[0], base)
        near = sorted({max(step, size[0] // step * step), (size[0] // step + 1) * step})
        return misfit and f'{misfit}: write ' + ' or '.join(self.text((width, *size[1:])) for width in near)

    def misfit(self, width: int, base: Mapping[str, Any]) -> str:
        """Why the architecture does not come in this width; '' if it does."""
        step = self._step(base)
        return f'the width {width} is not a multiple of {step}{self._why(base)}' if width % step else ''

    def widths(self, base: Mapping[str, Any], most: int) -> list[int]:
        """Widths to choose from, up to the widest."""
        steps = {*range(8, min(most, 64) + 1, 8 if len(self.keys) > 1 else 4), *range(80, most + 1, 16), most}
        return sorted(width for width in steps if not self.problem((width, *self.size[1:]), base))

    def waste(self, size: Size) -> float:
        """How much longer kernels run than the width asks for: those of convolutions work on 16 channels at once."""
        waste = math.ceil(size[0] / _LANES) * _LANES / size[0] if len(size) > 1 else 1.
        return max(waste, _LANES / size[-1]) if self.grows else waste

    def depths(self, most: Size) -> list[tuple[int, ...]]:
        """What may stand behind the width: not fewer than two blocks, so that a feature can be tapped between them."""
        if len(self.keys) == 1:
            return [()]
        outer = range(min(2, most[1]), most[1] + 1)
        if self.grows or len(self.keys) == 2:
            return [(number, ) for number in outer]
        return [(number, inner) for number in outer for inner in range(self._pair, most[2] + 1, self._pair)]

    @property
    def _pair(self) -> int:
        return 1

    @property
    def units(self) -> list[tuple[int, ...]]:
        """The smallest depths from which the work of all others follows: one, two outside, two inside."""
        if len(self.keys) == 1:
            return [()]
        if self.grows or len(self.keys) == 2:
            return [(1, ), (2, )]
        return [(1, self._pair), (2, self._pair), (1, 2 * self._pair)]

    def _step(self, base: Mapping[str, Any]) -> int:
        return self.step

    def _why(self, base: Mapping[str, Any]) -> str:
        return ''

    def cls(self) -> type:
        """The class of the architecture; a :class:`UsageError` if the package that has it is not installed."""
        found = lookup(ARCH_REGISTRY, self.name)
        if found is None:
            what, remedy = missing_package(ARCH_REGISTRY, self.name) or (f'there is no network {self.name}', '')
            raise UsageError(f'--student {self.name}: {what}; {remedy}'.rstrip('; '))
        cls: type = found
        return cls

    @property
    def _defaults(self) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(self.cls()).parameters.items()}

    def _value(self, network: Mapping[str, Any], key: str) -> Any:
        return network[key] if key in network else self._defaults[key]


@dataclass(frozen=True)
class _Squeezed(Family):
    """RCAN: a narrow student keeps as many channels in the squeeze of its attention as its teacher has."""

    def network(self, size: Size, base: Mapping[str, Any]) -> dict[str, Any]:
        whole, squeeze = int(base.get('num_feat', 64)), int(base.get('squeeze_factor', 16))
        factor = squeeze if size[0] >= whole else max(1, size[0] // max(1, whole // squeeze))
        return {**super().network(size, base), 'squeeze_factor': factor}


@dataclass(frozen=True)
class _Windowed(Family):
    """A transformer: lists with the blocks and heads of each layer.

    Its time goes with its width, not with the square of it as its work does; so depth brings more of the saving.
    """

    heads: int = 6
    by_depth: float = 2 / 3

    @property
    def _pair(self) -> int:
        return 2  # blocks come in pairs: every second one shifts its windows, or attends to channels

    def size_of(self, network: Mapping[str, Any]) -> Size:
        depths = self._value(network, self.keys[1])
        return int(self._value(network, self.keys[0])), len(depths), max(depths)

    def network(self, size: Size, base: Mapping[str, Any]) -> dict[str, Any]:
        width, layers, inner = size
        heads = [self._heads(base)] * layers
        network = {**base, self.keys[0]: width, self.keys[1]: [inner] * layers, 'num_heads': heads}
        if 'squeeze_factor' in base:
            network['squeeze_factor'] = max(1, min(base['squeeze_factor'], width // 6))
        return network

    def widths(self, base: Mapping[str, Any], most: int) -> list[int]:
        heads = self._heads(base)
        least = max(6 * heads, 24)
        return [width for width in range(2 * heads, most + 1, 2 * heads) if width >= least or width == most]

    def waste(self, size: Size) -> float:
        return 1.

    def _heads(self, base: Mapping[str, Any]) -> int:
        given = base.get('num_heads')
        heads: int = max(given) if isinstance(given, (list, tuple)) and given else self.heads
        return heads

    def _step(self, base: Mapping[str, Any]) -> int:
        return self._heads(base)

    def _why(self, base: Mapping[str, Any]) -> str:
        return ', its number of heads'


_WINDOW = {'img_size': 64, 'window_size': 8, 'img_range': 1., 'mlp_ratio': 2, 'upsampler': 'pixelshuffledirect',
           'resi_connection': '1conv'}
_LISTS = ('embed_dim', 'depths', 'depths[0]')

FAMILIES: dict[str, Family] = {family.name: family for family in (
    Family('EDSR', ('num_feat', 'num_block'), (64, 16), color_only=True),
    _Squeezed('RCAN', ('num_feat', 'num_group', 'num_block'), (64, 10, 6), color_only=True),
    Family('MSRResNet', ('num_feat', 'num_block'), (64, 16)),
    Family('RRDBNet', ('num_feat', 'num_block', 'num_grow_ch'), (64, 6, 32), scale='scale', grows=True),
    Family('SRVGGNetCompact', ('num_feat', 'num_conv'), (64, 16), {'act_type': 'prelu'}),
    Family('ECBSR', ('num_channel', 'num_block'), (32, 10), {'with_idt': False, 'act_type': 'prelu'}, scale='scale'),
    _Windowed('SwinIR', _LISTS, (60, 4, 6), _WINDOW, channels=('in_chans', )),
    Family('MambaLite', ('num_feat', 'num_block'), (32, 4)),
    Family('SPAN', ('feature_channels', ), (48, ), color_only=True),
    Family('SAFMN', ('dim', 'n_blocks'), (36, 8), scale='upscaling_factor', channels=(), color_only=True, step=4),
    Family('PLKSR', ('dim', 'n_blocks'), (64, 12), scale='upscaling_factor', channels=(), color_only=True, step=4),
    Family('RealPLKSR', ('dim', 'n_blocks'), (64, 28), scale='upscaling_factor', channels=(), color_only=True, step=4),
    _Windowed('HAT', _LISTS, (144, 6, 6), {**_WINDOW, 'window_size': 16, 'compress_ratio': 24, 'squeeze_factor': 24,
                                           'overlap_ratio': 0.5, 'conv_scale': 0.01, 'upsampler': 'pixelshuffle'},
              channels=('in_chans', )),
    _Windowed('DAT', ('embed_dim', 'depth', 'depth[0]'), (60, 1, 18), {
        'img_size': 64, 'split_size': [8, 32], 'expansion_factor': 2., 'img_range': 1., 'resi_connection': '3conv',
        'upsampler': 'pixelshuffledirect'}, channels=('in_chans', )),
)}
"""Name → architecture. The first ones are BasicSR's; those from SPAN on are spandrel's, of the extra [teacher]."""
