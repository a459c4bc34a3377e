"""Networks with the names of the official releases, and with their ranges of values.

Names and the order of computation follow EDSR-PyTorch (https://github.com/sanghyun-son/EDSR-PyTorch, 3dd71ae), RCAN
(https://github.com/yulunzhang/RCAN, f722e5d) and ESRGAN (https://github.com/xinntao/ESRGAN, 73e9b63); the code is ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

MEAN = torch.tensor([0.4488, 0.4371, 0.4040])


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def shift(sign: int, value_range: float) -> nn.Conv2d:
    layer = nn.Conv2d(3, 3, 1)
    layer.weight.data, layer.bias.data = torch.eye(3).view(3, 3, 1, 1), sign * value_range * MEAN
    return layer


def upsampler(width: int, scale: int) -> nn.Sequential:
    factors = [3] if scale == 3 else [2] * round(math.log2(scale))
    return nn.Sequential(*(layer for factor in factors
                           for layer in (conv(width, width * factor ** 2), nn.PixelShuffle(factor))))


class Residual(nn.Module):
    def __init__(self, body: nn.Sequential, scale: float = 1) -> None:
        super().__init__()
        self.body, self.scale = body, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.body(x)


class Attention(nn.Module):
    def __init__(self, width: int, reduction: int) -> None:
        super().__init__()
        self.conv_du = nn.Sequential(nn.Conv2d(width, width // reduction, 1), nn.ReLU(),
                                     nn.Conv2d(width // reduction, width, 1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean((2, 3), keepdim=True))


class Shifted(nn.Module):
    """What EDSR-PyTorch and RCAN share; images in [0, value_range]."""

    def __init__(self, width: int, blocks: list[nn.Module], scale: int, value_range: float) -> None:
        super().__init__()
        self.sub_mean, self.add_mean = shift(-1, value_range), shift(1, value_range)
        self.head = nn.Sequential(conv(3, width))
        self.body = nn.Sequential(*blocks, conv(width, width))
        self.tail = nn.Sequential(upsampler(width, scale), conv(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.sub_mean(x))
        return self.add_mean(self.tail(x + self.body(x)))


def edsr(width: int = 8, depth: int = 3, scale: int = 2, res_scale: float = 1, value_range: float = 255) -> nn.Module:
    blocks = [Residual(nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width)), res_scale)
              for _ in range(depth)]
    return Shifted(width, blocks, scale, value_range)


def rcan(width: int = 16, groups: int = 2, depth: int = 2, reduction: int = 4, scale: int = 2) -> nn.Module:
    def block() -> nn.Module:
        return Residual(nn.Sequential(conv(width, width), nn.ReLU(), conv(width, width), Attention(width, reduction)))

    def group() -> nn.Module:
        return Residual(nn.Sequential(*(block() for _ in range(depth)), conv(width, width)))

    return Shifted(width, [group() for _ in range(groups)], scale, 255)


class Dense(nn.Module):
    """A dense block; the old layout wraps each convolution in a sequence."""

    def __init__(self, width: int, grow: int, wrapped: bool) -> None:
        super().__init__()
        for index in range(5):
            layer = conv(width + index * grow, grow if index < 4 else width)
            setattr(self, f'conv{index + 1}', nn.Sequential(layer) if wrapped else layer)

    def forward(self, x: Tensor) -> Tensor:
        found = [x]
        for index in range(5):
            out = getattr(self, f'conv{index + 1}')(torch.cat(found, 1))
            found.append(F.leaky_relu(out, 0.2))
        return x + 0.2 * out


class Rrdb(nn.Module):
    def __init__(self, width: int, grow: int, wrapped: bool) -> None:
        super().__init__()
        self.RDB1, self.RDB2, self.RDB3 = (Dense(width, grow, wrapped) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.RDB3(self.RDB2(self.RDB1(x)))


class Shortcut(nn.Module):
    def __init__(self, sub: nn.Sequential) -> None:
        super().__init__()
        self.sub = sub

    def forward(self, x: Tensor) -> Tensor:
        return x + self.sub(x)


class OldEsrgan(nn.Module):
    """``model.1.sub.0.RDB1.conv1.0.weight``"""

    def __init__(self, width: int = 8, depth: int = 2, grow: int = 4, factors: int = 2) -> None:
        super().__init__()
        trunk = nn.Sequential(*(Rrdb(width, grow, True) for _ in range(depth)), conv(width, width))
        up = [layer for _ in range(factors)
              for layer in (nn.Upsample(scale_factor=2), conv(width, width), nn.LeakyReLU(0.2))]
        self.model = nn.Sequential(conv(3, width), Shortcut(trunk), *up, conv(width, width), nn.LeakyReLU(0.2),
                                   conv(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class MiddleEsrgan(nn.Module):
    """``RRDB_trunk.0.RDB1.conv1.weight``"""

    def __init__(self, width: int = 8, depth: int = 2, grow: int = 4) -> None:
        super().__init__()
        self.conv_first, self.trunk_conv, self.HRconv = conv(3, width), conv(width, width), conv(width, width)
        self.RRDB_trunk = nn.Sequential(*(Rrdb(width, grow, False) for _ in range(depth)))
        self.upconv1, self.upconv2, self.conv_last = conv(width, width), conv(width, width), conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(x)
        x = x + self.trunk_conv(self.RRDB_trunk(x))
        for up in (self.upconv1, self.upconv2):
            x = F.leaky_relu(up(F.interpolate(x, scale_factor=2)), 0.2)
        return self.conv_last(F.leaky_relu(self.HRconv(x), 0.2))
