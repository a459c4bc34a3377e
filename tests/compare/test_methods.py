"""Methods of a comparison that change more than the losses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training import comparison_options, write_options

from mipkd_plugin import OptionError, config
from mipkd_plugin.compare import Comparison, read_comparison
from mipkd_plugin.compare.methods import method_text, same_method, uses_teacher

Make = Callable[..., dict[str, Any]]
LOSS = {'type': 'FitNetLoss', 'taps': 2}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


def read(make: Make, root: Path, **methods: Any) -> Comparison:
    opt = comparison_options(make())
    opt['compare']['methods'] = {'fitnet': LOSS, **methods}
    return read_comparison(config.read_options(write_options(opt, root / 'compare.yml')))


def runs(comparison: Comparison) -> dict[str, dict[str, Any]]:
    return {trial.method: trial.options for trial in comparison.trials}


def test_settings_go_to_their_places_in_the_runs_options(train_options: Make, tmp_path: Path) -> None:
    found = runs(read(train_options, tmp_path, cheap={
        'losses': [LOSS, {'type': 'LogitsKDLoss'}], 'distill': {'until': 0.5}, 'crops': 6,
        'teacher': {'cache': 'memory'}}))
    cheap, fitnet, none = found['cheap'], found['fitnet'], found['none']
    assert cheap['train']['distill_opt'] == [LOSS, {'type': 'LogitsKDLoss'}]
    assert cheap['train']['distill'] == {'until': 0.5}
    assert cheap['teacher'] == {**fitnet['teacher'], 'cache': 'memory'}
    assert (cheap['datasets']['train']['type'], cheap['datasets']['train']['crops']) == ('CropPoolDataset', 6)
    for other in (fitnet, none):
        assert 'distill' not in other['train']
        assert other['datasets']['train']['type'] == 'PairedImageDataset'


def test_what_all_methods_share_is_not_the_controls(train_options: Make, tmp_path: Path) -> None:
    opt = comparison_options(train_options())
    opt['train']['distill'] = {'every': 2}
    found = runs(read_comparison(config.read_options(write_options(opt, tmp_path / 'compare.yml'))))
    assert found['mipkd']['train']['distill'] == {'every': 2}
    assert 'distill' not in found['none']['train']
    for own in ({'until': 0.5}, {}):  # in place of it
        opt['compare']['methods']['mipkd'] = {'losses': LOSS, 'distill': own}
        found = runs(read_comparison(config.read_options(write_options(opt, tmp_path / 'compare.yml'))))
        assert found['mipkd']['train']['distill'] == own


def test_the_protocol_is_the_same_with_and_without_settings(train_options: Make, tmp_path: Path) -> None:
    """A row of the control counts, whatever the methods beside it set."""
    plain = read(train_options, tmp_path)
    settings = read(train_options, tmp_path, cheap={'losses': LOSS, 'crops': 6, 'distill': {'share': 0.5}})
    assert plain.protocol_hash == settings.protocol_hash


def test_a_schedule_that_all_methods_share_is_part_of_the_protocol(train_options: Make, tmp_path: Path) -> None:
    hashes = set()
    for until in (None, 0.25, 0.5):
        opt = comparison_options(train_options())
        if until:
            opt['train']['distill'] = {'until': until}
        path = write_options(opt, tmp_path / 'compare.yml')
        hashes.add(read_comparison(config.read_options(path)).protocol_hash)
    assert len(hashes) == 3


def test_the_text_of_a_method_holds_its_settings(train_options: Make, tmp_path: Path) -> None:
    text = read(train_options, tmp_path, cheap={'losses': LOSS, 'distill': {'every': 2}}).losses
    assert json.loads(text['cheap'])['distill'] == {'every': 2}
    assert json.loads(text['cheap'])['losses'] == json.loads(text['fitnet'])
    assert text['cheap'] != text['fitnet']


def test_a_row_from_before_an_option_existed_still_counts() -> None:
    now = method_text({'type': 'MiPKDLoss', 'taps': 2})
    older = json.loads(now)
    del older[0]['block_every']
    assert same_method(json.dumps(older), now)
    assert same_method(now, json.dumps(older))
    assert not same_method(json.dumps(older), method_text({'type': 'MiPKDLoss', 'taps': 2, 'block_every': 2}))
    assert not same_method(json.dumps([{**older[0], 'taps': 3}]), now)


def test_a_block_of_losses_alone_is_the_same_as_the_losses() -> None:
    assert method_text(LOSS) == method_text([LOSS]) == method_text({'losses': LOSS}) == method_text(
        {'losses': [LOSS], 'init': 'random'})
    assert same_method(json.dumps({'losses': [LOSS]}), method_text(LOSS))
    assert method_text(LOSS) != method_text({'losses': LOSS, 'init': 'teacher_slice'})


def test_a_control_on_a_pool_of_crops_has_a_text_that_can_be_read() -> None:
    text = method_text({'crops': 256, 'init': 'random'})
    assert json.loads(text) == {'crops': 256, 'init': 'random'}
    assert not uses_teacher(text)
    assert same_method(text, text)


@pytest.mark.parametrize(('method', 'place', 'what'), [
    ({'losses': LOSS, 'distil': {}}, 'cheap.distil (line', "did you mean 'distill'?"),
    ({'losses': LOSS, 'distill': {'until': 2}}, 'cheap.distill.until (line', 'must be at most 1, got 2'),
    ({'losses': LOSS, 'distill': {'every': 13}}, 'cheap.distill.every', 'and only the first 12 iterations may'),
    ({'losses': {**LOSS, 'taps': 0}}, 'cheap.losses.taps', 'must be a whole number of at least 1'),
    ({'losses': [LOSS, {'type': 'Logits'}]}, 'cheap.losses[1].type', 'there is no loss'),
    ({'losses': LOSS, 'teacher': {'cache': 'memory'}}, 'cheap.teacher.cache', 'needs crops'),
    ({'losses': LOSS, 'teacher': {'weights': 'x.pth'}}, 'cheap.teacher.weights', 'is the same for all methods'),
    ({'losses': LOSS, 'teacher': {'param_key': 'params'}}, 'cheap.teacher.param_key', 'is the same for all methods'),
    ({'losses': LOSS, 'crops': 0}, 'cheap.crops', 'must be a whole number, 1 or more'),
    ({'losses': []}, 'cheap.losses', 'one loss (a block with type) or a list of them')])
def test_mistakes_have_their_place_in_the_comparison(train_options: Make, tmp_path: Path, method: Any, place: str,
                                                     what: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(train_options, tmp_path, cheap=method)
    assert len(caught.value.problems) == 1, caught.value
    assert f'compare.methods.{place}' in str(caught.value)
    assert what in str(caught.value)
