"""Small networks of the shapes that people use: each stands for architectures that a list of equal blocks does not fit.

All are x2, of 8 channels; ``TRUNKS`` says which modules a person would tap.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

WIDTH = 8


def conv(inputs: int = WIDTH, outputs: int = WIDTH, size: int = 3) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2)


class Block(nn.Module):
    """A residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(torch.relu(self.a(x)))


class Base(nn.Module):
    """First layer, body, global skip, upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.fuse, self.tail = conv(3), conv(), conv(WIDTH, 12)

    def body_of(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        return F.pixel_shuffle(self.tail(self.fuse(self.body_of(first)) + first), 2)


class Attributes(Base):
    """Blocks as numbered attributes, all of them joined at the end (RFDN, BSRN, SPAN)."""

    def __init__(self) -> None:
        super().__init__()
        self.block_1, self.block_2, self.block_3, self.block_4 = Block(), Block(), Block(), Block()
        self.join = conv(4 * WIDTH, WIDTH, 1)

    def body_of(self, x: Tensor) -> Tensor:
        out1 = self.block_1(x)
        out2 = self.block_2(out1)
        out3 = self.block_3(out2)
        return self.join(torch.cat([out1, out2, out3, self.block_4(out3)], 1))


class ConvAct(nn.Module):
    """Convolutions and activations in turn in one list, without skips (Compact)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleList([conv(3), nn.PReLU(WIDTH)])
        for _ in range(4):
            self.body += [conv(), nn.PReLU(WIDTH)]
        self.body.append(conv(WIDTH, 12))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.body:
            y = layer(y)
        return F.pixel_shuffle(y, 2) + F.interpolate(x, scale_factor=2)


class InPlaceConvAct(ConvAct):
    """The same with activations that overwrite the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        for index in range(1, 10, 2):
            self.body[index] = nn.ReLU(inplace=True)


class OneGroup(Base):
    """One Sequential of a layer, blocks and a layer inside one group with a skip of its own (RealPLKSR, RCAN)."""

    class Group(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.feats = nn.Sequential(conv(), *(Block() for _ in range(4)), conv())

        def forward(self, x: Tensor) -> Tensor:
            return x + self.feats(x)

    def __init__(self) -> None:
        super().__init__()
        self.group = self.Group()

    def body_of(self, x: Tensor) -> Tensor:
        return self.group(x)


class NestedLists(Base):
    """A list of lists that is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.ModuleList([Block(), Block()]) for _ in range(2))

    def body_of(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x


class Tuples(Base):
    """Blocks that pass on a second tensor and fill a list that they are given (PFT, SPAN)."""

    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.gate = Block(), conv()

        def forward(self, x: Tensor, gate: Tensor, seen: list[Tensor | None]) -> tuple[Tensor, Tensor]:
            before = seen[0]
            x = self.block(x) * torch.sigmoid(gate)
            seen[0] = x if before is None else 0.5 * (x + before)
            return x if before is None else x + 0.1 * before, self.gate(x)

    def __init__(self) -> None:
        super().__init__()
        self.pairs = nn.ModuleList(self.Pair() for _ in range(4))

    def body_of(self, x: Tensor) -> Tensor:
        gate, seen = torch.zeros_like(x), [None]
        for pair in self.pairs:
            x, gate = pair(x, gate, seen)
        return x


class ChannelsLast(Base):
    """Features (N, H, W, C) (MambaIR, GRL)."""

    class LastBlock(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.mix, self.spread = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH), conv()

        def forward(self, x: Tensor) -> Tensor:
            y = self.mix(self.norm(x))
            return x + self.spread(y.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(self.LastBlock() for _ in range(4))

    def body_of(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        for layer in self.layers:
            x = layer(x)
        return x.permute(0, 3, 1, 2)


class Overwriting(Base):
    """Writes into the images it is given, and adds in place (RCAN of its authors)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(Block() for _ in range(4)))

    def body_of(self, x: Tensor) -> Tensor:
        return self.body(x)

    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5).mul_(2)
        first = self.head(x)
        y = self.fuse(self.body(first))
        y += first
        return F.pixel_shuffle(self.tail(y), 2)


class UShape(Base):
    """Two sizes of features, and a skip between the outer blocks (Restormer, Omni-SR)."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(WIDTH, WIDTH, 2, 2), nn.ConvTranspose2d(WIDTH, WIDTH, 2, 2)
        self.encoder, self.decoder = nn.ModuleList([Block(), Block()]), nn.ModuleList([Block(), Block()])
        self.middle = nn.Sequential(Block(), Block())

    def body_of(self, x: Tensor) -> Tensor:
        for block in self.encoder:
            x = block(x)
        x = x + self.up(self.middle(self.down(x)))
        for block in self.decoder:
            x = block(x)
        return x


class UnshuffleFirst(nn.Module):
    """Works at half the size of its images (RRDBNet x2, SAFMN with unshuffle)."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = conv(12), nn.Sequential(*(Block() for _ in range(4)))
        self.tail = conv(WIDTH, 48)

    def forward(self, x: Tensor) -> Tensor:
        first = self.head(F.pixel_unshuffle(x, 2))
        return F.pixel_shuffle(self.tail(self.body(first) + first), 4)


class Reparameterized(Base):
    """In eval mode each block is one convolution that writes in place, one image at a time (PLKSR, SMFANet)."""

    class TwoForms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(), conv(size=1)

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                return x + 0.1 * torch.relu(self.a(x) + self.b(x))
            if len(x) > 1:
                raise RuntimeError('one image at a time')
            weight = self.a.weight + F.pad(self.b.weight, (1, 1, 1, 1))
            y = F.conv2d(x, weight, self.a.bias + self.b.bias, padding=1)
            half = torch.empty_like(x)
            half[:] = torch.relu_(y)
            return x + 0.1 * half

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(self.TwoForms() for _ in range(4)))

    def body_of(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class Checkpointed(Base):
    """Gradient checkpointing around its groups."""

    def __init__(self, use_reentrant: bool = True) -> None:
        super().__init__()
        self.use_reentrant = use_reentrant
        self.body = nn.ModuleList(Block() for _ in range(4))

    def body_of(self, x: Tensor) -> Tensor:
        for index in (0, 2):
            x = checkpoint(lambda y, i=index: self.body[i + 1](self.body[i](y)), x, use_reentrant=self.use_reentrant)
        return x


TRUNKS: dict[Callable[[], nn.Module], list[str]] = {
    Attributes: [f'block_{i}' for i in range(1, 5)],
    ConvAct: [f'body.{i}' for i in range(0, 10, 2)],
    InPlaceConvAct: [f'body.{i}' for i in range(1, 10, 2)],
    OneGroup: [f'group.feats.{i}' for i in range(1, 5)],
    NestedLists: [f'stages.{i}.{j}' for i in (0, 1) for j in (0, 1)],
    Tuples: [f'pairs.{i}' for i in range(4)],
    ChannelsLast: [f'layers.{i}' for i in range(4)],
    Overwriting: [f'body.{i}' for i in range(4)],
    UShape: ['encoder.0', 'encoder.1', 'decoder.0', 'decoder.1'],
    UnshuffleFirst: [f'body.{i}' for i in range(4)],
    Reparameterized: [f'blocks.{i}' for i in range(4)],
    Checkpointed: [f'body.{i}' for i in range(4)],
}
