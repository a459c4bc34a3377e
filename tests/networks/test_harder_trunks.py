"""Trunks that are not blocks of one kind in one row, and what re-entry needs of the layers around them."""

from __future__ import annotations

import pytest
import torch
from stand_ins import TRUNKS as PLAIN_TRUNKS
from stand_ins import Block, FilledLists, Net, Pairs, conv
from torch import Tensor, nn

from mipkd_plugin.networks.dataflow import traced, traced_surely
from mipkd_plugin.networks.inspection import settle
from mipkd_plugin.networks.layouts import Layout, layout_of
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import trunk_of

LQ = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(3))
WIDTH = 8
AROUND = 'the signal also goes around its blocks'


class Base(Net):
    """Of 8 channels, with a global skip."""

    def make_trunk(self, width: int) -> None:
        pass

    def trunk(self, x: Tensor) -> Tensor:
        return self.body_of(x)

    def body_of(self, x: Tensor) -> Tensor:
        raise NotImplementedError


class SeveralWidths(Base):
    """Each block works on another share of the channels (PlainUSR)."""

    class Wide(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = conv(width, width), conv(width, width)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.b(torch.relu(self.a(x)))

    def __init__(self) -> None:
        super().__init__()
        self.outer, self.middle, self.last = self.Wide(8), self.Wide(6), self.Wide(8)

    def body_of(self, x: Tensor) -> Tensor:
        x = self.outer(x)
        return self.last(torch.cat([self.middle(x[:, :6]), x[:, 6:]], 1))


class TwoClasses(Base):
    """Groups that are never called themselves, of two kinds of blocks, each with a skip around it (CATANet)."""

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Block(WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return 0.5 * self.inner(x)

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.ModuleList(nn.ModuleList([self.Wrapped(), Block(WIDTH)]) for _ in range(3))

    def body_of(self, x: Tensor) -> Tensor:
        for first, second in self.groups:
            x = x + second(first(x))
        return x


class GroupsWithMore(Base):
    """Each group ends with a convolution, behind its blocks (CFSR, MoESR)."""

    class Group(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.end = nn.Sequential(Block(WIDTH), Block(WIDTH)), conv(WIDTH, WIDTH)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.end(self.blocks(x))

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Sequential(*(self.Group() for _ in range(3)))

    def body_of(self, x: Tensor) -> Tensor:
        return self.groups(x)


class GroupsInRow(Base):
    """The same without a skip around the group (DITN, SAFMN++)."""

    class Group(GroupsWithMore.Group):
        def forward(self, x: Tensor) -> Tensor:
            return self.end(self.blocks(x))

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Sequential(*(self.Group() for _ in range(3)))

    def body_of(self, x: Tensor) -> Tensor:
        return self.groups(x)


class Dense(Base):
    """Each block gets all that came before (DCTLSA); inside, it has a chain of its own."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.blocks(x)

    def __init__(self) -> None:
        super().__init__()
        self.B1, self.B2, self.B3, self.B4 = self.Inner(), self.Inner(), self.Inner(), self.Inner()
        self.joins = nn.ModuleList(conv(count * WIDTH, WIDTH, 1) for count in (2, 3, 4))

    def body_of(self, x: Tensor) -> Tensor:
        found = [x, self.B1(x)]
        for join, block in zip(self.joins, (self.B2, self.B3, self.B4)):
            found.append(block(join(torch.cat(found, 1))))
        return found[-1]


class Guided(Base):
    """A small network looks at the image and steers each block (MMRealSR)."""

    class Affine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Linear(WIDTH, WIDTH)

        def forward(self, x: Tensor, guide: Tensor) -> Tensor:
            return x * torch.sigmoid(self.scale(guide))[..., None, None]

    def __init__(self) -> None:
        super().__init__()
        self.guide = nn.Sequential(conv(WIDTH, WIDTH), nn.ReLU())
        self.body = nn.ModuleList(Block(WIDTH) for _ in range(4))
        self.affine = nn.ModuleList(self.Affine() for _ in range(4))

    def body_of(self, x: Tensor) -> Tensor:
        guide = self.guide(x.detach() + 0.5).mean((2, 3)) + self.guide_of(x)
        for block, affine in zip(self.body, self.affine):
            x = affine(block(x), guide)
        return x

    def guide_of(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class PassesOn(Base):
    """A layer without effect whose output is used at the end (KRGN); a dense end."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Identity()
        self.body = nn.ModuleList(Block(WIDTH) for _ in range(3))
        self.join = conv(4 * WIDTH, WIDTH, 1)

    def body_of(self, x: Tensor) -> Tensor:
        found = [self.act(x)]
        for block in self.body:
            found.append(block(found[-1]))
        return self.join(torch.cat(found, 1)) + x


class Padding(Base):
    """Feature maps larger than the image: padded to windows, always by one (CRAFT)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        padded = nn.functional.pad(x, (0, 4, 0, 4), mode='reflect')
        return super().forward(padded)[:, :, :2 * height, :2 * width]

    def body_of(self, x: Tensor) -> Tensor:
        return self.layers(x)


class TwoBlocks(Base):
    """As few blocks as there are, with more layers in them."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(WIDTH), Block(WIDTH))

    def body_of(self, x: Tensor) -> Tensor:
        return self.body(x)


class TwoGroups(Base):
    """Two groups of five blocks (RCAN with two groups, RRDBNet with two blocks)."""

    class Group(GroupsWithMore.Group):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(5)))

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Sequential(self.Group(), self.Group())

    def body_of(self, x: Tensor) -> Tensor:
        return self.groups(x)


class PaddingWithBranches(Padding):
    """The same; most work of each block is done on a smaller map."""

    class Branched(Block):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.small = nn.Sequential(*(Block(width) for _ in range(6)))

        def forward(self, x: Tensor) -> Tensor:
            small = self.small(nn.functional.avg_pool2d(x, 2))
            return super().forward(x) + nn.functional.interpolate(small, scale_factor=2.0)

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(self.Branched(WIDTH) for _ in range(3)))


def paths(*names: str, of: int) -> list[str]:
    return [name.replace('#', str(index)) for index in range(of) for name in names]


TRUNKS: dict[type[nn.Module], tuple[list[str], str]] = {
    SeveralWidths: (['outer', 'middle', 'last'], AROUND),
    TwoClasses: (paths('groups.#.0', 'groups.#.1', of=3), AROUND),
    GroupsWithMore: (paths('groups.#', of=3), ''),
    GroupsInRow: (paths('groups.#', of=3), ''),
    Dense: (['B1', 'B2', 'B3', 'B4'], AROUND),
    Guided: (paths('body.#', of=4), AROUND),
    PassesOn: (paths('body.#', of=3), ''),
    Padding: (paths('layers.#', of=3), ''),
    PaddingWithBranches: (paths('layers.#', of=3), ''),
    TwoBlocks: (paths('body.#', of=2), ''),
    TwoGroups: (paths('groups.#', of=2), '')}
CASES = pytest.mark.parametrize('make', TRUNKS, ids=lambda make: make.__name__)


@CASES
def test_the_trunk_is_what_a_person_would_tap_and_a_doubt_is_said(make: type[nn.Module]) -> None:
    chain = trunk_of(make(), LQ)
    assert (chain.paths, chain.doubt) == TRUNKS[make]


def test_a_single_layer_is_a_trunk_in_doubt() -> None:
    class Repeats(Base):
        def __init__(self) -> None:
            super().__init__()
            self.block, self.fuse = Block(WIDTH), conv(WIDTH, WIDTH)

        def body_of(self, x: Tensor) -> Tensor:
            return self.fuse(self.block(self.block(self.block(x))))

    chain = trunk_of(Repeats(), LQ)
    assert chain.doubt == 'it is a single layer, as no blocks in a row were found that run once each'


@CASES
@pytest.mark.parametrize('frozen', [False, True])
def test_features_reenter(make: type[nn.Module], frozen: bool) -> None:
    taps, _ = TRUNKS[make]
    with TappedNet(make(), taps, frozen=frozen) as tapped:
        assert settle(tapped, LQ[:1], taps) == ''
        run = tapped(LQ)
        for path in taps:
            assert tapped.finish(LQ, path, run.features[path]).equal(run.output)


@pytest.mark.parametrize('frozen', [False, True])
@pytest.mark.parametrize('make', [Pairs, FilledLists])
def test_a_feature_reenters_a_tuple_also_where_no_run_over_these_images_is_known(make: type[Net], frozen: bool) -> None:
    taps = PLAIN_TRUNKS[make]
    with TappedNet(make(), taps, frozen=frozen) as tapped:
        tapped.prepare(LQ, taps)
        run = tapped(LQ)
        for path, until in zip(taps, [*taps[1:], None]):
            assert tapped.finish(LQ.clone(), path, run.features[path]).equal(run.output)
            if until is not None:
                assert tapped.segment(run.features[path], path, until, LQ.clone()).equal(run.features[until])
            noise = torch.randn_like(run.features[path])
            assert not tapped.finish(LQ.clone(), path, noise).allclose(run.output)


def test_a_feature_without_values_is_a_map_if_that_is_possible() -> None:
    assert layout_of(torch.empty(2, 8, 8, 8, device='meta'), (2, 3, 8, 8)) == Layout('map', 8, 8)


@pytest.mark.parametrize(('shape', 'grid'), [((2, 12 * 18, 16), (12, 18)), ((2, 11 * 12, 16), None),
                                             ((2, 16 * 24, 16), (16, 24))])
def test_tokens_of_a_padded_image_are_read_in_its_proportion(shape: tuple[int, ...],
                                                             grid: tuple[int, int] | None) -> None:
    expected = None if grid is None else Layout('tokens', *grid)
    assert layout_of(torch.rand(shape), (2, 3, 8, 12)) == expected


class Checkered(Base):
    """Feature maps of as many channels as rows and columns, whose channels are more alike than their pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))

    def body_of(self, x: Tensor) -> Tensor:
        rows, columns = torch.arange(x.shape[2])[:, None], torch.arange(x.shape[3])
        return self.body(x.mean(1, keepdim=True) + 10.0 * ((rows + columns) % 2).expand_as(x))


def test_as_many_channels_as_pixels_in_a_row_are_not_mistaken_for_pixels() -> None:
    lq = torch.rand(1, 3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    net = Checkered()
    guessed, sure = (trace.call('body.1').layout for trace in (traced(net, lq), traced_surely(net, lq)))
    assert guessed == Layout('last', WIDTH, WIDTH), 'this test needs a feature that is misread alone'
    assert sure == Layout('map', WIDTH, WIDTH)
    assert trunk_of(net, lq).paths == paths('body.#', of=3)


def test_a_padded_map_of_as_many_channels_as_rows_is_a_map() -> None:
    """8 channels of 12×16 for images of 8×12 are no 8×12 pixels of 16 channels."""
    net = Padding()
    assert {call.layout.kind for call in traced_surely(net, LQ).calls if call.layout is not None} == {'map'}
    with TappedNet(net, ['layers.1']) as tapped:
        assert tapped.probe(LQ)[0]['layers.1'].channels == WIDTH
        assert tapped(LQ).features['layers.1'].shape == (2, WIDTH, 12, 16)


def test_a_layout_that_only_one_size_gives_stays_a_guess() -> None:
    class Square(Checkered):
        def forward(self, x: Tensor) -> Tensor:
            assert x.shape[2] == x.shape[3], 'this network takes squares alone'
            return super().forward(x)

    lq = torch.rand(1, 3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(1))
    assert traced_surely(Square(), lq).call('body.1').layout == Layout('last', WIDTH, WIDTH)


class PerChannel(Base):
    """A table that depends on the images, of an even number of rows, and none for each image."""

    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.detach().mean((0, 2, 3)).view(4, 2)

    def __init__(self) -> None:
        super().__init__()
        self.table = self.Table()
        self.body = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))

    def body_of(self, x: Tensor) -> Tensor:
        return self.body(x * (1 + 0 * self.table(x).view(1, 8, 1, 1)))


@pytest.mark.parametrize('samples', [1, 2, 3, 4, 6])
def test_what_has_no_batch_dimension_keeps_its_shape(samples: int) -> None:
    lq = torch.rand(samples, 3, 8, 12)
    with TappedNet(PerChannel(), ['body.1'], frozen=True) as tapped:
        run = tapped(lq)
        assert tapped.finish(lq, 'body.1', run.features['body.1']).equal(run.output)


class LateChange(Base):
    """What much work has made is used at the end, and changed in place before (by the blocks that re-enter too)."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))
        self.body = nn.Sequential(Block(WIDTH), Block(WIDTH), Block(WIDTH))

    def body_of(self, x: Tensor) -> Tensor:
        first = self.before(x)
        found = self.body(first + 0)
        first += 1
        return found + first


def test_an_answer_that_is_changed_in_place_later_is_made_again() -> None:
    with TappedNet(LateChange(), ['body.1'], frozen=True) as tapped:
        tapped.prepare(LQ, ['body.1'])
        run = tapped(LQ)
        for _ in range(3):
            assert tapped.finish(LQ, 'body.1', run.features['body.1']).equal(run.output)


def test_a_run_with_other_weights_gives_no_answers() -> None:
    taps = PLAIN_TRUNKS[FilledLists]
    with TappedNet(FilledLists(), taps, frozen=True) as tapped:
        tapped.prepare(LQ, taps)
        run = tapped(LQ)
        other = tapped(LQ, {name: 2 * weight for name, weight in tapped.net.named_parameters()})
        assert tapped.finish(LQ, taps[1], run.features[taps[1]]).equal(run.output)
        assert not other.output.equal(run.output)
