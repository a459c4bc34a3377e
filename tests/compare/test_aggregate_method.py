"""A method of a comparison may learn from an aggregator of several teachers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aggregates import write_aggregate
from helpers import tiny_options
from training import comparison_options

from mipkd_plugin.compare.block import read_comparison
from mipkd_plugin.config import OptionError, Options

MTKD = {'losses': {'type': 'WaveletKDLoss', 'low_weight': 10, 'high_weight': 10}, 'teacher': {'aggregate': 'FILE'}}


def comparison(folder: Path, **methods: Any) -> Options:
    opt = tiny_options(folder)
    comparison_options(opt)
    opt['compare'].update(methods=methods, seeds=[0])
    return Options(opt)


def test_it_learns_from_its_own_teacher_and_the_others_from_theirs(image_pairs: Path) -> None:
    file = str(write_aggregate(image_pairs))
    mtkd = {**MTKD, 'teacher': {'aggregate': file}}
    logits = {'type': 'LogitsKDLoss'}
    both = read_comparison(comparison(image_pairs, logits=logits, mtkd=mtkd))
    teachers = {trial.method: trial.options.get('teacher') for trial in both.trials}
    assert teachers['mtkd'] == {'aggregate': file}
    assert teachers['logits']['weights'] == str(image_pairs / 'teacher.pth')
    assert teachers['none'] is None
    alone = read_comparison(comparison(image_pairs, logits=logits))
    assert both.protocol_hash == alone.protocol_hash, 'rows of other methods stay valid'
    assert read_comparison(comparison(image_pairs, mtkd=mtkd)).protocol_hash == alone.protocol_hash


def test_a_problem_has_its_place_in_the_method(image_pairs: Path) -> None:
    with pytest.raises(OptionError) as refused:
        read_comparison(comparison(image_pairs, mtkd={**MTKD, 'teacher': {'aggregate': 'nothing.pth'}}))
    problem, = refused.value.problems
    assert problem.where == 'compare.methods.mtkd.teacher.aggregate'
    assert 'does not exist' in problem.what
