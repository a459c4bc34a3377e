"""Losses between features of different sizes: unshuffled by default, or resampled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from benchmarks.architecture_trials import Case, try_role
from faults.stand_ins import PadsItself
from helpers import STUDENTS, TEACHERS, tiny_options, write_image_pairs
from torch import nn
from torch.nn import functional as F
from training import train, train_until, write_options

from mipkd_plugin import BindError, CrossKDLoss, MiPKDLoss, bind, config
from mipkd_plugin.cli import mipkd_main as main
from mipkd_plugin.losses import AttentionTransferLoss, FAKDLoss, FitNetLoss, KRNetLoss, RKDLoss

RESAMPLING = {
    'FitNet': lambda **o: FitNetLoss(2, **o), 'AT': lambda **o: AttentionTransferLoss(2, **o),
    'FAKD': lambda **o: FAKDLoss(2, **o), 'RKD': lambda **o: RKDLoss(2, **o),
    'KRNet': lambda **o: KRNetLoss(2, meta_every=1, **o),
    'MiPKD': lambda **o: MiPKDLoss(2, latent_channels=4, block_weight=0, **o)}


def pair(finer: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    if finer == 'student':
        return PadsItself(), build_network(TEACHERS['EDSR'])
    return build_network(STUDENTS['EDSR']), PadsItself(16, 5)


@pytest.mark.parametrize('finer', ['student', 'teacher'])
@pytest.mark.parametrize('how', ['area', 'bilinear'])
@pytest.mark.parametrize('name', RESAMPLING)
def test_every_loss_with_taps_resamples(name: str, how: str, finer: str) -> None:
    student, teacher = pair(finer)
    loss = RESAMPLING[name](resample=how)
    nets = bind([loss], student, teacher, torch.rand(1, 3, 8, 8))
    for s, t in loss.pairs:
        assert [s.endswith(f' {how} 2/3'), t.endswith(f' {how} 2/3')] == [finer == 'student', finer == 'teacher']
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=1e-3)
    for iteration in (1, 2):
        lq, gt = torch.rand(4, 3, 8, 8), torch.rand(4, 3, 16, 16)
        plan = nets.plan(lq, gt, optimizer, F.l1_loss, iteration)
        loss.prepare(plan)
        step = plan.run()
        assert all(a.shape[2:] == b.shape[2:] == (8, 8) for a, b in loss.features(step))
        terms = loss(step)
        optimizer.zero_grad()
        sum(terms.values()).backward()
        optimizer.step()
        assert all(bool(term.isfinite()) for term in terms.values())
        assert student.conv_first.weight.grad.abs().sum() > 0
    nets.close()


def test_a_resampled_student_feature_enters_the_teacher_alone() -> None:
    student, teacher = pair('student')
    loss = CrossKDLoss(2, resample='area')
    nets = bind([loss], student, teacher, torch.rand(1, 3, 8, 8))
    term, = loss(nets.step(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 16, 16))).values()
    term.backward()
    assert student.conv_first.weight.grad.abs().sum() > 0
    nets.close()
    with pytest.raises(BindError, match='CrossKDLoss lets features re-enter the teacher there') as caught:
        bind([CrossKDLoss(2, resample='area')], *pair('teacher'), torch.rand(1, 3, 8, 8))
    assert len(caught.value.problems) == 1


def test_a_loss_without_the_option_is_not_told_to_use_it() -> None:
    class Own(FitNetLoss):
        def __init__(self) -> None:
            super().__init__(taps=2)

    with pytest.raises(BindError) as caught:
        bind([Own()], *pair('student'), torch.rand(1, 3, 8, 8))
    assert 'resample' not in str(caught.value)
    assert 'or one a whole multiple of the other, up to 4' in str(caught.value)


def test_mipkd_without_its_block_chain_enters_no_network() -> None:
    assert MiPKDLoss().reenters_network
    assert not MiPKDLoss(block_weight=0).reenters_network
    assert MiPKDLoss(kd_weight=0, feat_weight=0, ae_weight=0).without_reentry == {}


@pytest.mark.parametrize('role', ['student', 'teacher', 'both'])
@pytest.mark.parametrize('loss', ['FitNets', 'KRNets', 'MiPKD'])
def test_a_network_that_unshuffles_first_trains_in_all_roles(loss: str, role: str) -> None:
    case = Case('RRDBNet-x2', lambda wide: build_network({
        'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 2, 'num_feat': 12 if wide else 8,
        'num_block': 3, 'num_grow_ch': 4}), ('body.#', ))
    found = try_role(case, loss, role, seconds=60)
    assert found['result'] == 'ok'
    assert (' unshuffled 2' in str(found['taps'])) is False, 'the coarser side is shown as it is'


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    opt = tiny_options(write_image_pairs(tmp_path), network_g={'type': 'PadsItself'})
    opt['train']['distill_opt'] = {'type': 'FitNetLoss', 'taps': 3, 'resample': 'area'}
    return opt


def test_the_check_and_the_log_print_the_resampled_pairs(options: dict[str, Any], tmp_path: Path,
                                                         capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(options, tmp_path / 'options.yml')
    assert main(['check', '-opt', str(path)]) == 0
    assert 'body.0 area 2/3 8×8×8 <- body.1 ' in capsys.readouterr().out
    assert train(path) == 0
    log, = (tmp_path / 'experiments' / 'tiny').glob('train_*.log')
    assert 'FitNetLoss: body.0 area 2/3 <- body.1, ' in log.read_text(encoding='utf-8')


def test_resume_keeps_the_resampled_pairs(options: dict[str, Any], tmp_path: Path) -> None:
    options['train']['exact_resume'] = True
    path = write_options(options, tmp_path / 'options.yml')
    train_until(path, 'saved', 2)
    assert train(path, '--auto_resume') == 0
    options['name'] = 'whole'
    assert train(write_options(options, tmp_path / 'whole.yml')) == 0
    states = [torch.load(tmp_path / 'experiments' / name / 'models' / f'{kind}_4.pth')
              for kind in ('net_g', 'distill') for name in ('tiny', 'whole')]
    for resumed, whole in (states[:2], states[2:]):
        assert_equal(resumed, whole)


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_equal(a[key], b[key])
    elif isinstance(a, torch.Tensor):
        assert a.equal(b)


def test_the_check_says_which_form_the_meta_step_takes(options: dict[str, Any], tmp_path: Path,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    options['network_g'] = {'type': 'Gated', 'kind': 'hard'}
    options['train'] |= {'distill_opt': {'type': 'KRNetLoss', 'taps': 3, 'meta_every': 2}}
    path = write_options(options, tmp_path / 'options.yml')
    assert main(['check', '-opt', str(path)]) == 0
    note = ('the student has no second derivative (derivative for aten::hardsigmoid_backward is not implemented): its '
            'meta step is of first order')
    assert note in capsys.readouterr().out
    assert train(path) == 0
    log, = (tmp_path / 'experiments' / 'tiny').glob('train_*.log')
    assert note in log.read_text(encoding='utf-8')


@pytest.mark.parametrize(('gt_size', 'fits'), [(16, False), (32, True)])
def test_the_batch_that_batch_norm_needs_is_that_of_the_training_patch(options: dict[str, Any], tmp_path: Path,
                                                                       gt_size: int, fits: bool) -> None:
    options['network_g'] = {'type': 'Gated', 'kind': 'norm8'}
    options['train']['distill_opt'] = {'type': 'KRNetLoss', 'taps': 3}
    options['datasets']['train']['gt_size'] = gt_size
    problems = config.check_options(config.read_options(write_options(options, tmp_path / 'options.yml')),
                                    is_train=True, probe='full').problems
    assert [problem.where for problem in problems] == ([] if fits else ['datasets.train.batch_size_per_gpu'])
