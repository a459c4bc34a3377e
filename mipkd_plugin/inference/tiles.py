"""Run a network on an image of any size: padded to what it takes, whole or in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from mipkd_plugin.inference.reach import Reach, reach
from mipkd_plugin.networks.modes import evaluating
from mipkd_plugin.networks.outputs import described
from mipkd_plugin.networks.padding import needed_multiple, padded_to
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, is_memory_error, reason

_SIDES = (1, 2, 4, 8, 16, 32, 64, 128)
_PROBE = 64


class EnlargeError(MipkdError):
    """A network cannot enlarge an image."""


class MemoryLackError(EnlargeError):
    """An image does not fit into memory."""


class Enlarger:
    """A network that enlarges images of any size.

    An image is padded by reflection where the network needs multiples of a window, or more pixels than there are.
    Tiles lie on the grid of these multiples. Each is run with so much context around it that it comes out as in the
    whole image, and the context is cut off. Where the network looks at all of the image, as channel attention does,
    tiles differ from it; :attr:`reach` says by how much.

    Args:
        net: The network, on its device; in half precision it is changed to that.
        scale: Scale factor.
        tile: Side of a tile in pixels of the low-resolution image, without its context; None runs images whole.
        context: Pixels around a tile; None measures how many the network needs.
        half: Whether to compute in half precision; on CUDA only.

    Attributes:
        net: The network.
        scale: Scale factor.
        tile: Side of a tile, a multiple of :attr:`multiple`; None without tiles.
        channels: Number of channels that the network takes, 3 or 1.
        multiple: What the sides of an image are padded to multiples of.
        device: Where the network runs.

    Raises:
        EnlargeError: The network takes no image, or does not enlarge it by ``scale``.
    """

    def __init__(self, net: nn.Module, scale: int, tile: int | None = None, context: int | None = None,
                 half: bool = False) -> None:
        self.net, self.scale = net, scale
        first = next(net.parameters(), torch.empty(0))
        self.device = first.device
        if half and self.device.type != 'cuda':
            raise EnlargeError(f'half precision needs a GPU of CUDA, and the network is on {self.device.type}')
        self.channels, self.multiple = self._takes()
        self._least = self._smallest_side()
        self.tile = None if tile is None else self._rounded(max(tile, self._least))
        self._context = context
        self._half = half
        if half:
            net.half()

    def __call__(self, lq: Tensor, on_tile: Callable[[int, int], None] | None = None) -> Tensor:
        """Enlarge an image.

        Args:
            lq: (1, C, H, W), from 0 to 1.
            on_tile: Called behind each tile with the number of tiles done, and of all.

        Returns:
            (1, C, sH, sW) in float32 on the CPU, as the network says it: not clamped to 0 to 1.

        Raises:
            MemoryLackError: The image does not fit into memory.
            EnlargeError: The network fails, or returns something else than the enlarged image.
        """
        height, width = lq.shape[2:]
        whole = padded_to(lq, *(self._rounded(max(side, self._least)) for side in (height, width)))
        boxes = list(self._boxes(*whole.shape[2:]))
        scale = self.scale
        with self._running():
            if len(boxes) == 1:
                return self._run(whole)[..., :height * scale, :width * scale]
            result = torch.empty(1, lq.shape[1], whole.shape[2] * scale, whole.shape[3] * scale)
            for number, ((top, y, bottom, below), (left, x, right, beyond)) in enumerate(boxes, 1):
                enlarged = self._run(whole[:, :, top:below, left:beyond])
                result[:, :, y * scale:bottom * scale, x * scale:right * scale] = enlarged[
                    :, :, (y - top) * scale:(bottom - top) * scale, (x - left) * scale:(right - left) * scale]
                if on_tile is not None:
                    on_tile(number, len(boxes))
        return result[..., :height * scale, :width * scale]

    @cached_property
    def reach(self) -> Reach:
        """How far the network looks, measured once, in float32."""
        with self._running(half=False):
            return reach(self._run, self.channels, self.scale, self.multiple)

    @property
    def measures(self) -> bool:
        """Whether the context is measured, not given."""
        return self._context is None

    @property
    def context(self) -> int:
        """Pixels around a tile, a multiple of :attr:`multiple`."""
        return self._rounded(self.reach.pixels if self._context is None else self._context)

    def _boxes(self, height: int, width: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Rows and columns of each tile: where its context begins, where it begins, ends, and its context ends."""
        tile = self.tile
        if tile is None or (height <= tile and width <= tile):
            yield (0, 0, height, height), (0, 0, width, width)
            return
        columns = list(self._cuts(width, tile))
        for rows in self._cuts(height, tile):
            for across in columns:
                yield rows, across

    def _cuts(self, side: int, tile: int) -> Iterator[tuple[int, ...]]:
        for start in range(0, side, tile):
            end = min(start + tile, side)
            first = max(min(start - self.context, side - self._least), 0)
            yield first, start, end, min(end + self.context, side)

    def _rounded(self, side: int) -> int:
        return -(-side // self.multiple) * self.multiple

    def _run(self, lq: Tensor) -> Tensor:
        try:
            first = next(self.net.parameters(), lq)
            output = self.net(lq.to(self.device, first.dtype))
        except FOREIGN_ERRORS as error:
            if isinstance(error, MipkdError):
                raise
            if is_memory_error(error) or isinstance(error, torch.OutOfMemoryError):
                raise MemoryLackError('does not fit into memory') from error
            raise EnlargeError(f'{type(self.net).__name__} fails on an image of {lq.shape[3]}×{lq.shape[2]}: '
                               f'{reason(error)}') from error
        wanted = (1, lq.shape[1], lq.shape[2] * self.scale, lq.shape[3] * self.scale)
        if not isinstance(output, Tensor) or tuple(output.shape) != wanted:
            raise EnlargeError(f'{type(self.net).__name__} returns {described(output)} for an image of '
                               f'{lq.shape[3]}×{lq.shape[2]}, and not the image enlarged {self.scale} times'
                               + _other_scale(output, lq))
        return output.float().cpu()

    @contextmanager
    def _running(self, half: bool | None = None) -> Iterator[None]:
        """Eval mode, no gradients, and full float32 on GPUs, whose shorter TF32 would show between tiles."""
        before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        back_to_half = half is False and next(self.net.parameters(), torch.empty(0)).dtype == torch.float16
        if back_to_half:
            self.net.float()
        try:
            with evaluating(self.net):
                yield
        finally:
            torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
            if back_to_half:
                self.net.half()

    def _takes(self) -> tuple[int, int]:
        """Channels of the images that the network takes, and the multiple that their sides must be."""
        problem = ''
        for channels in (3, 1):
            self.multiple = needed_multiple(self.net, channels, self.scale)
            try:
                with self._running():
                    side = self._rounded(_PROBE)
                    self._run(torch.zeros(1, channels, side, side))
                return channels, self.multiple
            except EnlargeError as error:
                problem = problem or str(error)
        raise EnlargeError(problem)

    def _smallest_side(self) -> int:
        """The smallest side of an image that the network takes; smaller ones are padded."""
        for least in _SIDES:
            least = self._rounded(least)
            try:
                with self._running():
                    for shape in ((least, least), (least, 2 * least), (2 * least, least)):
                        self._run(torch.zeros(1, self.channels, *shape))
                return least
            except EnlargeError:
                continue
        return self._rounded(_PROBE)


def _other_scale(output: object, lq: Tensor) -> str:
    """What to write where the image is enlarged by another factor."""
    if isinstance(output, Tensor) and output.dim() == 4:
        scale = output.shape[3] // lq.shape[3]
        if scale and tuple(output.shape) == (*lq.shape[:2], lq.shape[2] * scale, lq.shape[3] * scale):
            return f'; write scale: {scale} into the option file'
    return ''
