"""``mipkd report``: its numbers are those of the networks, and its files are new."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS, tiny_options
from training import typed

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.inference.cost import cost
from mipkd_plugin.inference.quality import measure, read_pairs
from mipkd_plugin.inference.report import OUTPUT
from mipkd_plugin.inference.tiles import Enlarger



@pytest.fixture
def work(image_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An option file, the weights of its teacher and of two students, and images."""
    monkeypatch.chdir(image_pairs)
    Path('x.yml').write_text(yaml.safe_dump(tiny_options(image_pairs)))
    for seed, name in enumerate(('net.pth', 'other.pth')):
        torch.manual_seed(seed)
        torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, name)
    return image_pairs


def run(*more: str) -> int:
    return mipkd_main(['report', '--weights', 'net.pth', '--sizes', '16x12', *more])


def loaded(options: dict[str, Any], file: str) -> Any:
    net = build_network(dict(options)).eval()
    net.load_state_dict(torch.load(file)['params'])
    return net


def test_of_an_option_file(work: Path) -> None:
    done = typed('report', '-opt', 'x.yml', '--weights', 'net.pth', '--sizes', '16x12', '24x24', '--out', 'report.md')
    assert done.stderr == ''
    text = Path('report.md').read_text()
    assert done.stdout == f'{text}-> report.md\n-> report.json\n'
    data = json.loads(Path('report.json').read_text())
    nets = {'teacher': loaded(TEACHERS['EDSR'], 'teacher.pth'), 'student': loaded(STUDENTS['EDSR'], 'net.pth')}
    assert list(data['networks']) == list(nets)
    quality = measure({role: Enlarger(net, 2) for role, net in nets.items()},
                      read_pairs(Path('HR'), 2, Path('LRbicx2')), 2)
    for role, net in nets.items():
        found = data['networks'][role]
        assert found['parameters'] == sum(parameter.numel() for parameter in net.parameters())
        assert found['sizes']['16x12']['macs'] == cost(net, (3, 12, 16)).macs
        assert found['macs_1280x720'] == cost(net, (3, OUTPUT[1] // 2, OUTPUT[0] // 2)).macs
        assert (found['psnr'], found['ssim']) == pytest.approx((quality[role].psnr, quality[role].ssim))
        assert found['sizes']['24x24']['peak_bytes'] > found['sizes']['16x12']['peak_bytes'] > 0
        assert f'| {role} | EDSR | {found["parameters"]:,d}' in text
    assert data['bicubic']['psnr'] == pytest.approx(quality['bicubic'].psnr)
    student = data['networks']['student']['sizes']['24x24']
    speed_up = data['networks']['teacher']['sizes']['24x24']['milliseconds'] / student['milliseconds']
    assert (f'| 24×24 | student | {student["macs"] / 1e6:.2f} M | {student["milliseconds"]:.1f} | {speed_up:.2f} |'
            in text)
    assert set(data['made']) >= {'date', 'mipkd-plugin', 'commit', 'basicsr', 'torch', 'python', 'device', 'threads'}


def test_of_files_alone_and_of_several_students(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run('--teacher', 'teacher.pth', '--weights', 'net.pth', 'other.pth', '--images', 'HR') == 0
    printed = capsys.readouterr().out
    assert printed.startswith('# teacher and student 1 and student 2, x2\n')
    assert '- student 2: other.pth\n' in printed
    assert "low-resolution images: made as MATLAB's imresize does" in printed
    assert '| PSNR (4 images) |' in printed
    assert '(1/2' in printed  # of the teacher's parameters


def test_a_student_without_a_teacher(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opt = yaml.safe_load(Path('x.yml').read_text())
    del opt['teacher'], opt['train']['distill_opt'], opt['datasets']['val'], opt['val']
    Path('plain.yml').write_text(yaml.safe_dump({**opt, 'model_type': 'SRModel'}))
    assert run('-opt', 'plain.yml') == 0
    printed = capsys.readouterr().out
    assert printed.startswith('# student, x2\n')
    assert 'speed-up |' not in printed
    assert 'PSNR' not in printed
    assert run('-opt', 'plain.yml', '--teacher', 'teacher.pth') == 0
    assert '| teacher | EDSR |' in capsys.readouterr().out


def test_a_teacher_that_is_a_file_alone(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    opt = yaml.safe_load(Path('x.yml').read_text())
    opt['teacher'] = {'weights': 'teacher.pth'}
    Path('x.yml').write_text(yaml.safe_dump(opt))
    assert run('-opt', 'x.yml') == 0
    assert '- teacher: teacher.pth\n' in capsys.readouterr().out


def test_equal_images_are_valid_json(work: Path) -> None:
    for path in Path('HR').iterdir():
        cv2.imwrite(str(path), np.zeros((48, 48, 3), np.uint8))
    assert run('--images', 'HR', '--out', 'black') == 0
    data = json.loads(Path('black.json').read_text(), parse_constant=pytest.fail)
    assert data['bicubic']['psnr'] == 'Infinity'


def test_sizes_are_rounded_up_to_windows(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'params': build_network(STUDENTS['SwinIR']).state_dict()}, 'swin.pth')
    assert run('--weights', 'swin.pth', '--teacher', 'teacher.pth', '--sizes', '17x13', '20x16') == 0
    printed = capsys.readouterr().out
    assert printed.count('| 20×16 | student |') == 1
    assert '17×13' not in printed


@pytest.mark.parametrize(('more', 'message'), [
    (['--sizes', '64'], '--sizes 64: write width x height, as 128x128'),
    (['--sizes', '0x8'], '--sizes 0x8: write width'),
    (['--lr', 'LRbicx2'], '--lr needs --images'),
    (['--sizes', '8x8', '99999x99999'], '--sizes 99999x99999: would take about '),
    (['-opt', 'x3.yml'], 'not the image enlarged 3 times; write scale: 2 into the option file'),
    (['--images', 'none'], 'none: cannot be read'),
    (['--images', 'HR', '--lr', 'HR'], 'which are 96×96 at scale 2'),
    (['--out', 'taken.md'], '--out taken.md is there already; give another name'),
    (['--out', 'there'], '--out there.json is there already'),
    (['--out', 'none/x.md'], 'there is no folder none'), (['--out', 'nowhere'], '--out nowhere.md is there already'),
    (['--teacher', 'x4.pth'], 'the networks enlarge by different factors: net.pth x2, x4.pth x4'),
    (['--weights', 'x.yml'], 'x.yml'),
    (['-opt', 'x.yml', '--weights', 'teacher.pth'], 'holds the weights of the teacher')])
def test_bad_input(work: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str) -> None:
    torch.save({'params': build_network(TEACHERS['RRDBNet']).state_dict()}, 'x4.pth')
    for name in ('taken.md', 'there.json'):
        Path(name).write_text('mine')
    opt = yaml.safe_load(Path('x.yml').read_text())
    del opt['teacher'], opt['train']['distill_opt']
    Path('x3.yml').write_text(yaml.safe_dump({**opt, 'model_type': 'SRModel', 'scale': 3}))
    Path('nowhere.md').symlink_to('gone/x.md')
    before = {path: path.read_bytes() for path in work.rglob('*') if path.is_file()}
    assert run(*more) == 2
    assert message in capsys.readouterr().err
    assert {path: path.read_bytes() for path in work.rglob('*') if path.is_file()} == before


def test_images_are_looked_at_before_the_work(work: Path, capsys: pytest.CaptureFixture[str],
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mipkd_plugin.inference.report.measured', lambda *args: pytest.fail('measured in vain'))
    cv2.imwrite('HR/3.png', np.zeros((12, 48, 3), np.uint8))
    assert run('--images', 'HR') == 2
    assert 'HR/3.png: has 48×12 pixels' in capsys.readouterr().err
