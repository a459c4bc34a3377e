"""What an iteration costs, how long the control of equal time is then, and times.csv."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import change
from training import comparison_options

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from mipkd_plugin.compare.step_times import StepTime, block_of, measure, random_batch
from mipkd_plugin.compare.times import MethodTime, TimesError, read_times, time_table, write_times
from mipkd_plugin.compare.trials import aligned, stretch

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
            'logger': {'print_freq': shown, 'save_checkpoint_freq': 1000.0}}


@pytest.mark.parametrize(('opt', 'factor', 'found', 'total', 'val'), [
    (options(), 1.0, 1.0, 5000, 2000), (options(), 3.371, 3.4, 17000, 6800), (options(), 3.4, 3.4, 17000, 6800),
    (options(), 3.4001, 3.5, 17500, 7000), (options(), 0.97, 1.0, 5000, 2000),
    (options(5e3, 2e3), 1.01, 1.1, 5500, 2200),
    (options(13, 6, 1), 1.01, 7 / 6, 16, 7), (options(60000, 5000), 6.2, 6.2, 372000, 31000)])
def test_the_length_is_rounded_up_to_whole_validations(opt: dict[str, Any], factor: float, found: float, total: int,
                                                       val: int) -> None:
    before = copy.deepcopy(opt)
    assert aligned(opt, factor) == pytest.approx(found)
    longer = stretch(opt, aligned(opt, factor))
    iterations, every, saved = (longer['train']['total_iter'], longer['val']['val_freq'],
                                longer['logger']['save_checkpoint_freq'])
    assert (iterations, every) == (total, val)
    assert all(type(number) is int for number in (iterations, every, saved))
    assert every % opt['logger']['print_freq'] == 0
    assert iterations // every == opt['train']['total_iter'] // opt['val']['val_freq']  # as many validations
    assert iterations >= factor * opt['train']['total_iter'] - 1e-6
    assert opt == before


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
    assert longer['logger'] == {'print_freq': 200, 'save_checkpoint_freq': 3400}
    assert stretch(options(scheduler=scheduler), 3.4)['train']['warmup_iter'] == -1


# --------------------------------------------------------------------------------------------- how much
@pytest.mark.parametrize(('losses', 'distill', 'found'), [
    (None, None, (20, 0.0)), ({'type': 'LogitsKDLoss'}, None, (20, 1.0)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.5}, (20, 0.5)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.25, 'every': 3}, (21, 0.25)),
    ({'type': 'KRNetLoss', 'taps': 1}, {'every': 2}, (20, 1.0)),  # meta_every: 5 by itself
    ([{'type': 'KRNetLoss', 'taps': 1, 'meta_every': 0}, {'type': 'MiPKDLoss', 'block_every': 6}], None, (24, 1.0)),
    ({'type': 'MiPKDLoss', 'block_every': 7}, {'every': 9}, (60, 1.0)),
    ({'type': 'LogitsKDLoss'}, {'until': 0.004}, (4, 0.004))])
def test_a_block_holds_all_that_happens_in_each_nth_iteration(losses: Any, distill: Any, found: Any) -> None:
    opt = options(1000)
    opt['train'].update({name: value for name, value in (('distill_opt', losses), ('distill', distill)) if value})
    assert block_of(opt) == found


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
