"""``mipkd demo``: everything but the training itself."""

import copy
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mipkd_plugin.commands.demo import report
from mipkd_plugin.commands.demo import stages as demo

ROOT = Path(__file__).parents[2]
OPTIONS = {method: yaml.safe_load((ROOT / path).read_text(encoding='utf-8')) for method, path in demo.OPTIONS.items()}
CONTROL, LONG, DISTILLED = OPTIONS.values()
TILES = 1815


@pytest.fixture(scope='module')
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skimage import data

    folder = tmp_path_factory.mktemp('demo')
    demo.prepare_images(Path(data.__file__).parent, folder)
    return folder


# --------------------------------------------------------------------------------- options
def differences(left: dict, right: dict, path: str = '') -> dict[str, tuple]:
    """Dotted key -> the two values, wherever two option files differ."""
    found: dict[str, tuple] = {}
    for key in left.keys() | right.keys():
        pair = left.get(key), right.get(key)
        if all(isinstance(value, dict) for value in pair):
            found |= differences(*pair, f'{path}{key}.')
        elif pair[0] != pair[1]:
            found[f'{path}{key}'] = pair
    return found


def test_control_differs_in_nothing_but_the_distillation() -> None:
    own = differences(CONTROL, DISTILLED)
    assert own.pop('teacher')[0] is None
    assert own.pop('train.distill_opt')[1]['type'] == 'MiPKDLoss'
    assert own.pop('datasets.train.type') == ('PairedImageDataset', 'CropPoolDataset')
    assert own.pop('datasets.train.crops') == (None, 1024)
    assert own == {'name': ('demo_none_EDSR_x2', 'demo_MiPKD_EDSR_x2'), 'model_type': ('SRModel', 'DistillModel')}


def test_control_of_equal_time_differs_in_nothing_but_its_length() -> None:
    number, more = CONTROL['train']['total_iter'], LONG['train']['total_iter']
    assert differences(CONTROL, LONG) == {
        'name': ('demo_none_EDSR_x2', 'demo_none_long_EDSR_x2'), 'train.total_iter': (number, more),
        'train.scheduler.periods': ([number], [more]), 'val.val_freq': (number, more),
        'logger.save_checkpoint_freq': (number, more)}


def test_its_length_is_the_one_its_header_derives() -> None:
    head = (ROOT / demo.OPTIONS[report.EQUAL_TIME]).read_text(encoding='utf-8').partition('\nname:')[0]
    ratio = float(re.search(r'(\d+\.\d+) times', head)[1])
    assert LONG['train']['total_iter'] == round(CONTROL['train']['total_iter'] * ratio)
    assert 1 < ratio < 10


def test_options_use_the_images_that_the_demo_makes() -> None:
    for options in OPTIONS.values():
        for phase, folder, ending in (('train', 'train', '.lmdb'), ('val', 'val', '')):
            images = demo.DATA / folder
            assert options['datasets'][phase]['dataroot_gt'] == f'{images}/HR{ending}'
            assert options['datasets'][phase]['dataroot_lq'] == f'{images}/LRbicx{demo.SCALE}{ending}'
        assert options['scale'] == demo.SCALE


def test_teacher_is_kept_small_and_loads_strictly() -> None:
    teacher = DISTILLED['teacher']
    weights = ROOT / teacher['weights']
    assert weights.stat().st_size <= 4 * 2**20
    state = torch.load(weights, weights_only=True)
    assert list(state) == ['params'] == [teacher['param_key']]
    own = yaml.safe_load((ROOT / 'options/train_EDSR_x2_demo_teacher.yml').read_text(encoding='utf-8'))
    assert own['network_g'] == teacher['network']
    assert own['datasets']['train']['dataroot_gt'] == CONTROL['datasets']['train']['dataroot_gt']
    demo.build_network(teacher['network']).load_state_dict(state['params'], strict=True)


def test_one_epoch_is_enough() -> None:
    """A worker's seed starts anew with each epoch, so a second epoch would bring the same crops again."""
    for options in OPTIONS.values():
        train = options['datasets']['train']
        assert options['train']['total_iter'] * train['batch_size_per_gpu'] <= TILES * train['dataset_enlarge_ratio']


# ------------------------------------------------------------------------------------ data
def test_photographs_become_pairs(prepared: Path) -> None:
    keys = [line.split('.')[0] for line in (prepared / 'train/HR.lmdb/meta_info.txt').read_text().splitlines()]
    assert len(keys) == TILES
    assert {key.rpartition('_s')[0] for key in keys} == {Path(name).stem for name in demo.TRAIN}
    found = {part: sorted(path.name for path in (prepared / part / 'LRbicx2').iterdir()) for part in ('val', 'test')}
    assert found == {'val': ['coins.png', 'rocket.png'], 'test': ['astronaut.png', 'chelsea.png', 'coffee.png']}


def test_no_held_out_image_is_trained_on() -> None:
    names = [*demo.TRAIN, *demo.VALIDATION, *demo.TEST]
    assert len(set(names)) == len(names)


def test_missing_photograph_is_named(tmp_path: Path) -> None:
    with pytest.raises(demo.DemoError, match=r'is missing brick\.png, camera\.png.*reinstall it'):
        demo.prepare_images(tmp_path, tmp_path / 'out')


# ------------------------------------------------------------------------- table and picture
def rows(prepared: Path) -> tuple[list[report.Row], list[np.ndarray]]:
    """Five rows with made-up images: the original plus a gray level that differs from row to row."""
    truth = [demo._read(prepared / 'test/HR' / f'{Path(name).stem}.png') for name in demo.TEST]
    shifts = {report.BICUBIC: 9, report.CONTROL: 7, report.EQUAL_TIME: 5, report.DISTILLED: 6, report.TEACHER: 4}
    known = {report.CONTROL: {'parameters': 21763, 'iterations': 2000, 'seconds': 61.6}}
    return [report.measure(method, [np.clip(image.astype(int) + shift, 0, 255).astype(np.uint8) for image in truth],
                           truth, demo.SCALE, **known.get(method, {})) for method, shift in shifts.items()], truth


def test_table(prepared: Path) -> None:
    bicubic, student = rows(prepared)[0][:2]
    figures = [f'{np.mean(row.psnr):.2f} | {np.mean(row.ssim):.4f}' for row in (bicubic, student)]
    assert report.format_table([bicubic, student]).splitlines() == [
        '| method  | PSNR  | SSIM   | parameters | iterations | training |',
        '| ---     | ---   | ---    | ---        | ---        | ---      |',
        f'| bicubic | {figures[0]} |            |            |          |',
        f'| student | {figures[1]} | 21,763     | 2,000      | 62 s     |']


@pytest.mark.parametrize(('equal_time', 'words'),
                         [(31.3, '0.20 dB above'), (31.5, 'level with'), (31.7, '0.20 dB below')])
def test_conclusion_says_what_the_table_shows(equal_time: float, words: str) -> None:
    psnr = {report.CONTROL: (31.012, 2000), report.EQUAL_TIME: (equal_time, 9000), report.DISTILLED: (31.5, 2000)}
    table = [report.Row(method, [mean - 1, mean + 1], [], [], iterations=number)
             for method, (mean, number) in psnr.items()]
    assert report.conclude(table) == (
        'With MiPKD the student ends 0.49 dB above the same student without distillation after the same 2,000 '
        f'iterations, and {words} the one trained for the same time instead (9,000 iterations, by step time); this is '
        'one seed.\n\nMiPKD is made cheap here, without its block chain and on fixed crops: see docs/cheaper.md.')
    losses, images = DISTILLED['train']['distill_opt'], DISTILLED['datasets']['train']
    assert (losses['block_weight'], images['type']) == (0, 'CropPoolDataset'), 'the last sentence is true'


def test_picture_is_drawn(prepared: Path, tmp_path: Path) -> None:
    measured, truth = rows(prepared)
    path = tmp_path / 'comparison.png'
    report.draw_comparison(measured, dict(zip(demo.TEST, truth)), list(demo.TEST.values()), demo.CROP, path)
    assert demo._read(path).shape[1] > 1000


def test_enlarged_squares_lie_within_their_images(prepared: Path) -> None:
    for (top, left), image in zip(demo.TEST.values(), rows(prepared)[1]):
        assert image[top:top + demo.CROP, left:left + demo.CROP].shape[:2] == (demo.CROP, demo.CROP)


def test_upscaling_agrees_with_basicsr(prepared: Path) -> None:
    from basicsr.models.sr_model import SRModel

    net = demo.build_network(DISTILLED['network_g']).eval()
    lr = demo._read(prepared / 'test/LRbicx2/chelsea.png')[:37, :50]
    model = SRModel.__new__(SRModel)
    model.opt, model.net_g_ema = {}, net
    model.lq = torch.from_numpy(lr[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32) / 255)
    model.test()
    expected = model.output[0].clamp(0, 1).mul(255).round().byte().numpy().transpose(1, 2, 0)[:, :, ::-1]
    assert np.array_equal(demo.upscale(net, lr), expected)


def test_evaluation_has_a_row_for_every_run(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row is of its own weights, the moving average."""
    options = copy.deepcopy(OPTIONS)
    options[report.DISTILLED]['teacher']['weights'] = str(ROOT / DISTILLED['teacher']['weights'])
    for number, own in enumerate(options.values(), 1):
        folder = tmp_path / 'experiments' / own['name'] / 'models'
        folder.mkdir(parents=True)
        state = demo.build_network(own['network_g']).state_dict()
        ema = {key: torch.zeros_like(value) for key, value in state.items()}
        ema['conv_last.bias'] = torch.full((3,), 50.0 * number)
        torch.save({'params': state, 'params_ema': ema}, folder / 'net_g_latest.pth')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo, 'DATA', prepared)
    measured, _ = demo.evaluate(options, {report.CONTROL: (7, 1.5)})
    assert [row.method for row in measured] == [
        'bicubic', 'student', 'student, equal time', 'student, MiPKD', 'teacher']
    assert [int(row.images[0][0, 0, 0]) for row in measured[1:4]] == [50, 100, 150]
    assert [(row.iterations, row.seconds) for row in measured[:3]] == [(None, None), (7, 1.5), (None, None)]
    assert np.mean(measured[-1].psnr) > np.mean(measured[0].psnr) + 1


# ------------------------------------------------------------------------------------ running
def test_elsewhere_the_demo_says_where_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(demo.DemoError, match=r'demo_none_EDSR_x2\.yml and .* not found in .*project folder'):
        demo.show()
    assert not list(tmp_path.iterdir())


def test_failed_training_shows_what_it_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    basicsr = tmp_path / 'basicsr'
    basicsr.write_text('#!/bin/sh\necho "the teacher is missing"\nexit 2\n')
    basicsr.chmod(0o755)
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    with pytest.raises(demo.DemoError, match=r'ended with code 2:\nthe teacher is missing'):
        demo.train(demo.OPTIONS[report.CONTROL], None)


def test_missing_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    with pytest.raises(demo.DemoError, match='no basicsr command beside .*pip install -e'):
        demo.train(demo.OPTIONS[report.CONTROL], None)


def test_training_passes_the_iterations_on(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    basicsr = tmp_path / 'basicsr'
    basicsr.write_text('#!/bin/sh\necho "iter 1 [eta: 0] $@"\necho "a lot of noise"\n')
    basicsr.chmod(0o755)
    monkeypatch.setattr(demo.sys, 'executable', str(tmp_path / 'python'))
    assert demo.train(demo.OPTIONS[report.CONTROL], 30) >= 0
    command = f'train -opt {demo.OPTIONS[report.CONTROL]} --force_yml train:total_iter=30 train:scheduler:periods=[30]'
    assert capsys.readouterr().out == f'\n$ basicsr {command}\niter 1 [eta: 0] {command}\n'


def test_shorter_runs_keep_the_ratio_of_the_files() -> None:
    number, more = CONTROL['train']['total_iter'], LONG['train']['total_iter']
    assert demo.lengths(OPTIONS, None) == {
        report.CONTROL: number, report.EQUAL_TIME: more, report.DISTILLED: number}
    assert demo.lengths(OPTIONS, 100) == {
        report.CONTROL: 100, report.EQUAL_TIME: round(100 * more / number), report.DISTILLED: 100}
