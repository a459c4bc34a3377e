"""Students that start from a slice of the teacher: what the option file says, what is written, and every mistake."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.archs import build_network
from aggregates import write_aggregate
from helpers import TEACHERS, change, several_teachers
from training import comparison_options, train, typed, write_options

from mipkd_plugin import config
from mipkd_plugin.compare import Comparison, parts, read_comparison, step_times
from mipkd_plugin.compare.methods import init_of, method_text, same_method
from mipkd_plugin.compare.results import read_rows
from mipkd_plugin.compare.run_folders import RunError
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.networks.slicing import sliced
from mipkd_plugin.utils.errors import UsageError

LOGITS = {'type': 'LogitsKDLoss'}
FILE = Path('experiments/tiny/teacher_slice.pth')


@pytest.fixture
def opt(train_options: Callable[..., dict[str, Any]], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Options of a comparison with two controls and a method twice; in an empty working directory."""
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    found = comparison_options(train_options())
    found['compare'] = {'seeds': [0], 'equal_time': False, 'methods': {
        'logits': LOGITS, 'none_slice': {'init': 'teacher_slice'},
        'logits_slice': {'losses': LOGITS, 'init': 'teacher_slice'}}}
    return found


def read(opt: dict[str, Any], **kwargs: Any) -> Comparison:
    return read_comparison(config.read_options(write_options(opt, Path('x.yml'))), **kwargs)


def expected(opt: dict[str, Any]) -> dict[str, torch.Tensor]:
    teacher, student = build_network(dict(opt['teacher']['network'])), build_network(dict(opt['network_g']))
    teacher.load_state_dict(torch.load(opt['teacher']['weights'])['params'])
    return sliced(student, teacher)


def test_rows_with_and_without_stand_in_one_table(opt: dict[str, Any]) -> None:
    comparison = read(opt)
    assert os.listdir() == ['x.yml'], 'nothing is written'
    runs = {trial.method: trial for trial in comparison.trials}
    assert list(runs) == ['none', 'logits', 'none_slice', 'logits_slice']
    start = {'pretrain_network_g': str(FILE), 'param_key_g': 'params', 'strict_load_g': True}
    for name, trial in runs.items():
        own = trial.options
        if name.endswith('_slice'):
            assert {key: own['path'][key] for key in start} == start
        else:
            assert own['path'] == opt['path']
        assert ('distill_opt' in own['train']) is name.startswith('logits')
        assert own['model_type'] == ('DistillModel' if name.startswith('logits') else 'SRModel')
        assert ('teacher' in own) is name.startswith('logits')
    assert json.loads(comparison.losses['none_slice']) == {'init': 'teacher_slice'}
    assert json.loads(comparison.losses['logits_slice'])['losses'] == json.loads(comparison.losses['logits'])
    assert all(comparison.start.state[name].equal(value) for name, value in expected(opt).items())
    assert comparison.one_each[2].options['path']['pretrain_network_g'] == str(FILE)


def test_what_has_no_start_of_its_own_stays_as_it_was(opt: dict[str, Any]) -> None:
    """Protocol, texts and options of rows without init are those of a file that does not know it."""
    plain = copy.deepcopy(opt)
    plain['compare']['methods'] = {'logits': LOGITS}
    before, after = read(plain), read(opt)
    assert before.start is None
    assert before.protocol_hash == after.protocol_hash
    assert before.losses.items() <= after.losses.items()
    assert [trial.options for trial in before.trials] == [trial.options for trial in after.trials[:2]]
    block = {**plain, 'compare': {**plain['compare'], 'methods': {'logits': {'losses': LOGITS, 'init': 'random'}}}}
    assert same_method(read(block).losses['logits'], method_text({'losses': LOGITS}))


def test_one_start_for_all(opt: dict[str, Any]) -> None:
    opt['compare'] = {'seeds': [0, 1], 'init': 'teacher_slice', 'methods': {
        'logits': LOGITS, 'other': {'losses': LOGITS, 'init': 'random'}}}
    comparison = read(opt)
    for trial in [*comparison.trials, *comparison.one_each]:
        begins = trial.options['path'].get('pretrain_network_g')
        assert begins == (None if trial.method == 'other' else str(FILE))
    assert json.loads(comparison.losses['none']) == {'init': 'teacher_slice'}
    assert comparison.losses['none (equal time)'] == comparison.losses['none']
    assert 'init' not in comparison.losses['other']
    assert [init_of(json.loads(text)) for text in comparison.losses.values()] == ['teacher_slice'] * 3 + ['random']


def test_an_ablation_keeps_the_start(opt: dict[str, Any]) -> None:
    comparison = read(opt, ablate=('logits_slice', {'loss_weight': [3]}))
    assert comparison.methods == ['none', 'logits_slice', 'logits_slice loss_weight=3']
    assert [trial.options['path'].get('pretrain_network_g') for trial in comparison.trials] == [
        None, str(FILE), str(FILE)]  # runs are shared with the comparison, and so is the file
    with pytest.raises(config.OptionError, match='none_slice has no losses, and an ablation varies their options'):
        read(opt, ablate=('none_slice', {'loss_weight': [3]}))


@pytest.fixture
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_times, '_ROUNDS', 1)
    for module in (parts, step_times):
        monkeypatch.setattr(module, 'BLOCK', 1)


@pytest.mark.usefixtures('few_rounds')
def test_runs_start_there_resume_and_can_be_typed_by_hand(opt: dict[str, Any]) -> None:
    """Through the command line; the run of the control is plain BasicSR, and a typed run ends with the same weights.

    ECO stands beside the start, without losses.
    """
    opt['compare']['methods']['eco_slice'] = {'eco': {'end_ratio': 0.5}, 'init': 'teacher_slice'}
    write_options(opt, Path('x.yml'))
    command = 'compare', '-opt', 'x.yml', '--methods', 'none_slice', 'eco_slice'
    done = typed(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '| none_slice (no teacher) | slice of the teacher |' in done.stdout
    assert '| eco_slice | slice of the teacher |' in done.stdout
    content = torch.load(FILE)
    assert list(content) == ['params']
    assert all(content['params'][name].equal(value) for name, value in expected(opt).items())
    run, = Path('experiments').glob('tiny_none_slice_seed0')
    options = FILE.parent / 'options' / f'{run.name}.yml'
    assert yaml.safe_load(options.read_text())['model_type'] == 'SRModel'
    assert 'Loading EDSR model from experiments/tiny/teacher_slice.pth' in next(run.glob('*.log')).read_text()
    last = max(run.glob('models/net_g_*.pth'), key=lambda path: path.stat().st_mtime_ns).name
    first = torch.load(run / 'models' / last)['params']
    assert not first['conv_first.weight'].equal(content['params']['conv_first.weight'])
    run.rename(run.with_name('kept'))
    assert train(options) == 0
    assert all(torch.load(run / 'models' / last)['params'][name].equal(value) for name, value in first.items())
    rows, stamp = read_rows(FILE.with_name('results.csv')), FILE.stat().st_mtime_ns
    assert {row.losses for row in rows if row.method != 'none'} == {
        '{"init": "teacher_slice"}', '{"eco": {"end_ratio": 0.5, "mode": "full"}, "init": "teacher_slice"}'}
    own, = Path('experiments').glob('tiny_eco_slice_seed0')
    log = next(own.glob('*.log')).read_text()
    assert 'Loading EDSR model from experiments/tiny/teacher_slice.pth' in log
    assert 'eco_a: ' in log
    again = typed(*command)
    assert again.returncode == 0
    assert '3 of 3 runs are in' in again.stdout + again.stderr
    assert stamp == FILE.stat().st_mtime_ns


@pytest.mark.usefixtures('few_rounds')
def test_step_times_of_such_methods(opt: dict[str, Any]) -> None:
    opt['compare']['equal_time'] = 'logits_slice'
    write_options(opt, Path('x.yml'))
    done = typed('compare', '-opt', 'x.yml', '--methods', 'none_slice', 'logits_slice', '--times')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '| logits_slice |' in done.stdout
    assert '| none_slice |' in done.stdout
    assert 'none (equal time): ' in done.stdout


def test_another_file_of_that_name_is_neither_taken_nor_replaced(opt: dict[str, Any]) -> None:
    start = read(opt).start
    FILE.parent.mkdir(parents=True)
    for content in (b'', b'no weights'):
        FILE.write_bytes(content)
        with pytest.raises(RunError, match=r'slice.pth holds other weights than a slice of the teacher has now; '):
            start.write()
        assert FILE.read_bytes() == content
    other = {name: tensor + (name == 'conv_last.bias') for name, tensor in start.state.items()}
    torch.save({'params': other}, FILE)
    with pytest.raises(RunError, match='holds other weights'):
        start.write()
    assert all(tensor.equal(other[name]) for name, tensor in torch.load(FILE)['params'].items())
    FILE.unlink()
    start.write()
    before = FILE.read_bytes()
    start.write()
    assert FILE.read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(opt: dict[str, Any]) -> None:
    start = read(opt).start
    Path('experiments').write_text('')
    with pytest.raises(UsageError, match='teacher_slice.pth cannot be written: '):
        start.write()


def test_the_check_measures_gradients_at_the_start_that_will_be(opt: dict[str, Any]) -> None:
    write_options(opt, Path('x.yml'))
    done = typed('check', '-opt', 'x.yml')
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'not measured' not in done.stdout
    assert 'gradients (logits) of each term on the student before the training: it has random weights' in done.stdout
    assert f'gradients (logits_slice) of each term on the student before the training: it starts from {FILE}' in (
        done.stdout)
    assert not FILE.exists()


# --------------------------------------------------------------------------------------------- one mistake each
MISTAKES = [
    ({'compare.methods.none_slice.init': 'slice'}, 'compare.methods.none_slice.init (line @): must be teacher_slice or '
     "random, not 'slice'\n   -> write init: teacher_slice"),
    ({'compare.init': 1}, 'compare.init (line @): must be teacher_slice or random, not 1\n   -> write init: teach'),
    ({'compare.methods.none_slice.teacher': {'dtype': 'float32'}}, 'compare.methods.none_slice.teacher (line @): is for'
     ' a method with losses, and this one has none\n   -> remove it, or add losses'),
    ({'network_g.num_feat': 99}, 'compare.methods.none_slice.init (line @): is teacher_slice, but the student has 99 '
     'channels where the teacher has 12 (in conv_first.weight): a slice has as many or fewer\n   -> take a student '),
    ({'network_g.num_block': 9}, 'compare.methods.none_slice.init (line @): is teacher_slice, but the student has 9 '
     'blocks in body, and the teacher 5'),
    ({'network_g': {'type': 'MSRResNet', 'num_feat': 4, 'num_block': 3, 'upscale': 2}}, 'compare.methods.none_slice.ini'
     't (line @): is teacher_slice, but the student is of the class MSRResNet and the teacher of EDSR'),
    ({'network_g.img_range': 1.0}, 'compare.methods.none_slice.init (line @): is teacher_slice, but img_range is 1.0'),
    ({'teacher': ...}, 'teacher (line @): is missing'),
]


@pytest.mark.parametrize(('changes', 'message'), MISTAKES)
def test_one_clear_error(opt: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    for path, value in changes.items():
        change(opt, path, value)
    with pytest.raises(config.OptionError) as caught:
        read(opt)
    problem, = map(str, caught.value.problems)
    beginning, _, rest = message.partition(' (line @)')
    assert problem.startswith(beginning)
    assert rest in problem
    assert os.listdir() == ['x.yml']


SECOND_CONTROLS = [
    ({'init': 'random'}, {}), ({'init': 'random'}, {'init': 'random'}), ({'init': 'random', 'eco': None}, {}),
    ({'init': 'random', 'distill': {'until': 0.5}}, {}), ({'init': 'teacher_slice'}, {'init': 'teacher_slice'})]


@pytest.mark.parametrize(('method', 'shared'), SECOND_CONTROLS)
def test_a_second_control_is_no_method(opt: dict[str, Any], method: dict[str, Any], shared: dict[str, str]) -> None:
    opt['compare'].update(methods={'logits': LOGITS, 'again': method}, **shared)
    with pytest.raises(config.OptionError) as caught:
        read(opt)
    problem, = caught.value.problems
    assert problem.where == 'compare.methods.again'
    assert problem.what == ('has neither losses nor eco, and starts from what none starts from: it would be the '
                            'control none again')
    assert problem.remedy == 'remove it, or write losses, eco or another init'
    assert problem.fix == {'compare.methods.again': REMOVE}


@pytest.mark.parametrize(('method', 'shared'), [
    ({'init': 'random'}, {'init': 'teacher_slice'}), ({'init': 'random', 'crops': 6}, {}),
    ({'init': 'random', 'eco': {}}, {}), ({'init': 'random', 'losses': LOGITS}, {})])
def test_what_differs_from_the_control_is_a_method(opt: dict[str, Any], method: dict[str, Any],
                                                   shared: dict[str, str]) -> None:
    opt['compare'].update(methods={'logits': LOGITS, 'other': method}, **shared)
    assert read(opt).methods == ['none', 'logits', 'other']


def test_two_starts_are_one_too_many(opt: dict[str, Any], tmp_path: Path) -> None:
    torch.save({'params': build_network(dict(opt['network_g'])).state_dict()}, tmp_path / 'own.pth')
    opt['path']['pretrain_network_g'] = str(tmp_path / 'own.pth')
    with pytest.raises(config.OptionError) as caught:
        read(opt)
    problem, = map(str, caught.value.problems)
    assert f'is teacher_slice, but path.pretrain_network_g names another start, {tmp_path / "own.pth"}' in problem
    assert '-> write path.pretrain_network_g: ~' in problem


def test_the_first_of_several_teachers_may_be_there_for_its_slice_alone(opt: dict[str, Any], image_pairs: Path) -> None:
    cut = expected(opt)
    opt['teachers'] = several_teachers(image_pairs)
    del opt['teacher']
    methods = opt['compare']['methods']
    methods['logits'] = methods['logits_slice']['losses'] = {**LOGITS, 'teacher': 'swinir'}
    comparison = read(opt)
    assert all(comparison.start.state[name].equal(value) for name, value in cut.items())
    for trial in comparison.trials:
        assert [teacher['name'] for teacher in trial.options.get('teachers', ())] == (
            ['swinir'] if trial.method.startswith('logits') else [])
    del methods['none_slice'], methods['logits_slice']
    with pytest.raises(config.OptionError, match="no method learns from 'edsr'"):
        read(opt)


def test_an_aggregator_has_no_slice(opt: dict[str, Any], image_pairs: Path) -> None:
    opt['teacher'] = {'aggregate': str(write_aggregate(image_pairs))}
    with pytest.raises(config.OptionError) as caught:
        read(opt)
    problem, = map(str, caught.value.problems)
    assert 'is teacher_slice, but there is no rule to slice AggregatedTeachers, the teacher' in problem
    assert '-> remove compare.' in problem


def test_a_teacher_of_another_scale(opt: dict[str, Any]) -> None:
    """With the controls alone nothing else would look at the teacher."""
    network = {**TEACHERS['EDSR'], 'upscale': 4}
    torch.save({'params': build_network(dict(network)).state_dict()}, 'x4.pth')
    opt['teacher'].update(network=network, weights='x4.pth')
    with pytest.raises(config.OptionError) as caught:
        read(opt, methods=['none_slice'])
    problem, = map(str, caught.value.problems)
    assert 'teacher.network' in problem
    assert 'scale' in problem
