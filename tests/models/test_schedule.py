"""``train.distill``: when the teacher runs, on which images, with which weight; and plain training afterwards."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import as_parsed, batch
from training import train, train_until, write_options

from mipkd_plugin import ArgumentError, DistillModel
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.checkpoints.files import random_state_path
from mipkd_plugin.config import DistillSchedule, check_options

Make = Callable[..., dict[str, Any]]
MIPKD = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}
KRNET = {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 8, 'meta_every': 2}
LOGITS = {'type': 'LogitsKDLoss'}
POOL = {'type': 'CropPoolDataset', 'crops': 6}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def options(make: Make, losses: Any, pool: bool = False, **distill: Any) -> dict[str, Any]:
    """Ten iterations, validated and saved after each fifth."""
    opt = make()
    opt['datasets']['train'].update(dataset_enlarge_ratio=3, **(POOL if pool else {}))
    opt['train'].update(total_iter=10, exact_resume=True, distill_opt=losses, distill=distill,
                        scheduler={'type': 'MultiStepLR', 'milestones': [3, 7]})
    opt['val']['val_freq'] = 5
    opt['logger'].update(save_checkpoint_freq=5, use_tb_logger=False)
    if pool:
        opt['teacher']['cache'] = 'memory'
    return opt


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = torch.load(folder / 'models' / 'net_g_latest.pth')
    return {f'{part}.{name}': value for part in ('params', 'params_ema') for name, value in state[part].items()}


def assert_equal(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert len(one) > 10
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def hand_over(distilled: Path, plain: Path, iteration: int, name: str) -> None:
    """The state of a plain run: that of a run that distills, without what only the losses need."""
    for folder in ('models', 'training_states'):
        (plain / folder).mkdir(parents=True)
    shutil.copy(distilled / 'models' / f'net_g_{iteration}.pth', plain / 'models')
    shutil.copy(random_state_path(distilled / 'models', iteration), plain / 'models')
    state = torch.load(distilled / 'training_states' / f'{iteration}.state')
    del state['mipkd']  # the record of the files and options of the run that distills
    optimizer = state['optimizers'][0]
    groups = optimizer['param_groups']
    own = set(groups[0]['params'])
    optimizer['param_groups'] = groups[:1]
    optimizer['state'] = {key: value for key, value in optimizer['state'].items() if key in own}
    for scheduler in state['schedulers']:
        scheduler['base_lrs'], scheduler['_last_lr'] = scheduler['base_lrs'][:1], scheduler['_last_lr'][:1]
    torch.save(state, plain / 'training_states' / f'{iteration}.state')


@pytest.mark.parametrize('losses', [LOGITS, MIPKD, [KRNET, LOGITS]], ids=['logits', 'MiPKD', 'KRNets'])
def test_after_until_it_is_a_plain_run_from_the_same_state(train_options: Make, tmp_path: Path, losses: Any,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, losses, until=0.5)
    assert train(write_options({**opt, 'name': 'half'}, tmp_path / 'half.yml')) == 0
    plain = {**opt, 'name': 'plain', 'model_type': 'SRModel'}
    plain['train'] = {key: value for key, value in opt['train'].items() if not key.startswith('distill')}
    del plain['teacher']
    hand_over(tmp_path / 'experiments/half', tmp_path / 'experiments/plain', 5, 'half')
    assert train(write_options(plain, tmp_path / 'plain.yml'), '--auto_resume') == 0
    assert_equal(tmp_path / 'experiments/half', tmp_path / 'experiments/plain')


def model_of(opt: dict[str, Any], root: Path) -> tuple[DistillModel, list[int]]:
    """A model, always with the same weights, and a list of the batch sizes with which its teacher runs."""
    torch.manual_seed(0)
    model, sizes = build_model(as_parsed(opt, root)), []
    model.teacher.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    return model, sizes


def step(model: DistillModel, iteration: int, samples: int = 4, **more: Any) -> None:
    lq, gt = batch('EDSR', seed=iteration, samples=samples)
    model.feed_data({'lq': lq, 'gt': gt, **more})
    model.optimize_parameters(iteration)


def hooks(net: torch.nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in net.modules())


def test_the_teacher_runs_where_it_should_and_nowhere_else(train_options: Make, tmp_path: Path) -> None:
    losses = [LOGITS, {'type': 'FitNetLoss', 'taps': 2}]
    model, sizes = model_of(options(train_options, losses, until=0.6, every=2, share=0.5), tmp_path)
    assert hooks(model.net_g)
    ran = []
    for iteration in range(1, 11):
        sizes.clear()
        step(model, iteration)
        ran.append(list(sizes))
        assert list(model.get_current_log()) == ['l_pix', *(['l_logits', 'l_fitnet'] if sizes else [])]
    assert ran == [[], [2], [], [2], [], [2], [], [], [], []]
    assert not hooks(model.net_g), 'the student keeps hooks to the end'


def test_share_takes_the_first_images_and_the_pixel_loss_takes_all(train_options: Make, tmp_path: Path) -> None:
    logs = {}
    for name, samples, share in (('half', 4, 0.5), ('two', 2, 1.0), ('all', 4, 1.0)):
        model, _ = model_of(options(train_options, MIPKD, share=share), tmp_path)
        lq, gt = batch('EDSR', samples=4)
        model.feed_data({'lq': lq[:samples], 'gt': gt[:samples]})
        model.optimize_parameters(1)
        logs[name] = model.get_current_log()
    assert logs['half']['l_pix'] == logs['all']['l_pix'] != logs['two']['l_pix']
    for term in ('l_feat', 'l_ae', 'l_logits', 'l_block'):
        assert logs['half'][term] == pytest.approx(logs['two'][term], rel=1e-5)
        assert logs['half'][term] != pytest.approx(logs['all'][term], rel=1e-3)


def test_fading_terms(train_options: Make, tmp_path: Path) -> None:
    logged: dict[str, list[float]] = {}
    for fade in ('none', 'linear', 'cosine'):
        for iteration in (1, 3, 5):
            model, _ = model_of(options(train_options, LOGITS, until=0.5, fade=fade), tmp_path)
            lq, gt = batch('EDSR')
            model.feed_data({'lq': lq, 'gt': gt})
            model.optimize_parameters(iteration)
            logged.setdefault(fade, []).append(model.get_current_log()['l_logits'])
    full = logged['none'][0]
    assert logged['none'] == [full] * 3
    assert [value / full for value in logged['linear']] == pytest.approx([1, 0.6, 0.2], rel=1e-4)
    assert [value / full for value in logged['cosine']] == pytest.approx([1, 0.654508, 0.095492], rel=1e-4)


def test_block_every_leaves_out_the_chain_alone(train_options: Make, tmp_path: Path) -> None:
    model, _ = model_of(options(train_options, {**MIPKD, 'block_every': 3}), tmp_path)
    with_chain = []
    for iteration in range(1, 7):
        step(model, iteration)
        assert {'l_feat', 'l_ae', 'l_logits'} <= set(model.get_current_log())
        with_chain.append('l_block' in model.get_current_log())
    assert with_chain == [False, False, True, False, False, True]


@pytest.mark.parametrize('pool', [False, True], ids=['images', 'pool'])
@pytest.mark.parametrize('losses', [MIPKD, [KRNET, LOGITS]], ids=['MiPKD', 'KRNets'])
def test_resumed_it_ends_like_an_uninterrupted_run(train_options: Make, tmp_path: Path, losses: Any, pool: bool,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, losses, pool, until=0.8, every=2, share=0.6, fade='linear')
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    opt['datasets']['train']['dataset_enlarge_ratio'] = 12
    assert train(write_options({**opt, 'name': 'whole'}, tmp_path / 'whole.yml')) == 0
    cut = write_options({**opt, 'name': 'cut'}, tmp_path / 'cut.yml')
    train_until(cut, 'trained', 7)
    assert train(cut, '--auto_resume') == 0
    assert_equal(tmp_path / 'experiments/whole', tmp_path / 'experiments/cut')


LOSSES: dict[str, dict[str, Any]] = {
    'AttentionTransferLoss': {'taps': 2}, 'CrossKDLoss': {'taps': 2}, 'DUKDLoss': {},
    'FAKDLoss': {'taps': 2, 'positions': 30}, 'FitNetLoss': {'taps': 2},
    'KRNetLoss': {'taps': 2, 'hidden_channels': 8, 'meta_every': 2}, 'LogitsKDLoss': {}, 'MiPKDLoss': {'taps': 2},
    'RKDLoss': {'taps': 2}}


@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_goes_with_every_option(name: str, train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, {'type': name, **LOSSES[name]}, True, until=0.8, every=2, share=0.75, fade='cosine')
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    model, sizes = model_of(opt, tmp_path)
    before = {key: value.clone() for key, value in model.net_g.state_dict().items()}
    terms = LOSS_REGISTRY.get(name).__name__
    for iteration in range(1, 11):
        sizes.clear()
        lq, gt = batch('EDSR', seed=0, samples=4)
        model.feed_data({'lq': lq, 'gt': gt, 'crop': torch.arange(4)})
        model.optimize_parameters(iteration)
        logged = [term for term in model.get_current_log() if term != 'l_pix']
        assert bool(logged) == (iteration in (2, 4, 6, 8)), terms
        if name not in ('DUKDLoss', 'KRNetLoss', 'CrossKDLoss', 'MiPKDLoss') and iteration > 2:
            assert not sizes, 'the cache holds what the teacher would say'
    assert model.cache is None, 'its memory is free again'
    assert not any(torch.equal(before[key], value) for key, value in model.net_g.state_dict().items())


@pytest.mark.parametrize(('options', 'message'), [
    ({'until': 0}, 'until must be above 0, got 0'), ({'until': 1.5}, 'until must be at most 1, got 1.5'),
    ({'every': 0}, 'every must be at least 1, got 0'), ({'every': 1.5}, 'every must be a whole number, got 1.5'),
    ({'share': 0}, 'share must be above 0'), ({'fade': 'slow'}, "fade must be 'none', 'linear' or 'cosine'"),
    ({'every': 101}, 'every is 101, and only the first 100 iterations may distill: none would'),
    ({'every': 51, 'until': 0.5}, 'every is 51, and only the first 50 iterations may'),
    ({'untill': 0.5}, 'untill is not an option')])
def test_schedules_that_make_no_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        DistillSchedule(100, **options)


def test_the_schedule_in_words(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                               capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, LOGITS, until=0.5, every=2, share=0.5, fade='linear')
    path = write_options(opt, tmp_path / 'x.yml')
    words = 'iterations 1 to 5, one in 2, on 0.5 of each batch, with weights that fade to 0 (linear)'
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    assert f'  distill  {words}\n' in capsys.readouterr().out
    assert train(path) == 0
    assert f'distills in {words}' in next((tmp_path / 'experiments/tiny').glob('*.log')).read_text()
    assert str(DistillSchedule(10, every=5)) == 'iterations 1 to 10, one in 5'


@pytest.mark.parametrize(('distill', 'place', 'what', 'remedy'), [
    ({'until': 1.5}, 'train.distill.until', 'must be at most 1, got 1.5', 'write until: 0.5'),
    ({'every': 11}, 'train.distill.every', 'is 11, and only the first 10 iterations may', 'write a smaller number'),
    ({'share': True}, 'train.distill.share', 'must be a number, got True', 'write share: 0.5'),
    ({'fade': 'fast'}, 'train.distill.fade', "must be 'none', 'linear' or 'cosine'", 'write fade: none, linear or'),
    ({'evry': 2}, 'train.distill.evry', 'is not an option of distill', 'valid here: until, every, share, fade'),
    ({'total_iter': 5}, 'train.distill.total_iter', 'is not an option of distill', 'valid here: until, every'),
    ({1: 0.5}, 'train.distill.1', 'the key is read as a number, not as a name', "-> write '1':, in quotes"),
    ([1], 'train.distill', 'must be a block of keys', '')])
def test_bad_schedules_are_refused_before_anything_is_written(
        train_options: Make, tmp_path: Path, distill: Any, place: str, what: str, remedy: str,
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, LOGITS)
    opt['train']['distill'] = distill
    path = write_options(opt, tmp_path / 'x.yml')
    before = sorted(tmp_path.rglob('*'))
    assert basicsr_main(['train', '-opt', str(path)]) == 2
    message = capsys.readouterr().err
    assert 'x.yml: 1 problem' in message
    assert all(part in message for part in (f'1. {place} (line', what, remedy)), message
    assert sorted(tmp_path.rglob('*')) == before


def test_share_must_leave_a_loss_enough_images(train_options: Make) -> None:
    opt = options(train_options, {'type': 'RKDLoss', 'taps': 2}, share=0.5)
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    found = [str(problem) for problem in check_options(opt, is_train=True).problems]
    assert len(found) == 1
    assert 'is 4, of which train.distill.share, 0.5, leaves 2, and RKDLoss needs 3 images or more' in found[0]
    assert 'write batch_size_per_gpu: 6, or more' in found[0]


def test_a_plain_model_would_ignore_it(train_options: Make) -> None:
    opt = options(train_options, LOGITS, until=0.5)
    del opt['teacher'], opt['train']['distill_opt']
    opt['model_type'] = 'SRModel'
    found = [str(problem) for problem in check_options(opt, is_train=True).problems]
    assert len(found) == 1
    assert found[0].startswith('train.distill: SRModel does not distill and would ignore it')


def test_shares_of_round_numbers_are_round_numbers() -> None:
    assert DistillSchedule(100_000, until=0.55).last == 55_000
    assert DistillSchedule(100, until=0.07).last == 7
    assert [DistillSchedule(10, share=share).samples(16) for share in (0.55, 0.5, 0.01)] == [9, 8, 1]


@pytest.mark.parametrize(('distill', 'every', 'refused'), [({}, 10, False), ({}, 11, True), ({'every': 2}, 5, False),
                                                           ({'every': 4}, 3, True), ({'until': 0.5}, 6, True)])
@pytest.mark.parametrize('loss', [{**MIPKD, 'block_every': 1}, {**KRNET, 'meta_every': 1}], ids=['chain', 'meta step'])
def test_a_turn_that_never_comes_is_refused(train_options: Make, loss: dict[str, Any], distill: Any, every: int,
                                            refused: bool) -> None:
    name = next(key for key in loss if key.endswith('_every'))
    problems = check_options(options(train_options, {**loss, name: every}, **distill), is_train=True).problems
    assert [problem.where for problem in problems] == ([f'train.distill_opt.{name}'] if refused else [])


def test_no_distillation_block_and_an_empty_one_are_the_default(train_options: Make) -> None:
    for distill in (None, {}):
        opt = options(train_options, LOGITS)
        opt['train']['distill'] = distill
        assert not check_options(opt, is_train=True).problems
