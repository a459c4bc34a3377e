"""The meta step with students of all kinds: BatchNorm, attention, checkpoints, no second derivative."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mipkd_plugin import KRNetLoss, bind
from mipkd_plugin.losses.inner_step import MetaStepError
from mipkd_plugin.losses.meta_step import _without_second_derivative
from mipkd_plugin.losses.trial_step import trial_problem
from mipkd_plugin.networks.trunk import substituted

FORMS = pytest.mark.parametrize('first_order', [None, True], ids=['second order', 'first order'])


class Student(nn.Module):
    """x2: something of a kind, a convolution, which is tapped, and a convolution before the pixel shuffle."""

    def __init__(self, kind: str = '') -> None:
        super().__init__()
        self.kind = kind
        self.head, self.middle, self.body = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.tail = nn.Conv2d(4, 12, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if 'norm' in kind else nn.Identity()
        self.scale = nn.Parameter(torch.rand(4, 1, 1) + 0.5)
        self.calls = 0

    def between(self, x: Tensor) -> Tensor:
        return torch.tanh(self.middle(torch.tanh(x)))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = self.head(x)
        if 'checkpoint' in self.kind:
            x = checkpoint(self.between, x, use_reentrant=self.kind.startswith('reentrant'))
        elif self.kind == 'attention':
            rows = x.permute(0, 2, 3, 1)
            x = F.scaled_dot_product_attention(rows, rows, rows).permute(0, 3, 1, 2)
        elif self.kind == 'assigned parameter':
            self.scale = self.scale.to(x.device)
            x = x * self.scale
        elif self.kind == 'norm':
            x = self.norm(x)
        elif self.kind == 'pooled norm':
            x = x + self.norm(F.adaptive_avg_pool2d(x, 1))
        elif self.kind == 'hardsigmoid':
            x = x * F.hardsigmoid(self.middle(x))
        return F.pixel_shuffle(self.tail(torch.tanh(self.body(torch.tanh(x)))), 2)


class Case:
    """A student of a kind, its teacher, a bound loss and a batch, in double precision."""

    def __init__(self, kind: str, batch: int = 4, **options: Any) -> None:
        torch.manual_seed(0)
        self.student, self.teacher = Student(kind).double(), Student().double()
        self.loss = KRNetLoss([['body', 'body']], num_kernels=2, hidden_channels=4, meta_every=1, **options)
        self.nets = bind([self.loss], self.student, self.teacher, torch.rand(1, 3, 6, 6).double())
        self.loss.double()
        nn.init.normal_(self.loss.networks[0].generator.weight_head.weight, std=0.5)
        lq, gt = torch.rand(batch, 3, 6, 6).double(), torch.rand(batch, 3, 12, 12).double()
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=0.01)
        self.plan = self.nets.plan(lq, gt, self.optimizer, F.mse_loss, 1)
        self.loss.update_scales(self.plan.teacher)

    def look_ahead(self) -> tuple[Tensor, list[Tensor]]:
        """L_rec(B; θ') and its gradient for φ, as the meta step computes them."""
        found: list[Any] = []
        meta = self.loss.meta
        meta._descend = lambda phi, gradient, iteration: found.append(gradient)
        value = meta(self.plan, self.loss)['meta_rec']
        del meta._descend
        return value, found[0]


KINDS = ['', 'norm', 'attention', 'assigned parameter', 'reentrant checkpoint', 'checkpoint']


@pytest.mark.parametrize('kind', KINDS)
def test_the_gradient_agrees_with_finite_differences(kind: str) -> None:
    case = Case(kind, inner='sgd', inner_lr=0.5)
    _, analytic = case.look_ahead()
    assert case.loss.note == ''
    numeric, picked, step = [], [], 1e-5
    for parameter, gradient in zip(case.loss.self_trained_parameters(), analytic):
        flat = parameter.data.view(-1)
        for index in range(0, flat.numel(), max(1, flat.numel() // 6)):
            value = flat[index].item()
            flat[index] = value + step
            above = case.look_ahead()[0].item()
            flat[index] = value - step
            below = case.look_ahead()[0].item()
            flat[index] = value
            numeric.append((above - below) / (2 * step))
            picked.append(gradient.reshape(-1)[index].item())
    numeric, picked = torch.tensor(numeric), torch.tensor(picked)
    assert numeric.norm() > 0
    assert (numeric - picked).norm() / numeric.norm() < 1e-3


@FORMS
@pytest.mark.parametrize('kind', [*KINDS, 'pooled norm'])
def test_a_student_of_any_kind_is_left_as_it_was(kind: str, first_order: bool | None) -> None:
    case = Case(kind, first_order=first_order)
    before = copy.deepcopy([case.student.state_dict(), case.teacher.state_dict(), torch.get_rng_state()])
    own = dict(case.student.named_parameters())
    generators = copy.deepcopy([p.detach() for p in case.loss.self_trained_parameters()])
    case.loss.prepare(case.plan)
    after = [case.student.state_dict(), case.teacher.state_dict(), torch.get_rng_state()]
    for old, new in zip(before[:2], after[:2]):
        assert old.keys() == new.keys()
        assert all(value.equal(new[name]) for name, value in old.items()), 'running statistics included'
    assert before[2].equal(after[2])
    assert all(own[name] is p for name, p in case.student.named_parameters())
    assert not any(old.equal(new) for old, new in zip(generators, case.loss.self_trained_parameters()))
    assert case.student.training
    assert 'scale' not in case.student.__dict__
    assert type(case.student._parameters) is dict


def test_batch_norm_takes_the_statistics_of_its_half_batch() -> None:
    case = Case('norm', first_order=True)
    case.student.norm.running_mean.fill_(7.0)
    other = copy.deepcopy(case.student).train()
    expected = F.mse_loss(other(case.plan.lq[2:]), case.plan.gt[2:])
    torch.testing.assert_close(case.loss.prepare(case.plan)['meta_rec'], expected.detach())
    assert case.student.norm.running_mean.eq(7).all()
    assert case.student.norm.num_batches_tracked == 0


def test_half_a_batch_that_is_too_small_for_batch_norm() -> None:
    case = Case('pooled norm', batch=2)
    with pytest.raises(MetaStepError, match='on one image BatchNorm in Student has a single value per channel; take '
                                            'batches of 4 images or more, or write meta_every: 0'):
        case.loss.prepare(case.plan)
    case = Case('pooled norm')
    case.loss.float(), case.student.float(), case.teacher.float()
    assert trial_problem(case.loss, case.nets, (3, 6, 6), 2) == ''
    assert case.loss.min_batch_size == 4
    assert 'half batches' in case.loss.min_batch_reason


def test_without_a_second_derivative_the_meta_step_is_of_first_order() -> None:
    by_itself, asked = Case('hardsigmoid'), Case('hardsigmoid', first_order=True)
    for own, other in zip(by_itself.look_ahead()[1], asked.look_ahead()[1]):
        assert own.equal(other)
    assert by_itself.loss.note == ('the student has no second derivative (derivative for aten::hardsigmoid_backward is '
                                   'not implemented): its meta step is of first order')
    assert asked.loss.note == ''
    calls = by_itself.student.calls
    by_itself.look_ahead()
    assert by_itself.student.calls == calls + 3, 'the second order is not tried again'


def test_a_trial_finds_the_form_and_the_loss_takes_it_over() -> None:
    case = Case('hardsigmoid')
    case.loss.float(), case.student.float(), case.teacher.float()
    assert trial_problem(case.loss, case.nets, (3, 6, 6), 2) == ''
    assert 'hardsigmoid' in case.loss.note


def test_an_explicit_second_order_is_not_overridden() -> None:
    case = Case('hardsigmoid', first_order=False)
    with pytest.raises(MetaStepError, match=r'the student Student has no second derivative \(derivative for '
                                            r'aten::hardsigmoid_backward .* and first_order: false needs it; write '
                                            'first_order: true'):
        case.loss.prepare(case.plan)
    value, gradient = Case('norm', first_order=False).look_ahead()
    default = Case('norm').look_ahead()
    assert value.equal(default[0])
    assert all(a.equal(b) for a, b in zip(gradient, default[1]))


def test_other_errors_are_not_taken_for_a_missing_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case('')

    def fail(*_: Any) -> Any:
        raise RuntimeError('CUDA out of memory')

    monkeypatch.setattr(case.loss.meta, '_second_order', fail)
    with pytest.raises(RuntimeError, match='out of memory'):
        case.loss.prepare(case.plan)
    assert case.loss.note == ''


def test_batch_norm_over_all_ranks_has_no_second_derivative(monkeypatch: pytest.MonkeyPatch) -> None:
    student = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    assert _without_second_derivative(student) == ''
    monkeypatch.setattr(torch.distributed, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.distributed, 'get_world_size', lambda: 2)
    assert _without_second_derivative(student) == "SyncBatchNorm in '1'"
    assert _without_second_derivative(nn.BatchNorm2d(4)) == ''


def test_other_weights_stay_outside_the_network() -> None:
    class Rewriting(Student):
        def forward(self, x: Tensor) -> Tensor:
            self.head.weight.data = torch.zeros_like(self.head.weight)
            self.scale = None if self.scale is None else self.scale * 2
            return super().forward(x)

    net = Rewriting()
    net.head.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    for _ in range(2):
        weights = {name: 2 * p for name, p in net.named_parameters() if p.requires_grad}
        substituted(net, weights)(torch.rand(1, 3, 6, 6)).sum().backward()
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())
    assert isinstance(net.scale, nn.Parameter)

    class Failing(Student):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError('no')

    net = Failing()
    with pytest.raises(RuntimeError, match='no'):
        substituted(net, {name: 2 * p for name, p in net.named_parameters()})(torch.rand(1, 3, 6, 6))
    assert type(net._parameters) is dict
    assert 'scale' not in net.__dict__
