"""Applying a remedy to options, and its words."""

from __future__ import annotations

from typing import Any

import pytest

from mipkd_plugin.config.remedies import REMOVE, in_words, remedied
from mipkd_plugin.config.suggestions import other_key, other_value


@pytest.mark.parametrize(('opt', 'fix', 'after'), [
    ({'a': 1}, {'a': 2}, {'a': 2}),
    ({'a': 1}, {'a': REMOVE}, {}),
    ({}, {'a.b': REMOVE}, {}),
    ({}, {'a.b.c': 1}, {'a': {'b': {'c': 1}}}),
    ({'a': []}, {'a.b': 1}, {'a': {'b': 1}}),
    ({'a': [{'b': 1}, 2]}, {'a[0].b': 3, 'a[1]': REMOVE}, {'a': [{'b': 3}]}),
    ({'a': [1]}, {'a[4]': REMOVE}, {'a': [1]}),
    ({'x1.5': {'b': 1}, 'x1': 2}, {'x1.5.b': 3}, {'x1.5': {'b': 3}, 'x1': 2}),
    ({'a': {'b.c': 1}}, {'a.b.c': REMOVE}, {'a': {}}),
    ({'a': {'none (equal time)': 1}}, {'a.none (equal time)': REMOVE}, {'a': {}}),
])
def test_apply(opt: dict[str, Any], fix: dict[str, Any], after: dict[str, Any]) -> None:
    before = repr(opt)
    assert remedied(opt, fix) == after
    assert repr(opt) == before


def test_words() -> None:
    assert in_words({'train.a': None, 'b': REMOVE, 'c': {'x': None, 'y': [1]}}) == (
        'write a: ~, and remove b, and write c: {x: ~, y: [1]}')


def test_a_key_that_replaces_another() -> None:
    """As ``--force_yml train:total_itr=5`` is meant."""
    section = {'total_iter': 100, 'total_itr': 5}
    assert other_key('train', 'total_itr', section, ['total_iter'], replaces=True) == (
        "did you mean 'total_iter'?", {'train.total_itr': REMOVE, 'train.total_iter': 5})
    assert 'That is given too' in other_key('train', 'total_itr', section, ['total_iter'])[0]


def test_other_names() -> None:
    assert other_value('a.type', 'EDRS', ['EDSR', 'EDVR']) == ("did you mean 'EDSR'?", {'a.type': 'EDSR'})
    assert other_value('a.type', 'zzz', ['EDSR', 'EDVR']) == ('valid here: EDSR, EDVR', {})
    assert other_key('a', 'gtsize', {'gtsize': 5}, ['gt_size']) == (
        "did you mean 'gt_size'?", {'a.gtsize': REMOVE, 'a.gt_size': 5})
    assert other_key('', 'gtsize', {'gtsize': 5, 'gt_size': 4}, ['gt_size']) == (
        "did you mean 'gt_size'? That is given too: remove this one", {'gtsize': REMOVE})
    assert other_key('a', 'zzz', {'zzz': 5}, ['b', 'c']) == ('remove it; valid here: b, c', {'a.zzz': REMOVE})
