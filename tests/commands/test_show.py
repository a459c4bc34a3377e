"""``mipkd show``: what it refuses, before anything is written, and what it prints."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import STUDENTS, TEACHERS, tiny_options, write_image_pairs

from mipkd_plugin.cli import mipkd_main
from basicsr.archs import build_network


def save(name: str, seed: int = 0, **changes: object) -> None:
    torch.manual_seed(seed)
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    torch.save({'params': build_network({**STUDENTS['EDSR'], **changes}).state_dict()}, name)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with images, an option file, and two weights files, one of them of a run."""
    monkeypatch.chdir(tmp_path)
    opt = tiny_options(write_image_pairs(tmp_path))
    Path('x.yml').write_text(yaml.safe_dump(opt))
    save('experiments/tiny/models/net_g_4.pth')
    save('b.pth', 1)
    save('x4.pth', 2, upscale=4)
    Path('empty').mkdir()
    Path('nested/HR').mkdir(parents=True)
    cv2.imwrite('nested/HR/a.png', np.zeros((48, 48, 3), np.uint8))
    Path('page.html').write_text('mine')
    return tmp_path


TWO = ['--weights', 'experiments/tiny/models/net_g_4.pth', 'b.pth', '--images', 'HR']


def files(folder: Path) -> list[tuple[str, int]]:
    return sorted((str(path.relative_to(folder)), path.stat().st_size) for path in folder.rglob('*') if path.is_file())


@pytest.mark.parametrize(('arguments', 'says'), [
    (['--weights', 'b.pth'], '--images DIR is missing'),
    (['--weights', 'c.pth', '--images', 'HR'], r'--weights c\.pth: there is no such file; .* holds b\.pth, '),
    (['--weights', 'experiments', '--images', 'HR'], '--weights experiments: is a folder'),
    (['--weights', 'b.pth', 'x4.pth', '--images', 'HR'], r'different factors: b\.pth is x2; x4\.pth is x4'),
    (['--weights', 'b.pth', 'b.pth', '--images', 'HR'], r'b\.pth: is given twice'),
    (['--weights', 'x.yml', '--images', 'HR'], r'x\.yml.*text'),
    ([*TWO, '--names', 'one'], '1 for 2 weights files'),
    ([*TWO, '--names', 'one', 'one'], "--names 'one': every name must differ"),
    ([*TWO, '--names', 'one', 'HR'], "--names 'HR'"),
    ([*TWO[:-1], 'empty'], 'empty.*holds no images'),
    ([*TWO[:-1], 'gone'], 'gone'),
    ([*TWO[:-1], 'nested'], 'nested.*name the folder that holds them: nested/HR'),
    ([*TWO, '--lr', 'empty'], 'empty.*holds no images'),
    ([*TWO, '--lr', 'HR'], 'do not fit'),
    ([*TWO, '--crop-size', '64'], r'--crop-size 64: 4 images are smaller: HR/0\.png, .* and 1 more; choose 48 or less'),
    ([*TWO, '--crops', '0'], '--crops 0: must be from 1 to 16'),
    ([*TWO, '--out', 'page.html'], r'--out page\.html: exists; choose another name, or replace it with --force'),
    ([*TWO, '--out', 'b.pth', '--force'], r'must end in \.html or \.htm, as in b\.html'),
    ([*TWO, '--png', 'a.jpg'], r'must end in \.png, as in a\.png'),
    ([*TWO, '--out', 'empty'], 'empty: is a folder; name a file in it, such as empty/show.html'),
    ([*TWO, '--out', 'b.pth/page.html'], r'b\.pth is a file, and no folder'),
    (['-opt', 'x.yml', '--weights', 'x4.pth', '--images', 'HR'], 'does not fit EDSR.*leave out -opt'),
    ([*TWO, '--force_yml', 'scale=3'], '--force_yml changes entries of an option file'),
])
def test_bad_input_is_refused_and_nothing_is_written(work: Path, capsys: pytest.CaptureFixture[str],
                                                     arguments: list[str], says: str) -> None:
    before = files(work)
    assert mipkd_main(['show', *arguments]) == 2
    said = capsys.readouterr().err
    assert re.search(says, said, re.S), said
    assert 'Traceback' not in said
    assert files(work) == before


def test_teacher_that_is_gone_can_be_left_out(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / 'teacher.pth').unlink()
    assert mipkd_main(['show', '-opt', 'x.yml', *TWO]) == 2
    assert 'leave the teacher out with --no-teacher' in capsys.readouterr().err
    assert mipkd_main(['show', '-opt', 'x.yml', *TWO, '--no-teacher']) == 0
    assert 'results/show_tiny.html' in capsys.readouterr().out


def test_page_is_replaced_when_asked(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['show', '--weights', 'b.pth', '--images', 'HR', '--out', 'page.html', '--force']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith('bicubic')
    assert re.match(r'b +[\d.]+  +[\d.]+  +6,867  +[\d.]+$', lines[2])
    assert any(line.startswith('page.html (') for line in lines)
    text = Path('page.html').read_text()
    assert 'the network differs most from bicubic' in text
    assert 'http' not in re.sub(r'xmlns(:\w+)?="[^"]*"', '', text).replace('http-equiv', '')


def test_photographs_without_originals(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gray, deep = np.random.default_rng(0).integers(0, 255, (2, 14, 19), dtype=np.uint8)
    Path('photos').mkdir()
    cv2.imwrite('photos/gray.png', gray)
    cv2.imwrite('photos/16 bit.png', deep.astype(np.uint16)[..., None].repeat(4, 2) * 257)
    assert mipkd_main(['show', *TWO[:-2], '--lr', 'photos', '--out', 'out.html', '--png', 'out.png']) == 0
    assert 'dB' not in capsys.readouterr().out
    text = Path('out.html').read_text()
    assert 'There are no originals' in text
    assert 'id="errors"' not in text
    assert cv2.imread('out.png').shape[1] > 500


def test_networks_of_several_kinds_are_recognized(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'params': build_network(TEACHERS['RCAN']).state_dict()}, 'rcan.pth')
    assert mipkd_main(['show', '--weights', 'b.pth', 'rcan.pth', '--images', 'HR', '--out', 'out.html']) == 0
    assert '<td class="text">RCAN</td>' in Path('out.html').read_text()


def test_images_too_small_for_psnr_are_named_before_the_work(work: Path, capsys: pytest.CaptureFixture[str],
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mipkd_plugin.pages.gallery.look_at_all', lambda *args: pytest.fail('run in vain'))
    cv2.imwrite('HR/3.png', np.zeros((12, 48, 3), np.uint8))
    assert mipkd_main(['show', '--weights', 'b.pth', '--images', 'HR', '--out', 'new.html']) == 2
    assert 'HR/3.png: has 48×12 pixels, and PSNR and SSIM need 15×15 or more' in capsys.readouterr().err


@pytest.mark.parametrize('content', [b'9999-99-99 99:99:99,999 INFO: x\n', None])
def test_a_broken_log_is_said_and_all_else_shown(work: Path, capsys: pytest.CaptureFixture[str],
                                                 content: bytes | None) -> None:
    log = Path('experiments/tiny/train_broken.log')
    log.mkdir() if content is None else log.write_bytes(content)
    assert mipkd_main(['show', *TWO, '--out', 'new.html']) == 0
    assert 'PSNR to HR (dB)' in capsys.readouterr().out
    assert re.search(r'The log files of tiny cannot be read: \S+experiments/tiny/train_\*\.log: .+</p>',
                     Path('new.html').read_text())


def folder_of(name: str, height: int, width: int, count: int = 2, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    Path(name).mkdir(exist_ok=True)
    for number in range(count):
        cv2.imwrite(f'{name}/{number}.png', rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def table(printed: str) -> dict[str, dict[str, str]]:
    """The printed table: cell by column by row; cells are two spaces or more apart."""
    head, *lines = printed.partition('\n\n')[0].splitlines()
    names = re.split(r'\s{2,}', head.strip())
    return {row[0]: dict(zip(names, row[1:])) for row in (re.split(r'\s{2,}', line) for line in lines)}


@pytest.mark.parametrize(('arguments', 'wanted', 'rows'), [
    (['--images', 'big'], ['PSNR to HR (dB)', 'SSIM'], 2),
    (['--images', 'big', '--niqe'], ['PSNR to HR (dB)', 'SSIM', 'NIQE'], 3),
    (['--images', 'big', '--lr', 'low'], ['PSNR to HR (dB)', 'SSIM', 'NIQE'], 3),
    (['--images', 'big', '--lr', 'low', '--no-niqe'], ['PSNR to HR (dB)', 'SSIM'], 2),
    (['--lr', 'low'], ['NIQE'], 2),
    (['--lr', 'low', '--no-niqe', '--tile', '16'], [], 2),
    (['-opt', 'x.yml', '--lr', 'low'], ['PSNR to teacher (dB)', 'NIQE'], 3),
    (['-opt', 'x.yml', '--lr', 'low', '--no-teacher'], ['NIQE'], 2),
])
def test_columns_of_the_table(work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str],
                              wanted: list[str], rows: int) -> None:
    folder_of('big', 104, 208)
    folder_of('low', 52, 104, seed=1)
    assert mipkd_main(['show', '--weights', 'b.pth', *arguments, '--out', 'out.html']) == 0
    printed = capsys.readouterr().out
    found, text = table(printed), Path('out.html').read_text()
    assert len(found) == rows
    assert list(found['b']) == [*wanted, 'parameters', 'milliseconds']
    assert float(found['b']['milliseconds']) > 0
    side = 16 if '--tile' in arguments else 128
    assert re.search(rf'LR image of {side}×{side} pixels, median of up to 5 runs in turn .* on .+, \d+ threads?, '
                     'float32', printed)
    for column in found['b']:
        assert f'>{column}</th>' in text
    assert ('>LR images</dt><dd>low<' in text.replace('<dt>', '>')) == ('big' in arguments and 'low' in arguments)


def test_values_are_those_of_basicsr(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from basicsr.metrics import calculate_psnr
    from basicsr.metrics.niqe import calculate_niqe
    from basicsr.utils import img2tensor, tensor2img
    folder_of('big', 104, 208)
    folder_of('low', 52, 104, seed=1)
    assert mipkd_main(['show', '-opt', 'x.yml', '--weights', 'b.pth', '--images', 'big', '--lr', 'low', '--out',
                       'o.html', '--png', 'o.png']) == 0
    found = table(capsys.readouterr().out)
    nets = {'b': build_network(dict(STUDENTS['EDSR'])), 'teacher': build_network(dict(TEACHERS['EDSR']))}
    images: dict[str, list[np.ndarray]] = {'b': [], 'teacher': [], 'HR': []}
    for name, net in nets.items():
        net.load_state_dict(torch.load(f'{name}.pth', weights_only=True)['params'])
    for number in range(2):
        images['HR'].append(cv2.imread(f'big/{number}.png'))
        lq = img2tensor(cv2.imread(f'low/{number}.png').astype(np.float32) / 255)[None]
        for name, net in nets.items():
            with torch.no_grad():
                images[name].append(tensor2img([net.eval()(lq)]))

    def mean(values: list[float]) -> str:
        return f'{np.mean(values):.3f}'

    for name, made in images.items():
        assert found[name]['NIQE'] == mean([calculate_niqe(image, crop_border=2) for image in made])
    options = {'crop_border': 2, 'test_y_channel': True}
    for column, truth, names in (('PSNR to HR (dB)', 'HR', ('b', 'teacher')), ('PSNR to teacher (dB)', 'teacher', 'b')):
        for name in names:
            assert found[name][column] == mean([calculate_psnr(image, other, **options) for image, other in zip(
                images[name], images[truth])])
    assert found['teacher']['PSNR to teacher (dB)'] == found['bicubic']['milliseconds'] == '–'
    assert set(found['HR'].values()) == {'–', found['HR']['NIQE']}


def test_images_too_small_for_niqe_get_a_dash_and_a_reason(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['show', '--weights', 'b.pth', '--images', 'HR', '--lr', 'LRbicx2', '--out', 'o.html']) == 0
    printed = capsys.readouterr().out
    assert [row['NIQE'] for row in table(printed).values()] == ['–', '–']
    why = 'There is no NIQE of 4 images (0.png, 1.png, 2.png and 1 more): it needs two blocks of 96×96 pixels'
    assert printed.count(why) == Path('o.html').read_text().count(why) == 1
