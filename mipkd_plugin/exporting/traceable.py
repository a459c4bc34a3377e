"""Make networks traceable for any image size: what their code computes from sizes becomes tensor operations.

Window attention (SwinIR, arXiv 2108.10257, and networks made after it) cuts maps into windows with Python numbers, and
makes its mask by writing into slices: a trace keeps the numbers of the traced image. Here are the same computations
without such numbers. The names are those that these networks' code uses.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.utils.replacing import replaced


class AnySize(nn.Module):
    """A network whose padding is part of it: reflection at the bottom and at the right, cropped behind the network.

    The same as :func:`~mipkd_plugin.networks.padding.padded`, in operations that a trace keeps for any size.

    Args:
        net: The network.
        multiple: What the sides must be multiples of.
        scale: Scale factor.
    """

    def __init__(self, net: nn.Module, multiple: int, scale: int) -> None:
        super().__init__()
        self.net, self.multiple, self.scale = net, multiple, scale

    def forward(self, image: Tensor) -> Tensor:
        """(N, C, H, W) → (N, C_out, sH, sW)."""
        if self.multiple == 1:
            output: Tensor = self.net(image)
            return output
        height, width = image.shape[2], image.shape[3]
        for axis in (2, 3):
            side = image.shape[axis]
            turn = 2 * side - 2 + 1 // side  # 1 for a side of one pixel
            index = torch.arange((side + self.multiple - 1) // self.multiple * self.multiple, device=image.device)
            index = index % turn
            # not torch.minimum: ONNX has none of whole numbers before opset 12
            image = image.index_select(axis, torch.where(index * 2 > turn, turn - index, index))
        output = self.net(image)
        return output[:, :, :height * self.scale, :width * self.scale]


def windows_of(x: Tensor, window_size: int) -> Tensor:
    """Cut a map into windows: (N, H, W, C) to (N·windows, size, size, C)."""
    _, height, width, channels = x.shape
    x = x.view(-1, height // window_size, window_size, width // window_size, window_size, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, window_size, window_size, channels)


def map_of(windows: Tensor, window_size: int, h: int, w: int) -> Tensor:
    """Put windows together: (N·windows, size, size, C) to (N, H, W, C)."""
    x = windows.view(-1, h // window_size, w // window_size, window_size, window_size, windows.shape[-1])
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, h, w, windows.shape[-1])


def shifted_mask(block: Any, x_size: tuple[int, int], **_: Any) -> Tensor:
    """The mask of shifted windows: -100 between pixels that the shift has brought together.

    Args:
        block: With ``window_size`` and ``shift_size``.
        x_size: Height and width of the map.

    Returns:
        (windows, size², size²).
    """
    size, shift = block.window_size, block.shift_size
    bands = []
    for side in x_size:
        position = torch.arange(side)
        bands.append((position >= side - size).float() + (position >= side - shift).float())
    regions = 3 * bands[0].view(1, -1, 1, 1) + bands[1].view(1, 1, -1, 1)
    regions = windows_of(regions, size).view(-1, size * size)
    apart = regions.unsqueeze(1) - regions.unsqueeze(2)
    return (apart != 0).float() * -100.0


def attention(self: Any, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """Window attention of SwinIR: (N·windows, L, C) to the same, with a mask (windows, L, L)."""
    _, length, channels = x.shape
    heads = self.num_heads
    qkv = self.qkv(x).reshape(-1, length, 3, heads, channels // heads).permute(2, 0, 3, 1, 4)
    scores = (qkv[0] * self.scale) @ qkv[1].transpose(-2, -1)
    table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
    scores = scores + table.view(length, length, -1).permute(2, 0, 1).unsqueeze(0)
    if mask is not None:
        scores = scores.view(-1, mask.shape[0], heads, length, length) + mask.unsqueeze(1).unsqueeze(0)
        scores = scores.view(-1, heads, length, length)
    mixed = (scores.softmax(-1) @ qkv[2]).transpose(1, 2).reshape(-1, length, channels)
    out: Tensor = self.proj(mixed)
    return out


def unshuffled(x: Tensor, scale: int) -> Tensor:
    """Pixel unshuffle, as BasicSR's RRDBNet does it: (N, C, sH, sW) to (N, s²C, H, W)."""
    return F.pixel_unshuffle(x, scale)


def unshuffled_by_convolution(x: Tensor, scale: int) -> Tensor:
    """The same as a convolution with ones and zeros: engines without tensors of six dimensions take it."""
    channels = x.shape[1]
    kernel = torch.eye(scale * scale).view(scale * scale, 1, scale, scale).repeat(int(channels), 1, 1, 1)
    return F.conv2d(x, kernel, stride=scale, groups=int(channels))


def pooled(x: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    """Adaptive max pooling to a size that divides the map's: windows of one size, as SAFMN (arXiv 2302.13800) uses.

    Args:
        x: (N, C, H, W).
        output_size: Height and width of the result.
        return_indices: As PyTorch's.

    Returns:
        (N, C, H', W').

    Raises:
        ValueError: The size does not divide the map's, or indices are wanted.
    """
    sizes = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if return_indices or any(int(side) % int(size) for side, size in zip(x.shape[2:], sizes)):
        raise ValueError('the operator adaptive_max_pool2d, to ONNX: sizes that do not divide')
    kernel = [int(side) // int(size) for side, size in zip(x.shape[2:], sizes)]
    return F.max_pool2d(x, kernel, kernel)


class _UnshuffleConvolution(nn.Module):
    """In the place of ``nn.PixelUnshuffle``."""

    def __init__(self, scale: int) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, sH, sW) → (N, s²C, H, W)."""
        return unshuffled_by_convolution(x, self.scale)


def without_unshuffle(net: nn.Module) -> nn.Module:
    """Replace the ``nn.PixelUnshuffle`` of a network in place by convolutions."""
    for path, module in list(net.named_modules()):
        if isinstance(module, nn.PixelUnshuffle):
            parent, _, name = path.rpartition('.')
            setattr(net.get_submodule(parent), name, _UnshuffleConvolution(module.downscale_factor))
    return net


def has_loop(net: nn.Module) -> bool:
    """Whether a network runs a loop over its pixels, which stays a loop in the graph."""
    return any(hasattr(sys.modules[type(part).__module__], 'selective_scan') for part in net.modules())


@contextmanager
def traceable(net: nn.Module, simple: bool = False) -> Iterator[None]:
    """Inside the block, the code of a network keeps no numbers of an image's size where it can be helped.

    Args:
        net: The network.
        simple: Whether to use only operations on maps, for small engines.
    """
    with ExitStack() as stack:
        stack.enter_context(replaced(F, {'adaptive_max_pool2d': pooled}))
        for module in {sys.modules[type(part).__module__] for part in net.modules()}:
            if module.__name__.startswith('torch.'):
                continue
            stack.enter_context(replaced(module, _functions(module, simple)))
            for name, cls in vars(module).copy().items():
                if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == module.__name__:
                    stack.enter_context(replaced(cls, _methods(name, cls)))
        yield


def _functions(module: Any, simple: bool) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {
        'pixel_unshuffle': unshuffled_by_convolution if simple else unshuffled}
    if hasattr(module, 'window_partition') and hasattr(module, 'window_reverse'):
        found.update(window_partition=windows_of, window_reverse=map_of)
    if hasattr(module, 'selective_scan'):
        found['selective_scan'] = importlib.import_module('mipkd_plugin.exporting.scanning').scripted_scan()
    return found


def _methods(name: str, cls: type) -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = {}
    if 'calculate_mask' in vars(cls):
        found['calculate_mask'] = shifted_mask
    if name == 'WindowAttention' and 'SwinIR' in _names_beside(cls):
        found['forward'] = attention
    return found


def _names_beside(cls: type) -> set[str]:
    return set(vars(sys.modules[cls.__module__]))
