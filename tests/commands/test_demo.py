"""``mipkd demo``: everything but the training itself."""

import argparse
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mipkd_plugin.commands.demo import stages as demo

ROOT = Path(__file__).parents[2]
OPTIONS = {path.name: yaml.safe_load((ROOT / path).read_text(encoding='utf-8'))
           for path in (demo.CONTROL, demo.DISTILLED)}
CONTROL, DISTILLED = OPTIONS.values()


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp('demo')
    demo.prepare_images(Path(data.__file__).parent, folder)
    return folder


# --------------------------------------------------------------------------------- options
def test_control_differs_in_nothing_but_the_distillation() -> None:
    distilled = yaml.safe_load(yaml.safe_dump(DISTILLED))
    assert distilled.pop('teacher')
    assert distilled['train'].pop('distill_opt')['type'] == 'MiPKDLoss'
    own = {key: (CONTROL[key], distilled[key]) for key in CONTROL if CONTROL[key] != distilled[key]}
    assert own == {'name': ('demo_none_SwinIR_x4', 'demo_MiPKD_SwinIR_x4'),
                   'model_type': ('SwinIRModel', 'SwinIRDistillModel')}
    assert CONTROL.keys() == distilled.keys()


def test_options_use_the_images_that_the_demo_makes() -> None:
    for phase, ending in (('train', '.lmdb'), ('val', '')):
        folder = demo.DATA / ('train' if phase == 'train' else 'test')
        assert CONTROL['datasets'][phase]['dataroot_gt'] == f'{folder}/HR{ending}'
        assert CONTROL['datasets'][phase]['dataroot_lq'] == f'{folder}/LRbicx{demo.SCALE}{ending}'


def test_teacher_is_kept_small_and_loads_strictly() -> None:
    teacher = DISTILLED['teacher']
    weights = ROOT / teacher['weights']
    assert weights.stat().st_size <= 4 * 2**20
    state = torch.load(weights, weights_only=True)
    assert list(state) == ['params'] == [teacher['param_key']]
    own = yaml.safe_load((ROOT / 'options/train_SwinIR_x4_demo_teacher.yml').read_text(encoding='utf-8'))
    assert own['network_g'] == teacher['network']
    demo.build_network(teacher['network']).load_state_dict(state['params'], strict=True)


def test_one_epoch_is_enough() -> None:
    """A worker's seed starts anew with each epoch, so a second epoch would bring the same crops again."""
    train = CONTROL['datasets']['train']
    tiles = 473
    assert CONTROL['train']['total_iter'] * train['batch_size_per_gpu'] <= tiles * train['dataset_enlarge_ratio']


# ------------------------------------------------------------------------------------ data
def test_photographs_become_pairs(prepared: Path) -> None:
    keys = [line.split('.')[0] for line in (prepared / 'train/HR.lmdb/meta_info.txt').read_text().splitlines()]
    assert len(keys) == 473
    assert {key.rpartition('_s')[0] for key in keys} == {Path(name).stem for name in demo.TRAIN}
    assert sorted(path.name for path in (prepared / 'test/LRbicx4').iterdir()) == [
        'astronaut.png', 'chelsea.png', 'coffee.png']


def test_no_test_image_is_trained_on() -> None:
    assert not set(demo.TRAIN) & set(demo.TEST)


def test_missing_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match=r'lacks brick\.png, camera\.png.*reinstall it'):
        demo.prepare_images(tmp_path, tmp_path / 'out')


# ------------------------------------------------------------------------- table and picture
def rows(prepared: Path) -> tuple[list[demo.Row], list[np.ndarray]]:
    truth = [demo._read(prepared / 'test/HR' / f'{Path(name).stem}.png') for name in demo.TEST]
    images = [np.clip(image.astype(int) + 5, 0, 255).astype(np.uint8) for image in truth]
    return [demo.measure('bicubic', images, truth),
            demo.measure('student', images, truth, parameters=49896, seconds=61.6)], truth


def test_table(prepared: Path) -> None:
    bicubic, student = rows(prepared)[0]
    assert demo.format_table([bicubic, student]).splitlines() == [
        '| method  | PSNR  | SSIM   | parameters | training |',
        '| ---     | ---   | ---    | ---        | ---      |',
        f'| bicubic | {np.mean(bicubic.psnr):.2f} | {np.mean(bicubic.ssim):.4f} |            |          |',
        f'| student | {np.mean(bicubic.psnr):.2f} | {np.mean(bicubic.ssim):.4f} | 49,896     | 62 s     |']


def test_picture_is_drawn(prepared: Path, tmp_path: Path) -> None:
    measured, truth = rows(prepared)
    demo.draw_comparison(measured, truth, tmp_path / 'comparison.png')
    assert demo._read(tmp_path / 'comparison.png').shape[1] > 500


def test_upscaling_agrees_with_the_toolbox(prepared: Path) -> None:
    """The demo pads and crops as SwinIRModel.test() does; 50 and 37 are no multiples of the window."""
    from basicsr.models.swinir_model import SwinIRModel

    net = demo.build_network(DISTILLED['network_g']).eval()
    lr = demo._read(prepared / 'test/LRbicx4/chelsea.png')[:37, :50]
    model = SwinIRModel.__new__(SwinIRModel)
    model.opt, model.net_g_ema = {'network_g': DISTILLED['network_g'], 'scale': 4}, net
    model.lq = torch.from_numpy(lr[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    model.test()
    expected = model.output[0].clamp(0, 1).mul(255).round().byte().numpy().transpose(1, 2, 0)[:, :, ::-1]
    assert np.array_equal(demo.upscale(net, lr, 8), expected)


# ------------------------------------------------------------------------------------ running
def test_elsewhere_the_demo_says_where_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(demo.DemoError, match=r'demo_none_SwinIR_x4\.yml and .* not found in .*project folder'):
        demo.show()
    assert not list(tmp_path.iterdir())


def test_failed_training_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basicsr = tmp_path / 'basicsr'
    basicsr.write_text('#!/bin/sh\necho "the teacher is missing"\nexit 2\n')
    basicsr.chmod(0o755)
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    with pytest.raises(demo.DemoError, match=r'ended with code 2:\nthe teacher is missing'):
        demo.train(demo.CONTROL, None)


def test_missing_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    with pytest.raises(demo.DemoError, match='no basicsr command beside .*pip install -e'):
        demo.train(demo.CONTROL, None)


def test_training_passes_the_iterations_on(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    basicsr = tmp_path / 'basicsr'
    basicsr.write_text('#!/bin/sh\necho "iter 1 [eta: 0] $@"\necho "a lot of noise"\n')
    basicsr.chmod(0o755)
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    assert demo.train(demo.CONTROL, 30) >= 0
    command = f'train -opt {demo.CONTROL} --force_yml train:total_iter=30'
    assert capsys.readouterr().out == f'\n$ basicsr {command}\niter 1 [eta: 0] {command}\n'
