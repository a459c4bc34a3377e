"""``mipkd prepare --gt-only``: HR images alone, as BasicSR's ``RealESRGANDataset`` reads them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from basicsr.data import build_dataset
from helpers import REPO, interrupt
from PIL import Image

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.preparation import run, workers
from mipkd_plugin.preparation.multiscale import smaller_sizes
from mipkd_plugin.preparation.pairs import prepare, prepare_gt_only
from mipkd_plugin.preparation.sources import PrepareError

KERNELS = {'blur_kernel_size': 21, 'kernel_list': ['iso', 'aniso'], 'kernel_prob': [0.5, 0.5], 'sinc_prob': 0.1,
           'blur_sigma': [0.2, 3], 'betag_range': [0.5, 4], 'betap_range': [1, 2], 'blur_kernel_size2': 21,
           'kernel_list2': ['iso', 'aniso'], 'kernel_prob2': [0.5, 0.5], 'sinc_prob2': 0.1, 'blur_sigma2': [0.2, 1.5],
           'betag_range2': [0.5, 4], 'betap_range2': [1, 2], 'final_sinc_prob': 0.8}
"""What ``RealESRGANDataset`` needs besides, in the manner of Real-ESRGAN's option files."""
MIPKD = 'import sys; from mipkd_plugin.cli import mipkd_main; sys.exit(mipkd_main())'


def write(path: Path, seed: int = 0, height: int = 16, width: int = 16) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    cv2.imwrite(str(path), image)
    return image


@pytest.fixture
def hr(tmp_path: Path) -> Path:
    """Three images whose sides no scale divides."""
    for index, name in enumerate('abc'):
        write(tmp_path / 'hr' / f'{name}.png', index, 17, 23)
    return tmp_path / 'hr'


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / 'out'


def dataset(out: Path, ending: str = '') -> Any:
    """The data set as the summary says to write it."""
    place = {'dataroot_gt': f'{out}/HR{ending}', 'io_backend': {'type': 'lmdb' if ending else 'disk'}}
    if not ending:
        place['meta_info'] = f'{out}/meta_info_HR.txt'
    return build_dataset({'type': 'RealESRGANDataset', 'name': 'x', 'phase': 'train', **place, **KERNELS,
                          'use_hflip': False, 'use_rot': False})


def content(out: Path, ending: str = '', side: int = 400) -> dict[str, np.ndarray]:
    """All images as that data set gives them, BGR; padded to 400 rows and columns, from which ``side`` are cut."""
    images = dataset(out, ending)
    samples = [images[index] for index in range(len(images))]
    return {Path(sample['gt_path']).name.removesuffix('.png'): np.rint(
        sample['gt'].numpy().transpose(1, 2, 0)[:side, :side, ::-1] * 255).astype(np.uint8) for sample in samples}


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of each file but the lock."""
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
            for path in folder.rglob('*') if path.is_file() and path.name != 'prepare.lock'}


def assert_right(hr: Path, out: Path, ending: str = '') -> None:
    """Assert that the data set gives exactly the images of a folder of small images."""
    found = content(out, ending)
    assert sorted(found) == sorted(path.stem for path in hr.iterdir())
    for name, image in found.items():
        source = cv2.imread(str(hr / f'{name}.png'))
        assert np.array_equal(image[:source.shape[0], :source.shape[1]], source), name
    if not ending:
        assert (out / 'meta_info_HR.txt').read_text() == ''.join(f'{name}.png\n' for name in sorted(found))
    assert not list(out.rglob('.*'))


# ------------------------------------------------------------------------------------------------ what BasicSR reads
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_basicsr_reads_all_images_uncropped(hr: Path, out: Path, ending: str) -> None:
    summary = prepare_gt_only(hr, out, lmdb=bool(ending))
    assert (summary.images, summary.pairs, summary.written) == (3, 3, 3)
    assert_right(hr, out, ending)
    sample = dataset(out, ending)[0]
    assert {key: tuple(sample[key].shape) for key in ('gt', 'kernel1', 'kernel2', 'sinc_kernel')} == {
        'gt': (3, 400, 400), 'kernel1': (21, 21), 'kernel2': (21, 21), 'sinc_kernel': (21, 21)}


@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_basicsr_reads_the_tiles_of_every_version(tmp_path: Path, out: Path, ending: str) -> None:
    write(tmp_path / 'hr' / 'big.png', 1, 620, 801)
    Image.open(tmp_path / 'hr' / 'big.png').save(tmp_path / 'hr' / 'jpeg.jpg', quality=95)
    summary = prepare_gt_only(tmp_path / 'hr', out, bool(ending), 400, 200, multiscale=True)
    found = content(out, ending)
    assert summary.pairs == len(found)
    source = cv2.imread(str(tmp_path / 'hr' / 'big.png'))
    assert np.array_equal(found['big_s002'], source[:400, 200:600])
    smaller = np.asarray(Image.fromarray(source).resize((600, 465), Image.Resampling.LANCZOS))
    assert np.array_equal(found['bigT0_s004'], smaller[65:, 200:])
    assert len([name for name in found if name.startswith('big_s')]) == 12  # rows at 0, 200, 220; columns to 401
    assert summary.whole == ['bigT1.png', 'bigT2.png', 'jpegT1.png', 'jpegT2.png']
    assert 'Smaller than --crop, kept whole: bigT1.png, bigT2.png, jpegT1.png and 1 more\n' in str(summary)
    assert sorted(name for name in found if name.startswith('bigT3')) == ['bigT3_s001', 'bigT3_s002']  # 400 x 516


@pytest.mark.parametrize(('height', 'width'), [(1000, 701), (701, 1000), (450, 450), (400, 900), (3, 5)])
def test_versions_are_those_of_real_esrgan(tmp_path: Path, out: Path, height: int, width: int) -> None:
    """Its script reads with Pillow, resizes, and saves; here a version that would be an enlargement is left out."""
    write(tmp_path / 'hr' / 'x.png', 3, height, width)
    prepare_gt_only(tmp_path / 'hr', out, multiscale=True)
    image = Image.open(tmp_path / 'hr' / 'x.png')
    expected = {'x': image}
    for number, factor in enumerate((0.75, 0.5, 1 / 3)):
        expected[f'xT{number}'] = image.resize((int(width * factor), int(height * factor)), Image.Resampling.LANCZOS)
    if min(height, width) > 400:
        size = (400, int(400 * (height / width))) if width < height else (int(400 * (width / height)), 400)
        expected['xT3'] = image.resize(size, Image.Resampling.LANCZOS)
    assert sorted(path.stem for path in (out / 'HR').iterdir()) == sorted(expected)
    for name, made in expected.items():
        assert np.array_equal(np.asarray(Image.open(out / 'HR' / f'{name}.png')), np.asarray(made)), name
    assert (out / 'meta_info_HR.txt').read_text() == ''.join(f'{name}.png\n' for name in sorted(expected))
    assert (out / 'HR' / 'x.png').read_bytes() == (tmp_path / 'hr' / 'x.png').read_bytes()


def test_versions_of_tiny_images_have_pixels() -> None:
    assert smaller_sizes(1, 1) == []
    assert smaller_sizes(2, 900) == [(1, 675), (1, 450)]
    assert smaller_sizes(400, 400) == [(300, 300), (200, 200), (133, 133)]


def test_gray_and_turned_images_become_versions(tmp_path: Path, out: Path) -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 42), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / 'hr').mkdir()
    image.save(tmp_path / 'hr' / 'gray.png')
    image.save(tmp_path / 'hr' / 'turned.png', exif=exif)
    prepare_gt_only(tmp_path / 'hr', out, multiscale=True)
    assert cv2.imread(str(out / 'HR/grayT1.png'), cv2.IMREAD_UNCHANGED).shape == (15, 21, 3)
    turned = np.asarray(image.transpose(Image.Transpose.ROTATE_270).resize((15, 21), Image.Resampling.LANCZOS))
    assert np.array_equal(cv2.imread(str(out / 'HR/turnedT1.png'))[..., 0], turned)


# ------------------------------------------------------------------------------------------------------- command line
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_the_command_says_what_to_write(hr: Path, tmp_path: Path, ending: str) -> None:
    flags = ['--lmdb'] if ending else []
    command = [sys.executable, '-c', MIPKD, 'prepare', '--gt-only', '--multiscale', '--hr', 'hr', '--out', 'out',
               '--crop', '16', '--step', '16', *flags]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': ''}
    for first in ('21 HR images from 3 images: 3 of 3 images done in this run.',
                  '21 HR images from 3 images: nothing to do.'):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240,
                              check=False)
        assert done.returncode == 0, done.stderr
        meta_info = [] if ending else ['    meta_info: out/meta_info_HR.txt']
        assert done.stdout.splitlines() == [
            first, 'Smaller than --crop, kept whole: aT0.png, aT1.png, aT2.png and 6 more',
            'For the dataset in an option file:', '    type: RealESRGANDataset', f'    dataroot_gt: out/HR{ending}',
            *meta_info, f'    io_backend: {{type: {"lmdb" if ending else "disk"}}}']
    assert sorted(os.listdir(tmp_path / 'out')) == sorted(
        [f'HR{ending}', 'prepare.json', 'prepare.lock', *([] if ending else ['meta_info_HR.txt'])])


def taken(out: Path) -> list[str]:
    """The HR images in a folder or an LMDB."""
    files = out / 'HR.lmdb/meta_info.txt' if (out / 'HR.lmdb').is_dir() else None
    return sorted(line.split('.png')[0] for line in files.read_text().splitlines()) if files else sorted(
        path.stem for path in (out / 'HR').iterdir())


@pytest.mark.parametrize('flags', [['--gt-only'], ['--gt-only', '--lmdb'], ['--scale', '2'],
                                   ['--scale', '2', '--lmdb']])
def test_small_images_are_left_out_and_come_back(hr: Path, out: Path, flags: list[str],
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    write(hr / 'small.png', 9, 60, 11)
    command = ['prepare', '--hr', str(hr), '--out', str(out), *flags]
    for least, images in ((17 if '--gt-only' in flags else 16, ['a', 'b', 'c']), (10, ['a', 'b', 'c', 'small']),
                          (16, ['a', 'b', 'c'])):
        assert mipkd_main([*command, '--min-side', str(least)]) == 0
        assert taken(out) == images
        said = capsys.readouterr().out
        assert said.startswith(f'{len(images)} ')
        assert ('Left out, smaller than --min-side: small.png\n' in said) == ('small' not in images)
        if '--lmdb' not in flags and '--gt-only' in flags:
            assert (out / 'meta_info_HR.txt').read_text().split() == [f'{name}.png' for name in images]
    assert mipkd_main([*command, '--min-side', '16']) == 0
    assert 'nothing to do' in capsys.readouterr().out


def test_versions_that_are_too_small_are_left_out(hr: Path, out: Path) -> None:
    summary = prepare_gt_only(hr, out, multiscale=True, min_side=12)
    assert taken(out) == ['a', 'aT0', 'b', 'bT0', 'c', 'cT0']
    assert 'Left out, smaller than --min-side: aT1.png, aT2.png, bT1.png and 3 more' in str(summary)


@pytest.mark.parametrize(('flags', 'message'), [
    (['--gt-only', '--min-side', '0'], '--min-side 0: must be at least 1.'),
    (['--gt-only', '--min-side', '18'],
     '--min-side 18: all images are smaller; the shorter side of the largest has 17 pixels.'),
    (['--gt-only', '--crop', '10', '--step', '5', '--min-side', '11'],
     '--min-side 11: leaves nothing, as tiles have 10 pixels a side (--crop); give at most 10.'),
    ([], '--scale: is missing; give 2, 3, 4 or 8 to make pairs, or --gt-only for HR images alone.'),
    (['--gt-only', '--scale', '4'], '--scale 4: does not go with --gt-only'),
    (['--scale', '4', '--multiscale'], '--multiscale: is for HR images alone; add --gt-only and leave out --scale'),
    (['--gt-only', '--crop', '400'], '--crop and --step need each other; give both, e.g. --crop 400 --step 200.'),
    (['--gt-only', '--crop', '0', '--step', '1'], '--crop 0: must be at least 1.'),
    (['--gt-only', '--crop', '1', '--step', '-1'], '--step -1: must be at least 1.'),
    (['--gt-only', '--workers', '0'], '--workers 0: must be at least 1'),
])
def test_bad_requests(hr: Path, out: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str) -> None:
    assert mipkd_main(['prepare', '--hr', str(hr), '--out', str(out), *flags]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert not out.exists()


@pytest.mark.parametrize(('name', 'lmdb', 'message'), [
    ('a photo.png', False, r'a photo\.png: a name must have no spaces .*rename the file, for instance to a_photo\.png'),
    (' a.png', False, r'for instance to _a\.png'),
    ('a\nb.png', False, r'for instance to a_b\.png'),
    ('a\nb.png', True, r'an LMDB key must be printable ASCII without "\."'),
    ('a.v2.png', True, r'a\.v2\.png: an LMDB key must be printable ASCII without "\."'),
])
def test_names_that_basicsr_would_cut(hr: Path, out: Path, name: str, lmdb: bool, message: str) -> None:
    write(hr / name)
    with pytest.raises(PrepareError, match=message):
        prepare_gt_only(hr, out, lmdb)
    assert not out.exists()


def test_names_that_basicsr_does_not_cut(tmp_path: Path, out: Path) -> None:
    write(tmp_path / 'dots' / 'a.v2.png', 1)
    write(tmp_path / 'dots' / 'ä.png', 2)
    prepare_gt_only(tmp_path / 'dots', out)
    assert_right(tmp_path / 'dots', out)
    write(tmp_path / 'spaces' / 'a photo.png', 1)
    prepare_gt_only(tmp_path / 'spaces', tmp_path / 'two', lmdb=True)
    assert_right(tmp_path / 'spaces', tmp_path / 'two', '.lmdb')


def test_a_version_that_is_also_an_image(hr: Path, out: Path) -> None:
    write(hr / 'aT0.png')
    with pytest.raises(PrepareError, match=r'two images would both become aT0\.png, one of .*/a\.png and one of .*aT0'):
        prepare_gt_only(hr, out, multiscale=True)
    with pytest.raises(PrepareError, match=r'two tiles would both become aT0_s001\.png, one of .*/a\.png and one of'):
        prepare_gt_only(hr, out, crop=8, step=8, multiscale=True)
    assert not out.exists()
    assert prepare_gt_only(hr, out).pairs == 4


# ------------------------------------------------------------------------------------------------------------ continue
@pytest.mark.parametrize('ending', ['', '.lmdb'])
@pytest.mark.parametrize(('change', 'written', 'dropped'), [
    (lambda hr: (hr / 'b.png').unlink(), 0, ['b.png']),
    (lambda hr: write(hr / 'b.png', 7, 19, 40), 1, []),
    (lambda hr: write(hr / 'd.png', 7), 1, []),
    (lambda hr: os.utime(hr / 'b.png', (1, 1)), 0, []),
    (lambda hr: (hr / 'b.png').rename(hr / 'z.png'), 1, ['b.png']),
], ids=['removed', 'changed', 'new', 'touched', 'renamed'])
def test_only_what_changed_is_made(hr: Path, out: Path, tmp_path: Path, ending: str, change: Callable[[Path], object],
                                   written: int, dropped: list[str]) -> None:
    for multiscale, into in ((False, out), (True, tmp_path / 'versions')):
        prepare_gt_only(hr, into, bool(ending), multiscale=multiscale)
    change(hr)
    for multiscale, into in ((False, out), (True, tmp_path / 'versions')):
        summary = prepare_gt_only(hr, into, bool(ending), multiscale=multiscale)
        assert (summary.written, summary.dropped) == (written, dropped)
        before = listing(into)
        assert prepare_gt_only(hr, into, bool(ending), multiscale=multiscale).written == 0
        assert listing(into) == before
    assert_right(hr, out, ending)
    expected = {f'{path.stem}{version}' for path in hr.iterdir() for version in ('', 'T0', 'T1', 'T2')}
    found = content(tmp_path / 'versions', ending)
    assert set(found) == expected
    for path in hr.iterdir():
        source = cv2.imread(str(path))
        half = Image.fromarray(source).resize((source.shape[1] // 2, source.shape[0] // 2), Image.Resampling.LANCZOS)
        assert np.array_equal(found[f'{path.stem}T1'][:half.height, :half.width], np.asarray(half)), path


@pytest.mark.parametrize('moment', ['claimed', 'removed', 'made', 'packed', 'written'])
@pytest.mark.parametrize('ending', ['', '.lmdb'])
def test_an_update_that_is_interrupted_is_continued(hr: Path, out: Path, ending: str, moment: str,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """In between, no list names an image that is not there, or is of another version."""
    prepare_gt_only(hr, out, bool(ending))
    write(hr / 'b.png', 7, 8, 16)
    write(hr / 'd.png', 8)
    (hr / 'c.png').unlink()

    with monkeypatch.context() as patch:
        home, name = {'claimed': (run.Manifest, 'save'), 'removed': (run.Changes, 'remove_stale'),
                      'made': (workers, '_do'), 'packed': (run, 'write_lmdb' if ending else 'do_all'),
                      'written': (run.NameList, 'write') if not ending else (run.Run, '_finish')}[moment]
        patch.setattr(home, name, interrupt(getattr(home, name)))
        with pytest.raises(KeyboardInterrupt):
            prepare_gt_only(hr, out, bool(ending))
    assert (out / 'meta_info_HR.txt').exists() == (moment == 'written' and not ending)
    prepare_gt_only(hr, out, bool(ending))
    assert_right(hr, out, ending)


def test_a_run_that_ends_before_the_list_is_written_is_continued(hr: Path, out: Path,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.NameList, 'write', interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare_gt_only(hr, out)
    assert not (out / 'meta_info_HR.txt').exists()
    write(hr / 'd.png', 4)
    assert prepare_gt_only(hr, out).written == 1
    assert_right(hr, out)


def test_a_damaged_image_is_named_and_the_list_waits(hr: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = (hr / 'b.png').read_bytes()
    (hr / 'b.png').write_bytes(data[:200] + bytes(100) + data[300:])  # whole by its chunks, damaged in its pixels
    command = ['prepare', '--gt-only', '--hr', str(hr), '--out', str(out)]
    assert mipkd_main(command) == 2
    assert f'{hr}/b.png: cannot be decoded' in capsys.readouterr().err
    assert not (out / 'meta_info_HR.txt').exists()
    (hr / 'b.png').unlink()
    assert mipkd_main(command) == 0
    assert '2 HR images from 2 images: nothing to' in capsys.readouterr().out
    assert_right(hr, out)


def test_a_list_that_is_lost_is_written_again(hr: Path, out: Path) -> None:
    prepare_gt_only(hr, out)
    before = listing(out)
    (out / 'meta_info_HR.txt').unlink()
    assert prepare_gt_only(hr, out).written == 0
    after = listing(out)
    assert after.pop('meta_info_HR.txt') != before.pop('meta_info_HR.txt')
    assert after == before
    assert_right(hr, out)


def test_a_folder_and_an_lmdb_stay_in_step(hr: Path, out: Path) -> None:
    for lmdb in (False, True):
        prepare_gt_only(hr, out, lmdb)
    write(hr / 'b.png', 7)
    (hr / 'c.png').unlink()
    summary = prepare_gt_only(hr, out, lmdb=True)
    assert summary.also == ['HR']
    assert_right(hr, out)
    assert_right(hr, out, '.lmdb')
    (out / 'HR').rename(out.parent / 'moved')  # by hand: it is not made again unasked
    write(hr / 'd.png', 8)
    assert prepare_gt_only(hr, out, lmdb=True).also == []
    assert not (out / 'HR').exists()
    assert prepare_gt_only(hr, out).written == 3  # the list that is left is still known as ours
    assert_right(hr, out)


# ------------------------------------------------------------------------------------------- what is not ours stays
@pytest.mark.parametrize('change', [lambda hr: None, lambda hr: write(hr / 'b.png', 7), lambda hr: write(hr / 'd.png')])
def test_a_list_that_somebody_changed_is_kept(hr: Path, out: Path, change: Callable[[Path], object]) -> None:
    prepare_gt_only(hr, out)
    (out / 'meta_info_HR.txt').write_text('b.png\n')
    change(hr)
    before = listing(out)
    with pytest.raises(PrepareError, match=r'meta_info_HR\.txt has changed since mipkd prepare made it.*or delete it'):
        prepare_gt_only(hr, out)
    assert listing(out) == before
    (out / 'meta_info_HR.txt').unlink()
    prepare_gt_only(hr, out)
    assert_right(hr, out)


@pytest.mark.parametrize('make', [lambda path: path.write_text('mine'), lambda path: path.mkdir()])
def test_a_list_that_is_not_ours_is_kept(hr: Path, out: Path, make: Callable[[Path], object]) -> None:
    prepare_gt_only(hr, out, lmdb=True)
    make(out / 'meta_info_HR.txt')
    with pytest.raises(PrepareError, match=r'meta_info_HR\.txt was not made by mipkd prepare'):
        prepare_gt_only(hr, out)
    assert (out / 'meta_info_HR.txt').is_dir() or (out / 'meta_info_HR.txt').read_text() == 'mine'
    assert not (out / 'HR').exists()
    write(hr / 'b.png', 7)
    assert prepare_gt_only(hr, out, lmdb=True).written == 1  # the LMDB does not need it


def test_other_images_are_never_touched_nor_listed(hr: Path, out: Path) -> None:
    prepare_gt_only(hr, out, multiscale=True)
    (out / 'HR' / 'mine.png').write_bytes(b'mine')
    summary = prepare_gt_only(hr, out, multiscale=True)
    assert f'Not made by mipkd prepare, and not in meta_info: {out}/HR/mine.png\n' in str(summary)
    assert 'mine' not in (out / 'meta_info_HR.txt').read_text()
    mine = write(out / 'HR' / 'bT1.png', 99)
    (hr / 'b.png').unlink()
    with pytest.raises(PrepareError, match=r'HR/bT1\.png has changed since mipkd prepare made it'):
        prepare_gt_only(hr, out, multiscale=True)
    assert np.array_equal(cv2.imread(str(out / 'HR' / 'bT1.png')), mine)
    assert 'bT1.png' in (out / 'meta_info_HR.txt').read_text()


REQUESTS: dict[str, Callable[[Path, Path], object]] = {
    'pairs': lambda hr, out: prepare(hr, 2, out), 'HR': prepare_gt_only,
    'versions': lambda hr, out: prepare_gt_only(hr, out, multiscale=True),
    'tiles': lambda hr, out: prepare_gt_only(hr, out, crop=8, step=8)}


@pytest.mark.parametrize(('first', 'then', 'message'), [
    ('pairs', 'HR', 'was made without --gt-only '), ('HR', 'pairs', 'was made with --gt-only '),
    ('HR', 'versions', 'was made without --multiscale '), ('versions', 'HR', 'was made with --multiscale '),
    ('versions', 'pairs', 'was made with --gt-only and with --multiscale '),
    ('tiles', 'versions', 'was made with other --crop and other --step and without --multiscale '),
])
def test_another_request_is_refused(hr: Path, out: Path, first: str, then: str, message: str) -> None:
    REQUESTS[first](hr, out)
    before = listing(out)
    with pytest.raises(PrepareError, match=rf'out: {message}\(see .*prepare\.json\); name another folder, or delete'):
        REQUESTS[then](hr, out)
    assert listing(out) == before
    REQUESTS[first](hr, out)
    assert listing(out) == before


@pytest.mark.parametrize(('first', 'old', 'new'), [
    ('HR', '"scale":1', '"scale":2'), ('pairs', '"scale":2', '"scale":1'), ('HR', '"lists":{"HR"', '"lists":{"../HR"'),
])
def test_a_manifest_that_cannot_be_ours_is_refused(hr: Path, out: Path, first: str, old: str, new: str) -> None:
    REQUESTS[first](hr, out)
    text = (out / 'prepare.json').read_text()
    assert old in text
    (out / 'prepare.json').write_text(text.replace(old, new))
    with pytest.raises(PrepareError, match=r'prepare\.json: is damaged \((sets|lists)'):
        REQUESTS[first](hr, out)


def test_a_manifest_of_pairs_is_as_before(hr: Path, out: Path) -> None:
    """Earlier versions of this package can go on with it."""
    prepare(hr, 2, out)
    assert not {'gt_only', 'multiscale', 'lists'} & set(json.loads((out / 'prepare.json').read_text()))
