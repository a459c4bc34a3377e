"""What --auto_resume does with a checkpoint whose files can be read and do not fit."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.inputs.resume import MODELS, RESUME, RUN, STATE, after_training, edit
from helpers import tiny_options, write_image_pairs
from training import train, write_options

from mipkd_plugin import KRNetLoss
from mipkd_plugin.config.remedies import remedied


def forget_files(state: Any) -> Any:
    """A training state that does not say what the other files were."""
    state['mipkd']['files'] = {}
    return state


def without_a_tensor(path: Path) -> None:
    edit(path, lambda state: state['params'].pop('conv_last.bias') is None or state)


def without_lr(path: Path) -> None:
    edit(path, lambda state: state['optimizers'][0]['param_groups'][0].pop('lr') is None or state)


@pytest.mark.parametrize(('name', 'spoil', 'says'), [
    (MODELS / 'net_g_4.pth', without_a_tensor, 'net_g_4.pth does not fit EDSR: 1 missing (conv_last.bias'),
    (STATE / '4.state', without_lr, "cannot be used: its optimizer has no 'lr' in group 0"),
], ids=['student', 'training state'])
def test_a_checkpoint_that_does_not_fit_is_passed_over(name: Path, spoil: Callable[[Path], None], says: str,
                                                       tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write_image_pairs(tmp_path))
    opt = remedied(tiny_options(tmp_path), {'train.exact_resume': True, 'logger.use_tb_logger': False,
                                            'train.total_iter': 6})
    after_training()(tmp_path)
    edit(tmp_path / STATE / '4.state', forget_files)
    spoil(tmp_path / name)
    assert train(write_options(opt, tmp_path / 'x.yml'), *RESUME) == 0
    log = ''.join(path.read_text() for path in (tmp_path / RUN).glob('train_*.log'))
    assert f'Passed over {tmp_path / STATE}/4.state: ' in log
    assert says in log
    assert 'Resuming training from epoch: 0, iter: 2' in log
    assert (tmp_path / STATE / '6.state').is_file()


def test_a_run_that_began_with_a_bare_state_dict_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BasicSR would look for the student's own weights without a key too."""
    monkeypatch.chdir(write_image_pairs(tmp_path))
    after_training()(tmp_path)
    torch.save(torch.load(tmp_path / MODELS / 'net_g_4.pth')['params'], tmp_path / 'bare.pth')
    opt = remedied(tiny_options(tmp_path), {
        'name': 'other', 'path.pretrain_network_g': 'bare.pth', 'path.param_key_g': None, 'train.ema_decay': 0,
        'train.total_iter': 2, 'logger.use_tb_logger': False})
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    assert train(tmp_path / 'x.yml', *RESUME, '--force_yml', 'train:total_iter=4') == 0
    assert (tmp_path / 'experiments/other/training_states/4.state').is_file()


def test_the_state_of_a_meta_step_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = KRNetLoss(taps=1, meta_every=1).meta
    meta.train_on([torch.nn.Parameter(torch.ones(2, 3))])
    for parameter in meta.phi().values():
        parameter.grad = torch.ones(2, 3)
    meta._optimizer.step()
    right = copy.deepcopy(meta.get_extra_state())
    meta.set_extra_state(right)
    wrong: list[Any] = [None, 3, {}, {**right, 'param_groups': []}, {**right, 'state': {1: {}}},
                        {**right, 'state': {0: {**right['state'][0], 'exp_avg': torch.ones(3, 2)}}}]
    for state in wrong:
        with pytest.raises(ValueError, match="the state of the meta step's optimizer (is|has) "):
            meta.set_extra_state(state)
