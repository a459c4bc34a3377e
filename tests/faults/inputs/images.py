"""Images that are damaged, turned, of another size, or not there; LMDBs that do not hold what they list."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import lmdb
import numpy as np
from basicsr.utils.lmdb_util import make_lmdb_from_imgs

from faults.harness import BadInput

VAL = {'datasets.val.dataroot_gt': 'val/HR', 'datasets.val.dataroot_lq': 'val/LRbicx2'}
LMDB = {**VAL, 'datasets.train.io_backend': {'type': 'lmdb'}, 'datasets.train.dataroot_gt': 'HR.lmdb',
        'datasets.train.dataroot_lq': 'LRbicx2.lmdb'}


def both(folder: Path) -> None:
    """Keep images that are in order for the validation."""
    for name in ('HR', 'LRbicx2'):
        shutil.copytree(folder / name, folder / 'val' / name)


def spoiled(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """Spoil the images of the training alone."""
    def work(folder: Path) -> None:
        both(folder)
        spoil(folder)

    return work


def of_lmdb(spoil: Callable[[Path], object]) -> Callable[[Path], None]:
    """Make LMDBs, then spoil them."""
    def work(folder: Path) -> None:
        both(folder)
        for name in ('HR', 'LRbicx2'):
            make_lmdb_from_imgs(str(folder / name), f'{folder}/{name}.lmdb', [f'{i}.png' for i in range(4)],
                                list('0123'))
        spoil(folder)

    return work


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the content of an image."""
    def work(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return work


def image(name: str, height: int, width: int) -> Callable[[Path], object]:
    """Replace an image by a black one of another size."""
    return lambda folder: cv2.imwrite(str(folder / name), np.zeros((height, width, 3), np.uint8))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


ORIENTATION_6 = chunk(b'eXIf', b'MM\0*' + struct.pack('>IHHHIHHI', 8, 1, 0x0112, 3, 1, 6, 0, 0))


def turned(data: bytes) -> bytes:
    """A PNG that says behind its pixels that they are to be turned."""
    return data[:-12] + ORIENTATION_6 + data[-12:]


def many(folder: Path) -> None:
    """1,100 pairs, of which the last does not fit."""
    for index in range(4, 1100):
        for name in ('HR', 'LRbicx2'):
            os.link(folder / name / '0.png', folder / name / f'{index:04d}.png')
    (folder / 'LRbicx2' / '1099.png').unlink()
    image('LRbicx2/1099.png', 24, 23)(folder)


def oblong_turned(folder: Path) -> None:
    cv2.imwrite(str(folder / 'HR' / '1.png'), np.zeros((32, 48, 3), np.uint8))
    cv2.imwrite(str(folder / 'LRbicx2' / '1.png'), np.zeros((16, 24, 3), np.uint8))
    rewrite('HR/1.png', turned)(folder)


def other_ending(folder: Path) -> None:
    for path in list((folder / 'LRbicx2').iterdir()):
        path.rename(path.with_suffix('.bmp'))


def only_inside(folder: Path) -> None:
    (folder / 'HR').rename(folder / 'old')
    (folder / 'HR').mkdir()
    (folder / 'old').rename(folder / 'HR' / 'train')


def put(name: str, key: bytes, change: Callable[[bytes], bytes | None]) -> Callable[[Path], None]:
    """Change an entry of an LMDB, or take it out."""
    def work(folder: Path) -> None:
        with lmdb.open(str(folder / name)) as environment, environment.begin(write=True) as transaction:
            value = change(transaction.get(key))
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)

    return work


def cut_to_half(folder: Path) -> None:
    data = folder / 'HR.lmdb' / 'data.mdb'
    os.truncate(data, data.stat().st_size // 2)


def listing(text: str | bytes) -> Callable[[Path], object]:
    """Write a ``meta_info_file``."""
    return spoiled(lambda folder: (folder / 'list.txt').write_bytes(text if isinstance(text, bytes) else text.encode()))


def renamed_key(folder: Path) -> None:
    put('HR.lmdb', b'9', lambda value: b'x')(folder)
    put('HR.lmdb', b'3', lambda value: None)(folder)


def listed_otherwise(folder: Path) -> None:
    path = folder / 'LRbicx2.lmdb' / 'meta_info.txt'
    path.write_text(path.read_text().replace('2.png (24,24,3)', '2.png (24,23,3)'))



LISTED = {**VAL, 'datasets.train.meta_info_file': 'list.txt'}
TRAIN = 'datasets.train'

CASES = [
    BadInput('PNG cut to half', TRAIN, ('cannot be read as images: ', 'LRbicx2/2.png is cut short after ',
                                        'restore them, or remove them together with their partners'),
             VAL, spoiled(rewrite('LRbicx2/2.png', lambda data: data[:len(data) // 2])), remedy=False),
    BadInput('PNG without its last byte', TRAIN, ('HR/2.png is cut short or overwritten at its end (', ),
             VAL, spoiled(rewrite('HR/2.png', lambda data: data[:-1])), remedy=False),
    BadInput('PNG that is all zero', TRAIN, ('HR/0.png is empty: ', ' bytes, all zero'),
             VAL, spoiled(rewrite('HR/0.png', lambda data: bytes(len(data)))), remedy=False),
    BadInput('PNG whose second half is zero', TRAIN, ('HR/3.png is cut short or overwritten at its end (', ),
             VAL, spoiled(rewrite('HR/3.png', lambda data: data[:len(data) // 2] + bytes(len(data) - len(data) // 2))),
             remedy=False),
    BadInput('PNG of no bytes', TRAIN, ('HR/3.png is empty', ), VAL, spoiled(rewrite('HR/3.png', lambda data: b'')),
             remedy=False),
    BadInput('PNG that is a web page', TRAIN, ('HR/3.png is not an image', ), VAL,
             spoiled(rewrite('HR/3.png', lambda data: b'<!DOCTYPE html>')), remedy=False),
    BadInput('PNG that is too large for OpenCV', TRAIN, ('HR/3.png has 50000×40000 pixels, and OpenCV reads', ), VAL,
             spoiled(rewrite('HR/3.png', lambda data: data[:16] + struct.pack('>II', 50000, 40000) + data[24:])),
             remedy=False),
    BadInput('pair of another size at place 1,100', TRAIN,
             ('scale 2 does not fit 1 of 1100 pairs, first 1099.png: HR 48×48, LR 24×23', ), VAL, spoiled(many),
             remedy=False),
    BadInput('square HR image that reading turns', TRAIN,
             ('HR/1.png: the HR image has the EXIF orientation 6, the LR image 1', 'they no longer match',
              'make both with mipkd prepare'), VAL, spoiled(rewrite('HR/1.png', turned)), remedy=False),
    BadInput('oblong HR image that reading turns', TRAIN,
             ('first 1.png: HR 48×32 (turned by its EXIF orientation 6), LR 16×24', ), VAL, spoiled(oblong_turned),
             remedy=False),
    BadInput('LR images of another ending', f'{TRAIN}.dataroot_lq',
             ('the LR images end in .bmp, and BasicSR wants the ending of the HR image', ), VAL, spoiled(other_ending),
             remedy=False),
    BadInput('images only in a subfolder', f'{TRAIN}.dataroot_gt',
             ('holds no images (sub-folders are not searched)', 'name the folder that holds the images: ', 'HR/train'),
             VAL, spoiled(only_inside)),
    BadInput('list with a blank line', f'{TRAIN}.meta_info_file', ('has no name in line 2', 'delete the blank lines'),
             LISTED, listing('0.png\n\n1.png\n'), remedy=False),
    BadInput('list without a line', f'{TRAIN}.meta_info_file', ('list.txt is empty', 'or remove meta_info_file'),
             LISTED, listing('')),
    BadInput('list that is no text', f'{TRAIN}.meta_info_file', ('list.txt cannot be read as text', ),
             LISTED, listing(b'\xff\xfe\x00'), remedy=False),
    BadInput('list in the home folder', f'{TRAIN}.meta_info_file', ('BasicSR does not replace ~ in this path', ),
             {**VAL, f'{TRAIN}.meta_info_file': '~/list.txt'},
             spoiled(lambda folder: (folder / 'home' / 'list.txt').write_text('0.png\n1.png\n'))),
    BadInput('LMDB cut to half', f'{TRAIN}.dataroot_gt',
             ('HR.lmdb is damaged: data.mdb is cut short: it has ',
              'delete the LMDB and create it again: mipkd prepare'),
             LMDB, of_lmdb(cut_to_half), remedy=False),
    BadInput('LMDB that is none', f'{TRAIN}.dataroot_lq', ('data.mdb is not the file of an LMDB', ), LMDB,
             of_lmdb(rewrite('LRbicx2.lmdb/data.mdb', lambda data: bytes(len(data)))), remedy=False),
    BadInput('LMDB with a slash', f'{TRAIN}.dataroot_gt', ('HR.lmdb/ must end in .lmdb for BasicSR', ),
             {**LMDB, f'{TRAIN}.dataroot_gt': 'HR.lmdb/'}, of_lmdb(lambda folder: None)),
    BadInput('LMDB with an entry that is cut short', TRAIN, ('1 of ', 'HR.lmdb is cut short after '),
             LMDB, of_lmdb(put('HR.lmdb', b'1', lambda value: value[:-50])), remedy=False),
    BadInput('LMDB that lists another size', f'{TRAIN}.dataroot_lq',
             ('meta_info.txt lists 2 as 24×23, and it is 24×24', ), LMDB, of_lmdb(listed_otherwise), remedy=False),
    BadInput('LMDB that lists another key', f'{TRAIN}.dataroot_gt', ('HR.lmdb lists 3, and does not hold it', ), LMDB,
             of_lmdb(renamed_key), remedy=False),
    BadInput('LMDB whose image is turned', f'{TRAIN}', ('1 of ', 'the HR image has the EXIF orientation 6'), LMDB,
             of_lmdb(put('HR.lmdb', b'1', lambda value: value[:33] + ORIENTATION_6 + value[33:])), remedy=False),
]
