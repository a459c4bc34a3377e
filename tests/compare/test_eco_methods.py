"""ECO as a method of a comparison: alone, beside losses, in the times, and in the files of others."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import REPO, several_teachers
from training import comparison_options, write_options

from mipkd_plugin import OptionError, config
from mipkd_plugin.compare import read_comparison, step_times
from mipkd_plugin.compare.methods import method_text, same_method
from mipkd_plugin.compare.parts import new_crops, parts_of
from mipkd_plugin.compare.step_times import Bench, measure
from mipkd_plugin.config.remedies import REMOVE

Make = Callable[..., dict[str, Any]]
LOGITS = {'type': 'LogitsKDLoss'}
METHODS = {'eco': {'eco': {'end_ratio': 0.5}}, 'logits_eco': {'losses': LOGITS, 'eco': {'mode': 'hr_only'}}}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


def read(make: Make, root: Path, methods: Any, **train: Any) -> Any:
    opt = comparison_options(make())
    opt['compare']['methods'] = {'logits': LOGITS, **methods}
    opt['train'].update(train)
    return read_comparison(config.read_options(write_options(opt, root / 'compare.yml')))


def test_a_method_may_be_eco_alone(train_options: Make, tmp_path: Path) -> None:
    comparison = read(train_options, tmp_path, METHODS)
    assert comparison.protocol_hash == read(train_options, tmp_path, {}).protocol_hash, 'the other rows stay'
    found = {trial.method: trial.options for trial in comparison.trials}
    assert found['eco']['train']['eco'] == {'end_ratio': 0.5}
    assert 'distill_opt' not in found['eco']['train']
    assert found['eco']['model_type'] == 'DistillModel'
    assert found['logits_eco']['train']['distill_opt'] == LOGITS
    for other in ('none', 'logits'):
        assert 'eco' not in found[other]['train']
    assert json.loads(comparison.losses['eco']) == {'eco': {'end_ratio': 0.5, 'mode': 'full'}}


def test_a_schedule_that_methods_share_is_none_of_a_method_without_losses(train_options: Make, tmp_path: Path) -> None:
    comparison = read(train_options, tmp_path, METHODS, eco=None, distill={'every': 2})
    found = {trial.method: trial.options['train'] for trial in comparison.trials}
    assert [name for name in found if 'distill' in found[name]] == ['logits', 'logits_eco']
    assert [name for name in found if 'eco' in found[name]] == ['eco', 'logits_eco']


@pytest.mark.parametrize('eco', [{'end_ratio': 0.5}, {}, {'end_ratio': 2}, 'full'])
def test_methods_share_no_eco(train_options: Make, tmp_path: Path, eco: Any) -> None:
    """Rows would say that a method has losses alone, and of a control that it has no teacher."""
    with pytest.raises(OptionError) as caught:
        read(train_options, tmp_path, {**METHODS, 'augment': {'type': 'AugmentedPixelLoss'}}, eco=eco)
    problem, = caught.value.problems
    assert problem.where == 'train.eco'
    assert 'belongs to the methods of a comparison, each of which has its own eco' in str(problem)
    assert 'compare.methods.NAME.eco' in problem.remedy
    assert problem.fix == {'train.eco': REMOVE}


def test_a_default_that_is_written_out_is_the_same_method() -> None:
    full = method_text({'eco': {'end_ratio': 0.75, 'mode': 'full'}})
    assert same_method(full, method_text({'eco': {}}))
    assert same_method('{"eco": {}}', full)
    assert not same_method(full, method_text({'eco': {'end_ratio': 0.5}}))
    assert not same_method(method_text(LOGITS), method_text({'losses': LOGITS, 'eco': {}}))


@pytest.mark.parametrize(('method', 'place', 'what'), [
    ({'eco': {'end_ratio': 0}}, 'eco.end_ratio (line', 'must be above 0, got 0'),
    ({'eco': {'mod': 'full'}}, 'eco.mod (line', 'is not an option of eco'),
    ({'eco': True}, 'eco (line', 'must be a block of keys, or ~, not True'),
    ({'eco': {}, 'distill': {'until': 0.5}}, 'distill (line', 'is for the losses of train.distill_opt'),
    ({'eco': {}, 'type': 'LogitsKDLoss'}, 'type (line', 'unknown key'),
    ({'eco': None, 'distill': {}}, '', 'has neither losses nor eco')])
def test_mistakes_have_their_place_in_the_comparison(train_options: Make, tmp_path: Path, method: Any, place: str,
                                                     what: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(train_options, tmp_path, {'cheap': method})
    assert len(caught.value.problems) == 1, caught.value
    assert f'compare.methods.cheap.{place}'.rstrip('.') in str(caught.value)
    assert what in str(caught.value)


def test_of_several_teachers_it_keeps_the_first(train_options: Make, image_pairs: Path, tmp_path: Path) -> None:
    """Its images are those of the same teacher, whatever the losses beside it learn from."""
    opt, second = comparison_options(train_options()), {**LOGITS, 'teacher': 'swinir'}
    opt['teachers'] = several_teachers(image_pairs)
    del opt['teacher']
    opt['compare']['methods'] = {'second': second, 'eco': {'eco': {}}, 'both': {'losses': second, 'eco': {}},
                                 'off': {'losses': second, 'eco': None}}
    found = {trial.method: [teacher['name'] for teacher in trial.options.get('teachers', ())] for trial in
             read_comparison(config.read_options(write_options(opt, tmp_path / 'compare.yml'))).trials}
    assert found == {'none': [], 'second': ['swinir'], 'eco': ['edsr'], 'both': ['edsr', 'swinir'], 'off': ['swinir']}


# ---------------------------------------------------------------------------------------------------------- times
def timed(losses: Any, total: int = 1000, **train: Any) -> dict[str, Any]:
    found = {'train': {'total_iter': total, **train}}
    return {**found, 'train': {**found['train'], 'distill_opt': losses}} if losses else found


@pytest.mark.parametrize(('losses', 'train', 'found'), [
    (None, {'eco': {}}, [(20, 1, 0.749, 0)]),
    (None, {'eco': {'end_ratio': 1e-3}}, [(20, 1, 0.0, 0)]),
    (LOGITS, {'eco': {}}, [(20, 1, 0.749, 0), (20, 1, 0.251, 749)]),
    (LOGITS, {'eco': {'end_ratio': 0.5}, 'distill': {'until': 0.25, 'every': 2}}, [(40, 1, 0.25, 0),
                                                                                   (40, 1, 0.249, 250)]),
    (LOGITS, {'eco': {'end_ratio': 0.01}}, [(9, 1, 0.009, 0), (20, 1, 0.991, 9)])])
def test_the_parts_of_a_training(losses: Any, train: dict[str, Any], found: list[Any]) -> None:
    parts = parts_of(timed(losses, **train))
    assert [(part.size, part.every, round(part.share, 6), part.first) for part in parts] == found


def test_the_time_counts_the_teachers_passes(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part by itself: with the second pass of the teacher, with one, and with none."""
    monkeypatch.setattr(step_times, '_ROUNDS', 3)
    opt = comparison_options(train_options())
    del opt['compare']
    control = {**copy.deepcopy(opt), 'model_type': 'SRModel'}
    opt['train']['total_iter'] = 1000
    both, alone = copy.deepcopy(opt), copy.deepcopy(opt)
    both['train'].update(distill_opt=LOGITS, eco={'end_ratio': 0.5})
    alone['train'].update(eco={'end_ratio': 0.5})
    found, of_eco = measure(control, both), measure(control, alone)
    assert (found.until, of_eco.until) == (pytest.approx(1), pytest.approx(0.499))
    assert found.distilling > of_eco.distilling > 1
    assert of_eco.time < of_eco.distilling


@pytest.mark.parametrize(('losses', 'found'), [(None, 50 / 74), ({'type': 'FitNetLoss', 'taps': 2}, 0.5)])
def test_a_cache_meets_new_crops_as_long_as_it_is_asked(train_options: Make, tmp_path: Path, losses: Any,
                                                        found: float) -> None:
    opt = train_options()
    opt['train'].update(total_iter=100, distill_opt=losses, eco={'mode': 'hr_only'})
    if losses is None:
        del opt['train']['distill_opt']
    opt['teacher']['cache'] = 'memory'
    opt['datasets']['train'].update(type='CropPoolDataset', crops=50)
    assert new_crops(opt) == pytest.approx(found)
    bench, runs = Bench(opt, str(tmp_path)), []
    bench.model.teacher.register_forward_hook(lambda *args: runs.append(1))
    bench.run(1)
    runs.clear()
    bench.run(20)
    assert abs(len(runs) - 20 * found) < 1


# ------------------------------------------------------------------------------------------------ files of others
@pytest.mark.parametrize('name', ['small', 'depth', 'compound', 'small_60k'])
def test_the_comparisons_of_the_readme_have_it(name: str) -> None:
    methods = config.read_options(REPO / 'options' / f'compare_EDSR_x2_{name}.yml')['compare']['methods']
    assert methods['eco'] == {'eco': {'end_ratio': 0.75, 'mode': 'full'}}
    if name == 'small_60k':
        assert methods['mipkd_early_eco'] == {**methods['mipkd_early'], **methods['eco']}
    else:
        assert methods['mipkd_eco'] == {'losses': methods['mipkd'], **methods['eco']}
