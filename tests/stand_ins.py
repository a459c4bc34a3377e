"""Small networks, each of a shape in which people ship architectures: ×2, at least four blocks, narrow or wide.

Each is built by a function of one argument, whether it is wide. CASES says what a person would tap in them.
"""

from __future__ import annotations

import torch
from benchmarks.architecture_trials import Case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

SCALE = 2
BLOCKS = 4


def conv(inputs: int, outputs: int, size: int = 3) -> nn.Conv2d:
    """A convolution that keeps H×W."""
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Block(nn.Module):
    """x + W₂ relu(W₁ x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.relu(self.conv1(x)))


class Net(nn.Module):
    """Head, trunk, tail: the others differ in the trunk."""

    inputs = 3
    shuffle = SCALE

    def __init__(self, wide: bool) -> None:
        super().__init__()
        self.width = 16 if wide else 8
        self.head = conv(self.inputs, self.width)
        self.make_trunk(self.width)
        self.tail = conv(self.width, 3 * self.shuffle**2)

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(Block(width) for _ in range(BLOCKS)))

    def trunk(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, lq: Tensor) -> Tensor:
        x = self.head(lq)
        return F.pixel_shuffle(self.tail(self.trunk(x) + x), self.shuffle)


class Attributes(Net):
    """Blocks are attributes with numbers, some of them used twice by the end: SPAN, RLFN."""

    def make_trunk(self, width: int) -> None:
        self.block_1, self.block_2, self.block_3 = Block(width), Block(width), Block(width)
        self.block_4, self.block_5, self.block_6 = Block(width), Block(width), Block(width)
        self.join = conv(3 * width, width, 1)

    def trunk(self, x: Tensor) -> Tensor:
        first = self.block_1(x)
        fifth = self.block_5(self.block_4(self.block_3(self.block_2(first))))
        return self.join(torch.cat([first, fifth, self.block_6(fifth)], 1))


class Dense(Net):
    """All blocks are joined at the end: RFDN, BSRN, IMDN."""

    def make_trunk(self, width: int) -> None:
        self.B1, self.B2, self.B3, self.B4 = Block(width), Block(width), Block(width), Block(width)
        self.c = conv(4 * width, width, 1)

    def trunk(self, x: Tensor) -> Tensor:
        outputs = []
        for block in (self.B1, self.B2, self.B3, self.B4):
            x = block(x)
            outputs.append(x)
        return self.c(torch.cat(outputs, 1))


class ConvAct(nn.Module):
    """One list of convolution, activation, convolution, …: SRVGGNetCompact."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.body = nn.ModuleList([conv(3, width), nn.PReLU(width)])
        for _ in range(BLOCKS):
            self.body += [conv(width, width), nn.PReLU(width)]
        self.body.append(conv(width, 3 * SCALE**2))

    def forward(self, lq: Tensor) -> Tensor:
        x = lq
        for module in self.body:
            x = module(x)
        return F.pixel_shuffle(x, SCALE) + F.interpolate(lq, scale_factor=SCALE)


class MixedList(nn.Module):
    """Convolution, blocks and convolution in one Sequential: PLKSR, MoSR, RCAN of its authors."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.feats = nn.Sequential(conv(3, width), *(Block(width) for _ in range(BLOCKS)), conv(width, 3 * SCALE**2))

    def forward(self, lq: Tensor) -> Tensor:
        return F.pixel_shuffle(self.feats(lq) + lq.repeat_interleave(SCALE**2, 1), SCALE)


class TupleBlock(Block):
    """Feature and attention in, feature and attention out."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = super().forward(pair[0]) + 0.1 * pair[1]
        return x, x.mean((2, 3), keepdim=True)


class Tuples(Net):
    """Blocks hand on a tuple: PFT."""

    def make_trunk(self, width: int) -> None:
        self.layers = nn.ModuleList(TupleBlock(width) for _ in range(BLOCKS))

    def trunk(self, x: Tensor) -> Tensor:
        pair = x, torch.zeros_like(x[..., :1, :1])
        for layer in self.layers:
            pair = layer(pair)
        return pair[0]


class ChannelsLastBlock(nn.Module):
    """(N, H, W, C) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.gelu(self.fc1(self.norm(x))))


class ChannelsLast(Net):
    """The trunk is (N, H, W, C): MambaIR, VMamba."""

    def make_trunk(self, width: int) -> None:
        self.layers = nn.ModuleList(ChannelsLastBlock(width) for _ in range(BLOCKS))

    def trunk(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return x.permute(0, 3, 1, 2)


class NestedLists(Net):
    """A ModuleList of ModuleLists, which nobody calls: CATANet."""

    def make_trunk(self, width: int) -> None:
        self.blocks = nn.ModuleList(nn.ModuleList([Block(width), conv(width, width)]) for _ in range(BLOCKS))

    def trunk(self, x: Tensor) -> Tensor:
        for block, fuse in self.blocks:
            x = x + fuse(block(x))
        return x


class OneGroup(Net):
    """One group, the blocks a level deeper: DITN, MAN."""

    def make_trunk(self, width: int) -> None:
        super().make_trunk(width)
        self.groups = nn.Sequential(nn.Sequential(*self.body, conv(width, width)))
        del self.body

    def trunk(self, x: Tensor) -> Tensor:
        return self.groups(x)


class InPlaceBlock(Block):
    """Adds to its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        y += x
        return y.relu_()


class InPlace(Net):
    """Changes its own input batch in place, and the sum behind the trunk: RCAN of its authors."""

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(InPlaceBlock(width) for _ in range(BLOCKS)))

    def forward(self, lq: Tensor) -> Tensor:
        lq.mul_(255).sub_(100)
        x = self.head(lq / 255)
        y = self.trunk(x)
        y += x
        return F.pixel_shuffle(self.tail(y), self.shuffle)


class UShape(nn.Module):
    """Down, latent blocks, up: RealCUGAN, GateR."""

    def __init__(self, wide: bool) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.head, self.down = conv(3, width), nn.Conv2d(width, 2 * width, 2, 2)
        self.latent = nn.Sequential(*(Block(2 * width) for _ in range(BLOCKS)))
        self.up, self.tail = nn.ConvTranspose2d(2 * width, width, 2, 2), conv(2 * width, 3 * SCALE**2)

    def forward(self, lq: Tensor) -> Tensor:
        x = self.head(lq)
        return F.pixel_shuffle(self.tail(torch.cat([x, self.up(self.latent(self.down(x)))], 1)), SCALE)


class Unshuffle(Net):
    """Pixel-unshuffle first: RRDBNet ×2, SwinIR for real images."""

    inputs = 12
    shuffle = 2 * SCALE

    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(F.pixel_unshuffle(lq, 2))


class Reparameterized(Block):
    """In eval mode one convolution in place of both, merged without gradient."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.conv1(x) + self.conv2(x)
        with torch.no_grad():
            weight, bias = self.conv1.weight + self.conv2.weight, self.conv1.bias + self.conv2.bias
        return x + F.conv2d(x, weight, bias, padding=1)


class Reparameterizing(Net):
    """Eval mode runs other operations, whose weights are merged: SPAN, PlainUSR."""

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(Reparameterized(width) for _ in range(BLOCKS)))


class PartialBlock(Block):
    """Convolves half of the channels: in eval mode it writes the result over them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        half = y.shape[1] // 2
        weight, bias = self.conv2.weight[:half, :half], self.conv2.bias[:half]
        if self.training:
            y = torch.cat([F.conv2d(y[:, :half], weight, bias, padding=1), y[:, half:]], 1)
        else:
            y[:, :half] = F.conv2d(y[:, :half], weight, bias, padding=1)
        return x + y


class WritingInEval(Net):
    """Eval mode writes in place, and cannot be differentiated: PLKSR, SMFANet, ESC."""

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(PartialBlock(width) for _ in range(BLOCKS)))


class Checkpointed(Net):
    """Gradient checkpointing over the blocks: use_checkpoint of SwinIR and its kin."""

    def trunk(self, x: Tensor) -> Tensor:
        for block in self.body:
            x = checkpoint(block, x, use_reentrant=False) if self.training else block(x)
        return x


class Dicts(Net):
    """The output is a dict."""

    def forward(self, lq: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {'sr': super().forward(lq)}


CASES = [Case(net.__name__, net, taps, source='stand-in') for net, taps in (
    (Net, ('body.#', )), (Attributes, ('block_#', )), (Dense, ('B#', )), (ConvAct, ('body.#', )),
    (MixedList, ('feats.#', )), (Tuples, ('layers.#', )), (ChannelsLast, ('layers.#', )),
    (NestedLists, ('blocks.#.#', 'blocks.#')), (OneGroup, ('groups.0.#', )), (InPlace, ('body.#', )),
    (UShape, ('latent.#', )), (Unshuffle, ('body.#', )), (Reparameterizing, ('body.#', )),
    (WritingInEval, ('body.#', )), (Checkpointed, ('body.#', )), (Dicts, ('body.#', )))]
