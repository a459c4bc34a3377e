"""The table of ``mipkd check``: gradient norms on the student, shares, cosines, and what to look at."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from basicsr.utils.registry import LOSS_REGISTRY
from torch import Tensor, nn
from training import comparison_options, typed, write_options

from mipkd_plugin import DistillationLoss, Step, config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.commands.check.gradients import advice, table
from mipkd_plugin.config.trial_batches import trial_batches
from mipkd_plugin.config.weight_options import weight_option
from mipkd_plugin.losses.gradients import Pull, shares
from mipkd_plugin.models.gradient_check import GradientCheck, check_gradients

Make = Callable[..., dict[str, Any]]
MIPKD = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}
ROW = re.compile(r'^ +(l_\w+|meta_rec) +(\S+) +(\S+)(?: %)? +(\S+) +(\S+)(?:  (.+))?$', re.M)


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.chdir(tmp_path)


def measured(opt: dict[str, Any]) -> GradientCheck:
    found = check_gradients(opt)
    assert found is not None
    return found


def rows(text: str) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in ROW.findall(text)}


def checked(opt: dict[str, Any], capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = mipkd_main(['check', '-opt', str(write_options(opt, Path('o.yml'))), *arguments])
    written = capsys.readouterr()
    return code, written.out, written.err


# ------------------------------------------------------------------------------------------------- the numbers
def test_a_weight_changed_tenfold_moves_the_share_about_tenfold(train_options: Make) -> None:
    found = {}
    for weight in (0.001, 0.01):
        opt = train_options()
        opt['train']['distill_opt'] = [{'type': 'LogitsKDLoss', 'loss_weight': weight}]
        found[weight] = measured(opt)
    small, large = found.values()
    assert shares(large.pulls)['l_logits'] / shares(small.pulls)['l_logits'] == pytest.approx(10, rel=0.02)
    assert large.pulls['l_logits'].norm == pytest.approx(10 * small.pulls['l_logits'].norm, rel=1e-4)
    assert large.pulls['l_pix'].norm == small.pulls['l_pix'].norm, 'the same images and weights each time'
    assert large.pulls['l_logits'].cosine == pytest.approx(small.pulls['l_logits'].cosine, abs=1e-5)


def test_the_weight_of_the_hint_makes_the_norms_equal(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{**MIPKD, 'feat_weight': 30, 'block_weight': 0}]
    found = measured(opt)
    where, value = weight_option(opt, found.owners['l_feat'], 'l_feat', 2)
    assert (where, value) == ('train.distill_opt[0].feat_weight', 30)
    opt['train']['distill_opt'][0]['feat_weight'] = value * found.pulls['l_pix'].norm / found.pulls['l_feat'].norm
    found = measured(opt)
    assert found.pulls['l_feat'].norm == pytest.approx(found.pulls['l_pix'].norm, rel=1e-3)


@pytest.mark.parametrize(('loss', 'term', 'option'), [
    ('MiPKDLoss', 'l_logits', 'kd_weight'), ('MiPKDLoss', 'l_block_2', 'block_weight'),
    ('FAKDLoss', 'l_fakd', 'loss_weight'),
    ('RKDLoss', 'l_rkd_angle', 'angle_weight'), ('KRNetLoss', 'l_kr', 'loss_weight'),
    ('LogitsKDLoss', 'l_logits_2', 'loss_weight')])
def test_the_option_that_sets_a_term(loss: str, term: str, option: str) -> None:
    acting = 1 if loss in ('LogitsKDLoss', 'KRNetLoss', 'FAKDLoss') else 2
    opt = {'train': {'distill_opt': {'type': loss}}}
    found = weight_option(opt, 'train.distill_opt', term, acting)
    assert found is not None
    assert found[0] == f'train.distill_opt.{option}'


def test_terms_that_take_turns_and_meta_steps(train_options: Make) -> None:
    opt = train_options()
    opt['datasets']['train']['batch_size_per_gpu'] = 4
    opt['train'].update(total_iter=40, distill={'every': 2, 'until': 0.9, 'fade': 'linear', 'share': 0.5}, distill_opt=[
        {**MIPKD, 'block_every': 3}, {'type': 'LogitsKDLoss'},
        {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 4, 'meta_every': 5}])
    found = measured(opt)
    assert found.iteration == 30
    assert list(found.pulls) == ['l_pix', 'l_feat', 'l_ae', 'l_logits', 'l_block', 'l_logits_2', 'l_kr']
    assert found.itself == ['meta_rec']
    assert found.owners == {**dict.fromkeys(['l_feat', 'l_ae', 'l_logits', 'l_block'], 'train.distill_opt[0]'),
                            'l_logits_2': 'train.distill_opt[1]', 'l_kr': 'train.distill_opt[2]'}
    assert not found.pulls['l_ae'].norm
    assert found.pulls['l_ae'].trains_itself
    assert min(pull.norm for name, pull in found.pulls.items() if name != 'l_ae') > 0
    opt['train']['total_iter'] = 12  # an iteration of all terms never comes: each is measured in its own turn
    assert list(measured(opt).pulls) == list(found.pulls)


class TwoTerms(nn.Module):
    """Returns two terms, as BasicSR's PerceptualLoss does."""

    def forward(self, output: Tensor, gt: Tensor) -> tuple[Tensor, Tensor]:
        return (output - gt).square().mean(), (output.mean() - gt.mean()).abs()


def test_perceptual_loss_and_no_pixel_loss(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'TwoTerms', TwoTerms)
    opt = train_options()
    opt['train'].update(perceptual_opt={'type': 'TwoTerms'}, distill_opt={'type': 'LogitsKDLoss'})
    assert list(measured(opt).pulls) == ['l_pix', 'l_percep', 'l_style', 'l_logits']
    del opt['train']['pixel_opt']
    found = measured(opt)
    assert list(found.pulls) == ['l_percep', 'l_style', 'l_logits']
    assert found.pulls['l_logits'].cosine is None
    assert table(found, opt)[5].split()[-2:] == ['–', '–']


def test_nothing_is_written_and_random_numbers_stay(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['datasets']['train'].update(type='CropPoolDataset', crops=4)
    opt['teacher']['cache'] = 'cache.lmdb'
    before, random = sorted(tmp_path.rglob('*')), torch.get_rng_state()
    measured(opt)
    assert sorted(tmp_path.rglob('*')) == before
    assert torch.equal(torch.get_rng_state(), random)


def test_pretrained_weights_are_the_start(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    random = measured(opt)
    opt['path'].update(pretrain_network_g=opt['teacher']['weights'], param_key_g='params')
    opt['network_g'] = dict(opt['teacher']['network'])
    found = measured(opt)
    assert found.pretrained == opt['teacher']['weights']
    assert found.pulls['l_logits'].norm == 0, 'the student is its teacher'
    assert random.pretrained is None


def test_images_of_the_training_set_or_random_numbers(train_options: Make) -> None:
    opt = train_options()
    real, again = (trial_batches(opt, 2, 3, 8) for _ in range(2))
    assert (real.source, real.is_real, len(real.batches)) == ('train', True, 3)
    assert all(torch.equal(a['lq'], b['lq']) for a, b in zip(real.batches, again.batches))
    assert real.batches[0]['gt'].shape == (2, 3, 16, 16)
    small = trial_batches(opt, 2, 3, 4)
    assert torch.equal(small.batches[0]['lq'], real.batches[0]['lq'][..., :4, :4])
    for change in ({'dataroot_gt': 'nowhere'}, {'type': 'SingleImageDataset'}):
        opt['datasets']['train'].update(change)
        noise = trial_batches(opt, 2, 1, 8)
        assert not noise.is_real
        assert noise.source.startswith('random numbers (')
        assert noise.batches[0]['gt'].shape == (2, 3, 16, 16)


# --------------------------------------------------------------------------------------------------- the command
def test_the_command_as_it_is_typed(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{**MIPKD, 'feat_weight': 50}, {
        'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 4, 'loss_weight': 1e-6}]
    write_options(opt, Path('o.yml'))
    done = typed('check', '-opt', 'o.yml')
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert list(found) == ['l_pix', 'l_feat', 'l_ae', 'l_logits', 'l_block', 'l_kr', 'meta_rec']
    assert sum(float(row[1]) for name, row in found.items() if name != 'meta_rec') == pytest.approx(100, abs=0.3)
    assert found['l_ae'][4] == found['meta_rec'][4] == 'trains the loss itself, not the student'
    assert 'it has random weights; iteration 5' in done.stdout
    assert re.search(r'8 batches of 2 LR images of 8×8, train; [\d.]+ s', done.stdout)
    assert re.search(r'look at l_feat: its gradient is \d+ times that of l_pix', done.stdout)
    assert re.search(r'as strong as l_pix with train.distill_opt\[0\].feat_weight: [\d.]+ \(now 50\)', done.stdout)
    assert 'look at l_kr: its share is under 0.1 %: it hardly acts' in done.stdout
    assert 'as strong as l_pix with train.distill_opt[1].loss_weight: ' in done.stdout
    assert 'look at l_logits' not in done.stdout
    assert done.stderr == ''


def test_what_is_said_only_where_it_is_true(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss', 'loss_weight': 0.5}
    code, out, _ = checked(opt, capsys)
    assert code == 0
    assert 'look at' not in out
    assert 'This is the start' in out
    assert 'gradients' not in checked(opt, capsys, '--no-gradients')[1]
    opt['model_type'] = 'SRModel'
    del opt['teacher'], opt['train']['distill_opt']
    assert 'gradients' not in checked(opt, capsys)[1]


def test_what_is_said_of_a_term_that_pulls_against_the_images(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'LogitsKDLoss'}]
    found = measured(opt)
    against = dataclasses.replace(found, pulls={'l_pix': Pull(1.0, 1.0), 'l_logits': Pull(0.5, -0.4)})
    assert advice(against, opt) == ['look at l_logits: its cosine is far below 0: a step for it undoes a part of the '
                                    'step for l_pix']
    alone = dataclasses.replace(found, pulls={'l_percep': Pull(1.0), 'l_logits': Pull(9.0)})
    assert advice(alone, opt) == []
    strong = dataclasses.replace(found, pulls={'l_pix': Pull(1.0, 1.0), 'l_logits': Pull(4.0, -0.4)})
    assert advice(strong, opt)[1].endswith('as strong as l_pix with train.distill_opt[0].loss_weight: 0.25 (now 1)')


def test_a_comparison_has_a_table_for_each_method(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = checked(comparison_options(train_options()), capsys)
    assert code == 0, err
    assert re.findall(r'gradients \((\w+)\) of each term', out) == ['logits', 'mipkd']


def test_places_in_a_comparison_are_those_of_its_file(train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    """The printed weight, written where the table says, makes the norms equal."""
    opt = comparison_options(train_options())
    opt['compare']['methods'] = {'weak': {'type': 'LogitsKDLoss', 'loss_weight': 1e-6}, 'two': {
        'losses': [{'type': 'FitNetLoss', 'taps': 2, 'loss_weight': 1e7}], 'crops': 4}}
    code, out, err = checked(opt, capsys)
    assert code == 0, err
    assert out.count('share: norm / sum') == 1
    found = re.findall(r'as strong as l_pix with (\S+): (.+) \(now (.+)\)', out)
    assert [(place, now) for place, _, now in found] == [
        ('compare.methods.weak.loss_weight', '!!float 1e-06'),
        ('compare.methods.two.losses[0].loss_weight', '!!float 1e+07')]
    opt['compare']['methods']['weak']['loss_weight'] = value = yaml.safe_load(found[0][1])
    opt['compare']['methods']['two']['losses'][0]['loss_weight'] = yaml.safe_load(found[1][1])
    assert isinstance(value, float)
    code, out, err = checked(opt, capsys)
    assert code == 0, err
    factors = re.findall(r'^ +l_(?:logits|fitnet) .*×(\S+)$', out, re.M)
    assert [float(factor) for factor in factors] == pytest.approx([1, 1], abs=0.06)


class ManyTurns(DistillationLoss):
    """A term with a long name; in its first iterations none."""

    def __init__(self, since: int = 1) -> None:
        super().__init__()
        self.since = since

    def forward(self, step: Step) -> dict[str, Tensor]:
        distance = (step.student.output - step.teacher.output).abs().mean()
        return {'l_distance_of_logits': distance} if step.iteration >= self.since else {}


def test_terms_that_are_not_measured_and_long_names(train_options: Make, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'ManyTurns', ManyTurns)
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'ManyTurns'}, {'type': 'ManyTurns', 'since': 2}]
    out = checked(opt, capsys)[1]
    assert 'train.distill_opt[1] has no term in iteration 1, and no row here' in out
    assert 'train.distill_opt[0] has no term' not in out
    lines = [line for line in out.splitlines() if re.match(' +(term|l_pix|l_distance_of_logits) ', line)]
    assert len({len(line) for line in lines}) == 1


def test_a_gradient_of_zeros_is_not_called_cut_off(train_options: Make) -> None:
    opt = train_options()
    opt['train']['pixel_opt']['loss_weight'] = 0.0
    opt['path'].update(pretrain_network_g=opt['teacher']['weights'], param_key_g='params')
    opt['network_g'] = dict(opt['teacher']['network'])
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    found = [line for line in table(measured(opt), opt) if ' l_' in line]
    assert len(found) == 3
    assert all('  its gradient is 0 here: ' in line for line in found[1:])


def test_small_batches_are_as_in_the_training(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    sizes = {}
    for batch in (1, 2, 4):
        opt['datasets']['train']['batch_size_per_gpu'] = batch
        found = measured(opt)
        sizes[found.patch[0]] = len(found.images.batches)
    assert sizes == {1: 16, 2: 8, 4: 4}


class CutOffLoss(DistillationLoss):
    """Two terms; the gradient of one is cut."""

    def forward(self, step: Step) -> dict[str, Tensor]:
        distance = (step.student.output - step.teacher.output).abs().mean()
        return {'l_whole': distance, 'l_cut': torch.tensor([distance.item()]).sum()}


def test_a_cut_gradient_is_shown_as_nothing_and_refused(train_options: Make, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'CutOffLoss', CutOffLoss)
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'LogitsKDLoss'}, {'type': 'CutOffLoss'}]
    code, out, err = checked(opt, capsys)
    assert code == 2
    found = rows(out)
    assert list(found) == ['l_pix', 'l_logits', 'l_whole', 'l_cut']
    assert found['l_cut'] == ('0', '0.0', '–', '–', 'cut off: no gradient of it reaches anything that trains')
    assert float(found['l_whole'][1]) > 10
    assert 'ok:' not in out
    assert "train.distill_opt[1] (line" in err
    assert "the term 'l_cut' is cut off" in err


def test_a_loss_that_crashes_is_refused_without_a_table(train_options: Make, capsys: pytest.CaptureFixture[str],
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    class Crashing(DistillationLoss):
        def forward(self, step: Step) -> dict[str, Tensor]:
            raise ValueError('three is one too many')

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'Crashing', Crashing)
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'Crashing'}
    code, out, err = checked(opt, capsys)
    assert (code, out) == (2, '')
    assert 'three is one too many' in err


def test_what_cannot_be_measured_is_said_and_refuses_nothing(train_options: Make, capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> None:
        raise RuntimeError('Checkpointing is not compatible with .grad()')

    monkeypatch.setattr('mipkd_plugin.models.gradient_check.check_gradients', failing)
    code, out, _ = checked(train_options(), capsys)
    assert code == 0
    assert out.endswith('  gradients: not measured: RuntimeError: Checkpointing is not compatible with .grad()\n')


def test_the_check_of_a_training_measures_nothing(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """``basicsr train`` does not wait for a table that it does not show."""
    monkeypatch.setattr('mipkd_plugin.models.gradient_check.check_gradients', lambda *_: pytest.fail('measured'))
    report = config.check_options(config.Options(train_options()), is_train=True, probe='full')
    assert not report.problems
