"""The meta step: its gradient against finite differences, what it leaves alone, and what it learns."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from helpers import ARCHITECTURES, STUDENTS, TEACHERS, batch
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin import KRNetLoss, bind
from mipkd_plugin.losses.inner_step import gradients, trainable

FORMS = pytest.mark.parametrize('first_order', [False, True], ids=['second order', 'first order'])


class TwoLayers(nn.Module):
    """x2: one convolution, which is tapped, and one before the pixel shuffle."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.tail = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.tail(torch.tanh(self.head(x))), 2)


class Toy:
    """KRNetLoss between two networks of two layers in double precision, and a student that Adam has moved before."""

    def __init__(self, **options: Any) -> None:
        torch.manual_seed(0)
        self.student, teacher = TwoLayers(4).double(), TwoLayers(6).double()
        self.loss = KRNetLoss([['head', 'head']], num_kernels=2, hidden_channels=4, loss_weight=3.0, **options)
        self.nets = bind([self.loss], self.student, teacher, torch.rand(1, 3, 6, 6).double())
        self.loss.double()
        net = self.loss.networks[0]
        nn.init.normal_(net.generator.weight_head.weight, std=0.5)
        self.lq, self.gt = torch.rand(4, 3, 6, 6).double(), torch.rand(4, 3, 12, 12).double()
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=0.01, betas=(0.9, 0.99))
        for _ in range(3):
            self.optimizer.zero_grad()
            F.mse_loss(self.student(self.lq), self.gt).backward()
            self.optimizer.step()
        net.update_scale(self.nets[1](self.lq).features['head'])
        self.roots: dict[str, Tensor] = {}
        self.plan = self.nets.plan(self.lq, self.gt, self.optimizer, F.mse_loss, 1)

    def meta_step(self) -> tuple[Tensor, list[Tensor]]:
        meta = self.loss.meta
        return (meta._first_order if meta.first_order else meta._second_order)(self.plan, self.loss, meta.phi())

    def gradient(self) -> list[Tensor]:
        return self.meta_step()[1]

    def run(self, weights: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        feature = F.conv2d(x, weights['head.weight'], weights['head.bias'], padding=1)
        tail = F.conv2d(torch.tanh(feature), weights['tail.weight'], weights['tail.bias'], padding=1)
        return feature, F.pixel_shuffle(tail, 2)

    def outer(self) -> float:
        """What φ descends on, as the formulas say, with nothing of the package but the KRNet itself.

        L_rec(B; θ'), or of first order L(A; θ_B) − L(A; θ). The root of Adam's v̂ comes from the first call: it counts
        as a constant.
        """
        net, (a, b) = self.loss.networks[0], (slice(0, 2), slice(2, 4))
        theta = {name: p.detach().requires_grad_() for name, p in self.student.named_parameters()}
        of_teacher = self.nets[1].net.head(self.lq[a])
        feature, output = self.run(theta, self.lq[a])
        if self.loss.meta.first_order:
            loss = F.mse_loss(self.run(theta, self.lq[b])[1], self.gt[b])
            there = self.run(self.ahead(theta, loss, momentum=0.0), self.lq[a])[0]
            t = of_teacher / net.scale
            made = net.generate(net.project(feature), t)
            return 3.0 * (net.distance(net.project(there), t, *made)
                          - net.distance(net.project(feature), t, *made)).mean().item()
        loss = F.mse_loss(output, self.gt[a]) + 3.0 * net(feature, of_teacher).mean()
        return F.mse_loss(self.run(self.ahead(theta, loss), self.lq[b])[1], self.gt[b]).item()

    def ahead(self, theta: dict[str, Tensor], loss: Tensor, momentum: float = 1.0) -> dict[str, Tensor]:
        grads = torch.autograd.grad(loss, list(theta.values()), materialize_grads=True)
        ahead = {}
        for (name, weight), p, g in zip(theta.items(), self.student.parameters(), grads):
            state = self.optimizer.state[p]
            v = (0.99 * state['exp_avg_sq'] + 0.01 * g**2) / (1 - 0.99**4)
            root = self.roots.setdefault(name, v.sqrt() + 1e-8)
            m = (0.9 * state['exp_avg'] * momentum + 0.1 * g) / (1 - 0.9**4)
            rate = self.loss.meta.inner.learning_rate or 0.01
            ahead[name] = weight - {'sgd': 0.1 * g, 'rmsprop': rate * g / root,
                                    'adam': rate * m / root}[self.loss.meta.inner.rule]
        return ahead


@pytest.mark.parametrize('options', [{}, {'inner': 'rmsprop'}, {'inner': 'sgd'}, {'condition_gradient': True},
                                     {'inner_lr': 0.03}, {'first_order': True},
                                     {'first_order': True, 'inner': 'rmsprop', 'inner_lr': 0.03}], ids=str)
def test_meta_gradient_agrees_with_finite_differences(options: dict[str, Any]) -> None:
    toy = Toy(**options)
    analytic = toy.gradient()
    toy.outer()
    parameters = toy.loss.self_trained_parameters()
    numeric, picked, step = [], [], 1e-5
    generator = torch.Generator().manual_seed(0)
    for parameter, gradient in zip(parameters, analytic):
        flat = parameter.data.view(-1)
        for index in torch.randperm(flat.numel(), generator=generator)[:12].tolist():
            value = flat[index].item()
            flat[index] = value + step
            above = toy.outer()
            flat[index] = value - step
            below = toy.outer()
            flat[index] = value
            numeric.append((above - below) / (2 * step))
            picked.append(gradient.reshape(-1)[index].item())
    numeric, picked = torch.tensor(numeric), torch.tensor(picked)
    assert len(picked) > 60
    assert numeric.norm() > 0
    assert (numeric - picked).norm() / numeric.norm() < 1e-4


def test_what_is_logged_is_the_reconstruction_after_the_look_ahead() -> None:
    toy = Toy()
    assert toy.meta_step()[0].item() == pytest.approx(toy.outer(), rel=1e-12)
    toy = Toy(first_order=True)
    expected = F.mse_loss(toy.student(toy.lq[2:]), toy.gt[2:]).item()
    assert toy.meta_step()[0].item() == pytest.approx(expected, rel=1e-12)


def test_first_order_approaches_second_order_for_small_steps_of_sgd_only() -> None:
    def differ(inner_lr: float) -> float:
        first, second = (torch.cat([g.flatten() for g in Toy(first_order=f, inner='sgd', inner_lr=inner_lr).gradient()])
                         for f in (True, False))
        return ((first - second).norm() / second.norm()).item()

    assert differ(1.0) > 0.02
    assert differ(1e-3) < 0.01


def test_the_look_ahead_goes_where_adam_goes() -> None:
    student = TwoLayers(4)
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01, betas=(0.8, 0.99))
    inner = KRNetLoss(1).meta.inner
    for _ in range(3):
        theta = trainable(student)
        gradient = gradients(student(torch.rand(1, 3, 4, 4)).square().sum(), theta)
        ahead = inner(theta, gradient, optimizer)
        still = inner(theta, [torch.zeros_like(g) for g in gradient], optimizer, momentum=False)
        assert all(torch.equal(still[name], p) for name, p in theta.items())
        for p, g in zip(student.parameters(), gradient):
            p.grad = g
        optimizer.step()
        for name, p in student.named_parameters():
            torch.testing.assert_close(ahead[name], p)


def test_the_look_ahead_uses_the_learning_rate_of_each_group() -> None:
    student = TwoLayers(4)
    optimizer = torch.optim.Adam([{'params': student.head.parameters(), 'lr': 0.5},
                                  {'params': student.tail.parameters(), 'lr': 0.25}])
    theta = trainable(student)
    ones = [torch.ones_like(p) for p in theta.values()]
    inner = KRNetLoss(1).meta.inner
    moved = {name: (theta[name] - ahead).mean().item() for name, ahead in inner(theta, ones, optimizer).items()}
    assert moved == pytest.approx({'head.weight': 0.5, 'head.bias': 0.5, 'tail.weight': 0.25, 'tail.bias': 0.25})
    for other in (torch.optim.SGD, torch.optim.NAdam):
        with pytest.raises(ValueError, match=f'needs a student trained by Adam, not by {other.__name__}; write inner'):
            inner(theta, ones, other(student.parameters(), lr=0.1))
    with pytest.raises(ValueError, match='the optimizer does not train head.weight of the student; add it'):
        inner(theta, ones, torch.optim.Adam(student.tail.parameters()))


def test_the_first_meta_step_knows_the_feature_scale() -> None:
    toy = Toy(meta_every=1)
    net = toy.loss.networks[0]
    net.num_batches, net.scale = torch.zeros_like(net.num_batches), torch.ones_like(net.scale)
    toy.loss.prepare(toy.plan)
    torch.testing.assert_close(net.scale, toy.plan.teacher.features['head'].abs().mean())
    toy.loss.prepare(toy.plan)
    toy.loss(toy.plan.run())
    assert net.num_batches == 2, 'once at the first meta step, and once in each iteration\'s loss'


@FORMS
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_nothing_but_the_generators_changes(arch: str, first_order: bool) -> None:
    torch.manual_seed(0)
    options = {'drop_path_rate': 0.5} if arch == 'SwinIR' else {}
    student, teacher = build_network({**STUDENTS[arch], **options}), build_network(TEACHERS[arch])
    student.register_buffer('calls', torch.zeros(()))
    student.conv_first.register_forward_hook(lambda *_: [student.calls.add_(1)][:0] or None)
    lq, gt = batch(arch)
    loss = KRNetLoss(3, hidden_channels=8, first_order=first_order, meta_every=2)
    nets = bind([loss], student, teacher, lq[:1])
    optimizer = torch.optim.Adam([*student.parameters(), *loss.parameters()], lr=0.01)
    step = nets.plan(lq, gt, optimizer, F.l1_loss, 1).run()
    sum([F.l1_loss(step.student.output, gt), *loss(step).values()]).backward()
    optimizer.step()

    def everything() -> list[Any]:
        return copy.deepcopy([student.state_dict(), teacher.state_dict(), optimizer.state_dict(),
                              [p.grad for p in student.parameters()], [m.training for m in student.modules()],
                              {k: v for k, v in loss.state_dict().items() if 'generator' not in k and 'meta' not in k},
                              torch.get_rng_state()])

    before, generators = everything(), copy.deepcopy([p.detach() for p in loss.self_trained_parameters()])
    assert loss.prepare(nets.plan(lq, gt, optimizer, F.l1_loss, 3)) == {}, 'none is due in iteration 3'
    assert all(torch.equal(old, p) for old, p in zip(generators, loss.self_trained_parameters()))
    logged = loss.prepare(nets.plan(lq, gt, optimizer, F.l1_loss, 4))
    assert logged['meta_rec'] > 0
    assert not any(torch.equal(old, p) for old, p in zip(generators, loss.self_trained_parameters()))
    assert all(p.grad is None for p in loss.self_trained_parameters()), 'another optimizer might step along it'
    assert_equal(before, everything())


def assert_equal(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        assert_equal(list(a.values()), list(b.values()))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_equal(x, y)
    else:
        assert a == b


def test_the_first_order_gap_is_not_that_of_two_drop_paths() -> None:
    torch.manual_seed(0)
    student, teacher = build_network({**STUDENTS['SwinIR'], 'drop_path_rate': 0.5}), build_network(TEACHERS['SwinIR'])
    lq, gt = batch('SwinIR')
    loss = KRNetLoss(3, hidden_channels=8, first_order=True)
    nets = bind([loss], student, teacher, lq[:1])
    loss.meta.inner = lambda weights, *_, **__: weights  # a look-ahead that stays where it is
    plan = nets.plan(lq, gt, torch.optim.Adam(student.parameters()), F.l1_loss, 1)
    _, gradient = loss.meta._first_order(plan, loss, loss.meta.phi())
    assert all(g.abs().max() == 0 for g in gradient)


class Blend(nn.Module):
    """One feature that blends two patterns; the image is that feature. No upscaling."""

    def __init__(self, share: list[float]) -> None:
        super().__init__()
        self.body = nn.Conv2d(2, 1, 1, bias=False)
        self.body.weight.data = torch.tensor(share).view(1, 2, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def columns_and_rows(seed: int) -> tuple[Tensor, Tensor]:
    """Images with a pattern of columns in channel 0 and of rows in channel 1; the target is the columns alone."""
    generator = torch.Generator().manual_seed(seed)
    across = torch.rand(4, 1, 1, 8, generator=generator).expand(4, 1, 8, 8)
    down = torch.rand(4, 1, 8, 1, generator=generator).expand(4, 1, 8, 8)
    return torch.cat([across, down], 1), across


def learned_weights(useful: int, **options: Any) -> Tensor:
    """w of two fixed kernels, of which number ``useful`` sees columns and the other one rows.

    The teacher has both patterns: its columns are right, its rows are not in the target.
    """
    torch.manual_seed(0)
    student, teacher = Blend([0.5, 0.5]), Blend([1.0, 1.0])
    loss = KRNetLoss([['body', 'body']], num_kernels=2, hidden_channels=4, feature_scale='none', loss_weight=1.0,
                     meta_lr=0.02, **options)
    nets = bind([loss], student, teacher, torch.rand(1, 2, 8, 8))
    net = loss.networks[0]
    net.projection.weight.data.fill_(1)
    net.projection.bias.data.zero_()
    head = net.generator.kernel_head
    across = torch.tensor([[0., 0, 0], [-1, 0, 1], [0, 0, 0]])
    head.weight.data.zero_()
    head.bias.data = torch.stack([across, across.T] if useful == 0 else [across.T, across]).flatten()
    loss.meta.train_on(list(net.generator.weight_head.parameters()))
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    for iteration in range(1, 61):
        lq, gt = columns_and_rows(iteration)
        plan = nets.plan(lq, gt, optimizer, F.l1_loss, iteration)
        loss.prepare(plan)
        step = plan.run()
        optimizer.zero_grad()
        (F.l1_loss(step.student.output, gt) + sum(loss(step).values())).backward()
        optimizer.step()
    lq, _ = columns_and_rows(0)
    return net.generate(net.project(nets[0](lq).features['body']), nets[1](lq).features['body'])[1].mean(0)


@FORMS
@pytest.mark.parametrize('useful', [0, 1])
def test_the_weight_moves_to_the_texture_that_helps_reconstruction(useful: int, first_order: bool) -> None:
    assert learned_weights(useful, first_order=first_order, meta_every=1)[useful] > 0.8
    assert learned_weights(useful, meta_every=0)[useful] == 0.5, 'without the meta step nothing is learned'


def test_bad_input_in_ones_own_training_loop() -> None:
    toy = Toy(meta_every=1)
    single = toy.nets.plan(toy.lq[:1], toy.gt[:1], toy.optimizer, F.mse_loss, 1)
    with pytest.raises(ValueError, match='splits the batch in two, and it has one image'):
        toy.loss.prepare(single)
    endless = toy.nets.plan(toy.lq, toy.gt * float('nan'), toy.optimizer, F.mse_loss, 7)
    with pytest.raises(FloatingPointError, match='iteration 7: the gradient of the meta step is not finite'):
        toy.loss.prepare(endless)
    assert all(torch.isfinite(p).all() for p in toy.loss.self_trained_parameters())


def test_a_resumed_run_takes_the_learning_rate_of_its_options() -> None:
    before, after = Toy(meta_every=1), Toy(meta_every=1, meta_lr=0.5)
    before.loss.prepare(before.plan)
    after.loss.load_state_dict(before.loss.state_dict())
    states = [toy.loss.meta.get_extra_state() for toy in (before, after)]
    assert_equal(states[0]['state'], states[1]['state'])
    assert [state['param_groups'][0]['lr'] for state in states] == [1e-4, 0.5]


def test_an_unbound_loss_says_so() -> None:
    toy = Toy()
    loss = KRNetLoss(1, meta_every=1)
    with pytest.raises(RuntimeError, match='bind it to a student and a teacher first'):
        loss(toy.plan.run())
    with pytest.raises(RuntimeError, match='bind it to a student and a teacher first'):
        loss.prepare(toy.plan)
