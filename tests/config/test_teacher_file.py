"""``teacher: {weights: FILE}``: the network is recognized, and then all is as if it had been written."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import TEACHERS, as_parsed
from training import comparison_options, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.models import DistillModel

Make = Callable[..., dict[str, Any]]
STUDENT = 'experiments/{}/models/net_g_4.pth'


def alone(opt: dict[str, Any], **entries: Any) -> dict[str, Any]:
    """The same options without the teacher's network and key."""
    own = copy.deepcopy(opt)
    own['teacher'] = {key: value for key, value in own['teacher'].items() if key not in ('network', 'param_key')}
    own['teacher'].update(entries)
    return own


def filled(opt: dict[str, Any]) -> dict[str, Any]:
    """The block of the teacher as the check fills it in."""
    teacher: dict[str, Any] = config.check_options(alone(opt), is_train=True).opt['teacher']
    return teacher


def problems(opt: dict[str, Any], **options: Any) -> list[str]:
    return [str(problem) for problem in config.check_options(opt, is_train=True, **options).problems]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_run_is_that_of_the_written_network(train_options: Make, folder: Path) -> None:
    opt = train_options()
    for name, own in (('written', opt), ('alone', alone(opt, weights='teacher.pth'))):
        assert train(write_options({**own, 'name': name}, folder / f'{name}.yml')) == 0
    one, other = (torch.load(STUDENT.format(name))['params'] for name in ('written', 'alone'))
    assert all(torch.equal(one[name], other[name]) for name in one)
    log = next(Path('experiments/alone').glob('train_*.log')).read_text()
    assert log.count('recognized in teacher.pth (layout: BasicSR)') == 1
    assert 'network: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 12, num_block: 5, upscale: 2' in log
    longer = {**opt, 'train': {**opt['train'], 'total_iter': 6}}
    for name, own in (('alone', longer), ('written', alone(longer, weights='teacher.pth'))):  # as the other
        path = write_options({**own, 'name': name}, folder / f'{name}.yml')
        assert train(path, '--auto_resume') == 0
    one, other = (torch.load(STUDENT.format(name).replace('_4', '_6'))['params'] for name in ('written', 'alone'))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_teacher_is_refused_on_resume(train_options: Make, folder: Path,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(alone(train_options(), weights='teacher.pth'), folder / 'x.yml')
    assert train(path) == 0
    torch.manual_seed(5)
    torch.save({'params': build_network(TEACHERS['EDSR']).state_dict()}, folder / 'teacher.pth')
    capsys.readouterr()
    assert train(path, '--auto_resume') == 2
    assert 'is not the teacher that' in capsys.readouterr().err


def test_the_check_prints_yaml_that_says_it(train_options: Make, folder: Path,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(alone(train_options(), weights='teacher.pth'), folder / 'x.yml')
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    out = capsys.readouterr().out
    assert 'recognized in teacher.pth (layout: BasicSR), as if the option file said:' in out
    lines = out.splitlines()
    start = next(index for index, line in enumerate(lines) if line.strip() == 'teacher:')
    block = yaml.safe_load('\n'.join(line[11:] for line in lines[start:start + 4]))
    assert block['teacher']['param_key'] == 'params'
    opt = {**train_options(), **block}
    assert problems(opt) == []
    assert 'assumed: res_scale 1' in out


@pytest.mark.parametrize('entries', [{}, {'param_key': 'params'}])
def test_options_stay_as_they_are(entries: dict[str, Any], train_options: Make) -> None:
    opt = alone(train_options(), **entries)
    before = copy.deepcopy(opt)
    report = config.check_options(opt, is_train=True)
    assert report.problems == []
    assert opt == before
    assert report.opt['teacher']['network']['type'] == 'EDSR'
    assert report.built.fingerprint == config.check_options(train_options(), is_train=True).built.fingerprint


def test_a_model_of_ones_own_script(train_options: Make, folder: Path) -> None:
    model = DistillModel(as_parsed(alone(train_options()), folder))
    assert sum(parameter.numel() for parameter in model.teacher.parameters()) == 20_283


def test_taps_of_it(train_options: Make, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(alone(train_options()), folder / 'x.yml')
    assert mipkd_main(['taps', '-opt', str(path)]) == 0
    assert 'body.4' in capsys.readouterr().out
    (folder / 'teacher.pth').write_bytes(b'<html>')
    assert mipkd_main(['taps', '-opt', str(path)]) == 2
    assert 'is a web page' in capsys.readouterr().err


def test_a_cache_belongs_to_both(train_options: Make, folder: Path) -> None:
    opt = train_options()
    opt['datasets']['train'].update(type='CropPoolDataset', crops=8)
    opt['teacher']['cache'] = 'teacher.lmdb'
    assert train(write_options({**alone(opt), 'name': 'alone'}, folder / 'x.yml')) == 0
    opt['teacher']['network'] = filled(opt)['network']
    gc.collect()  # closes the LMDB
    assert problems(opt) == []
    opt['teacher']['network']['res_scale'] = 0.5
    assert any('teacher.cache' in problem for problem in problems(opt))


def test_a_comparison_of_it(train_options: Make, folder: Path) -> None:
    written = comparison_options(train_options())
    written['teacher']['network'] = filled(train_options())['network']
    one, other = (read_comparison(config.read_options(write_options(own, folder / 'x.yml')))
                  for own in (written, alone(written)))
    assert one.trials[-1].options['teacher'] == other.trials[-1].options['teacher']
    assert one.protocol_hash == other.protocol_hash


def test_official_names_and_safetensors(train_options: Make, folder: Path) -> None:
    save_file = pytest.importorskip('safetensors.torch').save_file
    opt, names = train_options(), {'conv_first': 'head.0', 'conv_after_body': 'body.5', 'conv_last': 'tail.1',
                                   'upsample.0': 'tail.0.0'}
    state = torch.load(folder / 'teacher.pth')['params']
    save_file(state, folder / 'teacher.safetensors')

    def official(name: str) -> str:
        module, _, kind = name.rpartition('.')
        module = module.replace('conv1', 'body.0').replace('conv2', 'body.2')
        return f'{names.get(module, module)}.{kind}'

    torch.save({official(name): tensor for name, tensor in state.items()}, folder / 'official.pt')
    wanted = config.check_options(opt, is_train=True).built.fingerprint
    for weights, key in (('teacher.safetensors', {}), ('official.pt', {'param_key': None})):
        written = {**opt, 'teacher': {'network': opt['teacher']['network'], 'weights': weights, **key}}
        for own in (written, alone(opt, weights=weights)):
            report = config.check_options(own, is_train=True)
            assert [str(problem) for problem in report.problems] == []
            assert report.built.fingerprint == wanted


def test_another_network_than_the_written_one(train_options: Make) -> None:
    opt = train_options()
    opt['teacher']['network'] = {**opt['teacher']['network'], 'num_feat': 10}
    found = problems(opt)
    assert len(found) == 1
    assert 'does not fit EDSR' in found[0]
    assert "without network it is recognized: {'type': 'EDSR'" in found[0]
    assert problems(alone(opt)) == []


def test_a_teacher_of_a_model_of_others_is_left_alone(train_options: Make) -> None:
    opt = alone(train_options(model_type='SRModel'))
    before = copy.deepcopy(opt)
    config.fill_teacher(opt)
    assert opt == before
    config.fill_teacher(opt, always=True)
    assert opt['teacher']['network']['type'] == 'EDSR'
