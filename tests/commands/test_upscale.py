"""``mipkd upscale``: any image, nothing overwritten, and it goes on where it stopped."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS, tiny_options
from training import typed

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.utils.locks import alone

RNG = np.random.default_rng(0)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of a student, and a folder with two images, 20 and 9 wide."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, 'net.pth')
    Path('in').mkdir()
    cv2.imwrite('in/a.png', RNG.integers(0, 256, (13, 20, 3), dtype=np.uint8))
    cv2.imwrite('in/b.png', RNG.integers(0, 256, (5, 9), dtype=np.uint8))
    return tmp_path


def run(*more: str, weights: str = 'net.pth') -> int:
    return mipkd_main(['upscale', '--weights', weights, '--images', 'in', '--out', 'out', *more])


def refused(capsys: pytest.CaptureFixture[str], *more: str, weights: str = 'net.pth') -> str:
    capsys.readouterr()
    assert run(*more, weights=weights) == 2
    return capsys.readouterr().err


def test_from_a_file_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = typed('upscale', '--weights', 'net.pth', '--images', 'in', '--out', 'out/deep')
    assert done.stdout.startswith('EDSR of net.pth, x2, on cpu\n2 images in ')
    assert done.stdout.endswith(' s: out/deep\n')
    assert done.stderr == ''
    net = build_network(STUDENTS['EDSR']).eval()
    net.load_state_dict(torch.load('net.pth')['params'])
    lq = torch.from_numpy(cv2.imread('in/a.png')[..., ::-1].copy()).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = (net(lq)[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()[..., ::-1]
    assert np.abs(cv2.imread('out/deep/a.png').astype(int) - expected).max() <= 1
    assert cv2.imread('out/deep/b.png', cv2.IMREAD_UNCHANGED).shape == (10, 18)


def test_typed_again_it_goes_on(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    os.remove('out/b.png')
    before = Path('out/a.png').stat().st_mtime_ns
    assert run('--tile', '8') == 0  # as after a lack of memory
    printed = capsys.readouterr().out
    assert '1 image in' in printed
    assert '1 there already' in printed
    assert Path('out/a.png').stat().st_mtime_ns == before
    assert sorted(os.listdir('out')) == ['a.png', 'b.png', 'upscale.json']


def test_nothing_is_overwritten(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    record = Path('out/upscale.json').read_text()
    torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, 'other.pth')
    assert "weights 'net.pth', now 'other.pth'; sha256" in refused(capsys, weights='other.pth')
    assert "format 'png', now 'jpg'" in refused(capsys, '--format', 'jpg')
    assert Path('out/upscale.json').read_text() == record
    os.utime('in/a.png', (2e9, 2e9))
    assert 'holds a.png, made of another image of that name, or of this one before it was changed' in refused(capsys)
    os.remove('out/upscale.json')
    assert 'holds a.png, b.png already, and nothing says what made them' in refused(capsys)
    Path('out/upscale.json').write_text('[]')
    assert 'holds images made in another way' in refused(capsys)
    Path('out/upscale.json').write_text('{')
    assert 'upscale.json: cannot be read' in refused(capsys)


def test_a_broken_image_stops_no_other(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('in/aa.png').write_bytes(Path('in/a.png').read_bytes()[:70])
    Path('in/notes.txt').write_text('no image')
    assert run() == 1
    printed = capsys.readouterr().out
    assert '2 images in' in printed
    assert '1 image left out:\n  in/aa.png: is cut short after 70 bytes\n' in printed
    cv2.imwrite('in/aa.png', RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    os.utime('in/aa.png')
    assert run() == 0
    assert sorted(os.listdir('out')) == ['a.png', 'aa.png', 'b.png', 'upscale.json']


def test_images_of_one_name_keep_their_endings(work: Path) -> None:
    cv2.imwrite('in/A.jpg', RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    assert run('--format', 'webp') == 0
    assert sorted(os.listdir('out')) == ['A.jpg.webp', 'a.png.webp', 'b.webp', 'upscale.json']


def test_a_name_with_an_ending_inside_takes_no_other_result(work: Path) -> None:
    for number, name in enumerate(('c.jpg', 'c.png', 'c.jpg.png')):
        cv2.imwrite(f'in/{name}', np.full((4, 4 + number), 100, dtype=np.uint8))
    assert run() == 0
    found = {path.name: cv2.imread(str(path)).shape[1] for path in Path('out').glob('c*')}
    assert found == {'c.jpg.png': 8, 'c.png.png': 10, 'c.jpg.png.png': 12}


def test_images_of_another_folder_are_not_taken_for_done(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    Path('other').mkdir()
    cv2.imwrite('other/a.png', RNG.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    os.utime('other/a.png', (1e9, 1e9))  # an older file
    before = Path('out/upscale.json').read_text()
    assert 'out: holds a.png, made of another image of that name' in refused(capsys, '--images', 'other')
    assert Path('out/upscale.json').read_text() == before
    os.rename('other/a.png', 'other/c.png')
    assert run('--images', 'other') == 0
    assert run() == 0
    assert '0 images in' in capsys.readouterr().out
    Path('out/a.png').unlink()  # as the message says
    os.rename('other/c.png', 'other/a.png')
    assert run('--images', 'other') == 0
    assert cv2.imread('out/a.png').shape == (12, 12, 3)


def test_a_link_to_nowhere_is_no_free_place(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('out').mkdir()
    Path('out/a.png').symlink_to('nowhere.png')
    assert 'holds a.png already, and nothing says what made them' in refused(capsys)
    assert os.readlink('out/a.png') == 'nowhere.png'


def test_two_do_not_fill_one_folder(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path('out').mkdir()
    with alone(Path('out/.upscale.lock')):
        assert 'out: another mipkd upscale is filling this folder (process ' in refused(capsys)
    os.remove('out/.upscale.lock')
    assert not os.listdir('out')


def test_photographs_that_cannot_be_read_are_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ('IMG_1.HEIC', 'b.gif', 'notes.txt'):
        Path('in', name).touch()
    assert run() == 0
    assert capsys.readouterr().out.endswith(
        'Not looked at: IMG_1.HEIC, b.gif; convert them to png, and type the command again\n')
    Path('in/b.png').rename('b.png')
    Path('in/a.png').rename('a.png')
    assert 'in: holds no images (subfolders are not searched; endings: .png .jpg' in refused(capsys, '--out', 'new')


def test_tiles_are_said(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--tile', '8') == 0
    assert 'tiles of 8 with ' in (printed := capsys.readouterr().out)
    assert 'pixels around each, the same as the whole image to 1e-5' in printed
    torch.save({'params': build_network(TEACHERS['RCAN']).state_dict()}, 'rcan.pth')
    run('--tile', '8', '--out', 'other', weights='rcan.pth')
    assert 'RCAN looks further than that: on a random texture, tiles differ' in capsys.readouterr().out
    run('--tile', '100', '--out', 'third')
    assert 'tiles' not in capsys.readouterr().out  # none is needed


@pytest.mark.parametrize(('more', 'message'), [
    (['--images', 'none'], 'none: cannot be read: No such file'),
    (['--images', 'empty'], 'empty: holds no images'),
    (['--images', '.'], r'name the folder that holds them: in'),
    (['--out', 'in'], 'is the folder of the images; give another folder'),
    (['--out', './empty/../in'], 'is the folder of the images'),
    (['--images', 'in/a.png', '--out', 'in'], 'is the folder of the images'),
    (['--out', 'net.pth'], 'is a file; name a folder'), (['--out', 'x' * 300], '(File name too long); give another'),
    (['--images', 'x' * 300], 'File name too long; name a folder of images'),
    (['--tile', '0'], '--tile must be 1 or more, not 0'),
    (['--context', '8'], '--context is for tiles; add --tile 256'),
    (['--fp16'], 'half precision needs a GPU'),
    (['--device', 'cuda'], 'PyTorch sees no GPU here; leave --device out'),
    (['--section', 'teacher'], '--section needs an option file'),
    (['--weights', 'none.pth'], 'none.pth'), (['--weights', 'in/a.png'], 'is an image, not a file of weights')])
def test_bad_input(work: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    Path('empty').mkdir()
    before = sorted(path.name for path in work.rglob('*'))
    assert message in refused(capsys, *more)
    assert sorted(path.name for path in work.rglob('*')) == before


def test_student_and_teacher_of_an_option_file(image_pairs: Path, work: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    Path('x.yml').write_text(yaml.safe_dump(tiny_options(image_pairs)))
    assert run('-opt', 'x.yml') == 0
    assert 'EDSR of net.pth, x2' in capsys.readouterr().out
    assert run('-opt', 'x.yml', '--section', 'teacher', '--out', 'teacher', weights='teacher.pth') == 0
    assert json.loads(Path('teacher/upscale.json').read_text())['weights'] == 'teacher.pth'
    assert 'holds the weights of the teacher' in refused(capsys, '-opt', 'x.yml', '--out', 'third',
                                                         weights='teacher.pth')
    assert not Path('third').exists()


def test_an_image_larger_than_the_memory_is_named(work: Path, capsys: pytest.CaptureFixture[str],
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    from mipkd_plugin.inference import upscaling

    monkeypatch.setattr(upscaling, 'LARGE', 100)
    monkeypatch.setattr(upscaling, 'free_memory', lambda device: 10 ** 5)
    assert run() == 1
    assert re.search(r'in/a.png: 20×13 pixels would take about 0.1\d MB of memory, and 0.10 MB are free; use --tile',
                     capsys.readouterr().out)
    assert run('--tile', '4', '--context', '1') == 0


def test_ctrl_c_loses_nothing(work: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from mipkd_plugin.inference import upscaling

    def stop(path: Path, picture: object) -> None:
        if path.name == 'b.png':
            raise KeyboardInterrupt
        write(path, picture)

    write = upscaling.write_picture
    with monkeypatch.context() as patch:
        patch.setattr(upscaling, 'write_picture', stop)
        assert run() == 130
    assert sorted(os.listdir('out')) == ['a.png', 'upscale.json']
    assert run() == 0
    assert '1 there already' in capsys.readouterr().out
