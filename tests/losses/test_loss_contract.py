"""What every registered distillation loss promises: ``check_loss``, and what only our own losses promise besides."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import ARCHITECTURES, REPO, STUDENTS, TEACHERS, batch, make_pair
from torch import Tensor, nn

from mipkd_plugin import ArgumentError, DistillationLoss, LogitsKDLoss, RandomizedLoss, bind
from mipkd_plugin.testing import check_loss

LOSSES = sorted(name for name, cls in LOSS_REGISTRY
                if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.'))
OF_FEATURES = [name for name in LOSSES if LOSS_REGISTRY.get(name).needs_taps]
SMALL: dict[str, dict[str, Any]] = {
    'MiPKDLoss': {'taps': 3, 'latent_channels': 8}, 'KRNetLoss': {'taps': 3, 'hidden_channels': 8},
    'FAKDLoss': {'positions': 30}, 'DCKDLoss': {'taps': 2, 'history_every': 2}}


@pytest.fixture(autouse=True, scope='module')
def _vgg(vgg_weights: str) -> None:
    SMALL['CSDLoss'] = {'weights': vgg_weights}


@pytest.mark.parametrize('name', LOSSES)
def test_contract(name: str) -> None:
    check_loss(LOSS_REGISTRY.get(name), **SMALL.get(name, {}))


def test_all_losses_are_registered() -> None:
    assert LOSSES == ['AttentionTransferLoss', 'AugmentedPixelLoss', 'CSDLoss', 'CrossKDLoss', 'DCKDLoss', 'DUKDLoss',
                      'FAKDLoss', 'FitNetLoss', 'KRNetLoss', 'LogitsKDLoss', 'MiPKDLoss', 'RKDLoss', 'WaveletKDLoss']


def test_every_file_of_a_loss_is_imported_by_the_package() -> None:
    """A new file whose import is forgotten in ``losses/__init__.py`` would leave its loss unknown to option files."""
    files = {path.stem for path in (REPO / 'mipkd_plugin' / 'losses').glob('*_loss.py')}
    registered = {LOSS_REGISTRY.get(name).__module__.rpartition('.')[2] for name in LOSSES}
    assert files == registered, f'import in losses/__init__.py, and register: {sorted(files ^ registered)}'


@pytest.mark.parametrize('name', OF_FEATURES)
def test_an_unbound_loss_that_needs_taps_says_so(name: str) -> None:
    step = bind([LogitsKDLoss()], *make_pair('EDSR'), batch('EDSR')[0][:1]).step(*batch('EDSR', samples=3))
    with pytest.raises(RuntimeError, match=f'{name} knows no networks yet: bind it to a student and a teacher first'):
        LOSS_REGISTRY.get(name)(**{'taps': 3, **SMALL.get(name, {})})(step)
    with pytest.raises(ArgumentError, match=f'{name}: taps must be a whole number of at least 1, or a list of'):
        LOSS_REGISTRY.get(name)(taps=None)


def terms_of(name: str, student: nn.Module, teacher: nn.Module, seed: int = 3, arch: str = 'EDSR') -> dict[str, Tensor]:
    """The terms of a loss for three images (RKDLoss needs three)."""
    torch.manual_seed(7)
    loss: DistillationLoss = LOSS_REGISTRY.get(name)(**SMALL.get(name, {}))
    loss.seed(seed)
    lq, gt = batch(arch, samples=3)
    return loss(bind([loss], student, teacher, lq[:1]).step(lq, gt))


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize(('student', 'teacher'), [('SwinIR', 'EDSR'), ('EDSR', 'SwinIR'), ('RCAN', 'SwinIR')])
def test_different_architectures(name: str, student: str, teacher: str) -> None:
    net, frozen = build_network(STUDENTS[student]), build_network(TEACHERS[teacher])
    terms = terms_of(name, net, frozen)
    sum(terms.values()).backward()
    assert all(p.grad is None for p in frozen.parameters())
    assert all(torch.isfinite(value) and value > 0 for value in terms.values())
    assert net.conv_first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('arch', ARCHITECTURES)
@pytest.mark.parametrize('name', LOSSES)
def test_every_term_but_the_one_of_the_auto_encoder_reaches_the_student(name: str, arch: str) -> None:
    student, teacher = make_pair(arch)
    terms = terms_of(name, student, teacher, arch=arch)
    for term, value in terms.items():
        gradient, = torch.autograd.grad(value, student.conv_first.weight, retain_graph=True, allow_unused=True)
        assert (gradient is None) is (term == 'l_ae'), term  # it trains the mixers alone


@pytest.mark.parametrize('name', LOSSES)
def test_only_randomized_losses_depend_on_their_seed(name: str) -> None:
    first, second = (terms_of(name, *make_pair('EDSR'), seed=seed) for seed in (3, 4))
    draws = issubclass(LOSS_REGISTRY.get(name), RandomizedLoss)
    assert all(torch.equal(first[term], second[term]) for term in first) is not draws
