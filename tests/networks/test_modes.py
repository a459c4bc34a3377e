"""Probe runs leave a network alone, also one that learns in each run."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import make_pair
from stand_ins import BLOCKS, Block, Net
from torch import Tensor, nn

from mipkd_plugin import FitNetLoss, KRNetLoss, MiPKDLoss, bind
from mipkd_plugin.networks.modes import calmed, evaluating


class Centers(Net):
    """Blocks that move a buffer in each training run (CATANet the centers of its tokens)."""

    class Moving(Block):
        def __init__(self, width: int) -> None:
            super().__init__(width)
            self.register_buffer('means', torch.rand(width, 1, 1))
            self.register_buffer('runs', torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.means.data.lerp_(x.detach().mean((0, 2, 3))[:, None, None], 0.1)
                self.runs = self.runs + 1
            return super().forward(x) + 0.1 * self.means

    def make_trunk(self, width: int) -> None:
        self.body = nn.Sequential(*(self.Moving(width) for _ in range(BLOCKS)))


@pytest.mark.parametrize('loss', [FitNetLoss(taps=3), MiPKDLoss(taps=3, latent_channels=4),
                                  KRNetLoss(taps=3, meta_every=1)], ids=lambda loss: type(loss).__name__)
def test_a_teacher_that_learns_in_training_runs_does_not_change(loss: nn.Module) -> None:
    student, teacher = make_pair('EDSR')[0] if loss.reenters_network else Centers(), Centers()
    before = copy.deepcopy([student.state_dict(), teacher.state_dict()])
    nets = bind([loss], student, teacher, torch.rand(1, 3, 8, 12))
    assert all(value.equal(before[0][name]) for name, value in student.state_dict().items()), 'bind leaves it alone'
    plan = nets.plan(torch.rand(2, 3, 8, 12), torch.rand(2, 3, 16, 24), torch.optim.Adam(student.parameters()),
                     nn.functional.l1_loss)
    loss.prepare(plan)
    assert all(value.equal(before[0][name]) for name, value in student.state_dict().items()), 'so does a meta step'
    sum(loss(plan.run()).values()).backward()
    assert all(value.equal(before[1][name]) for name, value in teacher.state_dict().items())
    if isinstance(student, Centers):
        assert not student.body[0].means.equal(before[0]['body.0.means']), 'its own step trains it'
    nets.close()


@pytest.mark.parametrize('mode', [calmed, evaluating])
def test_modes_and_buffers_come_back(mode: object) -> None:
    net, _ = make_pair('SwinIR')
    norm = nn.BatchNorm2d(3)
    net.register_buffer('own', torch.zeros(()))
    own = net.own
    with mode(net), mode(norm):
        net.own = torch.ones(())
        norm.train()(torch.rand(2, 3, 4, 4))
    assert net.own is own
    assert norm.running_mean.eq(0).all()
    assert norm.num_batches_tracked == 0
    assert norm.training
