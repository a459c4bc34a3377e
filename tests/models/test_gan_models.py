"""GAN and real-world models: the generator's step gets the terms, everything else is BasicSR's, bit for bit."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.models.sr_model import SRModel
from basicsr.models.srgan_model import SRGANModel
from helpers import as_parsed
from gan_options import GANS, KINDS, images, options, write_images
from torch import Tensor

from mipkd_plugin.config import OptionError
from mipkd_plugin.models import DistillMixin
from mipkd_plugin.models.finite_steps import FiniteSteps
from mipkd_plugin.utils.finite import NotFiniteError
from basicsr.models import build_model

LOSSES: dict[str, Any] = {
    'MiPKDLoss': {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4},
    'KRNetLoss': {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 4, 'meta_every': 1},
    'FitNetLoss': {'type': 'FitNetLoss', 'taps': 2}, 'LogitsKDLoss': {'type': 'LogitsKDLoss'}}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp('images'))


@pytest.fixture
def build(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Build the model of options that :func:`options` makes; ``plain`` builds BasicSR's own class."""
    def build(kind: str, losses: Any = None, *, plain: bool = False, changes: dict[str, Any] | None = None,
              **train: Any) -> Any:
        opt = {**options(folder, kind, losses, **train), **(changes or {})}
        opt['name'] = f'{kind}{len(list(tmp_path.rglob("models")))}'
        if plain:
            opt['model_type'] = opt['model_type'].replace('Distill', '')
            for key in ('distill_opt', 'distill', 'eco'):
                opt['train'].pop(key, None)
            del opt['teacher']
        torch.manual_seed(0)
        return build_model(as_parsed(opt, tmp_path))

    return build


def step(model: Any, iteration: int, seed: int | None = None) -> None:
    vars(model).update(images(iteration if seed is None else seed))
    model.optimize_parameters(iteration)


def weights(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def terms_seen(model: Any) -> list[dict[str, Tensor | None]]:
    """For each step the gradient of each distillation term at the first convolution."""
    seen: list[dict[str, Tensor | None]] = []
    first, plain = next(model.net_g.parameters()), model.training_terms

    def see(terms: dict[str, Tensor], prepared: Any) -> None:
        seen.append({name: torch.autograd.grad(value, first, retain_graph=True, allow_unused=True)[0]
                     for name, value in terms.items()
                     if name not in ('l_g_total', 'l_pix', 'l_ae')})  # l_ae trains MiPKD's own layers

    def training_terms(iteration: int) -> Any:
        found = plain(iteration)
        see(*found)
        return found

    model.see_terms, model.training_terms = see, training_terms  # a step of the class itself calls the first alone
    return seen


@pytest.mark.parametrize('loss', LOSSES)
@pytest.mark.parametrize('kind', KINDS)
def test_terms_reach_the_generator_and_never_the_discriminator(kind: str, loss: str, build: Callable[..., Any]) -> None:
    model, plain = build(kind, LOSSES[loss]), build(kind, plain=True)
    if kind in GANS:
        assert equal(weights(model.net_d), weights(plain.net_d)), 'the same start'
    seen = terms_seen(model)
    for net in (model, plain):
        step(net, 1)
    if kind in GANS:
        assert equal(weights(model.net_d), weights(plain.net_d)), 'its step is that of BasicSR, bit for bit'
    assert not equal(weights(model.net_g), weights(plain.net_g))
    at, = seen
    assert at
    for name, gradient in at.items():
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name
        assert torch.isfinite(gradient).all(), name
    for iteration in (2, 3):
        step(model, iteration)
    log = model.get_current_log()
    assert {*at, *(['l_g_pix', 'l_g_gan', 'l_d_real', 'l_d_fake'] if kind in GANS else ['l_pix'])} <= set(log)
    assert all(torch.isfinite(torch.tensor(value)) for value in log.values())


@pytest.mark.parametrize('loss', LOSSES)
def test_real_esrnet_distills(loss: str, build: Callable[..., Any]) -> None:
    model = build('RealESRNet', LOSSES[loss])
    before = weights(model.net_g)
    for iteration in (1, 2):
        step(model, iteration)
    assert all(torch.isfinite(torch.tensor(value)) for value in model.get_current_log().values())
    assert not torch.equal(before['body.0.weight'], model.net_g.state_dict()['body.0.weight'])


@pytest.mark.parametrize('kind', GANS)
def test_the_gradient_is_that_of_all_terms(kind: str, build: Callable[..., Any]) -> None:
    """The sum by hand: BasicSR's own gradient, and that of the distillation term alone."""
    model, plain = build(kind, {'type': 'LogitsKDLoss', 'loss_weight': 3.0}), build(kind, plain=True)
    for net in (model, plain):
        step(net, 1)
    data = images(1)
    fresh = build(kind, plain=True).net_g
    term = 3.0 * (fresh(data['lq']) - model.teacher(data['lq'])).abs().mean()
    alone = torch.autograd.grad(term, list(fresh.parameters()))
    assert model.get_current_log()['l_logits'] == pytest.approx(term.item(), rel=1e-5)
    for mine, theirs, own in zip(model.net_g.parameters(), plain.net_g.parameters(), alone):
        torch.testing.assert_close(mine.grad, theirs.grad + own, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('kind', KINDS)
def test_a_run_that_does_not_distill_is_basicsrs(kind: str, build: Callable[..., Any]) -> None:
    """Five iterations from degradation to EMA, and a pool that is full after two."""
    model, plain = build(kind, distill={'every': 6}, total_iter=6), build(kind, plain=True, total_iter=6)
    for net in (model, plain):
        torch.manual_seed(3)
        for iteration in range(1, 6):
            feed(net, kind, iteration)
            net.optimize_parameters(iteration)
    for name in ('net_g', 'net_g_ema', *(['net_d'] if kind != 'RealESRNet' else [])):
        assert equal(weights(getattr(model, name)), weights(getattr(plain, name))), name
    assert model.get_current_log() == plain.get_current_log()


def feed(model: Any, kind: str, seed: int) -> None:
    """Hand a batch to a model: pairs, or HR images that it degrades."""
    if not kind.startswith('Real'):
        model.feed_data(images(seed))
        return
    random.seed(seed)
    np.random.seed(seed)
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.rand(2, 21, 21, generator=generator)
    kernel /= kernel.sum((1, 2), keepdim=True)
    pulse = torch.zeros(2, 21, 21)
    pulse[:, 10, 10] = 1
    coarse = torch.rand(2, 3, 8, 8, generator=generator)
    gt = torch.nn.functional.interpolate(coarse, size=(64, 64), mode='bilinear')
    torch.manual_seed(seed)
    model.feed_data({'gt': gt, 'kernel1': kernel, 'kernel2': kernel, 'sinc_kernel': pulse})


@pytest.mark.parametrize('kind', ['RealESRNet', 'RealESRGAN'])
def test_the_cpu_degrades(kind: str, build: Callable[..., Any]) -> None:
    model = build(kind)
    for seed in (1, 2, 3, 4):
        feed(model, kind, seed)
        assert model.lq.shape == (2, 3, 16, 16)
        assert model.gt.shape == (2, 3, 32, 32)
        assert model.lq.device.type == model.queue_lr.device.type == 'cpu'
        assert model.lq.min() >= 0
        assert model.lq.max() <= 1
    assert model.queue_ptr == 4, 'as BasicSR fills its pool'


@pytest.mark.parametrize('kind', ['RealESRNet', 'RealESRGAN'])
def test_a_validation_sharpens_nothing(kind: str, build: Callable[..., Any]) -> None:
    """Nobody reads it, and on a CPU it takes longer than the network."""
    model, calls = build(kind), []
    model.usm_sharpener.register_forward_hook(lambda *args: calls.append(1))
    model.is_train = False
    model.feed_data(images(1))
    assert torch.equal(model.gt, images(1)['gt'])
    assert not calls
    model.is_train = True
    feed(model, kind, 1)
    assert calls


def test_teacher_and_student_see_the_pool(build: Callable[..., Any]) -> None:
    """After the pool is full, BasicSR trains on pairs of earlier batches: so does the teacher."""
    model = build('RealESRGAN')
    seen: list[tuple[Tensor, Tensor]] = []
    model.losses[0].register_forward_pre_hook(lambda module, args: seen.append((args[0].lq, args[0].gt)))
    for seed in (1, 2, 3):
        feed(model, 'RealESRGAN', seed)
        model.optimize_parameters(seed)
    assert seen[2][0] is model.lq
    assert torch.equal(seen[2][1], model.gt_usm), 'l1_gt_usm: true'
    pool = torch.cat([seen[0][0], seen[1][0]])
    assert all(any(torch.equal(image, other) for other in pool) for image in seen[2][0])


@pytest.mark.parametrize('l1_gt_usm', [True, False])
def test_losses_compare_with_the_image_of_the_pixel_loss(l1_gt_usm: bool, build: Callable[..., Any]) -> None:
    model = build('RealESRGAN', {'type': 'AugmentedPixelLoss'}, changes={'l1_gt_usm': l1_gt_usm})
    seen: list[Any] = []
    model.losses[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    step(model, 1)
    assert torch.equal(seen[0].gt, images(1)['gt_usm' if l1_gt_usm else 'gt'])


def test_the_discriminator_trains_alone_at_first(build: Callable[..., Any]) -> None:
    model = build('SRGAN', net_d_iters=2, net_d_init_iters=2, total_iter=8)
    runs: list[int] = []
    model.losses[0].register_forward_hook(lambda module, args, terms: runs.append(args[0].iteration))
    moved = []
    for iteration in range(1, 7):
        before = weights(model.net_g)
        step(model, iteration)
        moved.append(not equal(before, weights(model.net_g)))
        assert ('l_logits' in model.get_current_log()) is moved[-1]
    assert moved == [False, False, False, True, False, True]
    assert runs == [4, 6]


@pytest.mark.parametrize('kind', KINDS)
def test_resume_goes_on_alike(kind: str, folder: Path, tmp_path: Path) -> None:
    losses = [LOSSES['MiPKDLoss'], LOSSES['KRNetLoss'], LOSSES['LogitsKDLoss']]
    opt = as_parsed(options(folder, kind, losses), tmp_path)
    torch.manual_seed(0)
    model = build_model(copy.deepcopy(opt))
    for iteration in (1, 2):
        step(model, iteration)
    model.save(0, 2)
    models = tmp_path / 'experiments/tiny/models'
    state = torch.load(tmp_path / 'experiments/tiny/training_states/2.state', weights_only=False)
    step(model, 3)
    opt['path'].update(pretrain_network_g=str(models / 'net_g_2.pth'))
    if kind != 'RealESRNet':
        opt['path'].update(pretrain_network_d=str(models / 'net_d_2.pth'))
    again = build_model(copy.deepcopy(opt))
    again.resume_training(state)
    step(again, 3)
    for name in ('net_g', 'net_g_ema', 'losses', *(['net_d'] if kind != 'RealESRNet' else [])):
        one, other = ({key: value for key, value in getattr(net, name).state_dict().items()
                       if isinstance(value, Tensor)} for net in (model, again))
        assert equal(one, other), name
    torch.load(models / 'net_g_2.pth', weights_only=True)['params']


def test_eco_blends_what_the_discriminator_sees(build: Callable[..., Any]) -> None:
    model = build('RealESRGAN', eco={'end_ratio': 1.0, 'mode': 'hr_only'}, total_iter=4)
    seen: list[Tensor] = []
    model.net_d.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    data = images(1)
    step(model, 1)
    with torch.no_grad():
        blended = 0.75 * model.teacher(data['lq']).clamp(0, 1) + 0.25 * data['gt']
    torch.testing.assert_close(seen[1], blended)  # the first is the student's image; gan_gt_usm is false
    assert torch.equal(model.gt, data['gt']), 'the batch is as it was fed'
    assert torch.equal(model.gt_usm, data['gt_usm'])
    assert model.get_current_log()['eco_a'] == pytest.approx(0.25)
    model.losses[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].gt))
    step(model, 2, seed=1)
    with torch.no_grad():
        blended = 0.5 * model.teacher(data['lq']).clamp(0, 1) + 0.5 * data['gt']
    torch.testing.assert_close(seen[3], model.usm_sharpener(blended))  # sharpened again, for the pixel loss


def test_gradients_are_logged(build: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    model = build('SRGAN', net_d_iters=2, changes={'logger': {'gradient_freq': 1}})
    logging.getLogger('basicsr').propagate = True
    with caplog.at_level('INFO', logger='basicsr'):
        for iteration in (1, 2):
            step(model, iteration)
    line, = {record.getMessage() for record in caplog.records if 'Gradients at iteration' in record.getMessage()}
    assert 'iteration 2: ' in line
    assert 'l_g_total ' in line
    assert 'l_logits ' in line


def test_a_loss_that_is_not_finite_stops_before_the_step(build: Callable[..., Any]) -> None:
    model = build('SRGAN', {'type': 'LogitsKDLoss', 'loss_weight': 1e38})
    before = weights(model.net_g)
    model.lq, model.gt = (1e10 * image for image in (images(1)['lq'], images(1)['gt']))
    with pytest.raises(FloatingPointError, match='iteration 1: the loss is not finite'):
        model.optimize_parameters(1)
    assert equal(before, weights(model.net_g))
    assert isinstance(model.net_g, torch.nn.Module), 'the model has its own network again'


def test_the_option_output_is_for_the_generator_alone(build: Callable[..., Any]) -> None:
    """UNetDiscriminatorSN returns one tensor; the output number 0 of it would be its first image."""
    model = build('SRGAN', changes={'output': None})
    assert model.net_d(torch.rand(2, 3, 32, 32)).shape == (2, 1, 32, 32)


def test_a_step_of_somebody_elses_class_keeps_its_terms(folder: Path, tmp_path: Path) -> None:
    """A class with its own step in two lines: its term acts, and it may run the network twice."""
    class Twice(SRModel):
        def optimize_parameters(self, current_iter: int) -> None:
            self.optimizer_g.zero_grad()
            self.output = self.net_g(self.lq)
            flipped = self.net_g(self.lq.flip(-1)).flip(-1)
            l_own = (self.output - flipped).abs().mean() + self.cri_pix(self.output, self.gt)
            l_own.backward(retain_graph=True)
            (0 * self.output.sum()).backward()  # the terms count once
            self.optimizer_g.step()
            self.log_dict = self.reduce_loss_dict({'l_own': l_own})

    class TwiceDistill(DistillMixin, Twice):
        pass

    opt = options(folder, 'SRGAN')
    torch.manual_seed(0)
    model: Any = TwiceDistill(as_parsed(opt, tmp_path))
    step(model, 1)
    assert set(model.get_current_log()) == {'l_own', 'l_logits'}
    opt['train']['distill'] = {'every': 2}
    torch.manual_seed(0)
    plain: Any = TwiceDistill(as_parsed(opt, tmp_path))
    step(plain, 1)
    torch.manual_seed(0)
    fresh: Any = TwiceDistill(as_parsed(opt, tmp_path))
    data = images(1)
    term = (fresh.net_g(data['lq']) - fresh.teacher(data['lq'])).abs().mean()
    for mine, theirs, own in zip(model.net_g.parameters(), plain.net_g.parameters(),
                                 torch.autograd.grad(term, list(fresh.net_g.parameters()))):
        torch.testing.assert_close(mine.grad, theirs.grad + own, rtol=1e-4, atol=1e-7)


def test_a_pass_without_gradient_is_not_the_one_of_the_step(folder: Path, tmp_path: Path) -> None:
    class Looks(SRModel):
        def optimize_parameters(self, current_iter: int) -> None:
            self.net_g.train()
            with torch.no_grad():
                self.before = self.net_g(self.lq)
            self.optimizer_g.zero_grad()
            self.output = self.net_g(self.lq)
            l_own = self.cri_pix(self.output, self.gt)
            l_own.backward()
            self.optimizer_g.step()
            self.log_dict = self.reduce_loss_dict({'l_own': l_own})

    class LooksDistill(DistillMixin, Looks):
        pass

    torch.manual_seed(0)
    model: Any = LooksDistill(as_parsed(options(folder, 'SRGAN'), tmp_path))
    seen = terms_seen(model)
    step(model, 1)
    assert [set(terms) for terms in seen] == [{'l_logits'}]
    assert set(model.get_current_log()) == {'l_own', 'l_logits'}


def test_the_teacher_sees_what_the_class_hands_to_the_network(folder: Path, tmp_path: Path) -> None:
    """ECO has the teacher's pass over the batch as it was fed; that is not the one of other images."""
    class Flips(SRModel):
        def optimize_parameters(self, current_iter: int) -> None:
            self.optimizer_g.zero_grad()
            self.output = self.net_g(self.lq.flip(-1))
            l_own = self.cri_pix(self.output, self.gt.flip(-1))
            l_own.backward()
            self.optimizer_g.step()
            self.log_dict = self.reduce_loss_dict({'l_own': l_own})

    class FlipsDistill(DistillMixin, Flips):
        pass

    torch.manual_seed(0)
    opt = options(folder, 'SRGAN', eco={'end_ratio': 1.0, 'mode': 'hr_only'})
    model: Any = FlipsDistill(as_parsed(opt, tmp_path))
    flipped = images(1)['lq'].flip(-1)
    with torch.no_grad():
        expected = (model.net_g(flipped) - model.teacher(flipped)).abs().mean().item()
    step(model, 1)
    assert model.get_current_log()['l_logits'] == pytest.approx(expected, rel=1e-5)


def test_the_teacher_is_dismissed_when_distillation_is_over(build: Callable[..., Any]) -> None:
    model = build('SRGAN', distill={'until': 0.5}, total_iter=4)
    runs: list[int] = []
    model.teacher.register_forward_hook(lambda *args: runs.append(1))
    for iteration in (1, 2, 3):
        step(model, iteration)
    assert len(runs) == 2
    assert model._teacher_dismissed, 'its memory is free'


def test_what_losses_log_of_their_own_training_is_seen_and_logged(build: Callable[..., Any]) -> None:
    model = build('SRGAN', LOSSES['KRNetLoss'])
    seen: list[Tensor] = []
    model.see_losses = seen.extend
    step(model, 1)
    log = model.get_current_log()
    own = {name for name in log if not name.startswith(('l_g_', 'l_d_', 'out_d_'))}
    assert 'meta_rec' in own
    assert len(own) > 1
    values = [value.item() for value in seen]
    assert all(log[name] in values for name in own), 'FiniteSteps looks at each of them'


def test_a_discriminator_that_diverges_is_named(build: Callable[..., Any]) -> None:
    model = build('SRGAN')
    model.optimizer_d.param_groups[0].update(lr=7.0, initial_lr=7.0)
    steps = FiniteSteps(model, lambda: 0)
    next(model.net_d.parameters()).data.fill_(torch.nan)
    with pytest.raises(NotFiniteError, match=r'a lower train\.optim_g\.lr \(now 0\.001\) or train\.optim_d\.lr '
                                             r'\(now 7\)'):
        steps.require_finite_weights(1)


def test_a_class_without_an_optimizer_of_the_generator_is_refused(folder: Path, tmp_path: Path) -> None:
    class Other(SRGANModel):
        def setup_optimizers(self) -> None:
            super().setup_optimizers()
            del self.optimizer_g

    class OtherDistill(DistillMixin, Other):
        pass

    with pytest.raises(OptionError, match='has no optimizer_g'):
        OtherDistill(as_parsed(options(folder, 'SRGAN'), tmp_path))


@pytest.mark.parametrize('goes_backward', [True, False])
def test_a_step_that_distills_nothing_is_named_once(goes_backward: bool, folder: Path, tmp_path: Path,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    class Blind(SRModel):
        def optimize_parameters(self, current_iter: int) -> None:
            image = self.net_g(self.lq)
            (image if goes_backward else image.detach().requires_grad_()).sum().backward()

    class BlindDistill(DistillMixin, Blind):
        pass

    model: Any = BlindDistill(as_parsed(options(folder, 'SRGAN'), tmp_path))
    logging.getLogger('basicsr').propagate = True
    for iteration in (1, 2):
        step(model, iteration)
    said = {record.getMessage() for record in caplog.records if 'distilled nothing' in record.getMessage()}
    assert len(said) == (0 if goes_backward else 1)
    assert all(text.startswith('Iteration 1 distilled nothing: BlindDistill did not run net_g') for text in said)
