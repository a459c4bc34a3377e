"""Model classes of others that would train without the teacher that the options describe."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.utils.registry import MODEL_REGISTRY
from training import comparison_options, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare import read_comparison

Make = Callable[..., dict[str, Any]]
HAT = '''
import torch
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY


@MODEL_REGISTRY.register()
class HATModel(SRModel):
    def test(self):
        with torch.no_grad():
            self.output = self.net_g(self.lq)


@MODEL_REGISTRY.register()
class OwnStepModel(SRModel):
    def optimize_parameters(self, current_iter):
        super().optimize_parameters(current_iter)


@MODEL_REGISTRY.register()
class OwnTeacherModel(SRModel):
    def init_training_settings(self):
        self.distill_opt = self.opt['train']['distill_opt']
        super().init_training_settings()
'''
DISTILLS = '''
from mipkd_plugin import DistillMixin


@MODEL_REGISTRY.register()
class HATDistillModel(DistillMixin, HATModel):
    pass
'''


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with models of somebody else in hat_model.py; afterwards all is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    (tmp_path / 'hat_model.py').write_text(HAT)
    before = dict(MODEL_REGISTRY._obj_map)
    yield tmp_path
    sys.modules.pop('hat_model', None)
    MODEL_REGISTRY._obj_map.clear()
    MODEL_REGISTRY._obj_map.update(before)


def problems_of(opt: dict[str, Any]) -> list[config.Problem]:
    config.load_plugins(named=['hat_model.py'])
    return config.check_options(opt, is_train=True).problems


def test_a_model_that_would_ignore_the_teacher_is_refused(train_options: Make, work: Path,
                                                          capsys: pytest.CaptureFixture[str]) -> None:
    path = write_options(train_options(model_type='HATModel'), work / 'x.yml')
    for run in (lambda: train(path, '--import', 'hat_model.py'),
                lambda: mipkd_main(['check', '-opt', str(path), '--import', 'hat_model.py'])):
        assert run() == 2
        message = capsys.readouterr().err
        assert ': 1 problem\n1. model_type (line ' in message, message
        assert ('HATModel does not distill: it would ignore teacher and train.distill_opt, and train without a teacher'
                '\n   -> write model_type: DistillModel, which trains in the same way and pads images by itself; or, '
                'to keep the test() of HATModel, write @MODEL_REGISTRY.register() and class '
                'HATDistillModel(DistillMixin, HATModel): pass in hat_model.py, and model_type: HATDistillModel'
                ) in message, message
    assert not (work / 'experiments').exists()


def test_the_remedies_help(train_options: Make, work: Path) -> None:
    opt = train_options(model_type='HATModel')
    problem, = problems_of(opt)
    assert problem.fix == {'model_type': 'DistillModel'}
    assert problems_of({**opt, **problem.fix}) == []


def test_the_two_lines_help_and_are_found(train_options: Make, work: Path) -> None:
    (work / 'hat_model.py').write_text(HAT + DISTILLS)
    opt = train_options(model_type='HATModel')
    problem, = problems_of(opt)
    assert problem.remedy == 'write model_type: HATDistillModel'
    assert problem.fix == {'model_type': 'HATDistillModel'}
    opt['train']['total_iter'] = 1
    path = write_options({**opt, **problem.fix}, work / 'x.yml')
    assert train(path, '--import', 'hat_model.py') == 0
    assert 'l_block' in next((work / 'experiments/tiny').glob('train_*.log')).read_text()


def test_a_step_of_its_own_is_not_replaced_without_a_word(train_options: Make, work: Path) -> None:
    problem, = problems_of(train_options(model_type='OwnStepModel'))
    assert problem.fix == {}
    assert problem.remedy == (
        'write @MODEL_REGISTRY.register() and class OwnStepDistillModel(DistillMixin, OwnStepModel): pass in '
        'hat_model.py (from mipkd_plugin import DistillMixin), and model_type: OwnStepDistillModel')


@pytest.mark.parametrize('model_type', ['RealESRNetModel', 'RealESRGANModel', 'SRGANModel', 'ESRGANModel',
                                        'SwinIRModel', 'SRModel'])
def test_basicsrs_own_models(train_options: Make, model_type: str) -> None:
    found = [problem for problem in problems_of(train_options(model_type=model_type))
             if f'{model_type} does not distill' in problem.what]
    name = 'DistillModel' if model_type == 'SRModel' else model_type.replace('Model', 'DistillModel')
    assert [problem.where for problem in found] == ['teacher', 'train.distill_opt']
    assert all(problem.fix == {'model_type': name} for problem in found)


def test_models_for_videos_do_not_distill(train_options: Make) -> None:
    found, = (problem for problem in problems_of(train_options(model_type='VideoRecurrentGANModel'))
              if 'does not distill' in problem.what)
    assert found.remedy.startswith('remove teacher and train.distill_opt: only model classes that train on images')


def test_a_gan_of_others_is_extended_and_not_replaced(train_options: Make, work: Path) -> None:
    (work / 'hat_model.py').write_text(HAT.replace('sr_model', 'srgan_model').replace('SRModel', 'SRGANModel'))
    found, = (problem for problem in problems_of(train_options(model_type='HATModel'))
              if 'does not distill' in problem.what)
    assert found.fix == {}
    assert 'class HATDistillModel(DistillMixin, HATModel): pass in hat_model.py' in found.remedy


def test_losses_of_ours_are_enough(train_options: Make) -> None:
    opt = train_options(model_type='HATModel')
    del opt['teacher']
    problem, = problems_of(opt)
    assert 'would ignore train.distill_opt, and' in problem.what


def test_what_others_do_with_such_keys_is_their_business(train_options: Make) -> None:
    assert problems_of(train_options(model_type='OwnTeacherModel')) == []
    opt = train_options(model_type='HATModel')
    opt['teacher'], opt['train']['distill_opt'] = {'path': 'x.pth'}, {'type': 'L1Loss'}
    assert problems_of(opt) == []
    opt = train_options(model_type='HATModel')
    del opt['teacher'], opt['train']['distill_opt']
    assert problems_of(opt) == []


def test_a_comparison_says_the_same(train_options: Make, work: Path) -> None:
    config.load_plugins(named=['hat_model.py'])
    opt = comparison_options(train_options(model_type='OwnStepModel'))
    with pytest.raises(config.OptionError) as caught:
        read_comparison(config.read_options(write_options(opt, work / 'x.yml')))
    problem, = caught.value.problems
    assert 'class OwnStepDistillModel(DistillMixin, OwnStepModel): pass' in problem.remedy
