"""The rehearsal: what it runs, what it leaves alone, and that it refuses nothing that works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, METRIC_REGISTRY, MODEL_REGISTRY
from helpers import STUDENTS, change
from torch import Tensor, nn
from torchvision.models import vgg19
from training import comparison_options, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.compare import read_comparison
from mipkd_plugin.config import reconstruction, rehearsal, training
from mipkd_plugin.config.patches import patch_problem
from mipkd_plugin.utils import weight_bombs

Make = Callable[..., dict[str, Any]]


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


@pytest.fixture
def plain(train_options: Make) -> dict[str, Any]:
    """A training without a teacher."""
    opt = train_options(model_type='SRModel')
    del opt['teacher'], opt['train']['distill_opt']
    return opt


def problems_of(opt: dict[str, Any], **kwargs: Any) -> list[str]:
    found = config.check_options(opt, **{'is_train': True, 'probe': 'full', **kwargs}).problems
    return [str(problem) for problem in found]


def write_set(folder: Path, *sizes: tuple[int, int]) -> dict[str, Any]:
    """A validation set (scale 2) with LR images of these sizes."""
    rng = np.random.default_rng(0)
    for index, size in enumerate(sizes):
        for name, factor in (('HR', 2), ('LR', 1)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            shape = (*(factor * side for side in size), 3)
            cv2.imwrite(str(folder / name / f'{index}.png'), rng.integers(0, 256, shape, dtype=np.uint8))
    return {'name': folder.name, 'type': 'PairedImageDataset', 'dataroot_gt': str(folder / 'HR'),
            'dataroot_lq': str(folder / 'LR'), 'io_backend': {'type': 'disk'}}


# --------------------------------------------------------------------------------------------- what works stays
@pytest.mark.parametrize('sizes', [[(24, 24)], [(1, 1)], [(7, 31), (8, 9)], [(300, 13)]], ids=str)
def test_a_network_that_takes_any_size_is_not_refused(plain: dict[str, Any], tmp_path: Path, sizes: Any) -> None:
    plain['datasets']['val'] = write_set(tmp_path / 'val', *sizes)
    plain['val']['metrics'] = {'psnr': {'type': 'calculate_psnr', 'crop_border': 0}}
    assert problems_of(plain) == []


@pytest.mark.parametrize('sizes', [[(24, 24)], [(32, 8), (16, 24)], [(296, 64)], [(4, 4)]], ids=str)
def test_a_network_with_windows_takes_whole_windows_without_padding(plain: dict[str, Any], tmp_path: Path,
                                                                    sizes: Any) -> None:
    plain['network_g'] = dict(STUDENTS['SwinIR'])
    plain['datasets']['val'] = write_set(tmp_path / 'val', *sizes)
    assert problems_of(plain) == []


@pytest.mark.parametrize('sizes', [[(4, 4)], [(24, 26), (30, 22)]], ids=str)
def test_pixel_unshuffle_takes_even_sides(plain: dict[str, Any], tmp_path: Path, sizes: Any) -> None:
    plain['network_g'] = {**STUDENTS['RRDBNet'], 'scale': 2}
    plain['datasets']['val'] = write_set(tmp_path / 'val', *sizes)
    plain['val']['metrics']['psnr']['crop_border'] = 1
    assert problems_of(plain) == []


def test_only_the_size_that_fails_is_named(plain: dict[str, Any], tmp_path: Path) -> None:
    plain['network_g'] = {**STUDENTS['RRDBNet'], 'scale': 2}
    plain['datasets']['val'] = write_set(tmp_path / 'val', (32, 40), (48, 32), (80, 42), (600, 33))
    problem, = problems_of(plain)
    assert '3.png of datasets.val (LR 600×33)' in problem


def test_a_large_image_costs_no_more_than_a_small_one(plain: dict[str, Any], tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    pixels: list[int] = []
    test = SRModel.test

    def counting(self: Any) -> None:
        pixels.append(self.lq.shape[-1] * self.lq.shape[-2])
        test(self)

    monkeypatch.setattr(SRModel, 'test', counting)
    plain['network_g'] = STUDENTS['SwinIR']
    plain['datasets']['val'] = write_set(tmp_path / 'val', (250, 249))
    problem, = problems_of(plain)
    assert '(LR 250×249)' in problem
    assert max(pixels) <= 72 * 72
    assert sum(pixels) <= 4 * 72 * 72


def test_a_network_that_fails_on_small_patches_alone_is_not_refused(plain: dict[str, Any], tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    @ARCH_REGISTRY.register()
    class WantsLargeImages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 12, 3, padding=1)

        def forward(self, lq: Tensor) -> Tensor:
            if min(lq.shape[-2:]) < 40 and not self.training and lq.shape[-1] != 8:
                raise RuntimeError('too small')
            return nn.functional.pixel_shuffle(self.conv(lq), 2)

    plain['network_g'] = {'type': 'WantsLargeImages'}
    plain['datasets']['val'] = write_set(tmp_path / 'val', (41, 50))
    try:
        assert problems_of(plain) == []
        plain['datasets']['val_2'] = write_set(tmp_path / 'small', (41, 39))
        assert 'small' in problems_of(plain)[0]
    finally:
        del ARCH_REGISTRY._obj_map['WantsLargeImages']


def test_niqe_takes_natural_images_that_are_large_enough(plain: dict[str, Any], tmp_path: Path) -> None:
    plain['datasets']['val'] = write_set(tmp_path / 'val', (100, 130))
    plain['val']['metrics'] = {'niqe': {'type': 'calculate_niqe', 'crop_border': 2, 'better': 'lower'}}
    assert problems_of(plain) == []


def test_single_images_are_fine_without_metrics_that_compare(plain: dict[str, Any], tmp_path: Path) -> None:
    images = write_set(tmp_path / 'val', (100, 130))
    del images['dataroot_gt']
    plain['datasets']['val'] = {**images, 'type': 'SingleImageDataset'}
    plain['val']['metrics'] = {'niqe': {'type': 'calculate_niqe', 'crop_border': 2, 'better': 'lower'}}
    assert problems_of(plain) == []
    plain['val']['metrics'] = None
    assert problems_of(plain) == []


def test_neutral_mean_and_std_are_fine(plain: dict[str, Any]) -> None:
    plain['datasets']['train'].update(mean=[0, 0, 0], std=[1, 1, 1])
    assert problems_of(plain) == []


def test_nothing_is_drawn_and_nothing_changes(plain: dict[str, Any]) -> None:
    import random
    before = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()
    assert problems_of(plain) == []
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (np.random.get_state()[1] == before[2]).all()


# --------------------------------------------------------------------------------------------- other people's classes
def test_models_that_validate_in_their_own_way_are_left_alone(plain: dict[str, Any], tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    class TiledModel(SRModel):
        def test(self) -> None:
            raise RuntimeError('needs what only a real model has')

    class OwnValidation(SRModel):
        def nondist_validation(self, *args: Any) -> None:
            raise RuntimeError

    plain['network_g'] = dict(STUDENTS['SwinIR'])
    plain['datasets']['val'] = write_set(tmp_path / 'val', (23, 25))
    assert problems_of(plain) != []
    for cls in (TiledModel, OwnValidation):
        monkeypatch.setitem(MODEL_REGISTRY._obj_map, cls.__name__, cls)
        assert problems_of({**plain, 'model_type': cls.__name__}) == []
    plain['datasets']['val'].update(mean=[0.5] * 3, std=[0.5] * 3)
    assert problems_of({**plain, 'model_type': 'OwnValidation'}) == []
    plain['datasets']['val'].update(type='SingleImageDataset')
    del plain['datasets']['val']['dataroot_gt']
    assert problems_of({**plain, 'model_type': 'OwnValidation'}) == []


def test_a_subclass_that_keeps_basicsrs_validation_is_rehearsed(plain: dict[str, Any], tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnStep(SRModel):
        def optimize_parameters(self, current_iter: int) -> None:
            raise RuntimeError

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'OwnStep', OwnStep)
    plain.update(model_type='OwnStep', network_g=dict(STUDENTS['SwinIR']))
    plain['datasets']['val'] = write_set(tmp_path / 'val', (23, 25))
    problem, = problems_of(plain)
    assert 'cannot run on 0.png of datasets.val (LR 23×25)' in problem
    plain['train']['pixel_opt'] = {'type': 'GANLoss', 'gan_type': 'vanilla'}
    assert problems_of(plain) == [problem], 'its own step may use the loss in another way'


def test_datasets_of_others(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(PairedImageDataset):
        def __getitem__(self, index: int) -> Any:
            sample = super().__getitem__(index)
            return self.opt['change'](sample, index)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'Odd', Odd)
    data = plain['datasets']['train']
    data['type'] = 'Odd'

    def said(change_sample: Callable[[dict[str, Any], int], Any]) -> list[str]:
        data['change'] = change_sample
        return problems_of(plain)

    assert said(lambda sample, index: sample) == []
    assert 'Odd gives a list, and BasicSR' in said(lambda sample, index: [sample])[0]
    assert 'Odd gives no gt (it gives lq)' in said(lambda sample, index: {'lq': sample['lq']})[0]
    assert 'HR images of 8×8; scale 2 needs 16×16' in said(lambda s, i: {**s, 'gt': s['gt'][:, :8, :8]})[0]
    assert 'different sizes, and a batch needs equal ones' in said(
        lambda s, i: s if i == 0 else {'lq': s['lq'][:, :4], 'gt': s['gt'][:, :8]})[0]
    assert '.png: ZeroDivisionError: division by zero' in said(lambda sample, index: index / 0)[0]
    assert 'datasets.train.degradation: is missing, and Odd needs it' in said(lambda s, i: {}['degradation'])[0]


def test_a_data_set_of_others_is_let_go(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No process may open an LMDB twice; this one refers to itself, so that only the garbage collector closes it."""
    open_ones: list[int] = []

    class TheirLMDBDataset(PairedImageDataset):
        def __init__(self, opt: dict[str, Any]) -> None:
            super().__init__(opt)
            open_ones.append(1)
            self.read = self.__getitem__

        def __del__(self) -> None:
            open_ones.pop()

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'TheirLMDBDataset', TheirLMDBDataset)
    plain['datasets']['train']['type'] = 'TheirLMDBDataset'
    assert problems_of(plain) == []
    assert open_ones == []


def test_frames_are_not_read_in_advance(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class TheirCachedDataset(PairedImageDataset):
        def __init__(self, opt: dict[str, Any]) -> None:
            seen.append(opt['cache_data'])
            super().__init__(opt)

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'TheirCachedDataset', TheirCachedDataset)
    plain['datasets']['val'].update(type='TheirCachedDataset', cache_data=True)
    assert problems_of(plain) == []
    assert seen == [False]
    assert plain['datasets']['val']['cache_data'] is True


@pytest.mark.parametrize('model_type', ['EDVRModel', 'VideoRecurrentModel'])
def test_models_for_videos_are_left_alone(plain: dict[str, Any], model_type: str) -> None:
    plain.update(model_type=model_type, network_g={
        'type': 'EDVR', 'num_feat': 8, 'num_frame': 3, 'num_extract_block': 1, 'num_reconstruct_block': 1,
        'with_tsa': False, 'deformable_groups': 1})
    problem, = [found for found in problems_of(plain) if not found.startswith('datasets')]
    assert problem == (f'model_type: {model_type} of BasicSR validates on a GPU whatever num_gpu says, and PyTorch '
                       'finds no CUDA device here\n   -> run it on a machine with a GPU')
    assert [found for found in problems_of({**plain, 'val': None}) if not found.startswith('datasets')] == []


def test_a_metric_of_others_that_fails_on_some_images_alone(plain: dict[str, Any],
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    def wants_noise(img: Any, img2: Any) -> float:
        return float('nan') if np.abs(np.diff(img.astype(float), 2, axis=0)).mean() < 15 else 1.0

    monkeypatch.setitem(METRIC_REGISTRY._obj_map, 'wants_noise', wants_noise)
    plain['val']['metrics'] = {'m': {'type': 'wants_noise'}}
    assert problems_of(plain) == []
    plain['val']['metrics'] = {'m': {'type': 'wants_noise', 'better': 'lower'}}
    problem, = problems_of(plain)
    assert "calculate" not in problem
    assert "unexpected keyword argument 'better'" in problem


def test_a_network_without_weights_needs_none_for_a_test(plain: dict[str, Any],
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    class Nearest(nn.Module):
        def forward(self, lq: Tensor) -> Tensor:
            return nn.functional.interpolate(lq, scale_factor=2)

    monkeypatch.setitem(ARCH_REGISTRY._obj_map, 'Nearest', Nearest)
    opt = {key: plain[key] for key in ('name', 'model_type', 'scale', 'num_gpu')}
    opt.update(datasets={'test': plain['datasets']['val']}, network_g={'type': 'Nearest'}, path={},
               val={'save_img': False, 'metrics': plain['val']['metrics']})
    assert problems_of(opt, is_train=False) == []
    opt['network_g'] = STUDENTS['EDSR']
    assert 'the test would measure random weights' in problems_of(opt, is_train=False)[0]


# --------------------------------------------------------------------------------------------- once for a comparison
def test_a_comparison_rehearses_its_data_once(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                              capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, str]] = []
    build = rehearsal.build_samples

    def counting(ctx: Any, where: str, options: Any) -> Any:
        seen.append((ctx.opt['model_type'], where))
        return build(ctx, where, options)

    monkeypatch.setattr(rehearsal, 'build_samples', counting)
    monkeypatch.chdir(tmp_path)
    path = write_options(comparison_options(train_options()), tmp_path / 'x.yml')
    wanted = [(model, f'datasets.{name}') for model in ('SRModel', 'DistillModel') for name in ('train', 'val')]
    assert mipkd_main(['check', '-opt', str(path)]) == 0
    assert seen == wanted
    seen.clear()
    read_comparison(config.read_options(path))
    assert seen == wanted
    config.check_options(train_options(), is_train=True)
    assert seen == wanted + wanted[2:], 'outside of a comparison nothing is remembered'


def test_the_control_of_a_comparison_pads_as_its_methods_do(train_options: Make, tmp_path: Path,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = comparison_options(train_options(network_g=dict(STUDENTS['SwinIR'])))
    opt['datasets']['val'] = write_set(tmp_path / 'val', (23, 25))
    comparison = read_comparison(config.read_options(write_options(opt, tmp_path / 'x.yml')))
    models = {(trial.method, trial.options['model_type']) for trial in (*comparison.trials, *comparison.one_each)}
    assert models == {('none', 'AnySRModel'), ('logits', 'DistillModel'), ('mipkd', 'DistillModel')}


# --------------------------------------------------------------------------------------------- losses and loggers
@pytest.fixture
def perceptual(plain: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A training with a perceptual loss, on a machine without weights and without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path / 'hub'))
    monkeypatch.setattr(reconstruction, '_out_of_reach', lambda url: 'URLError: no route to host')
    plain['train']['perceptual_opt'] = {'type': 'PerceptualLoss', 'layer_weights': {'relu1_1': 1.0}}
    return plain


def test_weights_of_vgg_that_are_not_there(perceptual: dict[str, Any], tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    problem, = problems_of(perceptual)
    assert problem.startswith('train.perceptual_opt: needs the weights of vgg19, which are neither in ')
    own, cached = (tmp_path / folder / 'vgg19-dcbb9e9d.pth' for folder in (
        'experiments/pretrained_models', 'hub/checkpoints'))
    assert f'neither in {own} nor in {cached}; and https://download.pytorch.org/models/vgg19-dcbb9e9d.pth' in problem
    assert '(URLError: no route to host)\n   -> download https://' in problem
    perceptual['train']['perceptual_opt']['vgg_type'] = 'vgg16'
    assert f'for instance as {tmp_path}/hub/checkpoints/vgg16-397923af.pth' in problems_of(perceptual)[0]
    monkeypatch.setattr(reconstruction, '_out_of_reach', lambda url: '')
    assert problems_of(perceptual) == [], 'BasicSR downloads them'


def test_weights_of_vgg_that_do_not_fit(perceptual: dict[str, Any], tmp_path: Path,
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / 'experiments/pretrained_models/vgg19-dcbb9e9d.pth'
    path.parent.mkdir(parents=True)
    path.write_bytes(b'<html>')
    assert 'vgg19-dcbb9e9d.pth is damaged' in problems_of(perceptual)[0]
    torch.save({'features.0.weight': torch.zeros(64, 3, 3, 3)}, path)
    problem, = problems_of(perceptual)
    assert 'does not fit VGG: 37 missing' in problem
    assert 'put https://download.pytorch.org/models/vgg19-dcbb9e9d.pth in its place' in problem
    with torch.device('meta'):
        small = {name: torch.zeros(1, device='cpu').expand(value.shape) for name, value in vgg19().state_dict().items()}
    torch.save(small, path)
    monkeypatch.setattr(weight_bombs, '_USUAL_LIMIT', 10**9)  # a real one has half a gigabyte
    assert problems_of(perceptual) == []
    perceptual['train']['perceptual_opt']['vgg_type'] = 'vgg16'
    problem, = problems_of(perceptual)
    assert 'and BasicSR loads this file for every vgg_type' in problem
    assert problem.endswith(f'rename {path}, or write vgg_type: vgg19')


def test_wandb_needs_tensorboard(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {'wandb'}
    monkeypatch.setattr(training, 'find_spec', lambda name: name if name in installed else None)
    plain['logger'].update(use_tb_logger=False, wandb={'project': 'p'})
    problem, = problems_of(plain)
    assert problem == ('logger.use_tb_logger: must be true for wandb: BasicSR hands it what TensorBoard gets\n'
                       '   -> write use_tb_logger: true')
    plain['logger']['use_tb_logger'] = True
    assert 'needs the package tensorboard, which is not installed' in problems_of(plain)[0]
    installed.add('tensorboard')
    assert problems_of(plain) == []
    installed.clear()
    plain['logger'].update(use_tb_logger=False, wandb={'project': None})
    assert problems_of(plain) == [], 'BasicSR does not start it without a project'
    plain['logger']['wandb'] = {'project': 'p'}
    assert problems_of({**plain, 'name': 'debug_x'}) == [], 'nor for a debug run'


# --------------------------------------------------------------------------------------------- patches
@pytest.mark.parametrize(('gt_size', 'scale', 'windows', 'wanted'), [
    (48, 2, {}, None), (48, 2, {'a': 8, 'b': 12}, None), (32, 2, {'a': 8, 'b': 12}, 48),
    (100, 2, {'a': 8, 'b': 12}, 96), (49, 2, {}, 48), (49, 2, {'a': 7}, 42), (14, 1, {'a': 7, 'b': 2}, None),
    (22, 1, {'a': 7, 'b': 22}, 154), (33, 3, {'a': 4, 'b': 8}, 24), (3, 4, {}, 4)])
def test_one_size_fits_scale_and_all_windows(gt_size: int, scale: int, windows: dict[str, int],
                                             wanted: int | None) -> None:
    found = patch_problem(gt_size, scale, windows)
    assert (None if found is None else found[1]) == wanted
    if found is not None:
        assert patch_problem(found[1], scale, windows) is None
    if windows == {'a': 4, 'b': 8}:
        assert 'the window size 8 of b' in found[0]


def test_large_folders_are_not_listed_twice(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, '_MOST_BUILT', 3)
    monkeypatch.setattr(rehearsal, 'build_samples', lambda ctx, where, options: pytest.fail(where))
    change(plain, 'datasets.val', ...)
    assert problems_of(plain) == []


def test_files_are_left_alone_if_asked(plain: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, 'build_samples', lambda ctx, where, options: pytest.fail(where))
    assert problems_of(plain, files=False) == []


def test_the_trained_network_keeps_its_modes(plain: dict[str, Any]) -> None:
    built = config.check_options(plain, is_train=True, probe='full').built
    assert built.student is not None
    assert all(module.training for module in built.student.modules())
    fresh = build_network(plain['network_g'])
    assert [name for name, _ in built.student.named_modules()] == [name for name, _ in fresh.named_modules()]
