"""Trainings on degraded images: what the check takes, counts and notes, and where it finds the size of a patch."""

from __future__ import annotations

import copy
import inspect
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.models.realesrnet_model import RealESRNetModel
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.registry import DATASET_REGISTRY, MODEL_REGISTRY
from helpers import STUDENTS
from real_world import DEGRADATION, DISCRIMINATOR, GAN_LOSS, real_options
from torchvision.models import _api

from mipkd_plugin import config
from mipkd_plugin.config import degradation, reconstruction
from mipkd_plugin.config.data_set_tables import HR_IMAGES, crop_side, patch_place
from mipkd_plugin.config.decoding import decode_images
from mipkd_plugin.config.degradation_keys import TABLES, degrades
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import remedied
from mipkd_plugin.config.trial_batches import trial_batches

Make = Callable[..., dict[str, Any]]
MODELS = ('RealESRNetModel', 'RealESRNetDistillModel', 'RealESRGANModel', 'RealESRGANDistillModel')


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)


@pytest.fixture
def make(image_pairs: Path) -> Make:
    """Options of a tiny training on degraded images."""
    return lambda model_type='RealESRNetDistillModel', **changes: real_options(image_pairs, model_type, **changes)


def check(opt: dict[str, Any], **kwargs: Any) -> config.Report:
    return config.check_options(opt, **{'is_train': True, 'probe': 'full', **kwargs})


def said(opt: dict[str, Any], **kwargs: Any) -> list[str]:
    return [str(problem) for problem in check(opt, **kwargs).problems]


# ------------------------------------------------------------------------------------------------------ what is taken
@pytest.mark.parametrize('model_type', MODELS)
def test_a_training_on_degraded_images(make: Make, model_type: str) -> None:
    report = check(make(model_type))
    assert report.problems == []
    assert report.images == {'datasets.train': 4, 'datasets.val': 4}


def test_keys_of_published_files_are_harmless(make: Make) -> None:
    opt = make('RealESRGANModel')
    opt['datasets']['train'].update(gt_size=16, use_shuffle=True, prefetch_mode=None)
    opt['path'].update(pretrain_network_d=None, param_key_d='params', strict_load_d=True)
    opt['train'].update(net_d_iters=1, net_d_init_iters=0)
    assert said(opt) == []


def test_kernel_sizes_that_basicsr_ignores_are_noted(make: Make) -> None:
    opt = make()
    assert check(opt).notes == []
    opt['datasets']['train']['blur_kernel_size2'] = 15
    assert check(opt).notes[0] == ('datasets.train.blur_kernel_size2 is 15, and BasicSR does not use it: its kernels '
                                   'have 7 to 21 pixels a side')


@pytest.mark.parametrize('model_type', MODELS)
def test_pairs_need_no_degradation(make: Make, image_pairs: Path, model_type: str) -> None:
    opt = {key: value for key, value in make(model_type).items() if key not in DEGRADATION}
    opt.pop('gt_usm', None)
    opt['high_order_degradation'] = False
    opt['datasets']['train'] = {**opt['datasets']['val'], 'name': 'train', 'gt_size': 32, 'use_hflip': True,
                                'use_rot': False, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 2,
                                'dataset_enlarge_ratio': 4}
    assert said(opt) == []
    (image_pairs / 'pairs.txt').write_text('HR/0.png, LRbicx2/0.png\nHR/3.png, LRbicx2/3.png\n')
    opt['datasets']['train'].update(type='RealESRGANPairedDataset', meta_info=str(image_pairs / 'pairs.txt'),
                                    dataroot_gt=str(image_pairs), dataroot_lq=str(image_pairs))
    report = check(opt)
    assert report.problems == []
    assert report.images['datasets.train'] == 2


def test_an_lmdb_needs_no_list(make: Make, image_pairs: Path) -> None:
    make_lmdb_from_imgs(str(image_pairs / 'HR'), str(image_pairs / 'HR.lmdb'), [f'{n}.png' for n in range(4)],
                        [str(n) for n in range(4)])
    opt = make()
    train = opt['datasets']['train']
    train.update(io_backend={'type': 'lmdb'}, dataroot_gt=str(image_pairs / 'HR.lmdb'))
    del train['meta_info']
    assert said(opt) == []
    assert decode_images(opt) == 4 + 8


def test_a_list_of_all_images_of_an_lmdb_may_stay(make: Make, image_pairs: Path) -> None:
    make_lmdb_from_imgs(str(image_pairs / 'HR'), str(image_pairs / 'HR.lmdb'), [f'{n}.png' for n in range(4)],
                        [str(n) for n in range(4)])
    opt = make()
    opt['datasets']['train'].update(io_backend={'type': 'lmdb'}, dataroot_gt=str(image_pairs / 'HR.lmdb'))
    (image_pairs / 'list.txt').write_text('2.png (48,48,3)\n0.png\n1.png\n3.png\n')
    assert said(opt) == []
    (image_pairs / 'list.txt').write_text('2.png\n')
    problem, = check(opt).problems
    assert problem.where == 'datasets.train.meta_info'
    assert said(remedied(opt, problem.fix)) == []


@pytest.mark.skipif(sys.platform != 'linux', reason='find of GNU')
def test_the_command_of_a_remedy_lists_the_images_alone(make: Make, image_pairs: Path) -> None:
    opt = make()
    folder = image_pairs / 'HR of mine'
    (image_pairs / 'HR').rename(folder)
    (folder / 'more').mkdir()
    (folder / '4.png').symlink_to(folder / '0.png')
    train = opt['datasets']['train']
    train.update(dataroot_gt=str(folder), meta_info=str(folder / 'names.txt'))
    del opt['datasets']['val'], opt['val']
    problem, = check(opt).problems
    subprocess.run(problem.remedy.partition('make the list: ')[2], shell=True, check=True, cwd=image_pairs)
    assert (folder / 'names.txt').read_text().split() == [f'{number}.png' for number in range(5)]
    assert said(opt) == []


def test_the_images_of_the_list_alone_are_decoded(make: Make, image_pairs: Path) -> None:
    opt = make()
    (image_pairs / 'list.txt').write_text('0.png\n1.png\n')
    del opt['datasets']['val'], opt['val']
    data = bytearray((image_pairs / 'HR/1.png').read_bytes())
    data[len(data) // 2] ^= 1
    for name in ('1.png', '3.png'):
        (image_pairs / 'HR' / name).write_bytes(data)
    with pytest.raises(config.OptionError) as caught:
        decode_images(opt)
    problem, = caught.value.problems
    assert problem.what.startswith(f'1 of 2 images cannot be decoded: {image_pairs}/HR/1.png')
    assert problem.remedy.startswith('restore them, or remove them and their lines of meta_info;')


def test_too_few_images_for_the_length(make: Make) -> None:
    opt = make()
    opt['datasets']['train'].update(batch_size_per_gpu=8, dataset_enlarge_ratio=1)
    problem, = check(opt).problems
    assert problem.where == 'datasets.train.dataset_enlarge_ratio'
    assert problem.what.startswith('4 images × 1 in batches of 8 last for 0 of 4 iterations')


def test_a_test_needs_nothing_of_a_training(make: Make) -> None:
    opt = make('RealESRGANModel')
    own = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'network_g')}
    own.update(datasets={'test': opt['datasets']['val']}, val={'save_img': False, 'metrics': opt['val']['metrics']},
               path={'pretrain_network_g': None})
    assert [problem.where for problem in check(own, is_train=False).problems] == ['path.pretrain_network_g']


# ------------------------------------------------------------------------------------------------ classes of others
def test_what_extends_a_data_set_may_give_anything(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class TheirDataset(RealESRGANDataset):
        def __getitem__(self, index: int) -> dict[str, Any]:
            gt = super().__getitem__(index)['gt'][:, :16, :16]
            return {'gt': gt, 'lq': gt[:, ::2, ::2]}

    monkeypatch.setitem(DATASET_REGISTRY._obj_map, 'TheirDataset', TheirDataset)
    opt = {key: value for key, value in make().items() if key not in (*DEGRADATION, 'gt_usm')}
    opt['model_type'] = 'DistillModel'
    opt['datasets']['train'].update(type='TheirDataset', gt_size=16)
    assert said(opt) == []
    opt = make(model_type='RealESRNetDistillModel')
    opt['datasets']['train'].update(type='TheirDataset')
    problem, = check(opt).problems
    assert 'TheirDataset gives no kernel1 and no kernel2 and no sinc_kernel (it gives gt, lq)' in problem.what
    assert problem.remedy == 'use RealESRGANDataset'


def test_a_model_of_others_needs_what_it_needs(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class TheirModel(RealESRNetModel):
        def feed_data(self, data: Any) -> None:
            self.gt = data['gt']

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'TheirModel', TheirModel)
    opt = make('RealESRNetModel')
    del opt['jpeg_range'], opt['gt_usm']
    assert said({**opt, 'model_type': 'TheirModel', 'degradation_of_theirs': [1]}) == []


# ------------------------------------------------------------------------------------------------------------- patches
def test_the_patch_is_the_one_of_the_model(make: Make, train_options: Make) -> None:
    opt = make(gt_size=24)
    opt['datasets']['train']['gt_size'] = 999  # nothing reads it
    assert patch_place(opt) == 'gt_size'
    assert config.probe_shape(opt) == (3, 12, 12)
    assert crop_side(opt) == 48
    assert patch_place(train_options()) == 'datasets.train.gt_size'


def test_windows_are_compared_with_it(make: Make) -> None:
    opt = make(gt_size=24, network_g={**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8})
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    problem, = check(opt).problems
    assert problem.where == 'gt_size'
    assert problem.what.startswith('gt_size / scale = 12 is not a multiple of the window size 8 of network_g')
    assert said({**opt, **problem.fix}) == []


def test_trial_batches_are_what_the_model_takes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, 'sleep', lambda seconds: None)  # BasicSR waits for a server
    opt = make()
    found = trial_batches(opt, 6, 2, 8)
    assert found.is_real
    assert [tuple(batch['gt'].shape) for batch in found.batches] == [(4, 3, 48, 48)] * 2  # of a queue of 8
    assert set(found.batches[0]) >= {'kernel1', 'kernel2', 'sinc_kernel'}
    opt['datasets']['train']['dataroot_gt'] = 'nowhere'
    noise = trial_batches(opt, 6, 2, 8)
    assert not noise.is_real
    for key in ('gt', 'kernel1', 'kernel2', 'sinc_kernel'):
        assert noise.batches[0][key].shape == found.batches[0][key].shape
    assert torch.allclose(noise.batches[0]['kernel1'].sum((1, 2)), torch.ones(4))


# --------------------------------------------------------------------------------------------------- GANs and the VGG
def test_a_gan_needs_neither_pixel_nor_perceptual_loss(make: Make) -> None:
    opt = make('RealESRGANModel')
    del opt['train']['pixel_opt']
    assert said(opt) == []
    opt = make('RealESRNetModel')
    del opt['train']['pixel_opt']
    assert 'train.pixel_opt: is missing' in said(opt)[0]


@pytest.mark.parametrize('loss', [GAN_LOSS, *({**GAN_LOSS, 'gan_type': kind} for kind in ('wgan', 'hinge', 'lsgan'))])
def test_gans_on_pairs(train_options: Make, loss: dict[str, Any]) -> None:
    for model_type in ('SRGANModel', 'ESRGANModel', 'SRGANDistillModel', 'ESRGANDistillModel'):
        opt = train_options(model_type=model_type, network_d=dict(DISCRIMINATOR))
        opt['train'].update(optim_d={'type': 'Adam', 'lr': 0.001}, gan_opt=dict(loss), net_d_iters=2)
        if 'Distill' not in model_type:
            del opt['teacher'], opt['train']['distill_opt']
        assert said(opt) == []


def test_the_discriminator_of_the_paper_is_proposed_for_patches_that_it_takes(train_options: Make) -> None:
    opt = train_options(model_type='SRGANDistillModel')
    opt['datasets']['train']['gt_size'] = 128
    problem, = (found for found in check(opt, files=False).problems if found.where == 'network_d')
    assert problem.fix['network_d'] == {'type': 'VGGStyleDiscriminator', 'num_in_ch': 3, 'num_feat': 64,
                                        'input_size': 128}
    assert 'or write model_type: DistillModel' in problem.remedy
    opt['network_d'] = {**problem.fix['network_d'], 'num_feat': 4}
    opt['train'].update({key.removeprefix('train.'): value for key, value in problem.fix.items() if 'train.' in key})
    assert said(opt, files=False) == []
    opt['network_d']['input_size'] = 256
    problem, = check(opt, files=False).problems
    assert (problem.where, problem.fix) == ('network_d.input_size', {'network_d.input_size': 128})


@pytest.mark.parametrize('model_type', ['RealESRGANModel', 'RealESRGANDistillModel'])
def test_a_missing_vgg_is_named(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_type: str) -> None:
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(reconstruction, '_out_of_reach', lambda url: 'no network')
    opt = make(model_type)
    opt['train']['perceptual_opt'] = {'type': 'PerceptualLoss', 'layer_weights': {'conv5_4': 1.0}}
    problem, = check(opt).problems
    assert problem.where == 'train.perceptual_opt'
    assert f'{tmp_path}/torch/hub/checkpoints/vgg19-dcbb9e9d.pth' in problem.what
    assert 'put it there, for instance as ' in problem.remedy
    assert said({**opt, 'train': {**opt['train'], 'perceptual_opt': None}}) == []


@pytest.mark.parametrize('loss', [{'type': 'CSDLoss'}, {'type': 'DCKDLoss', 'encoder': 'vgg19'}])
def test_a_missing_vgg_of_a_distillation_loss_is_named(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                       loss: dict[str, Any]) -> None:
    def download(url: str, *args: Any, **kwargs: Any) -> None:
        raise OSError('no network')

    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.setattr(_api, 'load_state_dict_from_url', download)
    opt = make()
    opt['train']['distill_opt'] = loss
    problem, = check(opt).problems
    assert problem.where == 'train.distill_opt'
    assert 'VGG-19 could not be downloaded by torchvision' in problem.what
    place = tmp_path / 'torch/hub/checkpoints/vgg19-dcbb9e9d.pth'
    assert (f'put it there as {place} or experiments/pretrained_models/vgg19-dcbb9e9d.pth, or write weights: FILE'
            in problem.remedy)


# ---------------------------------------------------------------------------------------- validation without HR images
def single(folder: Path, *sizes: tuple[int, int]) -> dict[str, Any]:
    """A set of LR images of these sizes."""
    folder.mkdir()
    for index, size in enumerate(sizes):
        image = np.random.default_rng(index).integers(0, 256, (*size, 3), dtype=np.uint8)
        cv2.imwrite(str(folder / f'{index}.png'), image)
    return {'name': 'real', 'type': 'SingleImageDataset', 'dataroot_lq': str(folder), 'io_backend': {'type': 'disk'}}


NIQE = {'niqe': {'type': 'calculate_niqe', 'crop_border': 4, 'better': 'lower'}}


@pytest.mark.parametrize('model_type', ['RealESRNetDistillModel', 'RealESRGANModel'])
def test_images_without_hr_are_measured_with_niqe(make: Make, tmp_path: Path, model_type: str) -> None:
    opt = make(model_type)
    opt['datasets']['val'] = single(tmp_path / 'real', (60, 110))
    opt['val']['metrics'] = copy.deepcopy(NIQE)
    assert said(opt) == []
    opt['val']['metrics']['psnr'] = {'type': 'calculate_psnr', 'crop_border': 4}
    problem, = check(opt).problems
    assert 'SingleImageDataset gives no HR image, and the metric psnr compares with one' in problem.what


def test_niqe_needs_two_blocks_in_every_image(make: Make, tmp_path: Path) -> None:
    """The smallest side alone says little: 60×110 holds two blocks, and 80×80 one."""
    opt = make('RealESRNetModel')
    opt['datasets']['val'] = single(tmp_path / 'real', (60, 110), (80, 80))
    opt['val']['metrics'] = copy.deepcopy(NIQE)
    problem, = check(opt).problems
    assert problem.where == 'val.metrics.niqe'
    assert '1 of 2 images of datasets.val are too small, as 1.png, whose output has 160×160 pixels' in problem.what
    opt['datasets']['val'] = single(tmp_path / 'more', (52, 98))
    problem, = check(opt).problems
    assert problem.fix == {'val.metrics.niqe.crop_border': 2}
    opt['val']['metrics']['niqe']['crop_border'] = 2
    assert said(opt) == []


def test_single_images_have_a_table(make: Make, tmp_path: Path) -> None:
    opt = make()
    opt['datasets']['val'] = {**single(tmp_path / 'real', (60, 110)), 'dataroot_gt': 'HR', 'io_backnd': 1}
    opt['val']['metrics'] = None
    assert [problem.where for problem in check(opt).problems] == ['datasets.val.dataroot_gt', 'datasets.val.io_backnd']


# ------------------------------------------------------------------------------------------- against BasicSR's own code
def test_the_tables_hold_what_basicsr_reads() -> None:
    """Every key that the code names stands in a table, and every key of a table in the code."""
    def read(*classes: Any) -> set[str]:
        code = '\n'.join(inspect.getsource(cls) for cls in classes)
        return set(re.findall(r"(?<!datasets)\bopt(?:\[|\.get\()'(\w+)'", code))

    base = {'path', 'train', 'scale', 'network_g', 'network_d'}
    for name in ('RealESRNetModel', 'RealESRGANModel'):
        cls = next(cls for key, cls in MODEL_REGISTRY if key.removesuffix('_basicsr') == name)
        known = set(TABLES[name][''])
        assert read(cls) - base - {'is_train'} == known, name
    own = {'dataroot_gt', 'io_backend', 'meta_info', 'use_hflip', 'use_rot'}
    named = read(RealESRGANDataset)
    assert own <= named
    assert named - own == {key for key in HR_IMAGES if key.rstrip('2') in (
        'blur_kernel_size', 'kernel_list', 'kernel_prob', 'sinc_prob', 'blur_sigma', 'betag_range', 'betap_range',
        'final_sinc_prob')}


@pytest.mark.parametrize(('pair', 'name'), [
    ([0.5, 2], 'resize_range'), ([1, 1], 'resize_range'), ([0, 0], 'noise_range'), ([3, 3], 'noise_range'),
    ([1, 2], 'betap_range'), ([0.1, 100], 'jpeg_range'), ([30, 30], 'jpeg_range'), ([0.2, 3], 'blur_sigma')])
def test_ranges_that_work_are_taken(pair: list[float], name: str) -> None:
    assert degradation._range_problem(pair, degradation.RANGES[name], [1, 1])[0] == ''


def test_who_degrades(make: Make) -> None:
    for model_type, value, wanted in (('RealESRNetModel', True, True), ('RealESRGANDistillModel', True, True),
                                      ('RealESRGANModel', False, False)):
        ctx = Context(make(model_type, high_order_degradation=value), is_train=True)
        ctx.model_class = next(cls for key, cls in MODEL_REGISTRY if key.removesuffix('_basicsr') == model_type)
        assert degrades(ctx) is wanted
