"""Small networks, each of a shape in which people ship architectures: ×2, at least four blocks, narrow or wide.

Each is built from one argument, whether it is wide. TRUNKS says what a person would tap in them.
"""

from __future__ import annotations

import re

import torch
from benchmarks.architecture_trials import Case
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mipkd_plugin.networks.outputs import select_output

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

    def __init__(self, wide: bool = False) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.head = conv(self.inputs, width)
        self.make_trunk(width)
        self.tail = conv(width, 3 * self.shuffle**2)

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

    def __init__(self, wide: bool = False) -> None:
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


class InPlaceConvAct(ConvAct):
    """The same with activations that overwrite the convolutions."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__(wide)
        for index in range(1, len(self.body), 2):
            self.body[index] = nn.ReLU(inplace=True)


class MixedList(nn.Module):
    """Convolution, blocks and convolution in one Sequential: PLKSR, MoSR, RCAN of its authors."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.feats = nn.Sequential(conv(3, width), *(Block(width) for _ in range(BLOCKS)), conv(width, 3 * SCALE**2))

    def forward(self, lq: Tensor) -> Tensor:
        return F.pixel_shuffle(self.feats(lq) + lq.repeat_interleave(SCALE**2, 1), SCALE)


class PairBlock(Block):
    """Feature and attention in, feature and attention out."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        x = super().forward(pair[0]) + 0.1 * pair[1]
        return x, x.mean((2, 3), keepdim=True)


class Pairs(Net):
    """Blocks hand on a tuple: DCT."""

    def make_trunk(self, width: int) -> None:
        self.layers = nn.ModuleList(PairBlock(width) for _ in range(BLOCKS))

    def trunk(self, x: Tensor) -> Tensor:
        pair = x, torch.zeros_like(x[..., :1, :1])
        for layer in self.layers:
            pair = layer(pair)
        return pair[0]


class FillingBlock(Block):
    """Returns a gate too, and fills a list that it is given."""

    def forward(self, x: Tensor, gate: Tensor, seen: list[Tensor]) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        before = seen[-1]
        seen.append(super().forward(x) * torch.sigmoid(gate))
        return seen[-1] + 0.1 * before, self.conv1(x)


class FilledLists(Net):
    """Blocks return a tuple, and look at a list that the ones before have filled: PFT, SPAN."""

    def make_trunk(self, width: int) -> None:
        self.layers = nn.ModuleList(FillingBlock(width) for _ in range(BLOCKS))

    def trunk(self, x: Tensor) -> Tensor:
        gate, seen = torch.zeros_like(x), [x]
        for layer in self.layers:
            x, gate = layer(x, gate, seen)
        return x


class ChannelsLastBlock(nn.Module):
    """(N, H, W, C) in and out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mix, self.spread = nn.LayerNorm(width), nn.Linear(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.spread(self.mix(self.norm(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


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
        self.stages = nn.ModuleList(nn.ModuleList([Block(width), Block(width)]) for _ in range(BLOCKS // 2))

    def trunk(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            for block in stage:
                x = block(x)
        return x


class Group(nn.Module):
    """Convolution, blocks and convolution, with a skip around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.feats = nn.Sequential(conv(width, width), *(Block(width) for _ in range(BLOCKS)), conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.feats(x)


class OneGroup(Net):
    """One group, the blocks a level deeper: DITN, MAN."""

    def make_trunk(self, width: int) -> None:
        self.groups = nn.Sequential(Group(width))

    def trunk(self, x: Tensor) -> Tensor:
        return self.groups(x)


class InPlaceBlock(Block):
    """Adds its input in place."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x), inplace=True))
        y += x
        return y


class InPlace(Net):
    """Changes its own input batch in place, and the sum behind the trunk: RCAN of its authors."""

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(InPlaceBlock(width) for _ in range(BLOCKS)), conv(width, width))

    def forward(self, lq: Tensor) -> Tensor:
        x = self.head(lq.mul_(255).sub_(100) / 255)
        y = self.trunk(x)
        y += x
        return F.pixel_shuffle(self.tail(y), self.shuffle)


class UShape(nn.Module):
    """Down, latent blocks, up: RealCUGAN, GateR."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__()
        width = 16 if wide else 8
        self.head, self.down = conv(3, width), nn.Conv2d(width, 2 * width, 2, 2)
        self.latent = nn.Sequential(*(Block(2 * width) for _ in range(BLOCKS)))
        self.up, self.tail = nn.ConvTranspose2d(2 * width, width, 2, 2), conv(2 * width, 3 * SCALE**2)

    def forward(self, lq: Tensor) -> Tensor:
        x = self.head(lq)
        return F.pixel_shuffle(self.tail(torch.cat([x, self.up(self.latent(self.down(x)))], 1)), SCALE)


class EncoderDecoder(Net):
    """Blocks on both sides of smaller ones, and a skip around these: Restormer, Omni-SR."""

    def make_trunk(self, width: int) -> None:
        self.encoder, self.decoder = (nn.ModuleList([Block(width), Block(width)]) for _ in range(2))
        self.down, self.up = nn.Conv2d(width, width, 2, 2), nn.ConvTranspose2d(width, width, 2, 2)
        self.middle = nn.Sequential(Block(width), Block(width))

    def trunk(self, x: Tensor) -> Tensor:
        for block in self.encoder:
            x = block(x)
        x = x + self.up(self.middle(self.down(x)))
        for block in self.decoder:
            x = block(x)
        return x


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
    """Convolves half of the channels; in eval mode one image at a time, and it writes the result over them."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        half = y.shape[1] // 2
        weight, bias = self.conv2.weight[:half, :half], self.conv2.bias[:half]
        if self.training:
            y = torch.cat([F.conv2d(y[:, :half], weight, bias, padding=1), y[:, half:]], 1)
        elif len(x) > 1:
            raise RuntimeError('one image at a time')
        else:
            y[:, :half] = F.conv2d(y[:, :half], weight, bias, padding=1)
        return x + y


class WritingInEval(Net):
    """Eval mode writes in place, and cannot be differentiated: PLKSR, SMFANet, ESC."""

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(PartialBlock(width) for _ in range(BLOCKS)))


class Checkpointed(Net):
    """Gradient checkpointing over pairs of blocks: use_checkpoint of SwinIR and its kin."""

    use_reentrant = False

    def trunk(self, x: Tensor) -> Tensor:
        for index in range(0, BLOCKS, 2):
            blocks = self.body[index:index + 2]
            x = checkpoint(blocks, x, use_reentrant=self.use_reentrant) if self.training else blocks(x)
        return x


class CheckpointedReentrant(Checkpointed):
    """The older kind of gradient checkpointing."""

    use_reentrant = True


class Dicts(Net):
    """The output is a dict, and ``output: sr`` in the option file."""

    def __init__(self, wide: bool = False) -> None:
        super().__init__(wide)
        select_output(self, 'sr')

    def forward(self, lq: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        return {'features': lq, 'sr': super().forward(lq)}


def numbered(name: str, numbers: range = range(BLOCKS)) -> list[str]:
    """Paths of blocks: the name with each number in place of ``#``."""
    return [name.replace('#', str(number)) for number in numbers]


TRUNKS: dict[type[nn.Module], list[str]] = {
    Net: numbered('body.#'),
    Attributes: numbered('block_#', range(1, 7)),
    Dense: numbered('B#', range(1, 5)),
    ConvAct: numbered('body.#', range(0, 10, 2)),
    InPlaceConvAct: numbered('body.#', range(1, 10, 2)),
    MixedList: numbered('feats.#', range(1, 5)),
    Pairs: numbered('layers.#'),
    FilledLists: numbered('layers.#'),
    ChannelsLast: numbered('layers.#'),
    NestedLists: ['stages.0.0', 'stages.0.1', 'stages.1.0', 'stages.1.1'],
    OneGroup: numbered('groups.0.feats.#', range(1, 5)),
    InPlace: numbered('body.#'),
    UShape: numbered('latent.#'),
    EncoderDecoder: ['encoder.0', 'encoder.1', 'decoder.0', 'decoder.1'],
    Unshuffle: numbered('body.#'),
    Reparameterizing: numbered('body.#'),
    WritingInEval: numbered('body.#'),
    Checkpointed: numbered('body.#'),
    CheckpointedReentrant: numbered('body.#'),
    Dicts: numbered('body.#'),
}


def pattern(paths: list[str]) -> str:
    """What all of the paths look like: ``#`` for numbers, ``*`` for names that differ."""
    parts = zip(*(re.sub(r'\d+', '#', path).split('.') for path in paths))
    return '.'.join(same[0] if len(set(same)) == 1 else '*' for same in parts)


CASES = [Case(net.__name__, net, (pattern(paths), ), source='stand-in') for net, paths in TRUNKS.items()]
