"""``mipkd degrade``: fixed pairs of whole photographs, degraded by BasicSR's own code."""

from __future__ import annotations

import random
import shlex
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.metrics import calculate_psnr
from basicsr.utils import USMSharp
from gan_options import options, write_images

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.preparation import degrade as degrade_module
from mipkd_plugin.preparation.degrade import degrade


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    write_images(tmp_path, 3, 96)
    cv2.imwrite(str(tmp_path / 'HR' / 'odd.png'), np.full((71, 93, 3), 128, np.uint8))
    return tmp_path


def images_of(folder: Path) -> dict[str, Any]:
    return {path.name: cv2.imread(str(path)) for path in sorted(folder.iterdir())}


def test_pairs_depend_on_seed_and_name_alone(photographs: Path, tmp_path: Path) -> None:
    opt = options(photographs, 'RealESRNet')
    assert degrade(opt, photographs / 'HR', tmp_path / 'one', 0) == (4, [])
    assert degrade(opt, photographs / 'HR', tmp_path / 'same', 0) == (4, [])
    degrade(opt, photographs / 'HR', tmp_path / 'other', 1)
    (photographs / 'HR/0.png').unlink()
    degrade(opt, photographs / 'HR', tmp_path / 'fewer', 0)
    one, same, other, fewer = (images_of(tmp_path / name / 'LQ') for name in ('one', 'same', 'other', 'fewer'))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert all(np.array_equal(one[name], fewer[name]) for name in fewer)
    assert len(fewer) == 3
    assert not any(np.array_equal(one[name], other[name]) for name in ('0.png', '1.png', '2.png'))


def test_hr_images_are_whole_and_lq_images_are_worse_than_bicubic(photographs: Path, tmp_path: Path) -> None:
    before = images_of(photographs / 'HR')
    degrade(options(photographs, 'RealESRNet'), photographs / 'HR', tmp_path / 'out', 0)
    hr, lq = images_of(tmp_path / 'out/HR'), images_of(tmp_path / 'out/LQ')
    assert hr['odd.png'].shape == (70, 92, 3), 'cropped to a multiple of the scale'
    for name, image in hr.items():
        assert np.array_equal(image, before[name][:image.shape[0], :image.shape[1]])
        assert lq[name].shape == (image.shape[0] // 2, image.shape[1] // 2, 3)
    for name in ('0.png', '1.png', '2.png'):
        large = cv2.resize(lq[name], (96, 96), interpolation=cv2.INTER_CUBIC)
        small = cv2.resize(hr[name], (48, 48), interpolation=cv2.INTER_AREA)
        clean = cv2.resize(small, (96, 96), interpolation=cv2.INTER_CUBIC)
        assert calculate_psnr(large, hr[name], 2) < calculate_psnr(clean, hr[name], 2) - 3


def command(folder: Path, opt: dict[str, Any], *arguments: str) -> int:
    (folder / 'real.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    return mipkd_main(['degrade', '-opt', str(folder / 'real.yml'), *arguments])


def test_the_command_says_what_to_write(photographs: Path, tmp_path: Path) -> None:
    opt = options(photographs, 'RealESRGAN')
    (tmp_path / 'real.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    done = subprocess.run([sys.executable, '-c', 'import sys; from mipkd_plugin.cli import mipkd_main; '
                           'sys.exit(mipkd_main())', 'degrade', '-opt', 'real.yml', '--hr', 'HR', '--out', 'fixed'],
                          cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.partition('datasets:\n')[2]
    assert yaml.safe_load(said)['val'] == {
        'name': 'fixed', 'type': 'PairedImageDataset', 'dataroot_gt': 'fixed/HR', 'dataroot_lq': 'fixed/LQ',
        'io_backend': {'type': 'disk'}}
    assert len(images_of(tmp_path / 'fixed/LQ')) == 4


def test_a_file_of_the_degradation_alone_is_enough(photographs: Path, tmp_path: Path) -> None:
    opt = options(photographs, 'RealESRNet')
    for key in ('use_hflip', 'use_rot', 'dataroot_gt', 'meta_info', 'io_backend', 'name'):
        del opt['datasets']['train'][key]
    assert command(photographs, opt, '--hr', str(photographs / 'HR'), '--out', str(tmp_path / 'out')) == 0
    assert len(images_of(tmp_path / 'out/LQ')) == 4


def test_nothing_is_sharpened_and_random_numbers_go_on(photographs: Path, tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    def sharpen(*args: Any) -> None:
        raise AssertionError('HR images are not sharpened')

    monkeypatch.setattr(USMSharp, 'forward', sharpen)
    torch.manual_seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    degrade({**options(photographs, 'RealESRNet'), 'gt_usm': True}, photographs / 'HR', tmp_path / 'out')
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (np.random.get_state()[1].tolist(), random.getstate())


def test_photographs_are_not_all_in_memory(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []

    def read(path: Path, *args: Any) -> Any:
        image = read_one(path, *args)
        alive[:] = [known for known in alive if known() is not None] + [weakref.ref(image)]
        assert len(alive) <= 2
        return image

    read_one = degrade_module._read
    monkeypatch.setattr(degrade_module, '_read', read)
    assert degrade(options(photographs, 'RealESRNet'), photographs / 'HR', tmp_path / 'out') == (4, [])


def test_what_is_left_out_is_named(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hr = photographs / 'HR'
    (hr / 'more').mkdir()
    (hr / 'notes.txt').write_text('')
    opt = options(photographs, 'RealESRNet')
    assert command(photographs, opt, '--hr', str(hr), '--out', str(tmp_path / 'out')) == 0
    assert capsys.readouterr().out.startswith(
        f'Left out, as only .png, .jpg, .jpeg and .bmp files are read, and no subfolders: {hr}/more, {hr}/notes.txt\n'
        '4 pairs: ')
    assert len(images_of(tmp_path / 'out/LQ')) == 4


@pytest.mark.parametrize('folders', [('fixed/HR', 'fixed/LQ'), ('HR', 'LQ'), ('fixed/HR', 'fixed/low'),
                                     ('fixed/HR.lmdb', 'fixed/LQ.lmdb')])
def test_the_check_says_how_to_make_the_pairs_of_a_validation(
        folders: tuple[str, str], photographs: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str]) -> None:
    """Typed as it stands there, with the entries that it names, the remedy leaves no problem."""
    monkeypatch.chdir(photographs)
    opt = options(photographs, 'RealESRNet')
    opt['datasets']['val'].update(dataroot_gt=folders[0], dataroot_lq=folders[1])
    if folders[0].endswith('.lmdb'):
        opt['datasets']['val']['io_backend'] = {'type': 'lmdb'}
    (photographs / 'real.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    assert mipkd_main(['check', '-opt', 'real.yml']) == 2
    said = capsys.readouterr().err
    assert 'mipkd prepare' not in said
    typed, _, entries = said.partition('create it: mipkd ')[2].splitlines()[0].partition('; then ')
    assert (entries == '') is (folders == ('fixed/HR', 'fixed/LQ'))
    assert mipkd_main(shlex.split(typed.replace('DIR', 'HR'))) == 0
    for entry in filter(None, entries.split(', and ')):
        opt['datasets']['val'].update(yaml.safe_load(entry.removeprefix('write ')))
    (photographs / 'real.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    assert mipkd_main(['check', '-opt', 'real.yml']) == 0


def with_broken_image(folder: Path) -> None:
    data = (folder / 'HR/0.png').read_bytes()
    (folder / 'HR/broken.png').write_bytes(data[:len(data) // 2])


@pytest.mark.parametrize(('spoil', 'changes', 'said'), [
    (lambda folder: (folder / 'fixed').mkdir() or (folder / 'fixed/mine.txt').write_text(''), {}, 'is not empty'),
    (lambda folder: (folder / 'fixed').write_text(''), {}, 'is a file; name a new folder'),
    (lambda folder: cv2.imwrite(str(folder / 'HR/tiny.png'), np.zeros((20, 96, 3), np.uint8)), {},
     'tiny.png: has 96×20 pixels, and both sides must have 22'),
    (with_broken_image, {}, 'broken.png'),
    (lambda folder: None, {'resize_prob': [0.5, 0.5, 0.5]}, 'sum to 1.5'),
    (lambda folder: None, {'jpeg_rang': [30, 95]}, 'jpeg_range'),
    (lambda folder: None, {'datasets': {'train': {'type': 'PairedImageDataset'}}}, 'no data set for real-world SR'),
])
def test_bad_input_is_refused_before_anything_is_written(
        spoil: Callable[[Path], Any], changes: dict[str, Any], said: str, photographs: Path,
        capsys: pytest.CaptureFixture[str]) -> None:
    spoil(photographs)
    opt = {**options(photographs, 'RealESRNet'), **changes}
    if 'jpeg_rang' in changes:
        del opt['jpeg_range']
    before = sorted(photographs.rglob('*'))
    code = command(photographs, opt, '--hr', str(photographs / 'HR'), '--out', str(photographs / 'fixed'))
    assert code == 2
    assert said in capsys.readouterr().err
    assert {path for path in photographs.rglob('*') if path not in before} <= {photographs / 'real.yml'}
