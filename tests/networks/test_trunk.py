"""Where taps go when nobody says."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS, blocks_of
from torch import nn

from mipkd_plugin import DistillationLoss
from mipkd_plugin.networks.chains import Chain
from mipkd_plugin.networks.trace import Call
from mipkd_plugin.networks.trunk import TapError, resolve_taps, trunk_of

LQ = torch.rand(1, 3, 8, 8)


def equal_blocks(count: int) -> Chain:
    """A trunk whose blocks do the same work; their paths are their numbers."""
    calls = [Call(str(index), nn.Identity(), 0, -1, index, (100 * index, 100 * index + 100)) for index in range(count)]
    return Chain(tuple(calls), (100, ) * count)


@pytest.mark.parametrize(('arch', 'path', 'count'), [
    ('EDSR', 'body', 5), ('RCAN', 'body', 4), ('SwinIR', 'layers', 4), ('RRDBNet', 'body', 4)])
def test_trunk(arch: str, path: str, count: int) -> None:
    chain = trunk_of(build_network(TEACHERS[arch]), LQ)
    assert (chain.name, chain.paths) == (path, [f'{path}.{i}' for i in range(count)])
    assert chain.doubt == ''


def test_trunk_of_twelve_blocks_is_in_network_order() -> None:
    blocks = blocks_of(build_network({**TEACHERS['EDSR'], 'num_block': 12}))
    assert blocks[2] == 'body.2'
    assert blocks[10] == 'body.10'


@pytest.mark.parametrize(('blocks', 'taps', 'expected'), [
    (32, 4, [7, 15, 23, 31]), (5, 3, [1, 2, 4]), (6, 4, [1, 2, 4, 5]), (4, 4, [0, 1, 2, 3]), (10, 1, [9])])
def test_evenly_spaced_over_equal_blocks(blocks: int, taps: int, expected: list[int]) -> None:
    assert equal_blocks(blocks).spaced(taps) == [str(index) for index in expected]


@pytest.mark.parametrize('blocks', range(1, 40))
def test_evenly_spaced_ends_at_the_last_block_and_never_repeats(blocks: int) -> None:
    for taps in range(1, blocks + 1):
        indices = [int(path) for path in equal_blocks(blocks).spaced(taps)]
        assert indices[-1] == blocks - 1
        assert indices[0] >= 0
        assert len(set(indices)) == taps


def test_number_of_taps_over_different_architectures() -> None:
    pairs = resolve_taps(2, build_network(STUDENTS['SwinIR']), build_network(TEACHERS['EDSR']), LQ)
    assert pairs == [('layers.1', 'body.2'), ('layers.2', 'body.4')]


def test_all_problems_of_a_list_are_named() -> None:
    student, teacher = build_network(STUDENTS['EDSR']), build_network(TEACHERS['EDSR'])
    with pytest.raises(TapError) as caught:
        resolve_taps([['body.0', 'body.9'], ['boby.1', 'body.4'], ['body.0', 'body.1']], student, teacher, LQ)
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0] == "tap 'boby.1' does not exist in the student EDSR; did you mean 'body.1'?"
    assert caught.value.problems[1] == "tap 'body.0' of the student is given twice"
    assert "tap 'body.9' does not exist in the teacher EDSR; did you mean 'body." in caught.value.problems[2]


@pytest.mark.parametrize(('taps', 'message'), [
    (0, 'taps: 0 is not between 1 and 3'),
    (4, "taps: 4 is not between 1 and 3, the number of blocks in the trunk 'body' of the student EDSR"),
])
def test_a_number_of_taps_that_does_not_fit(taps: int, message: str) -> None:
    with pytest.raises(TapError, match=message):
        resolve_taps(taps, build_network(STUDENTS['EDSR']), build_network(TEACHERS['EDSR']), LQ)


@pytest.mark.parametrize(('taps', 'message'), [
    ([], 'the list is empty'), ('body.1', 'must be a whole number of at least 1, or a list of'),
    (True, 'must be a whole number'),
    ([['body.1']], r"the entry \['body.1'\] is not such a pair"),
    (['body.1', 'body.2'], "the entry 'body.1' is not such a pair")])
def test_a_loss_refuses_taps_of_another_form(taps: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DistillationLoss(taps)


def test_network_without_trunk() -> None:
    with pytest.raises(TapError, match='Conv2d has no blocks in a row to place taps on'):
        trunk_of(nn.Conv2d(3, 3, 1), LQ)
