"""Taps and re-entry for networks of all shapes."""

from __future__ import annotations

import pytest
import torch
from stand_ins import TRUNKS, Checkpointed, WritingInEval
from torch import nn

from mipkd_plugin.networks.inspection import settle
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import trunk_of

LQ = torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(3))
CASES = pytest.mark.parametrize('make', TRUNKS, ids=lambda make: make.__name__)


@CASES
def test_the_trunk_is_what_a_person_would_tap(make: type[nn.Module]) -> None:
    chain = trunk_of(make(), LQ)
    assert chain.paths == TRUNKS[make]
    assert chain.doubt == ''


@CASES
@pytest.mark.parametrize('frozen', [False, True])
def test_features_reenter(make: type[nn.Module], frozen: bool) -> None:
    net = make()
    with TappedNet(net, TRUNKS[make], frozen=frozen) as tapped:
        assert settle(tapped, LQ[:1], TRUNKS[make]) == ''
        tapped.prepare(LQ, TRUNKS[make])
        run = tapped(LQ)
        for path, until in zip(TRUNKS[make], [*TRUNKS[make][1:], None]):
            feature = run.features[path]
            assert tapped.finish(LQ, path, feature).equal(run.output)
            if until is not None:
                assert tapped.segment(feature, path, until, LQ).equal(run.features[until])


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_gradient_checkpoints_give_the_right_gradient(use_reentrant: bool) -> None:
    gradients = []
    for checkpoints in (False, True):
        torch.manual_seed(0)
        net = Checkpointed()
        net.use_reentrant = use_reentrant
        if not checkpoints:
            net.trunk = net.body
        with TappedNet(net, ['body.1', 'body.3']) as tapped:
            feature = tapped(LQ).features['body.1'].detach().clone().requires_grad_()
            net.zero_grad()
            middle = tapped.segment(feature, 'body.1', 'body.3', LQ)
            tapped.finish(LQ, 'body.3', middle).square().mean().backward()
            gradients.append([feature.grad, *(p.grad for p in net.parameters() if p.grad is not None)])
    assert len(gradients[0]) == len(gradients[1]) > 5
    for plain, checkpointed in zip(*gradients):
        torch.testing.assert_close(plain, checkpointed, rtol=0, atol=0)


def test_features_inside_a_reentrant_checkpoint_train_the_student() -> None:
    """Such a checkpoint runs its modules without gradient first: what a hook sees of them would train nothing."""
    gradients = []
    for use_reentrant in (False, True):
        torch.manual_seed(0)
        net = Checkpointed()
        net.use_reentrant = use_reentrant
        with TappedNet(net, ['body.0', 'body.2']) as tapped:
            sum(feature.square().mean() for feature in tapped(LQ).features.values()).backward()
        gradients.append([parameter.grad for parameter in net.body[:3].parameters()])
    assert all(a is not None and b is not None and a.equal(b) for a, b in zip(*gradients))


def test_a_frozen_network_that_eval_mode_cuts_off_is_calm_and_stays_so() -> None:
    net = WritingInEval()
    net.add_module('drop', nn.Dropout(0.5))
    with TappedNet(net, TRUNKS[WritingInEval], frozen=True) as tapped:
        assert settle(tapped, LQ[:1], TRUNKS[WritingInEval]) == ''
        assert net.training
        assert not net.drop.training
        first = tapped(LQ).output
        net.train()
        assert tapped(LQ).output.equal(first)
        assert not net.drop.training
        net.eval()
        assert tapped(LQ).output.equal(first)
