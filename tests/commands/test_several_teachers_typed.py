"""Several teachers on the command line: check, taps, report, show, upscale; and in a comparison."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from helpers import several_teachers
from training import comparison_options, typed, write_options

from mipkd_plugin import config
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.config import check_options

Make = Callable[..., dict[str, Any]]
LOGITS = {'type': 'LogitsKDLoss'}
FROM_SWINIR = {**LOGITS, 'teacher': 'swinir'}


@pytest.fixture
def opt(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Two teachers, whose networks are not written."""
    monkeypatch.chdir(tmp_path)
    opt = train_options()
    del opt['teacher']
    opt['teachers'] = [{key: entry[key] for key in ('name', 'weights')} for entry in several_teachers(tmp_path)]
    opt['train']['distill_opt'] = [{'type': 'FitNetLoss', 'taps': 2}, FROM_SWINIR]
    write_options(opt, Path('x.yml'))
    return opt


@pytest.fixture
def student(opt: dict[str, Any]) -> str:
    torch.save({'params': build_network(dict(opt['network_g'])).state_dict()}, 'net_g_1.pth')
    return 'net_g_1.pth'


def test_check_shows_each_teacher_and_who_learns_from_it(opt: dict[str, Any]) -> None:
    found = typed('check', '-opt', 'x.yml')
    assert found.returncode == 0, found.stderr
    for line in ('  teacher  edsr: EDSR, 20,283 parameters', '  teacher  swinir: SwinIR, 15,142 parameters',
                 'loss     FitNetLoss from teacher edsr, 216 parameters',
                 'loss     LogitsKDLoss from teacher swinir, 0', '           - name: swinir', 'l_fitnet ', 'l_logits '):
        assert line in found.stdout, line


def test_taps_lists_each_teacher(opt: dict[str, Any]) -> None:
    found = typed('taps', '-opt', 'x.yml').stdout
    for line in ('student EDSR, ', 'teacher edsr EDSR, ', 'teacher swinir SwinIR, ',
                 'taps: 2 of teacher edsr means [body.1, body.2], [body.2, body.4]',
                 'taps: 2 of teacher swinir means [body.1, layers.1], [body.2, layers.3]'):
        assert line in found, found
    alone = typed('taps', '-opt', 'x.yml', '--teacher').stdout
    assert 'teacher swinir SwinIR' in alone
    assert 'student' not in alone


def test_report_and_show_have_each_teacher(opt: dict[str, Any], student: str) -> None:
    found = typed('report', '-opt', 'x.yml', '--weights', student, '--sizes', '8x8')
    assert found.returncode == 0, found.stderr
    for row in ('| teacher edsr | EDSR | 20,283 |', '| teacher swinir | SwinIR | 15,142 |',
                '| student | EDSR | 6,867 |'):
        assert row in found.stdout
    refused = typed('report', '-opt', 'x.yml', '--weights', student, '--teacher', 'teacher.pth')
    assert refused.returncode == 2
    assert 'x.yml has several teachers' in refused.stderr
    shown = typed('show', '-opt', 'x.yml', '--weights', student, '--images', 'HR', '--out', 'p.html', '--most', '1')
    assert shown.returncode == 0, shown.stderr
    assert 'teacher edsr' in shown.stdout
    assert 'teacher swinir' in Path('p.html').read_text()
    twice = typed('show', '-opt', 'x.yml', '--weights', student, '--images', 'HR', '--out', 'q.html', '--names',
                  'teacher edsr')
    assert twice.returncode == 2
    assert "--names 'teacher edsr': is a teacher of x.yml; choose another" in twice.stderr


def test_upscale_takes_the_name_of_a_teacher(opt: dict[str, Any]) -> None:
    line = ['upscale', '-opt', 'x.yml', '--weights', 'swinir.pth', '--images', 'LRbicx2', '--out', 'up', '--section']
    assert typed(*line, 'swinir').returncode == 0
    assert len(list(Path('up').glob('*.png'))) == 4
    refused = typed(*line, 'teacher')
    assert refused.returncode == 2
    assert '--section teacher: x.yml has no such network; write network_g or edsr or swinir' in refused.stderr


# ------------------------------------------------------------------------------------------------- in a comparison
def comparison(opt: dict[str, Any], **methods: Any) -> dict[str, Any]:
    made = comparison_options(copy.deepcopy(opt))
    made['compare'].update(seeds=[0], methods={'edsr': LOGITS, 'swinir': FROM_SWINIR, **methods})
    return made


def read(opt: dict[str, Any], **flags: Any) -> Any:
    return read_comparison(config.read_options(write_options(opt, Path('compare.yml'))), **flags)


def test_a_run_has_the_teachers_that_it_needs(opt: dict[str, Any]) -> None:
    both = {'losses': [LOGITS, FROM_SWINIR], 'teachers': {'swinir': {'dtype': 'bfloat16'}}}
    found = read(comparison(opt, both=both))
    teachers = {trial.method: trial.options.get('teachers') for trial in found.trials}
    assert teachers['none'] is None
    assert [entry['name'] for entry in teachers['edsr']] == ['edsr']
    assert [entry['name'] for entry in teachers['swinir']] == ['swinir']
    assert [(entry['name'], entry.get('dtype')) for entry in teachers['both']] == [
        ('edsr', None), ('swinir', 'bfloat16')]
    assert json.loads(found.losses['both'])['teachers'] == {'swinir': {'dtype': 'bfloat16'}}
    for trial in found.trials:
        assert not check_options(trial.options, is_train=True).problems
    for methods in (['edsr'], ['swinir'], []):
        assert read(comparison(opt, both=both), methods=methods).protocol_hash == found.protocol_hash, methods


def test_the_protocol_holds_the_weights_of_all_teachers(opt: dict[str, Any]) -> None:
    before = read(comparison(opt)).protocol_hash
    state = torch.load('swinir.pth')
    state['params']['conv_first.bias'] += 0.1
    torch.save(state, 'swinir.pth')
    assert read(comparison(opt)).protocol_hash != before
    assert read(comparison(opt), methods=['edsr']).protocol_hash != before, 'also where no run has it'


@pytest.mark.parametrize(('change', 'where', 'what'), [
    (lambda o: o['teachers'][1].update(dtype='float8'), 'teachers[1].dtype', 'must be float32'),
    (lambda o: o['teachers'][1].update(weights='gone.pth'), 'teachers[1].weights', 'does not exist'),
    (lambda o: o['compare']['methods'].update(swinir={**LOGITS, 'teacher': 'swin'}, both=[LOGITS, FROM_SWINIR]),
     'compare.methods.swinir.teacher', "there is no teacher 'swin'"),
    (lambda o: o['compare']['methods'].update(swinir={'losses': FROM_SWINIR, 'teachers': {
        'swinir': {'cache': 'memory'}}}), 'compare.methods.swinir.teachers.swinir.cache', 'needs crops'),
    (lambda o: o['compare']['methods'].update(swinir=LOGITS), 'teachers[1]', "no method learns from 'swinir'")])
def test_a_mistake_has_its_place_in_the_file(opt: dict[str, Any], change: Callable[[Any], object], where: str,
                                             what: str) -> None:
    made = comparison(opt)
    change(made)
    with pytest.raises(config.OptionError) as caught:
        read(made)
    problem, = caught.value.problems
    assert problem.where == where
    assert what in problem.what


@pytest.mark.parametrize('value', [None, -1, [{}], {'type': 'x'}], ids=repr)
def test_odd_names_are_problems_not_crashes(opt: dict[str, Any], value: Any) -> None:
    made = comparison(opt, both={'losses': [LOGITS, FROM_SWINIR], 'teachers': {'swinir': {'dtype': 'bfloat16'}}})
    made['teachers'][1]['name'] = value
    with pytest.raises(config.OptionError) as caught:
        read(made, probe='none')
    assert any(problem.where.startswith('teachers[1].name') for problem in caught.value.problems)
