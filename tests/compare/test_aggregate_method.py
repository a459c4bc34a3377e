"""A method of a comparison may learn from an aggregator of several teachers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from aggregates import whole, write_aggregate, write_teachers
from helpers import tiny_options
from training import comparison_options

from mipkd_plugin.checkpoints.aggregate_file import KEY
from mipkd_plugin.compare.block import read_comparison
from mipkd_plugin.compare.methods import same_method
from mipkd_plugin.compare.schema import compare_schema
from mipkd_plugin.config import OptionError, Options
from mipkd_plugin.config.aggregate import digest_of
from mipkd_plugin.config.check import check_options
from mipkd_plugin.config.remedies import REMOVE

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


@pytest.mark.parametrize('key', ['params', 'params_ema'])
def test_it_may_say_which_weights_of_its_file(image_pairs: Path, key: str) -> None:
    """The key of the block ``teacher`` is for the file of that, and this one holds two sets of weights."""
    path = write_aggregate(image_pairs)
    mtkd = {**MTKD, 'teacher': {'aggregate': str(path), 'param_key': key}}
    found = read_comparison(comparison(image_pairs, mtkd=mtkd))
    run = next(trial.options for trial in found.trials if trial.method == 'mtkd')
    assert run['teacher'] == mtkd['teacher']
    net = check_options(Options(run), is_train=True, probe='none').built.teachers[''].eval()
    with torch.no_grad():
        image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(net(image), whole(path, write_teachers(image_pairs), key)(image))
    assert json.loads(found.losses['mtkd'])['teacher']['sha256'] == digest_of(mtkd['teacher'])
    assert not same_method(found.losses['mtkd'], read_comparison(comparison(image_pairs, mtkd={
        **MTKD, 'teacher': {'aggregate': str(path), 'param_key': 'params' + '_ema' * (key == 'params')}}),
        probe='none').losses['mtkd'])


@pytest.mark.parametrize(('teacher', 'taken'), [
    ({'aggregate': 'x.pth', 'param_key': 'params'}, True), ({'param_key': 'params'}, False),
    ({'aggregate': 'x.pth', 'weights': 'y.pth'}, False)])
def test_the_schema_for_editors_says_the_same(teacher: dict[str, str], taken: bool) -> None:
    jsonschema = pytest.importorskip('jsonschema', reason='jsonschema is not installed: pip install jsonschema')
    settings = compare_schema()['properties']['methods']['additionalProperties']['then']
    assert jsonschema.Draft202012Validator(settings['properties']['teacher']).is_valid(teacher) is taken


@pytest.mark.parametrize(('entries', 'where', 'what', 'fix'), [
    ({'param_key': 'param'}, 'param_key', "'param' is not in ", {'param_key': 'params'}),
    ({'param_key': 5}, 'param_key', 'must be a string', {'param_key': 'params'}),
    ({'weights': 'x.pth', 'param_key': 'params'}, 'weights', 'stands in the file that aggregate names',
     {'weights': REMOVE})])
def test_what_does_not_fit_its_own_teacher(image_pairs: Path, entries: dict[str, str], where: str, what: str,
                                           fix: dict[str, Any]) -> None:
    mtkd = {**MTKD, 'teacher': {'aggregate': str(write_aggregate(image_pairs)), **entries}}
    with pytest.raises(OptionError) as refused:
        read_comparison(comparison(image_pairs, mtkd=mtkd))
    problem, = refused.value.problems
    home = 'compare.methods.mtkd.teacher'
    assert problem.where == f'{home}.{where}'
    assert what in problem.what
    assert problem.fix == {f'{home}.{key}': value for key, value in fix.items()}


def test_rows_of_another_aggregator_are_not_its_own(image_pairs: Path) -> None:
    """Its file may be replaced under the same name: the weights count, not what else the file holds."""
    path = write_aggregate(image_pairs)
    mtkd = {**MTKD, 'teacher': {'aggregate': str(path)}}

    def text() -> str:
        return read_comparison(comparison(image_pairs, mtkd=mtkd), probe='none').losses['mtkd']

    before, content = text(), torch.load(path, weights_only=True)
    torch.save({**content, 'params': content['params_ema']}, path)
    assert same_method(before, text()), 'params_ema is the teacher'
    torch.save({**content, 'params_ema': content['params']}, path)
    assert not same_method(before, text())
    torch.save({**content, KEY: content[KEY].replace('"name": "rcan"', '"name": "other"')}, path)
    assert same_method(before, text())
    record = json.loads(content[KEY])
    record['teachers'][0]['sha256'], record['teachers'][0]['weights'] = record['teachers'][1]['sha256'], 'x.pth'
    torch.save({**content, KEY: json.dumps(record)}, path)
    assert digest_of(mtkd['teacher']) != json.loads(before)['teacher']['sha256'], 'other teachers behind it'


def test_what_belongs_to_the_teacher_of_the_file_is_not_handed_on(image_pairs: Path) -> None:
    path = write_aggregate(image_pairs)
    opt = comparison(image_pairs, logits={'type': 'LogitsKDLoss'}, mtkd={**MTKD, 'teacher': {'aggregate': str(path)}})
    opt['teacher'] = {'aggregate': str(path), 'files': {'edsr': str(image_pairs / 'edsr.pth')}, 'dtype': 'bfloat16'}
    teachers = {trial.method: trial.options.get('teacher') for trial in read_comparison(opt, probe='none').trials}
    assert teachers['mtkd'] == {'aggregate': str(path), 'dtype': 'bfloat16'}
    assert 'files' in teachers['logits']


@pytest.mark.parametrize('own', [{}, {'cache': 'answers.lmdb'}])
def test_it_does_not_share_the_cache_of_the_other_teacher(image_pairs: Path, own: dict[str, str]) -> None:
    """The second run of the two would fail at its start, after hours of the first."""
    mtkd = {**MTKD, 'teacher': {'aggregate': str(write_aggregate(image_pairs)), **own}}
    opt = comparison(image_pairs, logits={'type': 'LogitsKDLoss'}, mtkd=mtkd)
    opt['datasets']['train'].update(type='CropPoolDataset', crops=4)
    opt['teacher']['cache'] = 'answers.lmdb'
    with pytest.raises(OptionError) as refused:
        read_comparison(opt, probe='none')
    problem, = refused.value.problems
    assert problem.fix == {'compare.methods.mtkd.teacher.cache': 'answers_mtkd.lmdb'}
    mtkd['teacher']['cache'] = 'answers_mtkd.lmdb'
    read_comparison(opt, probe='none')


@pytest.mark.parametrize('changed', [{'aggregate': 'other.pth'}, {'name': 'other'}])
def test_a_method_cannot_exchange_a_teacher_of_the_list(image_pairs: Path, changed: dict[str, str]) -> None:
    opt = comparison(image_pairs, wavelet={'losses': {'type': 'WaveletKDLoss'}, 'teachers': {'all': changed}})
    del opt['teacher']
    opt['teachers'] = [{'name': 'all', 'aggregate': str(write_aggregate(image_pairs))}]
    with pytest.raises(OptionError) as refused:
        read_comparison(opt, probe='none')
    problem, = refused.value.problems
    assert problem.where == f'compare.methods.wavelet.teachers.all.{next(iter(changed))}'
    assert 'is the same for all methods' in problem.what
