"""Pictures of validations in TensorBoard: what they show, and that a training does not notice them."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from training import comparison_options, train, train_until, write_options

from mipkd_plugin.inference.pictures import as_picture, enlarged
from mipkd_plugin.models.pictures import FrozenTeacher, ValidationPictures
from mipkd_plugin import config
from mipkd_plugin.compare import CONTROL, read_comparison
from mipkd_plugin.testing import TEACHERS
from basicsr.archs import build_network

Make = Callable[..., dict[str, Any]]


def pictures_of(run: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """(Iteration, picture) by tag, from the event files of a run."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, np.ndarray]]] = {}
    for folder in sorted({path.parent for path in run.rglob('events.out.*')}):
        events = EventAccumulator(str(folder), size_guidance={'images': 0})
        events.Reload()
        for tag in events.Tags()['images']:
            found.setdefault(tag, []).extend(
                (event.step, cv2.imdecode(np.frombuffer(event.encoded_image_string, np.uint8), cv2.IMREAD_COLOR))
                for event in events.Images(tag))
    return found


def weights_of(name: str) -> dict[str, Any]:
    return torch.load(f'experiments/{name}/models/net_g_4.pth', weights_only=True)['params']


@pytest.fixture
def runs(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, count in (('with', 2), ('without', None)):
        opt = train_options(name=name)
        opt['val']['val_freq'] = 2
        opt['logger']['val_pictures'] = count
        assert train(write_options(opt, tmp_path / f'{name}.yml')) == 0
    return tmp_path


def test_pictures_reach_tensorboard_and_the_training_is_the_same(runs: Path) -> None:
    found = pictures_of(runs / 'tb_logger' / 'with')
    assert sorted(found) == ['pictures/val/0', 'pictures/val/1']
    for shown in found.values():
        assert [step for step, _ in shown][:2] == [2, 4]
        assert shown[0][1].shape == shown[1][1].shape
        assert shown[0][1].shape[1] > 1000
        assert not np.array_equal(shown[0][1], shown[1][1]), 'the student has learned in between'
    assert not pictures_of(runs / 'tb_logger' / 'without')
    files = sorted((runs / 'experiments/with/pictures/val').iterdir())
    assert [path.name for path in files] == ['0_2.png', '0_4.png', '1_2.png', '1_4.png'], 'and the folder of the run'
    assert np.array_equal(cv2.imread(str(files[0])), found['pictures/val/0'][0][1]), 'the same picture'
    assert not (runs / 'experiments/without/pictures').exists()
    one, other = weights_of('with'), weights_of('without')
    assert all(torch.equal(one[name], other[name]) for name in other)
    states = [torch.load(f'experiments/{name}/models/distill_4.pth', weights_only=False)['random']
              for name in ('with', 'without')]
    assert str(states[0]) == str(states[1])


class Board:
    """Stands in for TensorBoard's writer."""

    def __init__(self) -> None:
        self.tags: list[tuple[str, int]] = []

    def add_image(self, tag: str, picture: np.ndarray, iteration: int, dataformats: str) -> None:
        assert dataformats == 'HWC'
        assert picture.dtype == np.uint8
        self.tags.append((tag, iteration))


class Images:
    opt = {'name': 'Set 5'}
    paths = [{'lq_path': '/somewhere/b$1.png'}]


def test_teacher_runs_once_and_nothing_random_moves() -> None:
    calls = []
    net = build_network(TEACHERS['EDSR']).train()
    teacher = FrozenTeacher(net, scale=2)

    def counted(lq: torch.Tensor) -> torch.Tensor:
        calls.append(lq)
        return teacher.upscale(lq)

    lq, gt = torch.rand(1, 3, 17, 13), torch.rand(1, 3, 34, 26)
    pictures, board, images = ValidationPictures(1, 2, counted), Board(), Images()
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    for iteration in (5, 10):
        with pictures.of(images):
            for _ in range(3):  # two more than are drawn
                pictures.add(lq, gt.roll(1, 3), gt)
            pictures.write(None, board, iteration)
    pictures.add(lq, gt, gt)  # outside of a validation
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    assert board.tags == [('pictures/Set 5/b$1', 5), ('pictures/Set 5/b$1', 10)]
    assert len(calls) == 1
    assert net.training, 'it is left as it was'


@pytest.mark.parametrize('channels', [1, 3])
def test_panels_show_what_their_labels_say(channels: int) -> None:
    lq, gt = torch.rand(1, channels, 20, 24), torch.rand(1, channels, 40, 48)
    pictures = ValidationPictures(1, 2, lambda lq: gt * 0.5)
    with pictures.of(Images()):
        pictures.add(lq, gt * 0.75, gt)
        strip, = pictures._strips
    shown = {panel.label: panel for panel in strip.panels}
    assert list(shown) == ['LR', 'bicubic', 'student', 'teacher', 'HR']
    squares, bicubic = enlarged(as_picture(lq), 2)
    for label, image in {'LR': squares, 'bicubic': bicubic, 'student': as_picture(gt * 0.75),
                         'teacher': as_picture(gt * 0.5), 'HR': as_picture(gt)}.items():
        assert np.array_equal(shown[label].image, strip.box.of(image)), label
    better, worse = (float(shown[label].note.split()[0]) for label in ('student', 'teacher'))
    assert better > worse
    assert not shown['HR'].note


def test_images_that_are_not_finite_are_left_out() -> None:
    pictures, board = ValidationPictures(1, 2), Board()
    with pictures.of(Images()):
        pictures.add(torch.rand(1, 3, 8, 8), torch.full((1, 3, 16, 16), torch.nan), None)
        pictures.write(None, board, 1)
    assert not board.tags


def test_training_goes_on_where_the_teacher_takes_patches_only(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger('of this test')
    warnings: list[str] = []
    monkeypatch.setattr(log, 'warning', warnings.append)
    monkeypatch.setattr('mipkd_plugin.models.pictures.get_root_logger', lambda: log)

    def fails(lq: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError('CUDA out of memory')

    pictures, board, images, lq = ValidationPictures(1, 2, fails), Board(), Images(), torch.rand(1, 3, 8, 8)
    for iteration in (1, 2):
        with pictures.of(images):
            pictures.add(lq, torch.rand(1, 3, 16, 16), None)
            assert [panel.label for panel in pictures._strips[0].panels] == ['LR', 'bicubic', 'student']
            pictures.write(None, board, iteration)
    assert len(board.tags) == 2
    assert len(warnings) == 1
    assert 'the teacher is left out of the picture of b$1' in warnings[0]


def test_teacher_with_windows_runs_on_any_size() -> None:
    net = build_network(TEACHERS['SwinIR'])
    assert FrozenTeacher(net, scale=2).upscale(torch.rand(1, 3, 11, 13)).shape == (1, 3, 22, 26)


def test_control_of_a_comparison_draws_pictures_too(train_options: Make, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opt = comparison_options(train_options())
    opt['logger'].update(val_pictures=1, use_tb_logger=True)
    comparison = read_comparison(config.Options(opt))
    assert {trial.options['model_type'] for trial in comparison.trials if trial.method == CONTROL} == {'AnySRModel'}


def test_a_run_with_a_pool_and_a_cache_resumes_exactly_with_pictures(train_options: Make, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ended = {}
    for name, count in (('with', 1), ('without', None)):
        opt = train_options(name=name)
        opt['datasets']['train'].update(type='CropPoolDataset', crops=6)
        opt['teacher']['cache'] = 'memory'
        opt['train']['exact_resume'] = True
        opt['val']['val_freq'] = 1
        opt['logger']['val_pictures'] = count
        file = write_options(opt, tmp_path / f'{name}.yml')
        if count:
            train_until(file, 'validated', 3)
        assert train(file, *(['--auto_resume'] if count else [])) == 0
        ended[name] = {**torch.load(f'experiments/{name}/models/net_g_4.pth', weights_only=True)}
    assert set(ended['with']) >= {'params', 'params_ema'}
    for part, tensors in ended['without'].items():
        assert all(torch.equal(ended['with'][part][name], tensor) for name, tensor in tensors.items()), part
    steps = sorted(step for step, _ in pictures_of(tmp_path / 'tb_logger' / 'with')['pictures/val/0'])
    assert set(steps) >= {1, 2, 3, 4}


def test_two_data_sets_of_one_name_do_not_share_a_picture() -> None:
    pictures, board = ValidationPictures(1, 2), Board()
    sets = Images(), Images()
    for images, side in (*zip(sets, (8, 12)), *zip(sets, (8, 10))):  # the second is of another size in the end
        with pictures.of(images):
            pictures.add(torch.rand(1, 3, side, side), torch.rand(1, 3, 2 * side, 2 * side),
                         torch.rand(1, 3, 2 * side, 2 * side))
            assert {panel.image.shape for panel in pictures._strips[0].panels} == {(2 * side, 2 * side, 3)}
            pictures.write(None, board, 1)
    assert len(board.tags) == 4


def test_a_picture_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger('basicsr').propagate = True
    (tmp_path / 'pictures').write_text('a file in the way')
    pictures = ValidationPictures(1, 2)
    with pictures.of(SimpleNamespace(opt={'name': 'val'}, paths=['a.png'])):
        pictures.add(torch.rand(1, 3, 24, 24), torch.rand(1, 3, 48, 48), None)
        pictures.write(tmp_path / 'pictures', None, 7)
    assert f'{tmp_path}/pictures/val/a_7.png cannot be written' in caplog.text
