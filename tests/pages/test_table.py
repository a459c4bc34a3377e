"""The table of ``mipkd show``: which columns it has, what they hold, and what stands below it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mipkd_plugin.inference.naturalness import niqe
from mipkd_plugin.inference.pictures import enlarged, psnr
from mipkd_plugin.pages.means import Means, Scores
from mipkd_plugin.pages.parts import whole_values_of
from mipkd_plugin.pages.scenes import Look, Scene, look_at
from mipkd_plugin.pages.table import Entry, Times, captions, columns, table_html, table_text

TIMES = Times({'A': 1.25, 'big': 20.}, (128, 128), 'a CPU, 2 threads')


def noise(seed: int, height: int = 104, width: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def scene(name: str = 'a.png', seed: int = 0, height: int = 104, has_hr: bool = True, is_niqe: bool = True,
          teachers: tuple[str, ...] = ('big', )) -> Scene:
    outputs = {label: noise(seed + number, height) for number, label in enumerate(('A', *teachers), 2)}
    return look_at(name, noise(seed, height // 2, 100), outputs, ['A'], noise(seed + 1, height) if has_hr else None,
                   Look(2, 1, 16, niqe=is_niqe))


def means_of(*scenes: Scene) -> Means:
    means = Means()
    for one in scenes:
        means.add(one)
    return means


def rows(means: Means, *labels: str) -> list[Entry]:
    return [Entry(label, scores=means.of(label)) for label in labels]


@pytest.mark.parametrize('has_hr', [True, False])
@pytest.mark.parametrize('is_niqe', [True, False])
@pytest.mark.parametrize('teachers', [(), ('big', ), ('teacher a', 'teacher b')])
def test_columns_are_there_where_something_is_known(has_hr: bool, is_niqe: bool, teachers: tuple[str, ...]) -> None:
    means = means_of(scene(has_hr=has_hr, is_niqe=is_niqe, teachers=teachers))
    names = [column.name for column in columns(rows(means, 'bicubic', 'A', *teachers))]
    assert names == [*(['PSNR to HR (dB)', 'SSIM'] if has_hr else []), *(f'PSNR to {name} (dB)' for name in teachers),
                     *(['NIQE'] if is_niqe else [])]
    said = ' '.join(captions(means, TIMES, 2))
    assert ('calculate_niqe; lower is better' in said) == is_niqe
    assert ("the teacher's own image" in said) == bool(teachers)
    assert ('Means over 1 image, of the Y channel' in said) == (has_hr or is_niqe or bool(teachers))
    assert 'an LR image of 128×128 pixels, median of up to 5 runs' in said
    assert 'on a CPU, 2 threads' in said
    assert 'There is no NIQE' not in said


def test_values_are_means_of_those_of_each_image() -> None:
    scenes = [scene('a.png', 0), scene('b.png', 10)]
    means = means_of(*scenes)
    outputs = [(enlarged(noise(seed, 52, 100), 2)[1], noise(seed + 2), noise(seed + 3), noise(seed + 1))
               for seed in (0, 10)]
    for place, label in enumerate(('bicubic', 'A', 'big', 'HR')):
        found = means.of(label)
        assert found.niqe == pytest.approx(np.mean([niqe(images[place], 2) for images in outputs]))
        if label != 'HR':
            assert found.psnr == pytest.approx(np.mean([psnr(images[place], images[3], 2) for images in outputs]))
        wanted = {} if label in ('big', 'HR') else {'big': np.mean([psnr(images[place], images[2], 2)
                                                                    for images in outputs])}
        assert found.to_teachers == pytest.approx(wanted)
    assert scenes[0].shots[0].niqe is None, 'LR is no image of that size'
    assert whole_values_of(scenes[0].shots[-1]) == f'NIQE {niqe(outputs[0][3], 2):.2f}'
    assert scenes[0].shots[2].note == f'{psnr(outputs[0][1], outputs[0][3], 2):.2f} dB, ' \
                                      f'NIQE {niqe(outputs[0][1], 2):.2f}'


def test_small_images_are_left_out_of_niqe_and_named() -> None:
    large, small = scene(), scene('small.png', 20, 98)
    means = means_of(large, small)
    assert means.of('A').niqe == means_of(large).of('A').niqe
    assert means.of('A').psnr == pytest.approx((large.shots[2].values[0] + small.shots[2].values[0]) / 2)
    assert small.shots[2].note.endswith('NIQE –')
    why = 'There is no NIQE of 1 image (small.png): it needs two blocks of 96×96 pixels that are not flat, without 2 ' \
          'pixels at each edge.'
    assert captions(means, TIMES, 2).count(why) == 1
    alone = means_of(small)
    column, = (column for column in columns(rows(alone, 'bicubic', 'A')) if column.name == 'NIQE')
    assert column.cells == ['–', '–'], 'it was asked for'


def test_page_and_terminal_have_the_same_numbers() -> None:
    entries = [Entry('bicubic'), Entry('<A>', str(Path('a&b.pth')), 'EDSR', '40', 1234, 5.678, Scores(
        30.12345, 0.98765, {'teacher': 40.5}, 3.14159))]
    assert table_text(entries) == [
        '         PSNR to HR (dB)    SSIM  PSNR to teacher (dB)   NIQE  parameters  milliseconds  iteration',
        'bicubic                –       –                     –      –           –             –          –',
        '<A>               30.123  0.9877                40.500  3.142       1,234           5.7         40']
    text = table_html(entries)
    for cell in ('<th scope="row">&lt;A&gt;</th>', '<td>30.123</td>', '<td>40.500</td>', '<td>3.142</td>',
                 '<td>5.7</td>', '<td class="text">a&amp;b.pth</td>', '<th scope="col">PSNR to teacher (dB)</th>'):
        assert cell in text
