"""A training that starts from a slice of its teacher: ``train.init: teacher_slice``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gan_options
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from helpers import as_parsed, several_teachers
from training import train, train_until, typed, write_options

from mipkd_plugin.config import check_options
from mipkd_plugin.networks.slicing import sliced

Make = Callable[..., dict[str, Any]]
SLICE = 'teacher_slice'


@pytest.fixture(autouse=True)
def _in_a_folder_without_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


def options(make: Make, **train: Any) -> dict[str, Any]:
    opt = make()
    opt['datasets']['train'].update(dataset_enlarge_ratio=6)
    opt['train'].update(init=SLICE, exact_resume=True, **train)
    opt['logger'].update(use_tb_logger=False)
    return opt


def expected(opt: dict[str, Any]) -> dict[str, torch.Tensor]:
    block = opt['teacher'] if 'teacher' in opt else opt['teachers'][0]
    teacher, student = build_network(dict(block['network'])), build_network(dict(opt['network_g']))
    teacher.load_state_dict(torch.load(block['weights'])['params'])
    return sliced(student, teacher)


def saved(iteration: int | str = 'latest') -> dict[str, Any]:
    return torch.load(f'experiments/tiny/models/net_g_{iteration}.pth')


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


def test_student_and_average_begin_there(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options)
    for dtype in ('float32', 'bfloat16'):  # a teacher that is cast gives its slice before that
        opt['teacher']['dtype'] = dtype
        model = build_model(as_parsed(opt, tmp_path))
        assert equal(model.net_g.state_dict(), expected(opt))
        assert equal(model.net_g_ema.state_dict(), expected(opt))
    opt['train']['init'] = 'random'
    assert not equal(build_model(as_parsed(opt, tmp_path)).net_g.state_dict(), expected(opt))


def test_the_first_of_several_is_cut_and_counts_as_used(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, distill_opt={'type': 'LogitsKDLoss', 'teacher': 'swinir'})
    del opt['teacher']
    opt['teachers'] = several_teachers(tmp_path)
    assert not check_options(opt, is_train=True).problems
    assert equal(build_model(as_parsed(opt, tmp_path)).net_g.state_dict(), expected(opt))
    opt['train']['init'] = 'random'
    problem, = check_options(opt, is_train=True).problems
    assert 'no loss learns' in problem.what


def test_the_check_names_the_first(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, distill_opt={'type': 'LogitsKDLoss', 'teacher': 'swinir'})
    del opt['teacher']
    opt['teachers'] = several_teachers(tmp_path)
    write_options(opt, Path('x.yml'))
    done = typed('check', '-opt', 'x.yml', '--no-gradients')
    assert '\n  start    a slice of teacher edsr\n' in done.stdout, done.stderr
    opt['teachers'].reverse()
    remedy, = (found.remedy for found in check_options(opt, is_train=True).problems if found.where == 'train.init')
    assert remedy.endswith('; or write init: random; the first of the teachers is cut, so put another one first if '
                           'that fits')


def test_eco_alone(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, eco={'end_ratio': 0.5})
    del opt['train']['distill_opt']
    assert not check_options(opt, is_train=True).problems
    assert equal(build_model(as_parsed(opt, tmp_path)).net_g.state_dict(), expected(opt))


def test_a_generator_starts_there_too(tmp_path: Path) -> None:
    opt = gan_options.options(gan_options.write_images(tmp_path / 'gan'), 'SRGAN', init=SLICE)
    assert not check_options(opt, is_train=True).problems
    assert equal(build_model(as_parsed(opt, tmp_path)).net_g.state_dict(), expected(opt))


def test_a_start_that_is_written_out_or_changed(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """On exact resume: the default is no change, and another start is one, as the run began otherwise."""
    opt = options(train_options)
    del opt['train']['init']
    train_until(write_options(opt, Path('x.yml')), 'trained', 3)
    opt['train']['init'] = SLICE
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 2
    assert 'train.init nothing -> teacher_slice' in capsys.readouterr().err
    for same in (None, 'random'):
        opt['train'].update(init=same, exact_resume=True)
        assert not check_options(opt, is_train=True, auto_resume=True).problems
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 0


@pytest.mark.parametrize('eco', [None, {'end_ratio': 0.5}])
def test_a_resumed_run_goes_on_with_its_own_weights(train_options: Make, eco: Any) -> None:
    path = write_options(options(train_options, eco=eco), Path('x.yml'))
    assert train(path) == 0
    log = next(Path('experiments/tiny').glob('*.log')).read_text()
    assert 'The student starts from a slice of the teacher.' in log
    whole = saved()
    Path('experiments/tiny').rename('whole')
    train_until(path, 'trained', 3)
    assert train(path, '--auto_resume') == 0
    last = max(Path('experiments/tiny').glob('*.log')).read_text()
    assert 'Resuming training from' in last
    assert 'slice of the teacher' not in last
    assert equal(saved()['params'], whole['params'])
    assert equal(saved()['params_ema'], whole['params_ema'])


def test_training_moves_on_from_there(train_options: Make) -> None:
    """A few steps change the weights, and do not throw them away."""
    opt = options(train_options)
    assert train(write_options(opt, Path('x.yml'))) == 0
    found, start = saved(), expected(opt)
    assert not equal(found['params'], start)
    assert max((found['params'][name] - value).abs().max().item() for name, value in start.items()) < 0.1


def test_the_check_says_so_and_measures_there(train_options: Make) -> None:
    write_options(options(train_options), Path('x.yml'))
    done = typed('check', '-opt', 'x.yml')
    assert done.returncode == 0, done.stdout + done.stderr
    assert '\n  start    a slice of the teacher\n' in done.stdout
    assert 'before the training: it starts from a slice of the teacher; iteration' in done.stdout
