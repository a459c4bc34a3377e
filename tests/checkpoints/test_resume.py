"""Which checkpoint a run resumes from, and with which hyper-parameters."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from helpers import change, tiny_options, write_image_pairs
from test_exact_resume import differences
from test_safe_saves import assert_whole, distilling, plain, states
from training import train, train_until, write_options

from mipkd_plugin import config
from mipkd_plugin.checkpoints.writing import file_digest
from mipkd_plugin.checkpoints.hyperparameters import apply_hyperparameters, hyperparameters_of
from mipkd_plugin.config.resume_changes import changes, hyperparameters, trained_with

Make = Callable[..., dict[str, Any]]
RUN = Path('experiments/tiny')
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [6, 6], 'restart_weights': [1, 0.5], 'eta_min': 1e-5}
STEPS = {'type': 'MultiStepLR', 'milestones': [2, 3, 7], 'gamma': 0.5}


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> dict[int, dict[str, Any]]:
    """Hyper-parameters that the optimizer has at each iteration, and the decay of the average."""
    found: dict[int, dict[str, Any]] = {}
    optimize = SRModel.optimize_parameters

    def remembering(self: Any, current_iter: int) -> None:
        groups = [{key: value for key, value in group.items() if key in ('lr', 'betas', 'weight_decay', 'eps')}
                  for group in self.optimizer_g.param_groups]
        found[current_iter] = {**groups[0], 'ema': self.ema_decay, 'groups': groups}
        optimize(self, current_iter)

    monkeypatch.setattr(SRModel, 'optimize_parameters', remembering)
    return found


def last_log() -> str:
    return max(RUN.glob('*.log')).read_text()


def run(opt: dict[str, Any], *arguments: str, code: int = 0, **train_options: Any) -> None:
    opt['train'].update(train_options)
    assert train(write_options(opt, Path('x.yml')), *arguments) == code


# ------------------------------------------------------------------------------------------------- hyper-parameters
@pytest.mark.parametrize('new', [STEPS, COSINE, {**STEPS, 'restarts': [0, 4], 'restart_weights': [1, 0.5]}],
                         ids=lambda new: new['type'])
def test_new_hyperparameters_are_those_of_the_next_iterations(train_options: Make, seen: dict[int, dict[str, Any]],
                                                              new: dict[str, Any]) -> None:
    """The same learning rates as in a run that had them from its beginning."""
    changed = {'optim_g': {'type': 'Adam', 'lr': 0.02, 'betas': [0.8, 0.95], 'weight_decay': 0.01, 'eps': 1e-7,
                           'amsgrad': True},
               'scheduler': new, 'ema_decay': 0.5, 'total_iter': 9}
    run(plain(train_options, 9), **changed)
    expected = dict(seen)
    shutil.rmtree('experiments')
    opt = plain(train_options, 4)
    run(opt)
    seen.clear()
    run(opt, '--auto_resume', **changed, code=2)
    run(opt, '--auto_resume', resume_hyperparameters='new')
    assert seen == {iteration: expected[iteration] for iteration in range(5, 10)}
    assert list(seen[5]['betas']) == [0.8, 0.95]
    assert 'Goes on with the new values (old -> new): train.optim_g.lr 0.001 -> 0.02, ' in last_log()
    seen.clear()
    del opt['train']['resume_hyperparameters']
    run(opt, '--auto_resume', total_iter=11)  # they are what the last checkpoint was saved with
    assert list(seen) == [9, 10, 11]
    assert seen[9] == expected[9]


def test_old_hyperparameters_go_on_and_are_remembered(train_options: Make, seen: dict[int, dict[str, Any]]) -> None:
    run(plain(train_options, 8))
    expected = dict(seen)
    shutil.rmtree('experiments')
    run(plain(train_options, 4))
    seen.clear()
    opt = plain(train_options, 6)
    changed = {'optim_g': {'type': 'Adam', 'lr': 0.02}, 'scheduler': COSINE, 'ema_decay': 0.5, 'warmup_iter': 20}
    run(opt, '--auto_resume', **changed, resume_hyperparameters='keep')
    assert 'Goes on with the old values (old -> new): ' in last_log()
    run(opt, '--auto_resume', total_iter=8)
    assert seen == {iteration: expected[iteration] for iteration in range(5, 9)}
    del opt['train']['resume_hyperparameters']
    run(opt, '--auto_resume', code=2)  # the option file still says something else


def test_new_hyperparameters_reach_the_group_of_the_losses(train_options: Make) -> None:
    opt = distilling(train_options, train={'total_iter': 4, 'exact_resume': False})
    run(opt)
    run(opt, '--auto_resume', optim_g={'type': 'Adam', 'lr': 0.02}, resume_hyperparameters='new', total_iter=6)
    groups = torch.load(RUN / 'training_states/6.state')['optimizers'][0]['param_groups']
    assert [group['lr'] for group in groups] == [0.01, 0.01]
    assert [group['initial_lr'] for group in groups] == [0.02, 0.02]


def test_a_scheduler_that_is_not_basicsrs_is_moved_step_by_step() -> None:
    class Model:
        def __init__(self) -> None:
            self.optimizers = [torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], 1.0)]
            self.schedulers = [torch.optim.lr_scheduler.ExponentialLR(self.optimizers[0], 0.5)]

    model = Model()
    fresh = hyperparameters_of(model)
    model.schedulers[0].last_epoch = 3
    apply_hyperparameters(model, fresh)
    assert model.optimizers[0].param_groups[0]['lr'] == 0.125


def test_what_is_no_change(train_options: Make) -> None:
    opt = distilling(train_options)
    same = distilling(train_options)
    same['train'].update(total_iter=50, optim_g={**opt['train']['optim_g'], 'weight_decay': 0, 'eps': 1e-8})
    same['train']['scheduler'].update(type='MultiStepRestartLR', restarts=[0])
    same['train']['pixel_opt'] = {'type': 'L1Loss'}
    same['teacher']['dtype'] = 'float32'
    same['datasets']['train'].update(pin_memory=True, prefetch_mode='cpu')
    assert changes(hyperparameters(opt), hyperparameters(same), 'train.') == []
    shutil.copytree('HR', 'elsewhere/HR')
    same['datasets']['train']['dataroot_gt'] = 'elsewhere/HR'
    assert changes(trained_with(opt, Path()), trained_with(same, Path())) == []


def test_a_longer_run_ends_like_one_that_was_never_stopped(train_options: Make) -> None:
    opt = distilling(train_options)
    run({**opt, 'name': 'whole'}, total_iter=8)
    run(opt, total_iter=4)
    run(opt, '--auto_resume', total_iter=8)
    assert differences(Path('experiments/whole'), RUN) == []


@pytest.mark.parametrize('value', ['x', [1, 'x'], {'type': 'x'}, -1])
@pytest.mark.parametrize('key', ['train', 'train.optim_g', 'train.scheduler', 'train.scheduler.milestones', 'datasets',
                                 'datasets.train', 'network_g', 'teacher', 'logger.keep_last', 'path.resume_state',
                                 'path.ignore_resume_networks', 'train.distill_opt'])
def test_odd_values_in_a_resume_are_problems_not_crashes(train_options: Make, trained: Path, key: str,
                                                         value: Any) -> None:
    opt = distilling(train_options)
    change(opt, key, value)
    for text in (None, str(RUN / 'training_states/2.state')):
        if isinstance(opt['path'], dict) and key != 'path.resume_state':
            opt['path']['resume_state'] = text
        config.check_options(opt, is_train=True, auto_resume=text is None, probe='none')


@pytest.fixture(scope='module')
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('trained')
    before = Path.cwd()
    os.chdir(folder)
    try:
        opt = distilling(functools.partial(tiny_options, write_image_pairs(folder)))
        assert train(write_options(opt, folder / 'x.yml')) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained_once / 'experiments', tmp_path / 'experiments')
    return tmp_path


def test_a_shorter_schedule_of_distillation_is_not_exact(train_options: Make) -> None:
    opt = distilling(train_options, train={'distill': {'until': 0.5}, 'total_iter': 8})
    run(opt)
    opt['train']['total_iter'] = 10
    problem, = config.check_options(opt, is_train=True, auto_resume=True).problems
    assert 'train.total_iter 8 -> 10; the run cannot end like one that was not interrupted' in str(problem)


@pytest.mark.parametrize('value', ['both', True])
def test_other_words_for_it_are_refused(train_options: Make, value: Any) -> None:
    problem, = config.check_options(plain(train_options) | {
        'train': {**plain(train_options)['train'], 'resume_hyperparameters': value}}, is_train=True).problems
    assert 'train.resume_hyperparameters: must be keep or new' in str(problem)


# ------------------------------------------------------------------------------------------- the newest complete one
def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


def diverge(path: Path) -> None:
    content = torch.load(path)
    content['params']['conv_first.bias'][0] = float('nan')
    torch.save(content, path)
    state = RUN / 'training_states/6.state'
    saved = torch.load(state)
    if 'mipkd' in saved:
        written = file_digest(path)
        saved['mipkd']['files'][path.name] = {'bytes': written.size, 'sha256': written.sha256}
        torch.save(saved, state)


@pytest.mark.parametrize(('name', 'harm', 'said'), [
    ('training_states/6.state', cut, '6.state: is damaged: '),
    ('models/net_g_6.pth', cut, '6.state: net_g_6.pth has '),
    ('models/distill_6.pth', Path.unlink, '6.state: distill_6.pth is missing.'),
    ('models/net_g_6.pth', diverge, '6.state: net_g_6.pth holds NaN: the training had diverged'),
    ('models/random_6.pth', lambda path: path.write_bytes(b'x' * path.stat().st_size),
     '6.state: random_6.pth is not the file that was saved with it.')])
@pytest.mark.parametrize('record', [True, False])
def test_an_incomplete_checkpoint_is_passed_over_and_named(train_options: Make, name: str, said: str, record: bool,
                                                           harm: Callable[[Path], None]) -> None:
    opt = distilling(train_options)
    run(opt)
    if not record:
        for path in RUN.glob('training_states/*.state'):
            torch.save({key: value for key, value in torch.load(path).items() if key != 'mipkd'}, path)
    harm(RUN / name)
    (RUN / 'training_states/notes.state').write_text('BasicSR alone cannot start with this one')
    run(opt, '--auto_resume')
    log = last_log()
    assert 'Start training from epoch: 0, iter: 4\n' in log
    assert f'Passed over {RUN.absolute()}/training_states/6.state: ' in log
    assert not record or said in log
    (RUN / 'training_states/notes.state').unlink()
    assert states() == [2, 4, 6]
    assert_whole()


def test_checkpoints_of_basicsr_without_our_record_resume(train_options: Make) -> None:
    opt = plain(train_options, 4)
    run(opt)
    for path in RUN.glob('training_states/*.state'):
        torch.save({key: value for key, value in torch.load(path).items() if key != 'mipkd'}, path)
    run(opt, '--auto_resume', total_iter=6, ema_decay=0.5)  # it does not say what the decay was
    assert 'Start training from epoch: 0, iter: 4\n' in last_log()


def test_a_new_run_says_that_there_was_nothing_to_resume(train_options: Make) -> None:
    run(plain(train_options, 2), '--auto_resume')
    assert f'--auto_resume: there is no checkpoint in {RUN.absolute()}; a new run starts.' in last_log()


def test_a_checkpoint_that_is_named_is_taken_as_it_is(train_options: Make) -> None:
    """Weights that were edited on purpose, and an older state than the newest: both are said."""
    opt = plain(train_options, 6)
    run(opt)
    weights = torch.load(RUN / 'models/net_g_2.pth')
    torch.save({**weights, 'note': 'edited'}, RUN / 'models/net_g_2.pth')
    opt['path']['resume_state'] = str(RUN / 'training_states/2.state')
    run(opt)
    log = last_log()
    assert '2.state: net_g_2.pth ' in log
    assert '6.state is newer than the checkpoint that this run resumes from; --auto_resume would take it' in log
    assert 'Start training from epoch: 0, iter: 2\n' in log


def test_a_moved_training_state_goes_on_in_new_folders(train_options: Make) -> None:
    opt = plain(train_options, 4)
    run(opt)
    (RUN / 'training_states').rename('kept')
    opt['path']['resume_state'] = 'kept/2.state'
    run(opt)
    assert states() == [4]


def test_smaller_batches_still_train_all_iterations(train_options: Make) -> None:
    """BasicSR counts in epochs: after 20 iterations of 2 to an epoch, no epoch would be left with 8 to an epoch."""
    opt = plain(train_options, 20, every=10)
    opt['datasets']['train']['batch_size_per_gpu'] = 8
    run(opt)
    opt['datasets']['train']['batch_size_per_gpu'] = 2
    run(opt, '--auto_resume', total_iter=30)
    assert states() == [10, 20, 30]


def test_a_state_that_does_not_fit_is_one_message(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    run(plain(train_options, 2))
    state = torch.load(RUN / 'training_states/2.state')
    state['optimizers'] *= 2
    torch.save(state, RUN / 'training_states/2.state')
    capsys.readouterr()
    run(plain(train_options, 4), '--auto_resume', code=2)
    message = capsys.readouterr().err
    assert '2.state holds 2 optimizers, and SRModel has one\n   -> resume with the option file the run' in message


class TwoFilesModel(SRModel):
    """As in BasicSR's GANs: a second network, and a file of its own; the training state is not the last one."""

    def save(self, epoch: int, current_iter: int) -> None:
        self.save_training_state(epoch, current_iter)
        self.save_network(self.net_g, 'net_g', current_iter)
        self.save_network(self.net_g, 'net_d', current_iter)
        torch.save({'own': 1}, f'{self.opt["path"]["models"]}/own_{current_iter}.pth')


def test_models_of_others_are_saved_whole_too(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'TwoFilesModel', TwoFilesModel)
    opt = plain(train_options, 4)
    opt['model_type'] = 'TwoFilesModel'
    path = write_options(opt, Path('x.yml'))
    train_until(path, 'cut', 4)
    assert states() == [2]
    assert_whole()
    files = torch.load(RUN / 'training_states/2.state', weights_only=True)['mipkd']['files']
    assert sorted(files) == ['net_d_2.pth', 'net_g_2.pth', 'own_2.pth']
    run(opt, '--auto_resume')
    assert states() == [2, 4]


def test_a_folder_on_a_read_only_disk_is_said_before(train_options: Make, small_disk: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    opt = plain(train_options)
    opt['logger']['use_tb_logger'] = True
    monkeypatch.chdir(small_disk)
    Path('experiments').mkdir()
    subprocess.run(['mount', '-o', 'remount,ro', str(small_disk)], check=True)
    problem, = config.check_options(opt, is_train=True).problems
    assert str(problem).startswith(f'{small_disk}/experiments: is on a read-only disk, and BasicSR writes there')


def test_a_folder_without_rights_is_said_before(train_options: Make, tmp_path: Path,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    (tmp_path / 'experiments').mkdir()
    monkeypatch.setattr(os, 'access', lambda path, mode: not str(path).endswith('experiments') and access(path, mode))
    problem, = config.check_options(plain(train_options), is_train=True).problems
    assert str(problem).startswith(f'{tmp_path}/experiments: cannot be written: you have no right to')
    assert 'chmod u+rwx' in problem.remedy


def test_a_disk_without_room_for_one_checkpoint_is_said_before(train_options: Make, tmp_path: Path,
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    problem, = config.check_options(plain(train_options), is_train=True).problems
    assert 'has no room: a checkpoint takes about ' in problem.what
    assert 'and 1,000 are free on this disk' in problem.what


def test_random_numbers_that_were_not_wanted_before_lose_no_checkpoint(train_options: Make,
                                                                       capsys: pytest.CaptureFixture[str]) -> None:
    """Exact resume for the first iterations and again now; the checkpoints in between have no random numbers."""
    for total, exact in ((2, True), (6, False)):
        opt = distilling(train_options, train={'total_iter': total, 'exact_resume': exact})
        assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 0
    opt = distilling(train_options, train={'total_iter': 8, 'exact_resume': True})
    capsys.readouterr()
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 2
    message = capsys.readouterr().err
    assert '1. --auto_resume: the checkpoint ' in message
    assert '6.state has no random_6.pth\n   -> write exact_resume: false, or restore the file' in message
    (RUN / 'models/random_6.pth').write_bytes(b'of somebody else')
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 2
    assert 'random_6.pth is damaged' in capsys.readouterr().err
    opt['train']['exact_resume'] = False
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 0
    assert 'iter: 6.' in capsys.readouterr().err
