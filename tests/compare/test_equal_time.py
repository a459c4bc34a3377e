"""What an iteration costs, how long the control of equal time is then, and times.csv."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gan_options
import pytest
import torch
from helpers import change
from training import comparison_options, write_options

from mipkd_plugin import config
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.compare.equal_time import _fixed_length
from mipkd_plugin.compare.parts import block_of, new_crops, turns_of
from mipkd_plugin.compare.step_times import StepTime, Bench, measure, random_batch
from mipkd_plugin.compare.times import MethodTime, TimesError, read_times, time_table, write_times
from mipkd_plugin.compare.trials import stretch

Make = Callable[..., dict[str, Any]]

ROWS = [MethodTime('none', 1.0, 0.0, 1.0, None, 'CPU', 'abc1234', '0123456789ab', '[]'),
        MethodTime('none (equal time)', 1.0, 0.0, 3.4, None, 'CPU', 'abc1234', '0123456789ab', '[]'),
        MethodTime('mipkd', 5.758, 0.5, 3.379, 1234, 'NVIDIA H100', 'def5678+', '0123456789ab', '[{"type": "X"}]')]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_times(tmp_path / 'experiments/x/times.csv', ROWS)
    return tmp_path / 'experiments/x/times.csv'


# --------------------------------------------------------------------------------------------- how long
def options(total: float = 5000, val: float = 2000, shown: int = 200, **changes: Any) -> dict[str, Any]:
    train = {'total_iter': total, 'warmup_iter': -1, 'scheduler': {'type': 'MultiStepLR', 'milestones': [3000, 4500]}}
    return {'train': {**train, **changes}, 'val': {'val_freq': val},
            'logger': {'print_freq': shown, 'save_checkpoint_freq': 1000.0},
            'datasets': {'train': {'dataset_enlarge_ratio': 10}}}


@pytest.mark.parametrize('factor', [1.0, 1.001, 1.05, 2.97, 3.319, 10.6])
@pytest.mark.parametrize(('every', 'shown'), [(2000.0, 200), (1000, 1000), (7, 1), (5000, 100.0)])
def test_the_control_is_as_long_as_the_costliest_method_takes(factor: float, every: float, shown: float) -> None:
    opt = options()
    opt['val']['val_freq'], opt['logger']['print_freq'] = every, shown
    longer = stretch(opt, factor)
    assert -1e-6 < longer['train']['total_iter'] - factor * opt['train']['total_iter'] < 1
    val, lines = longer['val']['val_freq'], longer['logger']['print_freq']
    assert val % lines == 0
    assert val // lines == every // shown, 'the log shows the iteration of a validation, and no more lines than before'
    assert abs(val - factor * every) <= every / shown
    ratio = opt['datasets']['train'].get('dataset_enlarge_ratio', 1)
    assert longer['datasets']['train']['dataset_enlarge_ratio'] >= factor * ratio, 'or the data would not last'


@pytest.mark.parametrize(('scheduler', 'found'), [
    ({'type': 'MultiStepLR', 'milestones': [3000, 4500], 'gamma': 0.5}, {'milestones': [10200, 15300]}),
    ({'type': 'MultiStepRestartLR', 'milestones': [1001], 'restarts': [0, 2501], 'restart_weights': [1, 0.5]},
     {'milestones': [3403], 'restarts': [0, 8503]}),
    ({'type': 'CosineAnnealingRestartLR', 'periods': [2499, 2501], 'restart_weights': [1, 1], 'eta_min': 1e-6},
     {'periods': [8497, 8504]})])  # the sum must reach the last iteration
def test_the_schedule_is_stretched_with_it(scheduler: dict[str, Any], found: dict[str, Any]) -> None:
    longer = stretch(options(warmup_iter=100, scheduler=scheduler), 3.4)
    assert longer['train']['scheduler'] == {**scheduler, **found}
    assert longer['train']['warmup_iter'] == 340
    assert longer['logger'] == {'print_freq': 680, 'save_checkpoint_freq': 3400}
    assert stretch(options(scheduler=scheduler), 3.4)['train']['warmup_iter'] == -1


# --------------------------------------------------------------------------------------------- how much
@pytest.mark.parametrize(('losses', 'distill', 'found'), [
    (None, None, (20, 1, 0.0)), ({'type': 'LogitsKDLoss'}, None, (20, 1, 1.0)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.5}, (20, 1, 0.5)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.25, 'every': 3}, (20, 3, 0.25)),
    ({'type': 'KRNetLoss', 'taps': 1}, {'every': 2}, (20, 2, 1.0)),  # meta_every: 5 by itself
    ([{'type': 'KRNetLoss', 'taps': 1, 'meta_every': 0}, {'type': 'MiPKDLoss', 'block_every': 6}], None, (24, 1, 1.0)),
    ({'type': 'MiPKDLoss', 'block_every': 7}, {'every': 9}, (21, 9, 1.0)),
    ({'type': 'LogitsKDLoss'}, {'every': 100}, (10, 100, 1.0)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.004}, (4, 1, 0.004))])
def test_a_block_holds_all_that_happens_in_each_nth_iteration(losses: Any, distill: Any, found: Any) -> None:
    opt = options(1000)
    opt['train'].update({name: value for name, value in (('distill_opt', losses), ('distill', distill)) if value})
    assert block_of(opt) == found


def test_a_rare_distillation_costs_its_share(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    opt = comparison_options(train_options())
    del opt['compare']
    control = {**copy.deepcopy(opt), 'model_type': 'SRModel'}
    change(opt, 'train.distill_opt', {'type': 'MiPKDLoss', 'taps': 2})
    opt['train']['total_iter'] = 1000
    often = measure(control, opt).distilling
    rare = measure(control, {**opt, 'train': {**opt['train'], 'distill': {'every': 100}}}).distilling
    assert rare == pytest.approx((often + 99) / 100, rel=0.2)
    assert rare > 1


def test_a_cache_costs_what_its_new_crops_cost(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                               tmp_path: Path) -> None:
    """The run's own LMDB stays untouched, and a pool may be smaller than a batch."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.chdir(tmp_path)
    opt = train_options()
    opt['train'].update(total_iter=100, distill_opt={'type': 'FitNetLoss', 'taps': 2})
    opt['teacher']['cache'] = 'mine.lmdb'
    control = {**copy.deepcopy(opt), 'model_type': 'SRModel', 'teacher': {}}
    del control['train']['distill_opt']
    opt['datasets']['train'].update(type='CropPoolDataset', crops=50)
    assert new_crops(opt) == 0.5
    assert new_crops({**opt, 'train': {**opt['train'], 'distill': {'share': 0.5, 'every': 4}}}) == 1
    opt['datasets']['train']['crops'] = 10**6
    assert new_crops(opt) == 2, 'no more than a batch holds'
    opt['datasets']['train']['crops'] = 1
    assert new_crops(opt) == 0.01
    assert measure(control, opt).distilling > 1
    assert not (tmp_path / 'mine.lmdb').exists()
    opt['datasets']['train']['crops'] = 50
    bench, runs = Bench(opt, str(tmp_path)), []
    bench.model.teacher.register_forward_hook(lambda *args: runs.append(1))
    bench.run(1)
    runs.clear()
    bench.run(10)
    assert len(runs) == 5, 'half a new crop in each iteration'


def test_time_of_a_training_that_distills_in_a_part_of_it() -> None:
    assert StepTime(5.0, 0.25, None).time == 2
    found = ROWS[2]
    assert [found.spent(at, 1000) for at in (0, 100, 500, 1000)] == pytest.approx([0, 575.8, 2879, 3379])


def test_a_measurement(train_options: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A step of MiPKD costs more than one of the control; nothing is left behind."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.chdir(tmp_path)
    opt = comparison_options(train_options())
    del opt['compare']
    control = {**copy.deepcopy(opt), 'model_type': 'SRModel'}
    change(opt, 'train.distill_opt', {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4})
    change(opt, 'train.distill', {'until': 0.5})
    torch.set_num_threads(2)
    try:
        before, state, files = copy.deepcopy((control, opt)), torch.random.get_rng_state(), sorted(tmp_path.rglob('*'))
        found = measure(control, opt)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert (found.until, found.memory) == (0.5, None)
    assert 1.3 < found.distilling < 100
    assert measure(control, control) == (1.0, 0.0, None)
    assert (control, opt) == before
    assert torch.equal(torch.random.get_rng_state(), state)
    assert logging.root.manager.disable == logging.NOTSET
    assert sorted(tmp_path.rglob('*')) == files


@pytest.mark.parametrize('kind', ['SRGAN', 'RealESRGAN', 'RealESRNet'])
def test_real_world_models_are_measured_where_the_generator_trains(kind: str, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    turns = {} if kind == 'RealESRNet' else {'net_d_iters': 3, 'net_d_init_iters': 50}
    opt = gan_options.options(gan_options.write_images(tmp_path), kind, total_iter=100, **turns)
    plain = copy.deepcopy(opt)
    plain['model_type'] = f'{kind}Model'
    del plain['train']['distill_opt'], plain['teacher']
    steps: list[int] = []
    step = Bench.run

    def run(self: Bench, *args: int) -> float:
        seconds = step(self, *args)
        if hasattr(self.model, 'losses'):
            steps.append('l_logits' in self.model.get_current_log())
        return seconds

    monkeypatch.setattr(Bench, 'run', run)
    found = measure(plain, opt)
    assert found.distilling > 0
    assert found.until == (0.5 if turns else 1.0)
    assert all(steps), 'the last iteration of a block is one of the generator'
    assert steps
    assert turns_of(opt, 20) == (21 if turns else 20)


def test_the_images_are_of_the_size_of_the_trainings(train_options: Make) -> None:
    opt = train_options()
    data = random_batch(opt)
    assert {name: tuple(images.shape) for name, images in data.items()} == {'lq': (2, 3, 8, 8), 'gt': (2, 3, 16, 16)}
    opt['datasets']['train']['type'] = 'CropPoolDataset'
    assert random_batch(opt)['crop'].tolist() == [0, 1]


# --------------------------------------------------------------------------------------------- times.csv
def test_times_are_read_as_they_were_written(path: Path) -> None:
    assert list(read_times(path).values()) == ROWS
    assert read_times(path.with_name('no.csv')) == {}
    table = time_table(ROWS).splitlines()
    assert table[2:5] == ['| none | 1.00 |  | 1.00 |  |', '| none (equal time) | 1.00 |  | 3.40 |  |',
                          '| mipkd | 5.76 | 50% | 3.38 | 1,234 MB |']


DAMAGES = [
    ('', 'line 1: the columns must be method,distilling,until,time,memory,hardware,commit,protocol,losses, not ;'),
    ('method,time\n', 'line 1: the columns must be method,distilling,'),
    ('{}none,1.0\n', 'line 5: has 2 of 9 columns;'),
    ('{}a,fast,1.0,1.0,,CPU,c,p,[]\n', "line 5: distilling is 'fast', not a number;"),
    ('{}a,1.0,1.5,1.0,,CPU,c,p,[]\n', 'line 5: until is 1.5, and it must be from 0 to 1;'),
    ('{}a,1.0,1.0,0,,CPU,c,p,[]\n', 'line 5: time is 0, and it must be above 0;'),
    ('{}a,1.0,1.0,nan,,CPU,c,p,[]\n', 'line 5: time is nan, and it must be above 0;'),
    ('{}a,1.0,1.0,inf,,CPU,c,p,[]\n', 'line 5: time is inf, and it must be above 0;'),
    ('{}a,1.0,1.0,1.0,much,CPU,c,p,[]\n', "line 5: memory is 'much', not a whole number;"),
    ('{}a,1.0,1.0,1.0,,CPU,c,p,[\n', "line 5: losses is '[', not JSON;"),
    ('{}none,1.0,1.0,1.0,,CPU,c,p,[]\n', "line 5: another line also holds 'none';"),
    ('{}<<<<<<< HEAD\n', 'line 5: has 1 of 9 columns;')]


@pytest.mark.parametrize(('text', 'message'), DAMAGES, ids=[message for _, message in DAMAGES])
def test_damaged_times(path: Path, text: str, message: str) -> None:
    path.write_text(text.replace('{}', path.read_text()))
    with pytest.raises(TimesError) as caught:
        read_times(path)
    assert str(caught.value).startswith(f'{path}, {message}')
    assert 'restore the file; or move it away to measure again' in str(caught.value)


def test_times_that_are_no_text(path: Path) -> None:
    path.write_bytes(b'\xff\xfe\x00')
    with pytest.raises(TimesError, match='cannot be read'):
        read_times(path)


def test_the_length_is_found_again_in_a_run_folder(train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                                   tmp_path: Path) -> None:
    """Both csv files are lost, and a run of the control has begun."""
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.chdir(tmp_path)
    opt = comparison_options(train_options())
    opt['compare']['equal_time'] = True
    comparison = read_comparison(config.read_options(write_options(opt, tmp_path / 'x.yml')))
    assert _fixed_length(comparison, {}, []) is None
    begun = tmp_path / 'experiments' / 'tiny_none-equal-time_seed1'
    begun.mkdir(parents=True)
    assert _fixed_length(comparison, {}, []) is None, 'killed before BasicSR copied the option file'
    write_options({'train': {'total_iter': 36}}, begun / f'{begun.name}.yml')
    assert _fixed_length(comparison, {}, []) == 3
