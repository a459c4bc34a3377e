"""The mixers against the formulas of the paper, written out by hand."""

from __future__ import annotations

import pytest
import torch
from helpers import batch, make_pair
from torch import nn
from torch.nn import functional as F

from mipkd_plugin import MiPKDLoss, bind
from mipkd_plugin.archs import FeaturePriorMixer
from mipkd_plugin.losses import BlockPriorMixer


def mixer(**options: object) -> FeaturePriorMixer:
    torch.manual_seed(0)
    return FeaturePriorMixer(5, 7, **{'latent_channels': 6, **options})


def two_convolutions(layers: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    x = F.relu(F.conv2d(x, layers[0].weight, layers[0].bias, padding=1))
    return F.conv2d(x, layers[2].weight, layers[2].bias, padding=1)


def test_mixed_latent_and_errors_follow_the_formula() -> None:
    m = mixer(num_layers=2).double()
    f_s, f_t = torch.randn(2, 5, 4, 6).double(), 40 * torch.randn(2, 7, 4, 6).double()
    m.update_scale(f_t)
    scale = f_t.abs().mean()
    torch.testing.assert_close(m.scale, scale)
    mask = m.draw_mask(f_s, torch.Generator().manual_seed(0))
    z_s, z_t = m(f_s, f_t)
    z = m.mix(z_s, z_t, mask)
    expected_t = two_convolutions(m.encoder_t, f_t / scale)
    expected = torch.where(mask, two_convolutions(m.encoder_s, f_s / scale), expected_t)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(z_t, expected_t)
    feat = (two_convolutions(m.decoder_t, expected) - f_t / scale).abs().mean()
    torch.testing.assert_close(m.teacher_error(z, f_t), feat)
    torch.testing.assert_close(m.decode(z, for_student=True), two_convolutions(m.decoder_s, expected) * scale)


def test_defaults_are_one_convolution_to_a_latent_as_wide_as_the_teacher() -> None:
    torch.manual_seed(0)
    m = FeaturePriorMixer(5, 7)
    shapes = [tuple(layer.weight.shape) for coder in (m.encoder_s, m.encoder_t, m.decoder_s, m.decoder_t)
              for layer in coder]
    assert shapes == [(7, 5, 3, 3), (7, 7, 3, 3), (5, 7, 3, 3), (7, 7, 3, 3)]
    assert m.draw_mask(torch.zeros(1, 5, 4, 4), torch.Generator()).shape == (1, 7, 4, 4)


def test_latent_width_of_either_network_by_name() -> None:
    assert [mixer(latent_channels=name).latent_channels for name in ('student', 'teacher', 3)] == [5, 7, 3]


def test_golden_values() -> None:
    """Changing these numbers is a deliberate change of the method."""
    student, teacher = make_pair('EDSR')
    torch.manual_seed(5)
    FeaturePriorMixer(1, 1, latent_channels=8)  # the values were recorded after these numbers had been drawn
    loss = MiPKDLoss(taps=3, latent_channels=8)
    loss.seed(1)
    tapped = bind([loss], student, teacher, batch('EDSR')[0][:1])
    terms = loss(tapped.step(*batch('EDSR'), iteration=1))
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(GOLDEN, rel=1e-3)


GOLDEN = {'l_feat': 1.04242, 'l_ae': 1.04460, 'l_logits': 0.06422, 'l_block': 0.00582}


@pytest.mark.parametrize(('mask_type', 'shape'), [
    ('3d', (2, 6, 4, 5)), ('channel', (2, 6, 1, 1)), ('pixel', (2, 1, 4, 5))])
def test_masks_have_the_shape_of_their_type(mask_type: str, shape: tuple[int, ...]) -> None:
    mask = mixer(mask_type=mask_type).draw_mask(torch.zeros(2, 5, 4, 5), torch.Generator().manual_seed(0))
    assert mask.shape == shape
    assert set(mask.unique().tolist()) == {False, True}


@pytest.mark.parametrize('ratio', [0.0, 0.2, 0.5, 0.9, 1.0])
def test_mask_ratio_is_the_share_of_the_student(ratio: float) -> None:
    mask = mixer(mask_ratio=ratio).draw_mask(torch.zeros(4, 5, 64, 64), torch.Generator().manual_seed(0))
    assert mask.float().mean().item() == pytest.approx(ratio, abs=0.01)


def test_running_scale() -> None:
    m = mixer()
    m.update_scale(torch.full((1, 7, 2, 2), -100.0))
    assert m.scale.item() == pytest.approx(100)
    m.update_scale(torch.full((1, 7, 2, 2), 200.0))
    assert m.scale.item() == pytest.approx(101)
    m.eval()
    m.update_scale(torch.full((1, 7, 2, 2), 1e6))
    assert m.scale.item() == pytest.approx(101)
    raw = mixer(feature_scale='none')
    raw.update_scale(torch.full((1, 7, 2, 2), 100.0))
    assert raw.scale.item() == 1


def test_weights_mean_the_same_at_every_feature_scale() -> None:
    f_s, f_t = torch.randn(2, 5, 4, 4), torch.randn(2, 7, 4, 4)
    errors = []
    for factor in (1.0, 100.0):
        m = mixer()
        m.update_scale(factor * f_t)
        errors.append(m.teacher_error(m(factor * f_s, factor * f_t)[0], factor * f_t))
    torch.testing.assert_close(errors[0], errors[1])


def test_shared_encoders_share_their_convolutions() -> None:
    m = mixer(encoders='shared')
    assert m.encoder_s[1] is m.encoder_t[1]
    assert m.encoder_s[0] is not m.encoder_t[0]
    z, _ = m(torch.randn(1, 5, 4, 4), torch.randn(1, 7, 4, 4))
    assert z.shape == (1, 6, 4, 4)


def test_kernel_size_one_is_an_mlp_per_pixel() -> None:
    m = mixer(kernel_size=1, num_layers=3)
    f_s, f_t = torch.randn(1, 5, 4, 4), torch.randn(1, 7, 4, 4)
    f_t[..., 0, 0] += 1
    z = m(f_s, f_t)[1]
    changed = f_t.clone()
    changed[..., 3, 3] += 1
    difference = (m(f_s, changed)[1] - z).abs().sum(1)[0]
    assert difference[3, 3] > 0
    assert difference.sum() == difference[3, 3]


class Chain:
    """A bound MiPKD loss and its step, to run the block prior mixer with a given route."""

    def __init__(self, remix: bool = True) -> None:
        student, teacher = make_pair('EDSR')
        self.loss = MiPKDLoss(taps=3, latent_channels=8, remix=remix)
        tapped = bind([self.loss], student, teacher, batch('EDSR')[0][:1])
        self.step = tapped.step(*batch('EDSR'), iteration=1)
        generator = torch.Generator().manual_seed(0)
        self.masks = []
        for m, (s, t) in zip(self.loss.mixers, self.loss.pairs):
            m.update_scale(self.step.teacher.features[t])
            self.masks.append(m.draw_mask(self.step.student.features[s], generator))
        self.latents = [m(self.step.student.features[s], self.step.teacher.features[t])
                        for m, (s, t) in zip(self.loss.mixers, self.loss.pairs)]

    def image(self, route: list[bool]) -> torch.Tensor:
        return self.loss.block_mixer(self.step, self.loss.pairs, self.loss.mixers, self.latents, self.masks, route)


@pytest.mark.parametrize('remix', [True, False])
@pytest.mark.parametrize('route', [[s, t, u] for s in (True, False) for t in (True, False) for u in (True, False)])
def test_chain_follows_the_route(route: list[bool], remix: bool) -> None:
    chain = Chain(remix)
    step, mixers, masks = chain.step, chain.loss.mixers, [mask.float() for mask in chain.masks]
    taps = {True: [1 - 1, 2 - 1, 3 - 1], False: [1, 2, 4]}  # block indices of student (3 blocks) and teacher (5)
    nets = {True: step.nets.student.net, False: step.nets.teacher.net}
    passes = {True: step.student, False: step.teacher}
    z = masks[0] * chain.latents[0][0] + (1 - masks[0]) * chain.latents[0][1]
    for k, student in enumerate(route):
        h = mixers[k].decode(z, for_student=student)
        if k == 2:
            break
        for index in range(taps[student][k] + 1, taps[student][k + 1] + 1):
            h = nets[student].body[index](h)
        z = mixers[k + 1].encode(h, of_student=student)
        if remix:
            other = mixers[k + 1].encode(passes[not student].features[f'body.{taps[not student][k + 1]}'],
                                         of_student=not student)
            keep = masks[k + 1] if student else 1 - masks[k + 1]
            z = keep * z + (1 - keep) * other
    net = nets[route[-1]]
    x = net.conv_first((step.lq - net.mean) * net.img_range)
    expected = net.conv_last(net.upsample(net.conv_after_body(h) + x)) / net.img_range + net.mean
    torch.testing.assert_close(chain.image(route), expected)


def test_two_passes_before_one_backward() -> None:
    chain = Chain()
    first, second = (sum(chain.loss(chain.step).values()) for _ in range(2))
    (first + second).backward()
    assert chain.step.nets.student.net.conv_first.weight.grad.abs().sum() > 0


@pytest.mark.parametrize('remix', [True, False])
def test_teachers_blocks_pass_the_gradient_to_the_student(remix: bool) -> None:
    chain = Chain(remix)
    chain.image([False, False, False]).sum().backward()
    assert chain.step.nets.student.net.conv_first.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in chain.step.nets.teacher.net.parameters())


@pytest.mark.parametrize('probability', [0.0, 0.25, 1.0])
def test_route_probability(probability: float) -> None:
    route = BlockPriorMixer(probability).draw_route(4000, torch.Generator().manual_seed(0))
    assert sum(route) / 4000 == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize(('off', 'left'), [
    ('feat_weight', {'l_logits', 'l_ae', 'l_block'}), ('ae_weight', {'l_logits', 'l_feat', 'l_block'}),
    ('kd_weight', {'l_feat', 'l_ae', 'l_block'}), ('block_weight', {'l_logits', 'l_feat', 'l_ae'})])
def test_a_term_of_weight_zero_is_not_computed(off: str, left: set[str]) -> None:
    loss = MiPKDLoss(taps=3, latent_channels=4, **{off: 0})
    tapped = bind([loss], *make_pair('EDSR'), batch('EDSR')[0][:1])
    assert loss(tapped.step(*batch('EDSR'), iteration=1)).keys() == left
