"""docs/reproducing.md: each test that it names is there, and what it calculates is so."""

from __future__ import annotations

import ast
import itertools
import math
import re

import numpy as np
import pytest
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO

from mipkd_plugin.config.registered import lookup

PAGE = (REPO / 'docs' / 'reproducing.md').read_text(encoding='utf-8')
ROWS = [[cell.strip() for cell in line.strip('|').split(' | ')] for line in PAGE.splitlines() if line[:2] == '| '][1:]
NAMED = sorted({(row[0].split()[0], *found) for row in ROWS
                for found in re.findall(r'`(tests/[\w/]+\.py)::(\w+)`', ' '.join(row))})
LOSS_OF = {'MTKD': 'WaveletKDLoss', 'DCKD': 'DCKDLoss'}
"""A method that this version lacks has no tests either."""


def test_the_page_names_tests() -> None:
    assert len(ROWS) >= 15
    assert all('`tests/' in row[-1] or 'we have none of the three' in row[2] for row in ROWS)
    assert {'MTKD', 'DCKD', 'DUKD', 'FAKD', 'FitNet', 'AT', 'RKD'} <= {row[0].split()[0].strip(',') for row in ROWS}
    assert PAGE.count('`tests/') == PAGE.count('::test_') + PAGE.count('`tests/test_reproducing.py`')


@pytest.mark.parametrize(('method', 'file', 'name'), NAMED)
def test_each_named_test_is_there(method: str, file: str, name: str) -> None:
    loss = LOSS_OF.get(method)
    if loss is not None and lookup(LOSS_REGISTRY, loss) is None:
        pytest.skip(f'this version has no {loss}')
    tree = ast.parse((REPO / file).read_text(encoding='utf-8'))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def masked(side: int, transformed: bool, window: int = 8, shift: int = 4) -> np.ndarray:
    """Share of masked pairs by window (rows, columns), with the DCT-II of each window taken before or not."""
    regions, parts = np.zeros((side, side)), (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for number, (rows, columns) in enumerate(itertools.product(parts, parts)):
        regions[rows, columns] = number
    windows = regions.reshape(side // window, window, side // window, window).transpose(0, 2, 1, 3)
    if transformed:
        k, n = np.mgrid[:window, :window]
        matrix = 2 * np.cos(math.pi * (2 * n + 1) * k / (2 * window))
        windows = matrix @ windows @ matrix.T
    flat = windows.reshape(*windows.shape[:2], -1)
    return (np.abs(flat[..., :, None] - flat[..., None, :]) > 1e-6).mean((2, 3))


@pytest.mark.parametrize(('side', 'found', 'right'), [(64, 15.6, 51.7), (32, 16.5, 53.6), (16, 18.6, 58.3)])
def test_the_share_of_masked_pairs(side: int, found: float, right: float) -> None:
    edge = np.ones((side // 8, side // 8), dtype=bool)
    edge[:-1, :-1] = False
    for transformed, share in ((True, found), (False, right)):
        shares = masked(side, transformed)
        assert 100 * shares[edge].mean() == pytest.approx(share, abs=0.05)
        assert shares[~edge].sum() == 0
        assert f'**{share} %**' in PAGE or f'{share} %' in PAGE
    assert masked(side, True)[-1, -1] == pytest.approx(0.259, abs=5e-4)
    assert masked(side, True)[0, -1] == pytest.approx(0.149, abs=5e-4)


def test_the_share_of_samples_that_an_inverse_in_forward_order_turns() -> None:
    image, wrong = np.arange(12.0).reshape(3, 4), 0.0
    for steps in itertools.product((False, True), repeat=3):
        def forward(x: np.ndarray, steps: tuple[bool, ...] = steps) -> np.ndarray:
            x = x[::-1] if steps[0] else x
            x = x[:, ::-1] if steps[1] else x
            return x.T if steps[2] else x

        again = forward(forward(image))
        if not np.array_equal(again, image):
            assert np.array_equal(again, image[::-1, ::-1])
            wrong += math.prod(0.3 if chosen else 0.7 for chosen in steps)
    assert wrong == pytest.approx(0.126)
    assert '12.6 %' in PAGE


def test_what_a_second_softmax_leaves() -> None:
    classes = 1024
    largest = math.e / (math.e + classes - 1)
    assert 100 * largest == pytest.approx(0.27, abs=0.005)
    assert -math.log(largest) == pytest.approx(5.93, abs=0.005)
    assert math.log(classes) == pytest.approx(6.93, abs=0.005)
