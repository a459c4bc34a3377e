"""What every registered distillation loss promises, over every architecture."""

from __future__ import annotations

import copy

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import ARCHITECTURES, STUDENTS, TEACHERS, batch, make_pair
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin import ArgumentError, DistillationLoss, LogitsKDLoss, RandomizedLoss, bind

LOSSES = sorted(name for name, cls in LOSS_REGISTRY
                if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.'))
OF_FEATURES = [name for name in LOSSES if LOSS_REGISTRY.get(name).needs_taps]
SMALL = {'MiPKDLoss': {'taps': 3, 'latent_channels': 8}, 'KRNetLoss': {'taps': 3, 'hidden_channels': 8},
         'FAKDLoss': {'positions': 30}}


@pytest.fixture(autouse=True, scope='module')
def _vgg(vgg_weights: str) -> None:
    SMALL['CSDLoss'] = {'weights': vgg_weights}


def images(arch: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    return batch(arch, seed=seed, samples=3)  # RKDLoss needs three


class Trial:
    """One loss bound to one pair of networks, and steps taken with it."""

    def __init__(self, name: str, student: nn.Module, teacher: nn.Module, arch: str, **options: object) -> None:
        self.arch = arch
        torch.manual_seed(7)
        self.loss: DistillationLoss = LOSS_REGISTRY.get(name)(**{**SMALL.get(name, {}), **options})
        self.loss.seed(3)
        self.student, self.teacher = student, teacher
        self.nets = bind([self.loss], student, teacher, images(arch)[0][:1])
        self.own = [id(p) for p in self.loss.self_trained_parameters()]

    def terms(self, seed: int = 0) -> dict[str, Tensor]:
        return self.loss(self.nets.step(*images(self.arch, seed)))

    def prepare(self, iteration: int) -> dict[str, Tensor]:
        optimizer = torch.optim.Adam(self.student.parameters(), lr=1e-3)
        return self.loss.prepare(self.nets.plan(*images(self.arch), optimizer, F.l1_loss, iteration))


def test_all_losses_are_registered() -> None:
    assert LOSSES == ['AttentionTransferLoss', 'CSDLoss', 'CrossKDLoss', 'DUKDLoss', 'FAKDLoss', 'FitNetLoss',
                      'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'RKDLoss']
    assert all(LOSS_REGISTRY.get(name).min_batch_reason for name in LOSSES if LOSS_REGISTRY.get(name).min_batch_size > 1)


@pytest.mark.parametrize('name', OF_FEATURES)
def test_an_unbound_loss_that_needs_taps_says_so(name: str) -> None:
    step = bind([LogitsKDLoss()], *make_pair('EDSR'), images('EDSR')[0][:1]).step(*images('EDSR'), iteration=1)
    with pytest.raises(RuntimeError, match=f'{name} knows no networks yet: bind it to a student and a teacher first'):
        LOSS_REGISTRY.get(name)(**{'taps': 3, **SMALL.get(name, {})})(step)
    with pytest.raises(ArgumentError, match=f'{name}: taps must be a number of at least 1, or a list of'):
        LOSS_REGISTRY.get(name)(taps=None)


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_terms_are_finite_named_scalars(name: str, arch: str) -> None:
    terms = Trial(name, *make_pair(arch), arch).terms()
    assert terms
    for term, value in terms.items():
        assert term.startswith('l_')
        assert value.shape == ()
        assert value.requires_grad
        assert torch.isfinite(value)
        assert value > 0


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_each_term_reaches_the_students_first_convolution(name: str, arch: str) -> None:
    trial = Trial(name, *make_pair(arch), arch)
    first = trial.student.conv_first.weight
    for term in trial.terms():
        if term == 'l_ae':  # the auto-encoder term trains the mixers alone
            continue
        first.grad = None
        trial.terms()[term].backward()
        assert first.grad is not None, term
        assert first.grad.abs().sum() > 0, term


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_every_parameter_of_the_loss_gets_a_gradient_within_some_seeds(name: str, arch: str) -> None:
    trial = Trial(name, *make_pair(arch), arch)
    for seed in range(8):
        sum(trial.terms(seed).values()).backward()
    starved = [name for name, p in trial.loss.named_parameters()
               if id(p) not in trial.own and (p.grad is None or p.grad.abs().sum() == 0)]
    assert starved == []


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_what_a_loss_trains_itself_gets_no_gradient_but_moves(name: str, arch: str) -> None:
    trial = Trial(name, *make_pair(arch), arch)
    sum(trial.terms().values()).backward()
    own = [p for p in trial.loss.parameters() if id(p) in trial.own]
    assert all(p.grad is None for p in own)
    assert bool(own) is (type(trial.loss).prepare is not DistillationLoss.prepare)
    before = [p.detach().clone() for p in own]
    for iteration in range(1, 11):
        assert all(not value.requires_grad for value in trial.prepare(iteration).values())
    assert not any(torch.equal(a, b) for a, b in zip(before, own))


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_teacher_is_left_alone(name: str, arch: str) -> None:
    student, teacher = make_pair(arch)
    before = copy.deepcopy(teacher.state_dict())
    trial = Trial(name, student, teacher, arch)
    sum(trial.terms().values()).backward()
    after = teacher.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not any(module.training for module in teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_same_seed_same_terms(name: str, arch: str) -> None:
    def run(seed: int) -> list[Tensor]:
        trial = Trial(name, *make_pair(arch), arch)
        trial.student.eval()  # SwinIR's drop-path draws from the global random numbers
        trial.loss.seed(seed)
        return [value for _ in range(2) for value in trial.terms().values()]

    first, second, other = run(3), run(3), run(4)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    draws = issubclass(LOSS_REGISTRY.get(name), RandomizedLoss)
    assert all(torch.equal(a, b) for a, b in zip(first, other)) is not draws


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('student', 'teacher'), [('SwinIR', 'EDSR'), ('EDSR', 'SwinIR'), ('RCAN', 'SwinIR')])
def test_different_architectures(name: str, student: str, teacher: str) -> None:
    trial = Trial(name, build_network(STUDENTS[student]), build_network(TEACHERS[teacher]), student)
    terms = trial.terms()
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert trial.student.conv_first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('name', LOSSES)
def test_global_random_numbers_are_untouched(name: str) -> None:
    trial = Trial(name, *make_pair('EDSR'), 'EDSR')
    state = torch.get_rng_state()
    trial.terms()
    trial.prepare(10)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize('name', LOSSES)
def test_state_dict_restores_the_next_terms(name: str) -> None:
    trial = Trial(name, *make_pair('EDSR'), 'EDSR')
    trial.terms()
    trial.prepare(10)
    other = Trial(name, *make_pair('EDSR'), 'EDSR')
    other.loss.seed(99)
    other.loss.load_state_dict(copy.deepcopy(trial.loss.state_dict()))
    for each in (trial, other):
        each.prepare(20)
    assert all(torch.equal(a, b) for a, b in zip(trial.terms(1).values(), other.terms(1).values()))


@pytest.mark.parametrize('name', LOSSES)
def test_loss_weight_scales_every_term_once(name: str) -> None:
    plain = Trial(name, *make_pair('EDSR'), 'EDSR', loss_weight=1.0).terms()
    tripled = Trial(name, *make_pair('EDSR'), 'EDSR', loss_weight=3.0).terms()
    for term, value in plain.items():
        torch.testing.assert_close(tripled[term], 3 * value)
