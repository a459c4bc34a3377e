"""The trial step: broken losses are refused before the training, with place and reason; good ones are left alone."""

from __future__ import annotations

import copy
import os
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import batch, make_pair
from stand_ins import Checkpointed, CheckpointedReentrant
from torch import Tensor, nn
from training import write_options

from mipkd_plugin import DistillationLoss, FitNetLoss, KRNetLoss, MiPKDLoss, Step, StepPlan, bind
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.losses.trial_step import trial_problem
from mipkd_plugin.networks.step import NetPair

Make = Callable[..., dict[str, Any]]


def distance(step: Step) -> Tensor:
    return (step.student.output - step.teacher.output).abs().mean()


def loss_of(term: Callable[[DistillationLoss, Step], Any]) -> DistillationLoss:
    """A loss whose only term l_x is a function of the loss and the step."""
    return type('Loss', (DistillationLoss, ), {'forward': lambda self, step: {'l_x': term(self, step)}})()


def problem_of(loss: DistillationLoss, arch: str = 'EDSR') -> str:
    nets = bind([loss], *make_pair(arch), batch(arch)[0][:1])
    return trial_problem(loss, nets, (3, 8, 8), 4 if arch == 'RRDBNet' else 2)


# ---------------------------------------------------------------------------------- within this process
@pytest.mark.parametrize(('term', 'piece'), [
    (lambda self, step: distance(step) / 0 * 0, "the term 'l_x' is nan on random images"),
    (lambda self, step: distance(step) / 0, "the term 'l_x' is inf on random images"),
    (lambda self, step: (0 * distance(step)).sqrt(), "the term 'l_x' has a gradient that is not finite"),
    (lambda self, step: distance(step).item(), "the term 'l_x' must be a tensor, got float"),
    (lambda self, step: 0 * distance(step), "the term 'l_x' is cut off: no gradient of it reaches the student"),
    (lambda self, step: distance(step).reshape(1), "the term 'l_x' must be a scalar, got the shape (1,); take its"),
])
def test_terms_that_are_refused(term: Callable[..., Any], piece: str) -> None:
    assert piece in problem_of(loss_of(term))


@pytest.mark.parametrize('loss', [MiPKDLoss(taps=3, latent_channels=4), KRNetLoss(taps=2), FitNetLoss(taps=2)])
@pytest.mark.parametrize('make', [Checkpointed, CheckpointedReentrant])
def test_gradient_checkpoints_of_a_student_are_no_fault(make: type[nn.Module], loss: DistillationLoss) -> None:
    nets = bind([loss], make().train(), make_pair('EDSR')[1], batch('EDSR')[0][:1])
    assert trial_problem(loss, nets, (3, 8, 8), 2) == ''


@pytest.mark.parametrize(('names', 'pieces'), [
    (['l_g_gan', 'x'], ["'l_g_gan' has the name of a term of BasicSR", "'x' must have a name that begins with l_"]),
    ([3], ['the term 3 must have a name that begins with l_']),
    ([], ['forward(step) returned no term']),
])
def test_all_names_that_are_refused_are_listed(names: list[Any], pieces: list[str]) -> None:
    class Loss(DistillationLoss):
        def forward(self, step: Step) -> Any:
            return {name: distance(step) for name in names}

    problem = problem_of(Loss())
    assert all(piece in problem for piece in pieces)


@pytest.mark.parametrize('begins', [1, 100, 5000])
def test_a_term_that_is_zero_at_first_is_accepted(begins: int) -> None:
    """A slow start: the weight of the term grows from 0 at an early iteration."""
    assert problem_of(loss_of(lambda self, step: max(0, step.iteration - begins + 1) * distance(step))) == ''


def test_a_hinge_that_some_images_do_not_reach_is_accepted() -> None:
    calls = []

    def hinge(self: DistillationLoss, step: Step) -> Tensor:
        calls.append(distance(step).item())
        return (distance(step) - calls[0] - 1e-4).clamp_min(0)  # 0 for the first images

    assert problem_of(loss_of(hinge)) == ''
    assert 1 < len(calls) <= 7


def test_terms_may_take_turns() -> None:
    class Loss(DistillationLoss):
        def forward(self, step: Step) -> dict[str, Tensor]:
            late = step.iteration % 2 == 0
            return {'l_early': (not late) * distance(step), 'l_late': late * distance(step)}

    assert problem_of(Loss()) == ''


def test_a_term_that_trains_only_the_loss_itself_is_accepted() -> None:
    class Loss(DistillationLoss):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.zeros(()))

        def forward(self, step: Step) -> dict[str, Tensor]:
            return {'l_x': (self.gain * step.student.output.detach() - step.teacher.output).abs().mean()}

    assert problem_of(Loss()) == ''


def test_what_happens_every_nth_iteration_is_tried() -> None:
    class Loss(DistillationLoss):
        def forward(self, step: Step) -> dict[str, Tensor]:
            if step.iteration % 1000 == 0:
                raise RuntimeError('only now')
            return {'l_x': distance(step)}

    with pytest.raises(RuntimeError, match='only now'):
        problem_of(Loss())


def test_a_loss_that_needs_three_images_gets_them() -> None:
    class Loss(DistillationLoss):
        min_batch_size = 3
        min_batch_reason = 'three are company'

        def forward(self, step: Step) -> dict[str, Tensor]:
            return {'l_x': distance(step) * (1 if len(step.lq) >= 3 else float('nan'))}

    assert problem_of(Loss()) == ''


def test_parameters_that_come_too_late_for_the_optimizer() -> None:
    class Loss(DistillationLoss):
        def forward(self, step: Step) -> dict[str, Tensor]:
            self.late = nn.Conv2d(3, 3, 1)
            return {'l_x': self.late(step.student.output - step.teacher.output).abs().mean()}

    assert problem_of(Loss()).startswith(
        'a step adds, removes or reshapes parameters or buffers of the loss (late.weight, late.bias)')


class Meddles(DistillationLoss):
    """Changes everything that it can reach, and fails in the end, if it is to."""

    fails = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
        self.gain = nn.Parameter(torch.ones(()))
        self.own = nn.Parameter(torch.ones(()))

    def self_trained_parameters(self) -> list[nn.Parameter]:
        return [self.own]

    def prepare(self, plan: StepPlan) -> dict[str, Tensor]:
        with torch.no_grad():
            self.own += 1
            self.gain *= 1.01
        return {}

    def forward(self, step: Step) -> dict[str, Tensor]:
        self.seen = self.seen + 1
        torch.rand(()), np.random.rand(), random.random()
        value = self.gain * distance(step)
        value.backward(retain_graph=True)
        step.nets.student.net.eval()
        with torch.no_grad():
            list(step.nets.student.net.parameters())[-1].add_(1)
        if self.fails:
            raise ValueError('in the end')
        return {'l_x': value}


def everything(loss: nn.Module, nets: NetPair) -> list[Any]:
    """All that a trial must leave alone, as plain values."""
    modules = (nets.student.net, nets.teacher.net, loss)
    return [*({name: value.tolist() for name, value in module.state_dict().items() if isinstance(value, Tensor)}
              for module in modules),
            [m.training for module in modules for m in module.modules()],
            [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for m in modules for p in m.parameters()],
            torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]


@pytest.mark.parametrize('fails', [False, True])
@pytest.mark.parametrize('cls', [Meddles, MiPKDLoss, KRNetLoss])
def test_networks_loss_and_random_numbers_are_left_alone(cls: type[DistillationLoss], fails: bool,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    loss = cls() if cls is Meddles else cls(taps=2)
    nets = bind([loss], *make_pair('SwinIR'), batch('SwinIR')[0][:1])
    lq, gt = batch('SwinIR', samples=3)
    sum(loss(nets.step(lq, gt)).values()).backward()  # gradients that were there before
    nets.student.net.train()
    nets.student.net.conv_first.eval()
    nets.student.net.conv_first.bias.requires_grad_(False)
    loss.eval()
    before = copy.deepcopy(everything(loss, nets))
    if fails:
        monkeypatch.setattr(Meddles, 'fails', True)
        monkeypatch.setattr(cls, '__call__', lambda self, step: Meddles.forward(Meddles(), step))
        with pytest.raises(ValueError, match='in the end'):
            trial_problem(loss, nets, (3, 8, 8), 2)
    else:
        trial_problem(loss, nets, (3, 8, 8), 2)
    assert everything(loss, nets) == before


# ---------------------------------------------------------------------------------- through the front door
BROKEN = '''
from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin import DistillationLoss


class Base(DistillationLoss):
    def distance(self, step):
        return (step.student.output - step.teacher.output).abs()


@LOSS_REGISTRY.register()
class VectorLoss(Base):
    def forward(self, step):
        return {'l_x': self.distance(step).mean((1, 2, 3))}


@LOSS_REGISTRY.register()
class DetachedLoss(Base):
    def forward(self, step):
        return {'l_x': self.distance(step).mean().detach()}


@LOSS_REGISTRY.register()
class BareLoss(Base):
    def forward(self, step):
        return self.distance(step).mean()


@LOSS_REGISTRY.register()
class CrashLoss(Base):
    def forward(self, step):
        return {'l_x': self.distance(step).maen()}


@LOSS_REGISTRY.register()
class PixelLoss(Base):
    def forward(self, step):
        return {'l_pix': self.distance(step).mean()}


@LOSS_REGISTRY.register()
class EmptyLoss(Base):
    pass
'''
REASONS = {
    'VectorLoss': "the term 'l_x' must be a scalar, got the shape (2,); take its mean",
    'DetachedLoss': "the term 'l_x' is cut off: no gradient of it reaches the student or the loss itself: it would "
                    'train nothing',
    'BareLoss': 'forward(step) must return a dict of terms, got Tensor',
    'CrashLoss': "AttributeError: 'Tensor' object has no attribute 'maen' (line "
                 f"{BROKEN[:BROKEN.index('maen')].count(chr(10)) + 1} of broken.py)",
    'PixelLoss': "the term 'l_pix' has the name of a term of BasicSR; give it another",
    'EmptyLoss': 'TypeError: EmptyLoss computes no terms: it must define forward(step)',
}


@pytest.fixture
def folder(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with broken.py and x.yml, which names all of its losses; forgotten afterwards."""
    folder = tmp_path / 'work'
    folder.mkdir()
    opt = train_options(imports=['broken.py'])
    opt['train']['distill_opt'] = [{'type': name} for name in REASONS]
    (folder / 'broken.py').write_text(BROKEN)
    write_options(opt, folder / 'x.yml')
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(sys, 'dont_write_bytecode', False)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    yield folder
    sys.modules.pop('broken', None)
    for name in REASONS:
        LOSS_REGISTRY._obj_map.pop(name, None)


@pytest.mark.parametrize('name', REASONS)
def test_each_broken_loss_is_refused(name: str, folder: Path, train_options: Make,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    opt = train_options(imports=['broken.py'])
    opt['train']['distill_opt'] = {'type': name}
    write_options(opt, folder / 'x.yml')
    line = next(n for n, text in enumerate((folder / 'x.yml').read_text().splitlines(), 1) if 'distill_opt' in text)
    for main, command in ((mipkd_main, 'check'), (basicsr_main, 'train')):
        assert main([command, '-opt', 'x.yml']) == 2
        captured = capsys.readouterr()
        shows = (name, command) == ('DetachedLoss', 'check')  # the table, with a term of 0 %
        assert ('l_x                  0    0.0 %' in captured.out) if shows else captured.out == ''
        assert captured.err.startswith(f'x.yml: 1 problem\n1. train.distill_opt (line {line}): {name} fails in a trial '
                                       f'step: {REASONS[name]}\n   -> fix ')
    assert sorted(os.listdir()) == ['broken.py', 'x.yml']


def test_all_broken_losses_are_refused_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['check', '-opt', 'x.yml']) == 2
    said = capsys.readouterr().err
    assert said.startswith('x.yml: 6 problems\n')
    for index, (name, reason) in enumerate(REASONS.items()):
        assert f'{index + 1}. train.distill_opt[{index}] (line ' in said
        assert f'{name} fails in a trial step: {reason}' in said


def test_a_loss_that_needs_large_patches_is_accepted(folder: Path, train_options: Make) -> None:
    opt = train_options(imports=['broken.py'])
    opt['datasets']['train']['gt_size'] = 24  # LR patches of 12; the first trial has 8
    opt['train']['distill_opt'] = {'type': 'VectorLoss'}
    (folder / 'broken.py').write_text(BROKEN.replace("{'l_x': self.distance(step).mean((1, 2, 3))}",
                                                     "{'l_x': self.distance(step)[:, :, 8:-8, 8:-8].mean()}"))
    write_options(opt, folder / 'x.yml')
    assert mipkd_main(['check', '-opt', 'x.yml']) == 0
