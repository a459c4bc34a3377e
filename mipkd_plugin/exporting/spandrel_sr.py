"""Super-resolution networks of BasicSR that spandrel lacks: EDSR and MSRResNet.

    import spandrel_sr  # once, before the file is loaded
    net = spandrel.ModelLoader().load_from_file('net_g.safetensors')

This file needs torch and spandrel (https://github.com/chaiNNer-org/spandrel) and nothing else: copy it to where the
network is used. A file of weights of BasicSR's EDSR loads too; the three numbers that weights do not tell (res_scale,
img_range, rgb_mean) are then BasicSR's defaults, unless the file has them as tensors of these names.

EDSR: arXiv 1707.02921. MSRResNet: SRResNet (arXiv 1609.04802) without batch normalization, as in BasicSR
(https://github.com/XPixelGroup/BasicSR), whose names of weights are used here. Apache-2.0, from mipkd-plugin.
"""

from __future__ import annotations

from typing import Any

import torch
from spandrel import MAIN_REGISTRY, Architecture, ArchSupport, ImageModelDescriptor
from spandrel.util import KeyCondition, get_pixelshuffle_params, get_seq_len
from torch import Tensor, nn
from torch.nn import functional as F

RGB_MEAN = (0.4488, 0.4371, 0.4040)


class ResidualBlock(nn.Module):
    """x + res_scale · conv(relu(conv(x))).

    Args:
        width: Number of channels.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor, res_scale: Tensor | float = 1.0) -> Tensor:
        """(N, C, H, W) → (N, C, H, W)."""
        out: Tensor = x + self.conv2(self.conv1(x).relu()) * res_scale
        return out


class EDSR(nn.Module):
    """EDSR as BasicSR has it.

    Args:
        in_ch: Channels of the input.
        out_ch: Channels of the output.
        width: Number of features.
        blocks: Number of residual blocks.
        scale: Scale factor: 3, or a power of two; with 1 nothing is enlarged.
    """

    res_scale: Tensor
    img_range: Tensor
    rgb_mean: Tensor

    def __init__(self, in_ch: int, out_ch: int, width: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.register_buffer('res_scale', torch.ones(()))
        self.register_buffer('img_range', torch.tensor(255.0))
        self.register_buffer('rgb_mean', torch.tensor(RGB_MEAN))
        self.conv_first = nn.Conv2d(in_ch, width, 3, 1, 1)
        self.body = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.conv_after_body = nn.Conv2d(width, width, 3, 1, 1)
        steps = [3] if scale == 3 else [2] * (scale.bit_length() - 1)
        self.upsample = nn.Sequential(*(layer for step in steps for layer in (
            nn.Conv2d(width, step * step * width, 3, 1, 1), nn.PixelShuffle(step))))
        self.conv_last = nn.Conv2d(width, out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C_out, sH, sW)."""
        mean = self.rgb_mean.view(1, -1, 1, 1)
        first = self.conv_first((x - mean) * self.img_range)
        feature = first
        for block in self.body:
            feature = block(feature, self.res_scale)
        image = self.conv_last(self.upsample(self.conv_after_body(feature) + first))
        out: Tensor = image / self.img_range + mean
        return out


class MSRResNet(nn.Module):
    """MSRResNet as BasicSR has it.

    Args:
        in_ch: Channels of the input.
        out_ch: Channels of the output.
        width: Number of features.
        blocks: Number of residual blocks.
        scale: 2, 3 or 4.
    """

    def __init__(self, in_ch: int, out_ch: int, width: int, blocks: int, scale: int) -> None:
        super().__init__()
        self.scale, self.step = scale, 2 if scale == 4 else scale
        self.conv_first = nn.Conv2d(in_ch, width, 3, 1, 1)
        self.body = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.upconv1 = nn.Conv2d(width, width * self.step**2, 3, 1, 1)
        if scale == 4:
            self.upconv2 = nn.Conv2d(width, width * 4, 3, 1, 1)
        self.conv_hr = nn.Conv2d(width, width, 3, 1, 1)
        self.conv_last = nn.Conv2d(width, out_ch, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C_out, sH, sW)."""
        feature = F.leaky_relu(self.conv_first(x), 0.1)
        for block in self.body:
            feature = block(feature)
        for conv in [self.upconv1, *([self.upconv2] if self.scale == 4 else [])]:
            feature = F.leaky_relu(F.pixel_shuffle(conv(feature), self.step), 0.1)
        image = self.conv_last(F.leaky_relu(self.conv_hr(feature), 0.1))
        out: Tensor = image + F.interpolate(x, scale_factor=self.scale, mode='bilinear', align_corners=False)
        return out


class _Arch(Architecture[Any]):  # type: ignore[misc]  # where spandrel is not installed
    """What EDSR and MSRResNet have in common."""

    def __init__(self, network: type[nn.Module], *keys: str) -> None:
        super().__init__(id=f'BasicSR_{network.__name__}', name=network.__name__, detect=KeyCondition.has_all(
            'conv_first.weight', 'body.0.conv1.weight', 'body.0.conv2.weight', 'conv_last.weight', *keys))
        self.network = network

    def scale(self, state_dict: dict[str, Any]) -> int:
        """Scale factor, from the layers that enlarge."""
        if self.network is EDSR:
            return int(get_pixelshuffle_params(state_dict, 'upsample')[0]) if 'upsample.0.weight' in state_dict else 1
        if 'upconv2.weight' in state_dict:
            return 4
        return int((state_dict['upconv1.weight'].shape[0] // state_dict['upconv1.weight'].shape[1])**0.5)

    def load(self, state_dict: dict[str, Any]) -> ImageModelDescriptor[Any]:
        """Build the network of a state dict, with its weights."""
        width, in_ch = state_dict['conv_first.weight'].shape[:2]
        out_ch, blocks = state_dict['conv_last.weight'].shape[0], get_seq_len(state_dict, 'body')
        scale = self.scale(state_dict)
        net = self.network(in_ch, out_ch, width, blocks, scale)
        constants = {name: tensor for name, tensor in net.named_buffers() if name not in state_dict}
        return ImageModelDescriptor(net, {**state_dict, **constants}, self, 'SR', [f'{width}nf', f'{blocks}nb'],
                                    supports_half=True, supports_bfloat16=True, scale=scale, input_channels=in_ch,
                                    output_channels=out_ch)


def register(registry: Any = MAIN_REGISTRY) -> None:
    """Let a registry of spandrel know these networks; doing it twice changes nothing.

    Args:
        registry: By default the one that every ``ModelLoader`` uses.
    """
    registry.add(*(ArchSupport.from_architecture(arch) for arch in (
        _Arch(EDSR, 'conv_after_body.weight'), _Arch(MSRResNet, 'upconv1.weight', 'conv_hr.weight')
    )), ignore_duplicates=True)
