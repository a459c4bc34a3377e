"""KRNet against its formulas, written out sample by sample."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mipkd_plugin.archs import KRNet


def krnet(**options: object) -> KRNet:
    torch.manual_seed(0)
    net = KRNet(3, 5, hidden_channels=8, **options).double()
    torch.nn.init.normal_(net.generator.weight_head.weight)  # else all textures of all samples weigh the same
    return net


def features(samples: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(samples, 3, 8, 7, generator=generator, dtype=torch.double),
            40 * torch.randn(samples, 5, 8, 7, generator=generator, dtype=torch.double))


def test_kernels_sum_to_zero_and_weights_to_one() -> None:
    net = krnet()
    f_s, f_t = features()
    net.update_scale(f_t)
    kernels, weights = net.generate(net.project(f_s), f_t / net.scale)
    assert kernels.shape == (3, 5, 4, 3, 3)
    assert weights.shape == (3, 4)
    assert kernels.sum((3, 4)).abs().max() < 1e-12
    torch.testing.assert_close(kernels.abs().sum((3, 4)), torch.ones(3, 5, 4).double())
    torch.testing.assert_close(weights.sum(1), torch.ones(3).double())
    assert (kernels[0] - kernels[1]).abs().max() > 1e-4, 'the kernels do not depend on the sample'


def test_weights_start_equal() -> None:
    torch.manual_seed(0)
    net = KRNet(3, 5)
    f_s, f_t = (feature.float() for feature in features())
    assert torch.equal(net.generate(net.project(f_s), f_t)[1], torch.full((3, 4), 0.25))


def test_condition_follows_the_formula() -> None:
    """concat(P F_S, F_T − P F_S, cosine by position), and the cosine by channel joined after pooling."""
    net = krnet()
    f_s, f_t = features(1)
    p, t = net.project(f_s), f_t
    position = (p * t).sum(1, keepdim=True) / (p.norm(dim=1, keepdim=True) * t.norm(dim=1, keepdim=True))
    channel = (p * t).sum((2, 3)) / (p.flatten(2).norm(dim=2) * t.flatten(2).norm(dim=2))
    pooled = net.generator.convolutions(torch.cat([p, t - p, position], 1)).mean((2, 3))
    code = torch.cat([pooled, channel], 1)
    raw = net.generator.kernel_head(code).reshape(1, 5, 4, 9)
    raw = raw - raw.mean(3, keepdim=True)
    kernels, weights = net.generate(p, t)
    torch.testing.assert_close(kernels.flatten(3), raw / raw.abs().sum(3, keepdim=True))
    torch.testing.assert_close(weights, net.generator.weight_head(code).softmax(1))


def test_fainter_kernels_do_not_make_a_relative_distance_smaller() -> None:
    projected, teacher = features()[1], 2 * features()[1] + 1
    kernels, weights = krnet().generate(projected, teacher)
    relative, plain = (krnet(relative_to=name) for name in ('energy', 'none'))
    torch.testing.assert_close(relative.distance(projected, teacher, kernels / 10, weights),
                               relative.distance(projected, teacher, kernels, weights))
    assert (plain.distance(projected, teacher, kernels / 10, weights)
            < 0.2 * plain.distance(projected, teacher, kernels, weights)).all()


def test_a_flat_feature_of_the_teacher_does_not_blow_up_a_relative_distance() -> None:
    relative, plain = (krnet(relative_to=name) for name in ('energy', 'none'))
    projected = features()[1]
    kernels, weights = relative.generate(projected, flat := torch.ones_like(projected))
    torch.testing.assert_close(relative.distance(projected, flat, kernels, weights),
                               1000 * plain.distance(projected, flat, kernels, weights))
    assert torch.isfinite(relative.distance(flat, flat, kernels, weights)).all()


@pytest.mark.parametrize('relative_to', ['none', 'energy'])
@pytest.mark.parametrize('learn', [False, True])
@pytest.mark.parametrize('kernel_size', [3, 5])
def test_distance_follows_the_formula(kernel_size: int, learn: bool, relative_to: str) -> None:
    net = krnet(num_kernels=3, kernel_size=kernel_size, relative_to=relative_to)
    f_s, f_t = features()
    net.update_scale(f_t)
    p, t = net.project(f_s), f_t / net.scale
    kernels, weights = net.generate(p, t, learn)
    assert kernels.requires_grad is learn
    expected = []
    for n in range(3):
        distance = torch.zeros(()).double()
        for g in range(3):
            textures = []
            for feature in (p[n], t[n]):
                padded = F.pad(feature[None], [kernel_size // 2] * 4, mode='replicate')
                textures.append(torch.cat([F.conv2d(padded[:, c:c + 1], kernels[n, c, g][None, None])
                                           for c in range(5)], 1))
            energy = textures[1].abs().mean() if relative_to == 'energy' else 1
            distance = distance + weights[n, g] * (textures[0] - textures[1]).abs().mean() / energy
        expected.append(distance)
    torch.testing.assert_close(net(f_s, f_t, learn), torch.stack(expected))


def test_textures_have_the_same_values_and_gradients_either_way() -> None:
    net = krnet()
    feature, kernels = torch.randn(2, 5, 6, 7).double().requires_grad_(), torch.randn(2, 5, 4, 3, 3).double()
    both = [net.textures(feature, kernels), net.textures(feature, kernels.clone().requires_grad_())]
    torch.testing.assert_close(*both)
    probe = torch.randn_like(both[0])
    torch.testing.assert_close(*(torch.autograd.grad((u * probe).sum(), feature)[0] for u in both))


def test_a_constant_feature_costs_nothing_at_the_borders_too() -> None:
    net = krnet()
    f_s, f_t = features(2)
    f_s, f_t = f_s[..., :1, :1].expand(-1, -1, 8, 7), f_t[..., :1, :1].expand(-1, -1, 8, 7)
    kernels, _ = net.generate(net.project(f_s), f_t)
    assert net.textures(f_t, kernels).abs().max() < 1e-12
    assert net(f_s, f_t).abs().max() < 1e-12
    f_t = f_t.clone()
    f_t[..., 0, 0] += 1
    assert (net(f_s, f_t) > 1e-3).all()


def test_permuting_the_batch_permutes_the_terms() -> None:
    net = krnet()
    f_s, f_t = features(4)
    order = torch.tensor([2, 0, 3, 1])
    terms = net(f_s, f_t)
    assert len(set(terms.tolist())) == 4
    torch.testing.assert_close(net(f_s[order], f_t[order]), terms[order])


@pytest.mark.parametrize('condition_gradient', [False, True])
def test_who_gets_a_gradient(condition_gradient: bool) -> None:
    """The generator only learns where it is asked to; the student is pulled through the kernels only as an option."""
    net = krnet(condition_gradient=condition_gradient)
    f_s, f_t = features()
    net(f_s, f_t).sum().backward()
    assert net.projection.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in net.generator.parameters())
    net(f_s, f_t, learn=True).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.generator.parameters())
    projected = net.project(f_s).detach().requires_grad_()
    kernels, _ = net.generate(projected, f_t, learn=True)
    pulled, = torch.autograd.grad(kernels.square().sum(), projected, materialize_grads=True)
    assert bool(pulled.abs().sum() > 0) is condition_gradient


@pytest.mark.parametrize('condition_gradient', [False, True])
def test_gap_is_the_growth_of_the_distance(condition_gradient: bool) -> None:
    net = krnet(condition_gradient=condition_gradient)
    f_s, f_t = features()
    moved = f_s + 0.1 * torch.randn_like(f_s)
    gap = net.gap(f_s, moved, f_t)
    if condition_gradient:
        torch.testing.assert_close(gap, net(moved, f_t) - net(f_s, f_t))
    else:
        made = net.generate(net.project(f_s), f_t)
        torch.testing.assert_close(gap, net.distance(net.project(moved), f_t, *made) - net(f_s, f_t))
    gap.sum().backward()
    assert all(p.grad is not None for p in net.generator.parameters())
