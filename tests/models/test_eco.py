"""ECO: the batch is blended with the teacher's images, as the number of the iteration says; a = 1 changes nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.models import build_model
from basicsr.utils.matlab_functions import imresize
from helpers import SHARED, STUDENTS, TEACHERS, as_parsed, batch
from numpy.typing import NDArray
from training import train, train_until, write_options

from mipkd_plugin import ArgumentError, DistillModel
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.checkpoints.files import random_state_path
from mipkd_plugin.config import EcoSchedule, check_options
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample, bicubic_downsample_batch
from mipkd_plugin.models.eco import batch_of

Make = Callable[..., dict[str, Any]]
LOGITS = {'type': 'LogitsKDLoss'}
MIPKD = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}
KRNET = {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 8, 'meta_every': 1}
IMAGES = sorted((SHARED / 'data' / 'Set14' / 'HR').glob('*.png'))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def options(make: Make, losses: Any = None, eco: Any = None, **train: Any) -> dict[str, Any]:
    """Ten iterations, validated and saved after each fifth."""
    opt = make()
    opt['datasets']['train'].update(dataset_enlarge_ratio=6)
    opt['train'].update(total_iter=10, exact_resume=True, distill_opt=losses, eco=eco,
                        scheduler={'type': 'MultiStepLR', 'milestones': [3, 7]}, **train)
    for key in ('distill_opt', 'eco'):
        if opt['train'][key] is None:
            del opt['train'][key]
    opt['val']['val_freq'] = 5
    opt['logger'].update(save_checkpoint_freq=5, use_tb_logger=False)
    return opt


def model_of(opt: dict[str, Any], root: Path) -> tuple[DistillModel, list[int]]:
    """A model, always with the same weights, and a list of the batch sizes with which its teacher runs."""
    torch.manual_seed(0)
    model, sizes = build_model(as_parsed(opt, root)), []
    model.teacher.register_forward_hook(lambda module, args, output: sizes.append(len(args[0])))
    return model, sizes


def fed(model: DistillModel, iteration: int, samples: int = 4, **more: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The images that a model is given, after one step with them."""
    lq, gt = batch('EDSR', seed=iteration, samples=samples)
    model.feed_data({'lq': lq.clone(), 'gt': gt.clone(), **more})
    model.optimize_parameters(iteration)
    return lq, gt


# ------------------------------------------------------------------------------------------- the formula, in NumPy
def cubic(x: float) -> float:
    """MATLAB's kernel, a = -0.5."""
    x = abs(x)
    return 1.5 * x**3 - 2.5 * x**2 + 1 if x <= 1 else -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x <= 2 else 0.0


def shrunk_rows(image: NDArray[Any], scale: int) -> NDArray[Any]:
    """(H, …) → (H / scale, …): the wide kernel around the middle of each new row, rows mirrored beyond the border."""
    height = len(image)
    rows = []
    for row in range(height // scale):
        middle = (row + 0.5) * scale - 0.5
        places = range(math.floor(middle - 2 * scale), math.ceil(middle + 2 * scale) + 1)
        weights = np.array([cubic((place - middle) / scale) for place in places])
        mirrored = [place % (2 * height) for place in places]
        mirrored = [place if place < height else 2 * height - 1 - place for place in mirrored]
        rows.append(np.tensordot(weights / weights.sum(), image[mirrored], axes=1))
    return np.clip(np.stack(rows), 0, 1)


def shrunk(images: NDArray[Any], scale: int) -> NDArray[Any]:
    """(N, C, H, W) → (N, C, H / scale, W / scale)."""
    rows = shrunk_rows(images.transpose(2, 0, 1, 3), scale)  # (h, N, C, W)
    return shrunk_rows(rows.transpose(3, 0, 1, 2), scale).transpose(2, 3, 1, 0)


@pytest.mark.parametrize('mode', ['full', 'hr_only'])
@pytest.mark.parametrize('losses', [None, LOGITS], ids=['alone', 'with a loss'])
def test_the_blend_by_hand(train_options: Make, tmp_path: Path, mode: str, losses: Any) -> None:
    """Iterations 1, 3 and 5 of 10, which end at 0.75 · 10: a = 2/15, 6/15, 10/15."""
    model, _ = model_of(options(train_options, losses, {'end_ratio': 0.75, 'mode': mode}), tmp_path)
    steps, seen, compared, looked_at = [], [], [], []
    model.cri_perceptual = lambda output, gt: (looked_at.append(gt), (output.mean() * 0, None))[1]
    model.net_g.register_forward_pre_hook(lambda module, args: seen.append(args[0].clone()))
    for loss in model.losses:
        loss.register_forward_pre_hook(lambda module, args: steps.append(args[0]))
    model.teacher.register_forward_hook(lambda module, args, output: (output - 0.45) * 12 + 0.5)  # leaves [0, 1]
    model.cri_pix.register_forward_pre_hook(lambda module, args: compared.append(args[1]))
    for iteration in (1, 3, 5):
        for found in (steps, seen, compared, looked_at):
            found.clear()
        lq, gt = batch('EDSR', seed=iteration, samples=3)
        model.feed_data({'lq': lq, 'gt': gt})
        model.optimize_parameters(iteration)
        answer = model.nets.teacher.image(lq).numpy().astype(np.float64)
        a, image = iteration / 7.5, np.clip(answer, 0, 1)
        assert (image == 0).any()
        assert (image == 1).any()
        by_hand = (1 - a) * image + a * gt.numpy()
        smaller = (1 - a) * shrunk(image, 2) + a * lq.numpy() if mode == 'full' else lq.numpy()
        assert np.abs(compared[-1].numpy() - by_hand).max() < 1e-6
        assert np.abs(seen[-1].numpy() - smaller).max() < 1e-6
        assert torch.equal(looked_at[-1], compared[-1]), 'the perceptual loss sees the blended images too'
        assert model.get_current_log()['eco_a'] == pytest.approx(a)
        for step in steps:
            assert torch.equal(step.gt, compared[-1])
            assert torch.equal(step.lq, seen[-1])
            torch.testing.assert_close(step.teacher.output, model.nets.teacher.image(step.lq))
        assert len(steps) == (losses is not None)


def blended(hr: torch.Tensor, lq: torch.Tensor, a: float, scale: int) -> torch.Tensor:
    """The LR images of a training whose teacher makes the HR images."""
    teacher = SimpleNamespace(image=lambda images: hr)
    model: Any = SimpleNamespace(eco=EcoSchedule(1000, 1.0), lq=lq, gt=hr, opt={'scale': scale},
                                 nets=SimpleNamespace(teacher=teacher),
                                 teaching=SimpleNamespace(caches={}, first=''))
    found = batch_of(model, round(1000 * a))
    torch.testing.assert_close(found.gt, hr)
    return found.lq


@pytest.mark.parametrize('scale', [2, 3, 4])
def test_a_teacher_that_makes_the_hr_image_gives_the_matlab_lr_image(scale: int) -> None:
    """Each of the two passes of MATLAB rounds, to half a level."""
    rng = np.random.default_rng(0)
    cases = [rng.integers(0, 2, (48, 36, 3), dtype=np.uint8) * 255, rng.integers(0, 256, (36, 24, 3), dtype=np.uint8)]
    cases += [image[:image.shape[0] // scale * scale, :image.shape[1] // scale * scale]
              for path in IMAGES[:3] for image in [cv2.imread(str(path))]]
    for image in cases:
        lr = bicubic_downsample(image, scale)
        hr, lq = (torch.from_numpy(x).permute(2, 0, 1)[None] / 255 for x in (image, lr))
        for a in (0.001, 0.4):
            gap = 255 * (blended(hr, lq, a, scale) - lq).abs().max().item()
            assert gap < 1.25 * (1 - a), 'half a level of each pass, the first one enlarged by the second'


# ------------------------------------------------------------------------------------------------------ the bicubic
@pytest.mark.parametrize(('scale', 'height', 'width'), [(2, 32, 32), (2, 64, 48), (3, 48, 96), (4, 96, 64)])
def test_the_batched_bicubic_is_basicsrs(scale: int, height: int, width: int) -> None:
    images = torch.rand(3, 3, height, width, generator=torch.Generator().manual_seed(0))
    one_by_one = torch.stack([imresize(image, 1 / scale) for image in images])
    assert (bicubic_downsample_batch(images, scale) - one_by_one).abs().max() < 1e-6
    exact = bicubic_downsample_batch(images.double(), scale)
    assert exact.dtype == torch.float64
    assert (exact - one_by_one).abs().max() < 1e-6


@pytest.mark.parametrize('size', [(2, 2), (2, 6), (4, 2), (10, 14)])
def test_tiny_and_odd_images_are_mirrored_as_often_as_needed(size: tuple[int, int]) -> None:
    """BasicSR's loop needs images that are larger than its kernel; MATLAB does not."""
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = bicubic_downsample_batch(torch.from_numpy(image).permute(2, 0, 1)[None] / 255, 2, clips=True)
    assert np.abs(found[0].permute(1, 2, 0).numpy() * 255 - bicubic_downsample(image, 2)).max() < 1.1


def test_the_batched_bicubic_refuses_a_rest_and_ignores_autocast() -> None:
    with pytest.raises(ValueError, match='images of 9×8 cannot be shrunk by 2: a side is no multiple of it'):
        bicubic_downsample_batch(torch.rand(1, 3, 9, 8), 2)
    images = torch.rand(2, 1, 16, 24)
    plain = bicubic_downsample_batch(images, 2)
    with torch.autocast('cpu', torch.bfloat16):
        assert torch.equal(bicubic_downsample_batch(images, 2), plain)


# --------------------------------------------------------------------------------------------------- the schedule
def test_the_part_of_the_real_images() -> None:
    eco = EcoSchedule(100, 0.5)
    assert [eco.real(iteration) for iteration in (1, 25, 49, 50, 51, 100)] == [0.02, 0.5, 0.98, 1, 1, 1]
    assert eco.last == 49
    assert [EcoSchedule(100_000, ratio).last for ratio in (0.55, 0.75, 1.0)] == [54_999, 74_999, 99_999]
    assert EcoSchedule(10, 0.75).last == 7
    assert (EcoSchedule(10, 0.1).last, EcoSchedule(1).last, EcoSchedule(10, 1e-9).last) == (0, 0, 0)
    for total in range(1, 40):
        for ratio in (0.01, 0.3, 0.55, 0.75, 1.0):
            eco = EcoSchedule(total, ratio)
            assert eco.last == sum(eco.real(number) < 1 for number in range(1, total + 1)), (total, ratio)


@pytest.mark.parametrize(('own', 'message'), [
    ({'end_ratio': 0}, 'end_ratio must be above 0, got 0'), ({'end_ratio': 1.5}, 'end_ratio must be at most 1, got 1'),
    ({'mode': 'lr'}, "mode must be 'full' or 'hr_only'"), ({'endratio': 1}, 'endratio is not an option')])
def test_schedules_that_make_no_sense(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        EcoSchedule(100, **own)


# ------------------------------------------------------------------------------------- where the teacher runs, or not
@pytest.mark.parametrize(('mode', 'losses', 'distill', 'found'), [
    ('full', None, None, [[4], [4], [4], [4], [], [], [], []]),
    ('hr_only', None, None, [[4], [4], [4], [4], [], [], [], []]),
    ('full', LOGITS, None, [[4, 4]] * 4 + [[4]] * 4),
    ('hr_only', LOGITS, None, [[4]] * 8),
    ('full', LOGITS, {'until': 0.2}, [[4, 4]] * 2 + [[4]] * 2 + [[]] * 4),
    ('full', LOGITS, {'every': 2, 'share': 0.5}, [[4], [4, 2], [4], [4, 2], [], [2], [], [2]]),
    ('hr_only', LOGITS, {'every': 2, 'share': 0.5}, [[4], [4], [4], [4], [], [2], [], [2]])])
def test_the_teacher_runs_where_it_should_and_nowhere_else(train_options: Make, tmp_path: Path, mode: str, losses: Any,
                                                           distill: Any, found: list[list[int]]) -> None:
    """a = 1 from iteration 5 on; where nobody needs the teacher any more, it is dismissed."""
    opt = options(train_options, losses, {'end_ratio': 0.5, 'mode': mode}, distill=distill)
    model, sizes = model_of(opt, tmp_path)
    ran = []
    for iteration in range(1, 9):
        sizes.clear()
        fed(model, iteration)
        ran.append(list(sizes))
        assert model.get_current_log()['eco_a'] == min(1, np.float32(iteration / 5))
        assert ('l_logits' in model.get_current_log()) == (losses is not None and model.schedule.distills(iteration))
        assert model._teacher_dismissed == (not any(found[iteration - 1:])), 'as soon as nobody needs it, no sooner'
    assert ran == found


@pytest.mark.parametrize('mode', ['full', 'hr_only'])
@pytest.mark.parametrize('share', [1, 0.5])
def test_a_cache_holds_the_teachers_images_and_no_blended_ones(train_options: Make, tmp_path: Path, mode: str,
                                                               share: float) -> None:
    """The same numbers as without a cache, up to rounding; the cache is asked for the LR images as they were fed."""
    logs = {}
    for cache in (None, 'memory'):
        opt = options(train_options, {'type': 'FitNetLoss', 'taps': 2}, {'end_ratio': 0.5, 'mode': mode},
                      distill={'share': share})
        if cache:
            opt['teacher']['cache'] = cache
            opt['datasets']['train'].update(type='CropPoolDataset', crops=4)
        model, sizes = model_of(opt, tmp_path)
        ran, logged = [], []
        for iteration in range(1, 8):
            sizes.clear()
            lq, gt = batch('EDSR', seed=0, samples=4)
            model.feed_data({'lq': lq, 'gt': gt, 'crop': torch.arange(4)})
            model.optimize_parameters(iteration)
            ran.append(sum(sizes))
            logged.append([model.get_current_log()[name] for name in ('l_pix', 'l_fitnet')])
        logs[cache] = logged
    again = round(4 * share) if mode == 'full' else 0
    assert ran == [4 + again, *[again] * 3, 0, 0, 0], 'each crop once; the blended ones anew'
    assert np.array(logs['memory']) == pytest.approx(np.array(logs[None]), rel=1e-4)


def test_the_log_has_a_and_the_sum_has_not(train_options: Make, tmp_path: Path) -> None:
    model, _ = model_of(options(train_options, [KRNET, LOGITS], {'end_ratio': 1.0}), tmp_path)
    seen: list[Any] = []
    model.see_losses = seen.extend
    fed(model, 2)
    assert list(model.get_current_log()) == ['l_pix', 'l_kr', 'l_logits', 'meta_rec', 'eco_a']
    assert model.get_current_log()['eco_a'] == pytest.approx(0.2)
    assert all(torch.isfinite(value).all() for value in seen)
    terms, logged = model.training_terms(2)
    assert list(terms) == ['l_pix', 'l_kr', 'l_logits']
    assert list(logged) == ['meta_rec', 'eco_a']


def test_the_meta_step_sees_the_blended_images(train_options: Make, tmp_path: Path) -> None:
    model, _ = model_of(options(train_options, [KRNET], {'end_ratio': 1.0}), tmp_path)
    plans: list[Any] = []
    plain = model.losses[0].prepare
    model.losses[0].prepare = lambda plan: plans.append(plan) or plain(plan)
    lq, gt = fed(model, 3)
    expected = batch_of(model, 3)
    assert torch.equal(plans[0].lq, expected.lq)
    assert torch.equal(plans[0].gt, expected.gt)
    assert not torch.equal(plans[0].lq, lq)
    assert torch.equal(model.lq, lq), 'what was fed stays as it is'
    assert torch.equal(model.gt, gt)


def test_a_teacher_that_is_not_finite_stops_the_step(train_options: Make, tmp_path: Path) -> None:
    model, _ = model_of(options(train_options, None, {}), tmp_path)
    model.teacher.register_forward_hook(lambda module, args, output: output * math.nan)
    with pytest.raises(FloatingPointError, match='iteration 1: the loss is not finite'):
        fed(model, 1)


@pytest.mark.parametrize(('arch', 'dtype'), [('SwinIR', 'float32'), ('RCAN', 'bfloat16')])
def test_other_architectures_and_number_formats(train_options: Make, tmp_path: Path, arch: str, dtype: str) -> None:
    weights = tmp_path / 'other.pth'
    torch.manual_seed(1)
    torch.save({'params': build_network(dict(TEACHERS[arch])).state_dict()}, weights)
    opt = options(train_options, MIPKD, {})
    opt['network_g'] = dict(STUDENTS[arch])
    opt['teacher'] = {'network': dict(TEACHERS[arch]), 'weights': str(weights), 'param_key': 'params', 'dtype': dtype}
    if arch == 'SwinIR':
        opt['model_type'] = 'SwinIRDistillModel'
    model, _ = model_of(opt, tmp_path)
    fed(model, 1)
    found = batch_of(model, 1)
    assert found.lq.dtype == found.gt.dtype == torch.float32
    assert math.isfinite(model.get_current_log()['l_pix'])


# ----------------------------------------------------------------------------------------------- a = 1, and resuming
def weights_of(folder: Path, label: str = 'latest') -> dict[str, torch.Tensor]:
    state = torch.load(folder / 'models' / f'net_g_{label}.pth')
    return {f'{part}.{name}': value for part in ('params', 'params_ema') for name, value in state[part].items()}


def assert_equal(a: Path, b: Path) -> None:
    one, other = weights_of(a), weights_of(b)
    assert len(one) > 10
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    one, other = (torch.load(random_state_path(folder / 'models', 10)) for folder in (a, b))
    assert torch.equal(one['torch'], other['torch'])
    assert one['python'] == other['python']


@pytest.mark.parametrize('losses', [None, [MIPKD, {**KRNET, 'meta_every': 2}]], ids=['alone', 'MiPKD and KRNets'])
def test_with_a_of_1_it_is_the_run_without(train_options: Make, tmp_path: Path, losses: Any,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights, moving average, batches and random numbers, to the last bit; alone it is the run of SRModel."""
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, losses, {'end_ratio': 0.1})
    assert train(write_options({**opt, 'name': 'with'}, tmp_path / 'with.yml')) == 0
    del opt['train']['eco']
    if losses is None:
        opt['model_type'] = 'SRModel'
        del opt['teacher']
    assert train(write_options({**opt, 'name': 'without'}, tmp_path / 'without.yml')) == 0
    assert_equal(tmp_path / 'experiments/with', tmp_path / 'experiments/without')


@pytest.mark.parametrize('losses', [None, MIPKD], ids=['alone', 'MiPKD'])
def test_behind_a_of_1_a_run_goes_on_as_one_without(train_options: Make, tmp_path: Path, losses: Any,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """The blend draws no random number and leaves nothing behind."""
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, losses, {'end_ratio': 0.6})
    assert train(write_options({**opt, 'name': 'blended'}, tmp_path / 'blended.yml')) == 0
    rest = {**opt, 'name': 'rest', 'train': {key: value for key, value in opt['train'].items() if key != 'eco'}}
    if losses is None:
        rest['model_type'] = 'SRModel'
        del rest['teacher']
    source, target = tmp_path / 'experiments/blended', tmp_path / 'experiments/rest'
    for folder in ('models', 'training_states'):
        (target / folder).mkdir(parents=True)
    for name in ('net_g_5.pth', 'distill_5.pth', random_state_path('', 5).name):
        shutil.copy(source / 'models' / name, target / 'models')
    state = torch.load(source / 'training_states/5.state')
    del state['mipkd']  # the record of the files and options of the run before
    torch.save(state, target / 'training_states/5.state')
    assert train(write_options(rest, tmp_path / 'rest.yml'), '--auto_resume') == 0
    one, other = (weights_of(folder, '5') for folder in (source, target))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert_equal(source, target)


@pytest.mark.parametrize('losses', [None, MIPKD], ids=['alone', 'MiPKD'])
def test_resumed_in_the_middle_it_ends_like_an_uninterrupted_run(train_options: Make, tmp_path: Path, losses: Any,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, losses, {'end_ratio': 0.9})
    assert train(write_options({**opt, 'name': 'whole'}, tmp_path / 'whole.yml')) == 0
    cut = write_options({**opt, 'name': 'cut'}, tmp_path / 'cut.yml')
    train_until(cut, 'trained', 7)
    assert train(cut, '--auto_resume') == 0
    assert_equal(tmp_path / 'experiments/whole', tmp_path / 'experiments/cut')


def test_an_exact_resume_with_another_end_is_refused(train_options: Make, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch,
                                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    opt = options(train_options, None, {'end_ratio': 0.75})
    train_until(write_options(opt, tmp_path / 'tiny.yml'), 'trained', 7)
    opt['train']['eco'] = {'mode': 'full'}
    assert check_options(opt, is_train=True, auto_resume=True).problems == [], 'a default, written out or not'
    opt['train']['eco'] = {'end_ratio': 0.5}
    assert train(write_options(opt, tmp_path / 'tiny.yml'), '--auto_resume') == 2
    assert 'train.eco.end_ratio 0.75 -> 0.5' in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- what is said of it
@pytest.mark.parametrize(('losses', 'mode', 'words'), [
    (None, 'full', 'the teacher runs once in each of these iterations, and not at all from there on'),
    (LOGITS, 'full', 'in these iterations the teacher runs on the LR images, and again on the blended ones for the '
     'losses'),
    (LOGITS, 'hr_only', 'it shares the one pass of the teacher with the losses')])
def test_the_check_and_the_log_say_what_it_does(train_options: Make, tmp_path: Path, losses: Any, mode: str, words: str,
                                                monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_options(options(train_options, losses, {'mode': mode}), tmp_path / 'x.yml')
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    printed = capsys.readouterr().out
    images = 'HR and LR images' if mode == 'full' else 'HR images'
    said = f'{images} from those of the teacher to the real ones: a = 1 from iteration 8 of 10 on'
    assert f'  eco      {said}\n           {words}\n' in printed
    assert 'eco_a' not in printed, 'no term of the table'
    assert ("it has random weights; iteration 1, with ECO's a = 0.133\n" in printed) == (losses is not None)
    assert train(path) == 0
    log = next((tmp_path / 'experiments/tiny').glob('*.log')).read_text()
    assert f'ECO: {said}' in log
    assert 'eco_a: 1.3333e-01' in log
    assert ('Distillation is over' in log) == (losses is None)


def test_a_cache_is_told_what_it_saves() -> None:
    assert EcoSchedule(10, mode='hr_only').cost(True, True) == (
        'the teacher runs once on each crop, and the cache keeps that')
    assert EcoSchedule(10).cost(False, True).endswith('it holds no blended LR images, which no loss needs')
    assert EcoSchedule(10).cost(True, True).endswith('so it runs again for the losses')
    assert str(EcoSchedule(10, 0.1)) == ('HR and LR images are the real ones from the first iteration on (a = 1): it '
                                         'does nothing')
