"""What the page is made of: details, labels, errors, curves, and escaped texts."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import numpy as np
import pytest

from mipkd_plugin.data.matlab_bicubic import bicubic_upsample
from mipkd_plugin.inference.pictures import Box, choose_boxes, draw, enlarged, measured
from mipkd_plugin.pages.curves import draw_curves, find_run
from mipkd_plugin.pages.encode import color_bar, colored, common_top, exact
from mipkd_plugin.pages.methods import PageError, label_files
from mipkd_plugin.pages.page import Page, render
from mipkd_plugin.pages.scenes import Look, draw_scenes, look_at
from mipkd_plugin.pages.table import Entry

LOG = '''2026-11-26 13:14:18,000 INFO: Training statistics:
\tTotal epochs: 3; iters: 30.
2026-11-26 13:14:18,100 INFO: Start training from epoch: 0, iter: 0
'''
STEP = '2026-11-26 13:14:{0:02},000 INFO: [a..][epoch:  0, iter:{1:8,d}, lr:(1.0e-03,)] [eta: 0:00:00, ' \
       'time (data): 0.063 (0.017)] l_pix: {2:.4e} l_$x: nan l_feat: 2.0000e+00 \n'
VALIDATION = '2026-11-26 13:14:{0:02},500 INFO: Validation Set $5\n\t # psnr: {1:.4f}\tBest: 30.0 @ 10 iter\n\n'
END = '2026-11-26 13:14:40,500 INFO: End of training. Time consumed: 0:00:00\n'


def noise(seed: int, height: int = 60, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_details_lie_where_images_differ_and_do_not_overlap() -> None:
    one, truth = np.full((60, 80, 3), 128, np.uint8), noise(0)
    other = one.copy()
    other[10:26, 50:66] = 200
    other[40:50, 4:14] = 140
    first, second = choose_boxes([one, other], truth, 16, 2, border=2)
    assert first == Box(10, 50, 16, 16)
    assert second.top + 16 > 40
    assert second.left < 14
    many = choose_boxes([one, other], truth, 16, 99)
    covered = np.zeros((60, 80), int)
    for box in many:
        box.of(covered)[...] += 1
    assert covered.max() == 1
    assert 6 <= len(many) <= 15


def test_detail_without_contrast_is_not_chosen() -> None:
    truth = np.full((40, 80, 3), 90, np.uint8)
    truth[:, 40:] = noise(1, 40, 40)
    one, other = truth.copy(), truth.copy()
    other[:, :40] += 4
    other[:, 40:] //= 2
    assert choose_boxes([one, other], truth, 16)[0].left >= 32


@pytest.mark.parametrize('size', [(5, 7), (16, 90), (1, 1)])
def test_small_images_are_taken_whole(size: tuple[int, int]) -> None:
    image = noise(2, *size)
    assert choose_boxes([image], image, 96, 3, border=2)[0] == Box(0, 0, *(min(side, 96) for side in size))


def test_values_are_those_of_basicsr() -> None:
    truth = noise(3)
    image = np.clip(truth.astype(int) + 5, 0, 255).astype(np.uint8)
    from basicsr.metrics import calculate_psnr, calculate_ssim
    options = {'crop_border': 2, 'test_y_channel': True}
    assert measured(image, truth, 2) == (calculate_psnr(image, truth, **options),
                                         calculate_ssim(image, truth, **options))
    assert np.isnan(measured(image[:9], truth[:9], 0)[1])


def test_bicubic_is_that_of_reports() -> None:
    low = noise(3, 9, 12)
    assert np.array_equal(enlarged(low, 3)[1], bicubic_upsample(low, 3))


def test_scene_and_page_show_what_they_are_given() -> None:
    lr, hr, one, other = noise(4, 30, 40), noise(5), noise(6), noise(7)
    scene = look_at('<b>&.png', lr, {'A <i>': one, 'B': other}, ['A <i>', 'B'], hr, Look(2, 2, 16))
    assert [shot.label for shot in scene.shots] == ['LR', 'bicubic', 'A <i>', 'B', 'HR']
    shot = scene.shots[2]
    assert np.array_equal(shot.crops[1], scene.boxes[1].of(one))
    assert shot.values == measured(one, hr, 2)
    assert np.allclose(shot.error, np.abs(one.astype(float) - hr).mean(2))
    assert scene.shots[0].values is None
    text = render(Page('A <i>', [('option file', '<x>.yml')], [Entry('A <i>', 'ä<&".pth')], ['A <i>', 'B'], [scene], 1,
                       Look(2)))
    assert '<i>' not in text
    assert '&lt;x&gt;.yml' in text
    assert 'ä&lt;&amp;&quot;.pth' in text
    assert exact(shot.crops[0]) in text
    assert draw_scenes([scene]).shape[2] == 3


def test_details_of_one_file_lie_where_it_differs_from_bicubic() -> None:
    lr = noise(4, 32, 48)
    one = enlarged(lr, 2)[1].copy()
    one[30:50, 60:80] //= 2
    scene = look_at('x', lr, {'A': one}, ['A'], None, Look(2, 1, 16))
    (box, ) = scene.boxes
    assert 50 <= box.left <= 74
    assert 20 <= box.top <= 44
    assert scene.difference > 0


def test_errors_have_one_scale() -> None:
    lr, hr = noise(4, 30, 40), noise(5)
    near, far = (np.clip(hr.astype(int) + step, 0, 255).astype(np.uint8) for step in (1, 20))
    scenes = [look_at(name, lr, {'A': image}, ['A'], hr, Look(2, 1, 16)) for name, image in (('a', near), ('b', far))]
    top = common_top(scenes)
    pixels = []
    for scene in scenes:
        content = base64.b64decode(colored(scene.shots[2].error, top).partition(',')[2])
        pixels.append(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).mean())
    assert pixels[0] < pixels[1] / 2
    assert common_top([]) == 1
    bar = cv2.imdecode(np.frombuffer(base64.b64decode(color_bar().partition(',')[2]), np.uint8), cv2.IMREAD_COLOR)
    light = bar[0].astype(int).sum(1)
    assert light[0] < 20
    assert light[-1] > 600
    assert (np.diff(light) >= -8).all()


def test_labels_differ(tmp_path: Path) -> None:
    def labels(*names: str, given: list[str] | None = None) -> list[str]:
        return label_files([tmp_path / name for name in names], given)

    assert labels('x/models/net_g_5.pth', 'y/models/net_g_5.pth') == ['x', 'y']
    assert labels('x/models/net_g_5.pth', 'x/models/net_g_10.pth') == ['net_g_5', 'net_g_10']
    assert labels('x/models/net_g_5.pth', 'x/models/net_g_9.pth', 'y/models/net_g_9.pth') == ['x 5', 'x 9', 'y 9']
    assert labels('a/teacher.pth', 'b/teacher.pth') == ['a teacher', 'b teacher']
    assert labels('teacher.pth') == [f'{tmp_path.name} teacher']
    runs = [f'compare_EDSR_x2_depth_{name}_seed0/models/net_g_latest.pth' for name in ('mipkd_cheap', 'none')]
    assert labels(*runs) == ['mipkd_cheap', 'none']
    assert labels('x.pth', given=['it']) == ['it']
    with pytest.raises(PageError, match='give one name each'):
        labels('x.pth', given=['a', 'b'])


def test_curves_come_from_the_log_files(tmp_path: Path) -> None:
    models = tmp_path / 'run $1' / 'models'
    models.mkdir(parents=True)
    steps = ''.join(STEP.format(20 + number, 10 * number, 1 / number) + VALIDATION.format(20 + number, 29 + number)
                    for number in (1, 2))
    end = STEP.format(30, 30, 0.3) + END + VALIDATION.format(41, 33)
    (models.parent / 'train_run_1.log').write_text(LOG + steps + end)
    run = find_run('<A> $x$', models / 'net_g_20.pth')
    assert (run.folder, run.iteration) == (models.parent, 20)
    assert run.history.terms == {at: {'l_pix': value, 'l_feat': 2} for at, value in ((10, 1), (20, 0.5), (30, 0.3))}
    assert {at: values['psnr'] for (at, _), values in run.history.metrics.items()} == {10: 30, 20: 31, 30: 33}
    assert find_run('a', models / 'net_g_latest.pth').iteration == 30
    without = find_run('b', tmp_path / 'b.pth')
    assert (without.folder, without.iteration) == (None, None)
    curves = draw_curves([run, without])
    assert [figure.title for figure in curves] == ['PSNR (dB) on Set $5', 'l_feat in training', 'l_pix in training']
    for figure in curves:
        assert '&lt;A&gt; $x$' in figure.svg
        assert 'currentColor' in figure.svg
        assert '<script' not in figure.svg
        assert figure.svg.startswith('<svg viewBox=')
    assert draw_curves([without]) == []


def test_picture_takes_any_names() -> None:
    image = noise(8)
    scene = look_at('日本 $\\frac$_' * 5, image[::2, ::2].copy(), {'a$b': image}, ['a$b'], None, Look(2, 1, 16))
    assert draw(scene.strips()).size
