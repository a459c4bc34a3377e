"""The images of an option file: pixels with --decode, orientations, huge images, what BasicSR leaves out."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
from basicsr.data import build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import Image
from training import comparison_options, train, write_options

from mipkd_plugin import config
from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.config.decoding import decode_images
from mipkd_plugin.config.image_pairs import check_image_pairs
from mipkd_plugin.config.problems import Context
from mipkd_plugin.data.matlab_bicubic import bicubic_downsample
from mipkd_plugin.preparation.pairs import prepare

Make = Callable[..., dict[str, Any]]


def flip_a_bit(path: Path) -> None:
    """Damage a PNG so that its chunks are still whole."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def check(opt: dict[str, Any], folder: Path, *arguments: str) -> int:
    return mipkd_main(['check', '-opt', str(write_options(opt, folder / 'x.yml')), *arguments])


# ----------------------------------------------------------------------------------------------------- --decode
@pytest.mark.parametrize('compare', [False, True])
def test_decode_finds_damaged_pixels(train_options: Make, image_pairs: Path, compare: bool,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    opt = comparison_options(train_options()) if compare else train_options()
    assert check(opt, image_pairs, '--decode') == 0
    printed = capsys.readouterr()
    assert '  note     all 8 images were decoded\n' in printed.out
    assert 'decode: 100%' in printed.err
    flip_a_bit(image_pairs / 'LRbicx2' / '2.png')
    assert check(opt, image_pairs) == 0
    assert check(opt, image_pairs, '--decode') == 2
    message = capsys.readouterr().err
    assert (f'): 1 of 8 images cannot be decoded: {image_pairs}/LRbicx2/2.png is damaged between bytes') in message
    assert [line.split()[1] for line in message.splitlines() if 'cannot be decoded' in line] == ['datasets.train',
                                                                                                'datasets.val']
    assert '-> restore them, or remove them together with their partners' in message


def test_decode_names_up_to_twenty(train_options: Make, image_pairs: Path) -> None:
    for folder in ('HR', 'LRbicx2'):
        for index in range(4, 30):
            shutil.copy(image_pairs / folder / '0.png', image_pairs / folder / f'{index}.png')
    for index in range(4, 30):
        flip_a_bit(image_pairs / 'HR' / f'{index}.png')
    with pytest.raises(config.OptionError) as caught:
        decode_images(train_options())
    assert str(caught.value).count('HR/') == 2 * 20
    assert 'and 6 more' in str(caught.value)


def test_decode_reads_lmdbs_lists_and_other_data_sets(train_options: Make, image_pairs: Path) -> None:
    for name in ('HR', 'LRbicx2'):
        make_lmdb_from_imgs(str(image_pairs / name), f'{image_pairs}/{name}.lmdb', [f'{i}.png' for i in range(4)],
                            list('0123'))
    opt = train_options()
    opt['datasets']['train'].update(io_backend={'type': 'lmdb'}, dataroot_gt=f'{image_pairs}/HR.lmdb',
                                    dataroot_lq=f'{image_pairs}/LRbicx2.lmdb')
    (image_pairs / 'list.txt').write_text('0.png\n1.png\n')
    opt['datasets']['val']['meta_info_file'] = str(image_pairs / 'list.txt')
    flip_a_bit(image_pairs / 'HR' / '3.png')  # not on the list
    assert decode_images(opt) == 8 + 4
    opt['datasets']['val'] = {'name': 'x', 'type': 'SingleImageDataset', 'dataroot_lq': str(image_pairs / 'LRbicx2'),
                              'io_backend': {'type': 'disk'}}
    assert decode_images(opt) == 8 + 4
    with lmdb.open(f'{image_pairs}/HR.lmdb') as environment, environment.begin(write=True) as transaction:
        value = bytearray(transaction.get(b'1'))
        value[len(value) // 2] ^= 1
        transaction.put(b'1', bytes(value))
    flip_a_bit(image_pairs / 'LRbicx2' / '3.png')
    with pytest.raises(config.OptionError) as caught:
        decode_images(opt)
    assert f'1 of {image_pairs}/HR.lmdb is damaged' in str(caught.value)
    assert f'datasets.val: 1 of 4 images cannot be decoded: {image_pairs}/LRbicx2/3.png' in str(caught.value)


def test_training_stops_with_one_message(train_options: Make, image_pairs: Path, monkeypatch: pytest.MonkeyPatch,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    """The check trusts the header; the training says which file it is."""
    monkeypatch.chdir(image_pairs)
    flip_a_bit(image_pairs / 'HR' / '2.png')
    opt = train_options()
    opt['datasets']['train']['prefetch_mode'] = 'cpu'
    path = write_options(opt, image_pairs / 'x.yml')
    assert train(path) == 1
    message = capsys.readouterr().err
    assert f'{image_pairs}/HR/2.png is damaged between bytes' in message
    assert 'mipkd check --decode -opt FILE.yml finds all images of this kind' in message
    assert 'Traceback' not in message


# ------------------------------------------------------------------------------------------------- no false alarms
def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def exif_chunk(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return chunk(b'eXIf', exif.tobytes().removeprefix(b'Exif\0\0'))


def smooth(height: int, width: int, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def test_huge_images_pass_the_check(tmp_path: Path) -> None:
    """14000×13000 pixels: more than Pillow opens by itself."""
    for name, width, height in (('HR', 14000, 13000), ('LR', 7000, 6500)):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'a.png').write_bytes(
            b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)) +
            chunk(b'IDAT', b'') + chunk(b'IEND', b''))
    options = {'dataroot_gt': str(tmp_path / 'HR'), 'dataroot_lq': str(tmp_path / 'LR'), 'io_backend': {'type': 'disk'}}
    ctx = Context({'scale': 2}, is_train=True)
    assert check_image_pairs(ctx, 'datasets.train', options) == 1
    assert ctx.problems == []


@pytest.mark.parametrize('orientation', [2, 3, 6, 8])
@pytest.mark.parametrize('of_lr', ['as read', 'as stored', 'turned too'])
def test_only_an_orientation_that_spoils_a_pair_is_refused(train_options: Make, image_pairs: Path, orientation: int,
                                                           of_lr: str) -> None:
    data = bytes(cv2.imencode('.png', smooth(48, 48))[1])
    data = data[:33] + exif_chunk(orientation) + data[33:]
    (image_pairs / 'HR' / '1.png').write_bytes(data)
    flags = cv2.IMREAD_COLOR | (0 if of_lr == 'as read' else cv2.IMREAD_IGNORE_ORIENTATION)
    lr = bytes(cv2.imencode('.png', bicubic_downsample(cv2.imread(str(image_pairs / 'HR' / '1.png'), flags), 2))[1])
    (image_pairs / 'LRbicx2' / '1.png').write_bytes(lr if of_lr != 'turned too' else
                                                    lr[:33] + exif_chunk(orientation) + lr[33:])
    found = config.check_options(train_options(), is_train=True).problems
    assert [problem.where for problem in found] == (['datasets.train', 'datasets.val'] if of_lr == 'as stored' else [])


@pytest.mark.parametrize('ending', ['', '.lmdb'])
@pytest.mark.parametrize('kind', ['before', 'behind', 'jpg'])
def test_prepare_turns_once(tmp_path: Path, kind: str, ending: str) -> None:
    """A square image with orientation 6 trains upright, and fits its LR image; no orientation is left."""
    (tmp_path / 'hr').mkdir()
    path = tmp_path / 'hr' / ('a.jpg' if kind == 'jpg' else 'a.png')
    data = bytes(cv2.imencode('.png', smooth(48, 48))[1])
    if kind == 'jpg':
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(smooth(48, 48)[..., ::-1].copy()).save(path, exif=exif)
    else:
        place = 33 if kind == 'before' else -12
        path.write_bytes(data[:place] + exif_chunk(6) + data[place:])
    upright = cv2.rotate(cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION),
                         cv2.ROTATE_90_CLOCKWISE)
    made = prepare(tmp_path / 'hr', 2, tmp_path / 'out', lmdb=bool(ending))
    sample = build_dataset({'type': 'PairedImageDataset', 'name': 'x', 'scale': 2, 'phase': 'val',
                            'dataroot_gt': str(made.hr), 'dataroot_lq': str(made.lr),
                            'io_backend': {'type': 'lmdb' if ending else 'disk'}})[0]
    gt, lq = (np.rint(sample[key].numpy().transpose(1, 2, 0)[:, :, ::-1] * 255).astype(np.uint8)
              for key in ('gt', 'lq'))
    assert np.array_equal(gt, upright)
    assert np.array_equal(lq, bicubic_downsample(upright, 2))
    if not ending:
        assert b'eXIf' not in (made.hr / 'a.png').read_bytes()


def test_what_basicsr_leaves_out_is_noted(train_options: Make, image_pairs: Path,
                                          capsys: pytest.CaptureFixture[str]) -> None:
    (image_pairs / 'HR' / 'more').mkdir()
    (image_pairs / 'HR' / 'empty').mkdir()
    shutil.copy(image_pairs / 'HR' / '0.png', image_pairs / 'HR' / 'more' / '9.png')
    assert check(train_options(), image_pairs) == 0
    assert ('  note     datasets.train.dataroot_gt: BasicSR reads no subfolders, and leaves out the images in '
            f'{image_pairs}/HR/more\n') in capsys.readouterr().out
