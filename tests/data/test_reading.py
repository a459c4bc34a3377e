"""Reading images: headers without pixels, orientations as OpenCV applies them, errors that name the file."""

from __future__ import annotations

import io
import os
import random
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import cv2
import lmdb
import numpy as np
import pytest
import torch
from basicsr.data import build_dataloader, build_dataset
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from PIL import Image
from real_world import KERNELS
from torch.utils.data import DataLoader

import mipkd_plugin.version
from mipkd_plugin.data.headers import BrokenImageError, Header, header_of_bytes, header_of_file
from mipkd_plugin.data.reading import ImageError, apply, decode
from mipkd_plugin.data.stores import lmdb_at
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.lmdb_files import damage_of

IMAGE = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)


def png(image: np.ndarray = IMAGE) -> bytes:
    return bytes(cv2.imencode('.png', image)[1])


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def exif(orientation: int) -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = orientation
    return found


def with_orientation(orientation: int, kind: str, image: np.ndarray = IMAGE) -> bytes:
    """An image file whose EXIF data turn it; in a PNG they stand before or behind the pixels."""
    body = exif(orientation).tobytes().removeprefix(b'Exif\0\0')
    if kind == 'before':
        return png(image)[:33] + chunk(b'eXIf', body) + png(image)[33:]
    if kind == 'behind':
        return png(image)[:-12] + chunk(b'eXIf', body) + png(image)[-12:]
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[..., ::-1])).save(file, kind, exif=exif(orientation))
    return file.getvalue()


def as_read(data: bytes) -> np.ndarray:
    """The image as BasicSR decodes it."""
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)


# ------------------------------------------------------------------------------------------------------- headers
@pytest.mark.parametrize('kind', ['before', 'behind', 'JPEG', 'TIFF', 'WEBP'])
def test_headers_agree_with_opencv_about_orientations(kind: str, tmp_path: Path) -> None:
    for orientation in range(10):  # 0 and 9 mean nothing
        data = with_orientation(orientation, kind)
        (tmp_path / 'x').write_bytes(data)
        found = header_of_file(tmp_path / 'x')
        assert found == header_of_bytes(data)
        assert (found.height, found.width) == as_read(data).shape[:2], orientation
        assert found.orientation == (orientation if 1 <= orientation <= 8 else 1)


def test_metadata_that_opencv_ignores_turns_nothing() -> None:
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<x:xmpmeta xmlns:x="adobe:ns:meta/"><r tiff:Orientation="6"/></x:xmpmeta>'
    raw = exif(6).tobytes()
    raw = b'Raw profile type exif\0\0' + zlib.compress(b'\nexif\n%8d\n' % len(raw) + raw.hex().encode() + b'\n')
    for kind, content in ((b'iTXt', xmp), (b'zTXt', raw)):
        data = png()[:33] + chunk(kind, content) + png()[33:]
        found = header_of_bytes(data)
        assert (found.height, found.width, found.orientation) == (12, 20, 1)
        assert as_read(data).shape == IMAGE.shape


def test_a_huge_png_has_a_header(tmp_path: Path) -> None:
    """Larger than Pillow's bomb limit, which would refuse it; a PNG and a BMP of 14000×13000."""
    start = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', 14000, 13000, 8, 2, 0, 0, 0))
    data = start + chunk(b'IDAT', b'') + chunk(b'IEND', b'')
    assert header_of_bytes(data) == Header(13000, 14000)
    bmp = b'BM' + struct.pack('<IHHI', 54, 0, 0, 54)
    bmp += struct.pack('<IiiHHIIiiII', 40, 14000, 13000, 1, 24, 0, 0, 0, 0, 0, 0)
    before = Image.MAX_IMAGE_PIXELS
    assert header_of_bytes(bmp)[:2] == (13000, 14000)
    assert before == Image.MAX_IMAGE_PIXELS
    large = data.replace(struct.pack('>II', 14000, 13000), struct.pack('>II', 50000, 40000))
    with pytest.raises(BrokenImageError, match='has 50000×40000 pixels, and OpenCV reads 1,073,741,824 at most'):
        header_of_bytes(large)


HALF = len(png()) // 2
BROKEN: list[tuple[bytes, str]] = [
    (b'', 'is empty'),
    (bytes(500), 'is empty: 500 bytes, all zero'),
    (b'text', 'is not an image'),
    (png()[:HALF], f'is cut short after {HALF} bytes'),
    (png()[:-1], f'is cut short after {len(png()) - 1} bytes'),
    (png()[:-12], f'is cut short after {len(png()) - 12} bytes'),
    (png()[:HALF] + bytes(len(png()) - HALF), f'is damaged from byte {len(png()) - 12} of {len(png())}'),
    (png()[:8] + png()[33:], 'is damaged: a PNG must begin with its size'),
    (png()[:33] + png()[-12:], 'is damaged: a PNG without pixels'),
    (png()[:16] + bytes(8) + png()[24:], 'is damaged: it has 0×0 pixels'),
]


@pytest.mark.parametrize(('data', 'reason'), BROKEN, ids=[reason for _, reason in BROKEN])
def test_broken_files_are_noticed_by_their_header(data: bytes, reason: str, tmp_path: Path) -> None:
    (tmp_path / 'x').write_bytes(data)
    for read in (lambda: header_of_file(tmp_path / 'x'), lambda: header_of_bytes(data), lambda: decode(data)):
        with pytest.raises(BrokenImageError) as caught:
            read()
        assert str(caught.value) == reason


@pytest.mark.parametrize('kind', ['PNG', 'JPEG', 'BMP', 'TIFF', 'WEBP'])
def test_decoding_notices_what_the_header_does_not(kind: str) -> None:
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, kind)
    data = file.getvalue()
    assert np.array_equal(decode(data), as_read(data))
    spoiled = [data[:len(data) * 3 // 4]]
    if kind == 'PNG':
        spoiled += [data[:HALF] + bytes([data[HALF] ^ 1]) + data[HALF + 1:]]
    for bad in spoiled:
        with pytest.raises(BrokenImageError):
            decode(bad)


# --------------------------------------------------------------------------------------------------------- errors
def options(folder: Path, phase: str = 'train', **more: Any) -> dict[str, Any]:
    return {'name': 'x', 'type': 'PairedImageDataset', 'phase': phase, 'scale': 2, 'dataroot_gt': f'{folder}/HR',
            'dataroot_lq': f'{folder}/LRbicx2', 'io_backend': {'type': 'disk'}, 'gt_size': 16, 'use_hflip': False,
            'use_rot': False, 'num_worker_per_gpu': 0, 'batch_size_per_gpu': 1, **more}


def as_lmdb(folder: Path) -> dict[str, Any]:
    for name in ('HR', 'LRbicx2'):
        make_lmdb_from_imgs(str(folder / name), f'{folder}/{name}.lmdb', [f'{i}.png' for i in range(4)], list('0123'))
    return {'dataroot_gt': f'{folder}/HR.lmdb', 'dataroot_lq': f'{folder}/LRbicx2.lmdb', 'io_backend': {'type': 'lmdb'}}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def test_the_repair_is_made_once() -> None:
    assert apply() is False
    assert issubclass(ImageError, MipkdError)


@pytest.mark.parametrize('workers', ['none', 'fork', 'spawn', 'prefetch'])
def test_a_damaged_image_is_named_in_training(image_pairs: Path, workers: str, monkeypatch) -> None:
    # a spawned worker imports the main module again, and that of our commands imports mipkd_plugin
    monkeypatch.setitem(sys.modules, '__main__', mipkd_plugin.version)
    cut(image_pairs / 'LRbicx2' / '2.png')
    dataset = build_dataset(options(image_pairs))
    if workers == 'prefetch':
        loader = build_dataloader(dataset, options(image_pairs, prefetch_mode='cpu'))
    else:
        extra = {} if workers == 'none' else {'num_workers': 1, 'multiprocessing_context': workers}
        loader = DataLoader(dataset, **extra)
    with pytest.raises(ImageError) as caught:
        list(loader)
    assert str(caught.value) == (
        f'{image_pairs}/LRbicx2/2.png is cut short after 1,000 bytes; restore the image, or remove it together with '
        'its partner; mipkd check --decode -opt FILE.yml finds all images of this kind')


def test_damaged_and_missing_entries_of_an_lmdb_are_named(image_pairs: Path) -> None:
    more = as_lmdb(image_pairs)
    with lmdb.open(more['dataroot_lq']) as environment, environment.begin(write=True) as transaction:
        transaction.put(b'1', transaction.get(b'1')[:-100])
        transaction.delete(b'2')
    dataset = build_dataset(options(image_pairs, **more))
    with pytest.raises(ImageError, match=r'^1 of .*/LRbicx2\.lmdb is cut short after .*; create the LMDB again '
                                         'with mipkd prepare --lmdb; mipkd check --decode'):
        dataset[1]
    with pytest.raises(ImageError, match=r'^.*/LRbicx2\.lmdb has no image .2.; create it again'):
        dataset[2]
    assert dataset[3]['lq'].shape == (3, 8, 8)


def test_two_data_sets_may_read_one_lmdb(image_pairs: Path) -> None:
    """As training and validation do in one process; LMDB itself refuses to be opened twice."""
    more = as_lmdb(image_pairs)
    train, val = build_dataset(options(image_pairs, **more)), build_dataset(options(image_pairs, 'val', **more))
    assert train[0]['gt'].shape == (3, 16, 16)
    assert val[0]['gt'].shape == (3, 48, 48)
    with lmdb_at(Path(more['dataroot_gt'])) as environment:  # and so may the check
        assert environment.stat()['entries'] == 4
    assert len(list(DataLoader(val, num_workers=1, multiprocessing_context='fork'))) == 4
    del train
    assert val[3]['gt'].shape == (3, 48, 48)
    del val, environment
    with lmdb.open(more['dataroot_gt']) as environment:  # closed, as nobody uses it
        assert environment.stat()['entries'] == 4


def test_sizes_that_do_not_fit_are_named(image_pairs: Path) -> None:
    cv2.imwrite(str(image_pairs / 'HR' / '1.png'), np.zeros((46, 48, 3), np.uint8))
    cv2.imwrite(str(image_pairs / 'HR' / '2.png'), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(image_pairs / 'LRbicx2' / '2.png'), np.zeros((4, 4, 3), np.uint8))
    for phase, index, message in (
            ('train', '1', 'Scale mismatches. GT (46, 48) is not 2x multiplication of LQ (24, 24).'),
            ('train', '2', 'LQ (4, 4) is smaller than patch size (8, 8).'),
            ('val', '1', 'do not fit: LR 24×24 needs HR 48×48 for scale 2, and HR has only 46×48')):
        dataset = build_dataset(options(image_pairs, phase))
        place = next(i for i, paths in enumerate(dataset.paths) if paths['gt_path'].endswith(f'{index}.png'))
        with pytest.raises(ImageError) as caught:
            dataset[place]
        assert message in str(caught.value)
        assert f'{image_pairs}/HR/{index}.png and {image_pairs}/LRbicx2/{index}.png' in str(caught.value)
    (image_pairs / 'HR' / '2.png').unlink()
    with pytest.raises(ImageError, match=r'HR/2\.png cannot be read: No such file'):
        [dataset[i] for i in range(4) if dataset.paths[i]['gt_path'].endswith('2.png')]


def test_single_images_are_named_too(image_pairs: Path) -> None:
    cut(image_pairs / 'LRbicx2' / '2.png')
    dataset = build_dataset({'name': 'x', 'type': 'SingleImageDataset', 'phase': 'test', 'scale': 2,
                             'dataroot_lq': f'{image_pairs}/LRbicx2', 'io_backend': {'type': 'disk'}})
    assert isinstance(dataset[0]['lq'], torch.Tensor)
    with pytest.raises(ImageError, match=r'LRbicx2/2\.png is cut short'):
        dataset[2]


@pytest.mark.parametrize(('kind', 'along'), [
    ('SingleImageDataset', ''), ('RealESRGANDataset', ' and its line of meta_info'),
    ('RealESRGANCropDataset', ' and its line of meta_info'), ('RealESRGANPairedDataset', ' together with its partner')])
def test_what_to_remove_with_a_damaged_image(image_pairs: Path, kind: str, along: str) -> None:
    cut(image_pairs / 'HR' / '2.png')
    roots = {'dataroot_lq' if kind == 'SingleImageDataset' else 'dataroot_gt': f'{image_pairs}/HR'}
    if kind == 'RealESRGANPairedDataset':
        roots['dataroot_lq'] = f'{image_pairs}/LRbicx2'
    else:
        (image_pairs / 'list.txt').write_text('0.png\n1.png\n2.png\n')
        roots['meta_info'] = f'{image_pairs}/list.txt'
    opt = {**KERNELS, 'name': 'x', 'type': kind, 'phase': 'train', 'scale': 2, 'gt_size': 16, 'use_hflip': False,
           'use_rot': False, 'io_backend': {'type': 'disk'}, 'crop_size': 16, **roots}
    dataset = build_dataset(opt)
    for number in (0, 1):
        dataset[number]
    with pytest.raises(ImageError) as caught:
        dataset[2]
    assert str(caught.value).endswith(f'; restore the image, or remove it{along}; mipkd check --decode -opt FILE.yml '
                                      'finds all images of this kind')


# ------------------------------------------------------------------------------------------------ files of LMDBs
def test_a_cut_lmdb_is_noticed_without_opening_it(image_pairs: Path) -> None:
    as_lmdb(image_pairs)
    folder, size = image_pairs / 'HR.lmdb', (image_pairs / 'HR.lmdb' / 'data.mdb').stat().st_size
    assert damage_of(folder) == ''
    for length in (size * 3 // 4, size // 2, 5000):
        os.truncate(folder / 'data.mdb', length)
        assert damage_of(folder) == f'data.mdb is cut short: it has {length:,d} of {size:,d} bytes'
    for data in (b'', b'text', bytes(9000)):
        (folder / 'data.mdb').write_bytes(data)
        assert damage_of(folder) == 'data.mdb is not the file of an LMDB'


def test_an_lmdb_that_ends_in_unused_pages_is_in_order(tmp_path: Path) -> None:
    """LMDB does not write pages that the transaction has given back: its file may be shorter than its last page."""
    shorter = 0
    for seed in (293, 317, 339):
        numbers, folder = random.Random(seed), tmp_path / f'{seed}.lmdb'
        with lmdb.open(str(folder), map_size=2**24) as environment:
            for _ in range(3):
                with environment.begin(write=True) as transaction:
                    for _ in range(numbers.randint(1, 30)):
                        key = b'%d' % numbers.randint(0, 20)
                        if numbers.random() < 0.3:
                            transaction.delete(key)
                        else:
                            transaction.put(key, bytes(numbers.randint(1, 30000)))
        with lmdb.open(str(folder), readonly=True, lock=False) as environment:
            shorter += (environment.info()['last_pgno'] + 1) * 4096 > (folder / 'data.mdb').stat().st_size
        assert damage_of(folder) == ''
    assert shorter, 'the case that this test is about'
