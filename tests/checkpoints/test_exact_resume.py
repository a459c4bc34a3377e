"""Exact resume: an interrupted run ends with the weights of one that was not interrupted, to the last bit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import basicsr.train
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models.base_model import BaseModel
from helpers import STUDENTS, TEACHERS
from training import launched, train, train_until, write_options

from mipkd_plugin import config
from mipkd_plugin.checkpoints.exact_resume import exact_resume

Make = Callable[..., dict[str, Any]]
KRNET = [{'type': 'KRNetLoss', 'taps': 2, 'meta_every': 2}, {'type': 'LogitsKDLoss'}]
MIPKD = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def options(make: Make, root: Path, *, arch: str = 'EDSR', losses: Any = None, workers: int = 0, every: int = 3,
            **data: Any) -> dict[str, Any]:
    """Ten iterations of four to an epoch; validated every two iterations, saved ``every`` some."""
    opt = make()
    opt['datasets']['train'].update(num_worker_per_gpu=workers, dataset_enlarge_ratio=2, **data)
    opt['train'].update(total_iter=10, exact_resume=True, scheduler={'type': 'MultiStepLR', 'milestones': [5]})
    opt['val']['val_freq'] = 2
    opt['logger'].update(save_checkpoint_freq=every, use_tb_logger=False)
    if arch == 'SwinIR':
        opt['model_type'] = 'SwinIRDistillModel'
        opt['network_g'] = {**STUDENTS['SwinIR'], 'drop_path_rate': 0.9}
        opt['teacher'].update(network=TEACHERS['SwinIR'], weights=str(root / 'swinir.pth'))
        torch.save({'params': build_network(TEACHERS['SwinIR']).state_dict()}, root / 'swinir.pth')
    if losses is None:
        opt['model_type'] = 'SwinIRModel' if arch == 'SwinIR' else 'SRModel'
        del opt['teacher'], opt['train']['distill_opt']
    else:
        opt['train']['distill_opt'] = losses
    return opt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All that a run has trained: student, moving average and losses."""
    found = {}
    for path in (folder / 'models').glob('*_latest.pth'):
        state = torch.load(path)
        for part in ('params', 'params_ema', 'losses'):
            found.update({f'{part}.{name}': value for name, value in state.get(part, {}).items()
                          if isinstance(value, torch.Tensor)})
    return found


def differences(a: Path, b: Path) -> list[str]:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    assert len(one) > 10
    return [name for name in one if not torch.equal(one[name], other[name])]


CASES = {
    'EDSR': {},
    'EDSR, saved where an epoch ends': {'every': 4},
    'EDSR, a worker': {'workers': 1},
    'EDSR, a worker, prefetched': {'workers': 1, 'prefetch_mode': 'cpu'},
    'SwinIR': {'arch': 'SwinIR'},
    'SwinIR, MiPKD': {'arch': 'SwinIR', 'losses': MIPKD},
    'SwinIR, KRNets, a worker': {'arch': 'SwinIR', 'losses': KRNET, 'workers': 1},
}


@pytest.mark.parametrize('case', CASES)
def test_the_same_to_the_last_bit_and_basicsrs_resume_is_not(train_options: Make, tmp_path: Path, case: str,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, tmp_path, **CASES[case])
    every = opt['logger']['save_checkpoint_freq']
    runs = {}
    for name, exact in (('whole', True), ('exact', True), ('plain', False)):
        own = {**opt, 'name': name, 'train': {**opt['train'], 'exact_resume': exact}}
        runs[name] = tmp_path / 'experiments' / name
        path = write_options(own, tmp_path / f'{name}.yml')
        if name != 'whole':
            train_until(path, 'trained', 2 * every + 1)
        assert train(path, '--auto_resume') == 0
    assert differences(runs['whole'], runs['exact']) == []
    assert differences(runs['whole'], runs['plain'])
    assert not list(runs['plain'].rglob('random_*'))
    logs = sorted(runs['exact'].glob('*.log'))
    assert f'Read past {2 * every % 4 or 4} batches' in logs[1].read_text()
    assert f'Resuming training from epoch: 1, iter: {2 * every}.' in logs[1].read_text()


@pytest.mark.parametrize(('moment', 'count', 'begins'), [
    ('trained', 2, 0), ('written', 4, 4), ('saved', 6, 6), ('validated', 3, 6), ('saved', -1, 10)])
def test_whenever_it_is_interrupted(train_options: Make, tmp_path: Path, moment: str, count: int, begins: int,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, tmp_path, arch='SwinIR', every=2)
    for name in ('whole', 'cut'):
        path = write_options({**opt, 'name': name}, tmp_path / f'{name}.yml')
        if name == 'cut':
            train_until(path, moment, count)
        assert train(path, '--auto_resume') == 0
    assert differences(tmp_path / 'experiments/whole', tmp_path / 'experiments/cut') == []
    last = max((tmp_path / 'experiments/cut').glob('*.log')).read_text()
    assert f'Start training from epoch: {max(begins - 1, 0) // 4}, iter: {begins}\n' in last


def test_a_validation_behind_the_checkpoint_is_repeated(train_options: Make, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, tmp_path, every=2)
    opt['val']['val_freq'] = 4
    path = write_options(opt, tmp_path / 'x.yml')
    values = []
    for iteration, repeated in ((4, True), (6, False)):
        train_until(path, 'saved', iteration)
        assert train(path, '--auto_resume') == 0
        text = max((tmp_path / 'experiments/tiny').glob('*.log')).read_text()
        before = text[:text.index(f'iter:{iteration + 1:8,d}')]
        assert ('Validation val' in before) is repeated
        values.append(re.findall(r'# psnr: ([\d.]+)', text)[-1])
    assert values[0] == values[1]


def test_nothing_stays_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ('load_resume_state', 'create_train_val_dataloader', 'build_model', 'CPUPrefetcher', 'CUDAPrefetcher')
    before = [getattr(basicsr.train, name) for name in names], BaseModel.save_training_state
    with exact_resume():
        assert basicsr.train.build_model is not before[0][2]
    assert ([getattr(basicsr.train, name) for name in names], BaseModel.save_training_state) == before


# --------------------------------------------------------------------------------------------- what the check refuses
@pytest.mark.parametrize('changes', [{'manual_seed': None}, {}])
def test_without_a_seed_no_run_can_be_resumed_exactly(train_options: Make, changes: dict[str, Any]) -> None:
    opt = train_options(**changes)
    if not changes:
        del opt['manual_seed']
    assert config.check_options(opt, is_train=True).problems == []
    opt['train']['exact_resume'] = True
    problem, = config.check_options(opt, is_train=True).problems
    assert str(problem).startswith('manual_seed: is missing: BasicSR draws a new seed at each start')


@pytest.mark.parametrize(('data', 'launcher', 'message'), [
    ({}, 'pytorch', 'train.exact_resume: works with one process, and --launcher pytorch starts several\n   -> remove'),
    ({'num_worker_per_gpu': 1, 'persistent_workers': True}, 'none',
     'datasets.train.persistent_workers: must be false for train.exact_resume\n   -> write persistent_workers: false'),
    ({'prefetch_mode': 'cpu'}, 'none', 'datasets.train.prefetch_mode: must be ~ for train.exact_resume'),
    ({'prefetch_mode': 'cpu', 'num_worker_per_gpu': 1}, 'none', None),
])
def test_what_cannot_be_resumed_exactly_is_refused(train_options: Make, data: dict[str, Any], launcher: str,
                                                   message: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    launched(monkeypatch)
    opt = train_options()
    opt['datasets']['train'].update(data)
    assert config.check_options(opt, is_train=True, launcher=launcher).problems == []
    opt['train']['exact_resume'] = True
    found = [str(problem) for problem in config.check_options(opt, is_train=True, launcher=launcher).problems]
    assert len(found) == (message is not None)
    assert message is None or found[0].startswith(message)
    opt['train']['exact_resume'] = 'yes'
    assert 'train.exact_resume: must be true or false' in str(config.check_options(opt, is_train=True).problems[0])


def test_a_checkpoint_without_its_random_numbers(train_options: Make, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, tmp_path)
    path = write_options(opt, tmp_path / 'x.yml')
    train_until(path, 'saved', 3)
    state = Path('experiments/tiny/models/random_3.pth')
    content = state.read_bytes()
    for changed, said in ((None, '3.state has no random_3.pth'), (content[:100], f'{state.resolve()} is damaged')):
        state.unlink() if changed is None else state.write_bytes(changed)
        before = sorted(Path().rglob('*'))
        capsys.readouterr()
        assert train(path, '--auto_resume') == 2
        assert said in capsys.readouterr().err
        assert sorted(Path().rglob('*')) == before
    state.unlink()
    assert train(path, '--auto_resume', '--force_yml', 'train:exact_resume=false') == 0
