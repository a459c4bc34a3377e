"""DCKDLoss: the contrast in NumPy, the history student, its negatives, and that it goes on where it stopped."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import STUDENTS, as_parsed, batch, make_pair
from torch import Tensor, nn

from mipkd_plugin import ArgumentError, BindError, DCKDLoss, MiPKDLoss, Step, bind
from mipkd_plugin.checkpoints.distill_state import StateError
from mipkd_plugin.losses.base import LossError
from mipkd_plugin.losses.dckd_loss import LAYER_WEIGHTS, contrast
from mipkd_plugin.losses.vqgan_features import codebook_distance
from mipkd_plugin.losses.history import HistoryStudent
from mipkd_plugin.losses.vgg_features import VGGFeatures
from mipkd_plugin.networks.encoding import encode
from mipkd_plugin.networks.execution import Execution
from mipkd_plugin.testing import check_loss

Make = Callable[..., dict[str, Any]]
DCKD = {'type': 'DCKDLoss', 'taps': 2, 'history_every': 2, 'history_decay': 0.25}


def step_of(samples: int = 2, iteration: int = 1, **options: Any) -> tuple[DCKDLoss, Step]:
    torch.manual_seed(5)
    loss = DCKDLoss(**{'taps': 2, **options} if 'encoder' not in options else options)
    loss.seed(1)
    student, teacher = make_pair('EDSR')
    lq, gt = batch('EDSR', samples=samples)
    return loss, bind([loss], student, teacher, lq[:1]).step(lq, gt, iteration)


# --------------------------------------------------------------------------------------------- the formulas
def contrast_in_numpy(anchor: list[np.ndarray], positive: list[np.ndarray], negatives: list[list[np.ndarray]],
                      weights: list[float]) -> float:
    """Σ_i λ_i ‖f_i(S) − f_i(T)‖₁ / Σ_j ‖f_i(S) − f_i(N_j)‖₁; ``negatives[j][i]`` is f_i(N_j)."""
    total = 0.0
    for i, weight in enumerate(weights):
        toward = np.abs(anchor[i] - positive[i]).sum()
        away = sum(np.abs(anchor[i] - negative[i]).sum() for negative in negatives)
        total += weight * toward / away
    return total


def test_contrast_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    shapes = [(3, 4, 6, 5), (3, 7, 3, 2), (3, 2, 4, 4)]
    anchor, positive, *negatives = ([rng.normal(size=shape) for shape in shapes] for _ in range(7))
    found = contrast(*([torch.from_numpy(f) for f in own] for own in (anchor, positive)),
                     [torch.from_numpy(np.concatenate(own)) for own in zip(*negatives)], [0.25, 0.5, 2])
    expected = contrast_in_numpy(anchor, positive, negatives, [0.25, 0.5, 2])
    assert found.item() == pytest.approx(expected, rel=1e-5)


def features_of_teacher(teacher: nn.Module, images: np.ndarray, blocks: list[int]) -> list[np.ndarray]:
    """EDSR by hand: what its blocks return."""
    with torch.no_grad():
        h = teacher.conv_first((torch.from_numpy(images) - teacher.mean) * teacher.img_range)
        found = []
        for number, block in enumerate(teacher.body):
            h = block(h)
            found += [h.numpy()] if number in blocks else []
    return found


def test_terms_with_the_teacher_as_encoder() -> None:
    """S, T and five negatives of the history student, through the teacher's blocks 2 and 4."""
    loss, step = step_of(contrast_weight=0.3, loss_weight=2)
    assert [t for _, t in loss.pairs] == ['body.2', 'body.4']
    twin = copy.deepcopy(loss)
    degraded = twin.degraded(step.lq).split(2)
    with torch.no_grad():  # the student of the first iteration is the history student
        negatives = [step.nets.student.net(images).numpy() for images in (step.lq, *degraded)]
        images = [step.student.output.numpy(), step.teacher.output.numpy(), *negatives]
    anchor, positive, *others = (features_of_teacher(step.nets.teacher.net, image, [2, 4]) for image in images)
    expected = 0.6 * contrast_in_numpy(anchor, positive, others, [1 / 4, 1])
    assert loss(step)['l_dckd'].item() == pytest.approx(expected, rel=1e-4)


def test_terms_with_vgg(vgg_weights: str) -> None:
    loss, step = step_of(encoder='vgg19', weights=vgg_weights)
    degraded = copy.deepcopy(loss).degraded(step.lq).split(2)
    f = VGGFeatures(vgg_weights)
    with torch.no_grad():
        images = [step.student.output, step.teacher.output, *(map(step.nets.student.net, (step.lq, *degraded)))]
        anchor, positive, *others = ([feature.numpy() for feature in f(image)] for image in images)
    expected = 0.1 * contrast_in_numpy(anchor, positive, others, list(LAYER_WEIGHTS))
    assert loss(step)['l_dckd'].item() == pytest.approx(expected, rel=1e-3)
    assert all('history.' in name or name == '_extra_state' for name in loss.state_dict()), 'VGG-19 stays out of files'


def test_golden_value() -> None:
    """Changing this number is a deliberate change of the method."""
    loss, step = step_of()
    assert loss(step)['l_dckd'].item() == pytest.approx(0.31959, rel=1e-3)


def test_codebook_distance_has_one_softmax() -> None:
    """Where a second softmax is taken, as in the released code, the distance is another one."""
    rng = np.random.default_rng(1)
    student, teacher = rng.normal(0, 3, (2, 7, 11))

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    once = -(softmax(teacher) * np.log(softmax(student))).sum(1).mean()
    twice = -(softmax(teacher) * np.log(softmax(softmax(student)))).sum(1).mean()
    found = codebook_distance(torch.from_numpy(student), torch.from_numpy(teacher)).item()
    assert found == pytest.approx(once)
    assert abs(once - twice) > 0.1


def test_codebook_distance_teaches_the_student_alone() -> None:
    student, teacher = (torch.randn(3, 5, requires_grad=True) for _ in range(2))
    codebook_distance(student, teacher).backward()
    assert student.grad is not None
    assert student.grad.abs().sum() > 0
    assert teacher.grad is None


def test_gradients_reach_the_student_through_the_frozen_encoder_alone() -> None:
    for teacher_input in ('hr', 'lr'):
        loss, step = step_of(teacher_input=teacher_input)
        loss(step)['l_dckd'].backward()
        assert step.nets.student.net.conv_first.weight.grad.abs().sum() > 0
        assert all(p.grad is None for p in [*step.nets.teacher.net.parameters(), *loss.history.parameters()])


def test_a_teacher_that_lets_no_gradient_through_is_no_encoder() -> None:
    loss, (student, teacher), (lq, gt) = DCKDLoss(taps=2), make_pair('EDSR'), batch('EDSR')
    teacher.conv_first.register_forward_pre_hook(lambda module, args: (args[0].detach(), ))
    step = bind([loss], student, teacher, lq[:1]).step(lq, gt)
    with pytest.raises(LossError, match='no gradient passes through the teacher EDSR to the student.*vgg19, or vqgan'):
        loss(step)


# --------------------------------------------------------------------------------------------- the degraded copies
def test_degraded_copies_have_the_noise_they_should() -> None:
    loss = DCKDLoss(taps=1, num_degraded=3, noise=[10, 20], gray_probability=0.5)
    loss.seed(3)
    lq = torch.full((64, 3, 16, 16), 0.5)
    noise = (loss.degraded(lq) - 0.5) * 255
    assert noise.shape == (192, 3, 16, 16)
    is_gray = (noise == noise[:, :1]).flatten(1).all(1)
    assert 0.35 < is_gray.float().mean() < 0.65
    sigma = noise.flatten(1).std(1)
    assert 8 < sigma.min() < 12, 'the lowest is 10, and each copy has a σ of its own'
    assert 18 < sigma.max() < 22
    assert not torch.equal(noise[0], noise[64]), 'the copies of an image differ'
    flat = noise[is_gray][:, 0].flatten(1)
    assert np.abs(np.corrcoef(flat)[0, 1:]).max() < 0.5, 'gray noise differs from sample to sample'


@pytest.mark.parametrize('probability', [0, 1])
def test_noise_can_be_always_or_never_gray(probability: int) -> None:
    loss = DCKDLoss(taps=1, gray_probability=probability)
    noise = loss.degraded(torch.full((4, 3, 8, 8), 0.5)) - 0.5
    assert bool((noise == noise[:, :1]).all()) is bool(probability)


def test_degraded_copies_are_clipped() -> None:
    images = DCKDLoss(taps=1, noise=[200, 200]).degraded(torch.rand(2, 3, 8, 8))
    assert images.min() == 0
    assert images.max() == 1


# --------------------------------------------------------------------------------------------- the history student
def moved(net: nn.Module, by: float = 1.0) -> nn.Module:
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by)
    return net


def test_history_follows_every_s_iterations() -> None:
    """θ_h begins as θ_s, then θ_h ← α θ_h + (1 − α) θ_s where s divides the iteration."""
    student = nn.Linear(1, 1)
    history = HistoryStudent(3, 100, 0.1)
    history.copy_from(student)
    expected = None
    for iteration in range(1, 8):
        moved(student)
        value = student.weight.item()
        expected = value if expected is None else 0.1 * expected + 0.9 * value if iteration % 3 == 0 else expected
        history.follow(iteration, student, None)
        assert history.net.weight.item() == pytest.approx(expected), iteration


def test_history_follows_the_moving_average_where_there_is_one() -> None:
    student, averaged = nn.BatchNorm1d(2), moved(nn.BatchNorm1d(2), 5)
    student.running_mean += 7
    history = HistoryStudent(1, 1, 0.0)
    history.copy_from(student)
    student.running_mean += 1
    history.follow(1, student, averaged)
    assert history.net.weight.tolist() == [6, 6]
    assert history.net.running_mean.tolist() == [8, 8], 'BasicSR averages no buffers: they are the student\'s own'


def test_s_grows_from_period_to_period() -> None:
    history = HistoryStudent([10, 20, 30], 100, 0.1)
    due = [i for i in range(1, 321) if history.due(i) == i]
    assert due == [*range(10, 101, 10), *range(120, 201, 20), *range(210, 321, 30)]
    assert [history.due(i) for i in (0, 9, 19, 105, 119, 205)] == [0, 0, 10, 100, 100, 200]
    assert (history.first, HistoryStudent(7, 5, 0.1).first, HistoryStudent([70, 20], 50, 0.1).first) == (10, 7, 60)


def test_a_turn_that_falls_into_a_pause_of_distillation_is_taken_up() -> None:
    student = nn.Linear(1, 1)
    history = HistoryStudent(4, 100, 0.0)
    history.copy_from(student)
    history.follow(3, student, None)
    moved(student)
    history.follow(6, student, None)
    assert torch.equal(history.net.weight, student.weight)
    moved(student)
    history.follow(7, student, None)
    assert not torch.equal(history.net.weight, student.weight)


def test_history_is_a_frozen_copy_without_taps() -> None:
    """Bound twice, and beside a loss that records what blocks return: no hook of a tap is copied."""
    loss, mixers = DCKDLoss(taps=2), MiPKDLoss(taps=2, latent_channels=8)
    student, teacher = make_pair('EDSR')
    own_hook = student.register_forward_hook(lambda module, args, output: None)
    lq, gt = batch('EDSR')
    bind([mixers, loss], student, teacher, lq[:1])
    nets = bind([mixers, loss], student, teacher, lq[:1])
    copied = loss.history.net
    assert [len(module._forward_hooks) for module in copied.modules() if module._forward_hooks] == [1]
    assert len(copied._forward_hooks) == 1, 'a hook of its own, such as the one that chooses its output'
    assert not any(p.requires_grad for p in loss.parameters())
    assert not any(module.training for module in loss.train().history.modules())
    before = copy.deepcopy(student.state_dict())
    step = nets.step(lq, gt, 1)
    loss(step)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert {p.data_ptr() for p in copied.parameters()}.isdisjoint(p.data_ptr() for p in student.parameters())
    own_hook.remove()


def test_terms_of_other_losses_stay_as_they_are_beside_it() -> None:
    """The teacher runs on other images in between; MiPKD's features enter it with what it recorded before."""
    found = []
    for number in (1, 2):
        torch.manual_seed(0)
        mipkd, dckd = MiPKDLoss(taps=3, latent_channels=8, route_probability=0.5), DCKDLoss(taps=[['body.1', 'body.0']])
        mipkd.seed(1)
        student, teacher = make_pair('EDSR')
        lq, gt = batch('EDSR')
        step = bind([mipkd, dckd][:number], student, teacher, lq[:1]).step(lq, gt, 1)
        if number == 2:
            dckd(step)
        found.append(mipkd(step))
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


@ARCH_REGISTRY.register()
class _Uncopied(nn.Module):
    """Keeps a tensor with a gradient, as a cache does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = build_network(STUDENTS['EDSR'])

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.net(x)
        return self.kept


def test_a_student_that_cannot_be_copied_is_refused() -> None:
    lq, _ = batch('EDSR')
    student = _Uncopied()
    student(lq)
    with pytest.raises((LossError, BindError), match='_Uncopied cannot be copied, and DCKDLoss needs a copy of it'):
        bind([DCKDLoss(taps=[['net.body.1', 'body.1']])], student, make_pair('EDSR')[1], lq[:1])


def test_an_encoder_that_runs_in_float16_loses_no_gradient() -> None:
    """However small the weight is: its gradients are scaled inside the teacher."""
    gradients = []
    for weight, execution in ((1e-5, Execution()), (0.1, Execution(dtype=torch.float16)),
                              (1e-5, Execution(dtype=torch.float16, channels_last=True))):
        torch.manual_seed(0)
        loss = DCKDLoss(taps=2, contrast_weight=weight)
        loss.seed(1)
        student, teacher = make_pair('EDSR')
        lq, gt = batch('EDSR')
        loss(bind([loss], student, teacher, lq[:1], execution=execution).step(lq, gt, 1))['l_dckd'].backward()
        gradients.append(student.conv_first.weight.grad / weight)
    for gradient in gradients[1:]:
        assert (gradient - gradients[0]).norm() < 0.1 * gradients[0].norm()


def test_encoding_stops_behind_the_last_tap() -> None:
    loss, step = step_of()
    teacher = step.nets.teacher
    ran = []
    handle = teacher.net.conv_after_body.register_forward_hook(lambda *_: ran.append(1))
    hooks = sum(len(module._forward_hooks) for module in teacher.net.modules())
    shallow, = encode(teacher, step.gt, ['body.2'])
    assert shallow.shape[2:] == step.gt.shape[2:]
    assert not ran
    assert hooks == sum(len(module._forward_hooks) for module in teacher.net.modules())
    handle.remove()


# --------------------------------------------------------------------------------------------- in a training
def model_of(opt: dict[str, Any], root: Path) -> Any:
    torch.manual_seed(0)
    return build_model(as_parsed(opt, root))


def train(model: Any, iterations: range, strays: int = 0) -> list[dict[str, float]]:
    """Logs of some iterations; before each of them something else draws ``strays`` numbers from global generators."""
    logs = []
    for iteration in iterations:
        lq, gt = batch('EDSR', seed=iteration)  # seeds torch
        for draw in (torch.rand, np.random.rand, lambda count: [random.random() for _ in range(count)]):
            draw(strays)
        model.update_learning_rate(iteration)
        model.feed_data({'lq': lq, 'gt': gt})
        model.optimize_parameters(iteration)
        logs.append(dict(model.get_current_log()))
    return logs


def options(train_options: Make, **changes: Any) -> dict[str, Any]:
    opt = train_options()
    opt['train']['distill_opt'] = [{**DCKD, **changes}, {'type': 'LogitsKDLoss'}]
    return opt


def resumed(opt: dict[str, Any], root: Path, iteration: int) -> Any:
    folder = root / 'experiments/tiny'
    opt = copy.deepcopy(opt)
    opt['path']['pretrain_network_g'] = str(folder / f'models/net_g_{iteration}.pth')  # as check_resume sets it
    model = model_of(opt, root)
    model.resume_training(torch.load(folder / f'training_states/{iteration}.state'))
    return model


def test_history_is_the_moving_average_and_trains_nothing(train_options: Make, tmp_path: Path) -> None:
    model = model_of(options(train_options), tmp_path)
    start = copy.deepcopy(model.net_g_ema.state_dict())
    assert len(model.optimizer_g.param_groups) == 1, 'the losses train nothing'
    train(model, range(1, 2))
    after_first = copy.deepcopy(model.net_g_ema.state_dict())
    assert all(torch.equal(value, start[name]) for name, value in model.losses[0].history.net.state_dict().items())
    train(model, range(2, 4))
    for name, value in model.losses[0].history.net.named_parameters():
        torch.testing.assert_close(value.data, 0.25 * start[name] + 0.75 * after_first[name])
    model.save(0, 3)
    saved = torch.load(tmp_path / 'experiments/tiny/models/net_g_3.pth', weights_only=True)
    assert all(own.keys() == model.net_g.state_dict().keys() for own in saved.values())


@pytest.mark.parametrize('ema_decay', [0.9, 0])
def test_resume_is_bit_identical(ema_decay: float, train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options)
    opt['train']['ema_decay'] = ema_decay
    straight = model_of(opt, tmp_path)
    train(straight, range(1, 4))
    straight.save(0, 3)
    expected = train(straight, range(4, 7))
    model = resumed(opt, tmp_path, 3)
    assert train(model, range(4, 7), strays=3) == expected, 'no noise is drawn from global generators'
    for name, value in straight.losses.state_dict().items():
        other = model.losses.state_dict()[name]
        assert torch.equal(value, other) if isinstance(value, Tensor) else value == other, name
    assert all(torch.equal(a, b) for a, b in zip(straight.net_g.parameters(), model.net_g.parameters()))


def test_a_history_student_that_is_not_saved_would_change_what_follows(train_options: Make, tmp_path: Path) -> None:
    """As in the released code, where a resumed run begins again with a copy of the present student."""
    opt = options(train_options)
    straight = model_of(opt, tmp_path)
    train(straight, range(1, 4))
    straight.save(0, 3)
    expected = train(straight, range(4, 5))
    model = resumed(opt, tmp_path, 3)
    model.losses[0].history.changed = -1
    assert train(model, range(4, 5)) != expected
    saved = torch.load(tmp_path / 'experiments/tiny/models/distill_3.pth', weights_only=True)['losses']
    assert {f'0.history.net.{name}' for name in straight.net_g.state_dict()} <= saved.keys()
    assert saved['0.history._extra_state'] == {'changed': 2}


def test_another_s_is_refused_on_resume(train_options: Make, tmp_path: Path) -> None:
    model = model_of(options(train_options), tmp_path)
    train(model, range(1, 2))
    model.save(0, 1)
    with pytest.raises(StateError, match='was trained with history_every: 2 of DCKDLoss, now it is 3; resume with'):
        resumed(options(train_options, history_every=3), tmp_path, 1)
    resumed(options(train_options, noise=[1, 5]), tmp_path, 1)


# --------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(('given', 'message'), [
    ({}, 'taps is missing: encoder: teacher compares features of the teacher; write taps: 3'),
    ({'taps': 3, 'encoder': 'vgg19'}, 'taps goes with encoder: teacher alone, and the encoder is vgg19'),
    ({'encoder': 'vqgan'}, 'weights is missing: encoder: vqgan needs the file of its weights, last.ckpt of vqgan_'),
    ({'taps': 3, 'codebook_weight': 0.1}, 'codebook_weight goes with encoder: vqgan alone, and the encoder is teacher'),
    ({'encoder': 'vgg19', 'teacher_input': 'lr'},
     'teacher_input goes with encoder: teacher alone, and the encoder is vgg19'),
    ({'taps': 3, 'weights': 'x.pth'}, 'weights goes with encoder: vqgan or vgg19, and the encoder is teacher'),
    ({'taps': 3, 'layer_weights': [1, 1]}, 'layer_weights must have 3 numbers, one for each feature, got [1.0, 1.0]'),
    ({'taps': [['a', 'b']], 'layer_weights': [0]}, 'layer_weights are all 0: nothing would be distilled'),
    ({'taps': 6}, 'layer_weights is missing: the paper has 5 numbers, and there are 6 features'),
    ({'taps': 2, 'noise': [-1, 30]}, 'noise[0] must be at least 0, got -1'),
    ({'taps': 2, 'noise': [30, 1]}, 'noise must be [lowest, highest], got [30.0, 1.0]'),
    ({'taps': 2, 'noise': [0, 0]}, 'noise must go above 0: without noise the copies are the images themselves'),
    ({'taps': 2, 'noise': [1]}, 'noise must have 2 or more entries, not 1, got [1]'),
    ({'taps': 2, 'history_every': 0}, 'history_every must be at least 1, got 0'),
    ({'taps': 2, 'history_every': []}, 'history_every must have 1 or more entries, not 0, got'),
    ({'taps': 2, 'history_decay': 1}, 'history_decay must be below 1, got 1'),
    ({'taps': 2, 'num_degraded': 0}, 'num_degraded must be at least 1, got 0'),
    ({'taps': 2, 'encoder': 'resnet'}, "encoder must be 'teacher', 'vqgan' or 'vgg19', got 'resnet'"),
])
def test_options_that_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        DCKDLoss(**given)
    assert message in str(caught.value)


def test_layer_weights_are_the_last_of_the_papers() -> None:
    assert DCKDLoss(taps=3).layer_weights == [1 / 8, 1 / 4, 1]
    assert DCKDLoss(taps=5).layer_weights == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]
    assert DCKDLoss(taps=2, layer_weights=[3, 1]).layer_weights == [3, 1]


def test_gray_images_need_the_teacher_as_encoder(vgg_weights: str) -> None:
    nets = [build_network({'type': 'SwinIR', 'img_size': 8, 'in_chans': 1, 'window_size': 4, 'depths': [2, 2],
                           'num_heads': [2, 2], 'embed_dim': 8, 'upscale': 2, 'upsampler': 'pixelshuffle'})
            for _ in range(2)]
    losses = [DCKDLoss(taps=1), DCKDLoss(encoder='vgg19', weights=vgg_weights)]
    step = bind(losses, *nets, torch.rand(1, 1, 8, 8)).step(torch.rand(2, 1, 8, 8), torch.rand(2, 1, 16, 16))
    assert torch.isfinite(losses[0](step)['l_dckd'])
    with pytest.raises(ValueError, match='needs RGB images, got 1 channels; write encoder: teacher, and taps'):
        losses[1](step)


@pytest.mark.parametrize('options', [{'teacher_input': 'lr'}, {'layer_weights': [1, 2], 'num_degraded': 1}])
def test_contract_of_other_options(options: dict[str, Any]) -> None:
    check_loss(DCKDLoss, architectures=['EDSR', 'SwinIR'], taps=2, **options)
