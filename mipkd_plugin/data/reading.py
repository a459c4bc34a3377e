"""Reading images: a file that cannot be decoded is an error with its path or LMDB key, in worker processes too.

BasicSR hands the bytes of a file to OpenCV, which returns None for an image that is cut short or overwritten; the
training then ends in ``'NoneType' object has no attribute 'astype'`` (no BasicSR issue known). Its data set for
real-world SR takes another image at random where one cannot be opened. :func:`apply` repairs ``FileClient``,
``LmdbBackend``, ``imfrombytes`` and the data sets of pairs and of single images.
"""

from __future__ import annotations

import functools
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import basicsr.utils.img_util as img_util
import cv2
import numpy as np
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.data.realesrgan_dataset import RealESRGANDataset
from basicsr.data.realesrgan_paired_dataset import RealESRGANPairedDataset
from basicsr.data.single_image_dataset import SingleImageDataset
from basicsr.utils.file_client import FileClient, LmdbBackend
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from mipkd_plugin.data.headers import PNG, BrokenImageError, Header, any_size, check_png_sums, header_of_bytes
from mipkd_plugin.data.stores import shared_lmdb
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.replacing import replace_everywhere

_FIND = 'mipkd check --decode -opt FILE.yml finds all images of this kind'
_ALONG: ContextVar[str] = ContextVar('_ALONG', default='')
"""What a data set, while it reads a sample, wants removed along with an image."""
_PAUSE = 1.0  # seconds; BasicSR waits as long
_CHANNELS = {'color': (3, ), 'grayscale': ()}


class ImageError(MipkdError):
    """An image of a data set cannot be used; the message has its path, or its key and LMDB.

    Args:
        message: The message. If a worker process of a data loader raised the error, PyTorch puts its traceback in front
            of the message; it is taken away again.
    """

    of_one_rank = True

    def __init__(self, message: str) -> None:
        super().__init__(message.rpartition(f'{type(self).__name__}: ')[2].strip())


class _Content(bytes):
    """The content of a file, which knows where it comes from."""

    origin = 'an image'
    in_lmdb = False


def whole_header(data: bytes) -> Header:
    """Read the header of an image, and notice all damage that can be noticed without OpenCV.

    Args:
        data: The content of the file.

    Returns:
        Its header.

    Raises:
        BrokenImageError: The image is cut short or damaged.
    """
    header = header_of_bytes(data)
    if data.startswith(PNG):
        check_png_sums(data)
    elif header.format == 'JPEG':  # OpenCV 4 fills the missing part of a JPEG with gray
        try:
            with any_size(), Image.open(io.BytesIO(data)) as opened:
                opened.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise BrokenImageError(f'cannot be decoded ({error})') from None
    return header


def decode(data: bytes) -> NDArray[np.uint8]:
    """Decode an image as training does, and notice all damage that can be noticed.

    Args:
        data: The content of the file.

    Returns:
        (H, W, 3), BGR, turned by its EXIF orientation.

    Raises:
        BrokenImageError: The image is cut short, damaged, or decoded to another size than its header says.
    """
    header = whole_header(data)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise BrokenImageError('cannot be decoded: it is damaged, or no image that OpenCV reads')
    if image.shape != (header.height, header.width, 3):
        raise BrokenImageError(f'has {header.width}×{header.height} pixels by its header, but decodes to '
                          f'{image.shape[1]}×{image.shape[0]}')
    return image.astype(np.uint8, copy=False)


def _reason(data: bytes) -> str:
    """Why OpenCV did not decode an image."""
    try:
        decode(data)
    except BrokenImageError as error:
        return str(error)
    return 'was not decoded; is there enough memory?'


def _remedy(content: Any) -> str:
    """What to do about an image that cannot be used."""
    if getattr(content, 'in_lmdb', False):
        return f'create the LMDB again with mipkd prepare --lmdb; {_FIND}'
    return f'restore the image, or remove it{_ALONG.get()}; {_FIND}'


def _name_files(original: Callable[..., Any]) -> Callable[..., Any]:
    """``FileClient.get`` whose result knows its origin, and which refuses a key that an LMDB does not hold."""
    @functools.wraps(original)
    def get(self: Any, filepath: Any, client_key: str = 'default') -> Any:
        content, origin = _content(original, self, filepath, client_key), str(filepath)
        if self.backend == 'lmdb':
            lmdb = self.client._client[client_key].path()
            if content is None:
                raise ImageError(f'{lmdb} has no image {origin!r}; create it again with mipkd prepare --lmdb')
            origin = f'{origin} of {lmdb}'
        if isinstance(content, bytes):
            content = _Content(content)
            content.origin, content.in_lmdb = origin, self.backend == 'lmdb'
        return content

    return get


def _content(original: Callable[..., Any], client: Any, filepath: Any, client_key: str) -> Any:
    """Read a file; try again if a busy disk does not answer. ``RealESRGANDataset`` would take another image instead."""
    for tries_left in (2, 1, 0):
        try:
            return original(client, filepath, client_key)
        except OSError as error:
            if tries_left == 0 or isinstance(error, (FileNotFoundError, PermissionError, IsADirectoryError)):
                raise ImageError(f'{error.filename or filepath} cannot be read: {error.strerror or error}') from None
            time.sleep(_PAUSE)
    return None


def _share(original: Callable[..., Any]) -> Callable[..., Any]:
    """``LmdbBackend`` that two data sets of one process may use on one LMDB, as for training and validation."""
    # LMDB refuses to be opened twice in a process, and BasicSR does it at the first validation (no issue known)
    @functools.wraps(original)
    def init(self: Any, db_paths: Any, client_keys: Any = 'default', readonly: bool = True, lock: bool = False,
             readahead: bool = False, **more: Any) -> None:
        paths = [str(path) for path in (db_paths if isinstance(db_paths, list) else [db_paths])]
        keys = [client_keys] if isinstance(client_keys, str) else client_keys
        if not readonly or len(keys) != len(paths):
            original(self, db_paths, client_keys, readonly, lock, readahead, **more)
            return
        self.db_paths = paths
        self._client = {key: shared_lmdb(path, readonly=True, lock=lock, readahead=readahead, **more)
                        for key, path in zip(keys, paths, strict=True)}

    return init


def _refuse_broken(original: Callable[..., Any]) -> Callable[..., Any]:
    """``imfrombytes`` that raises an error with the name of the file."""
    @functools.wraps(original)
    def imfrombytes(content: Any, flag: str = 'color', float32: bool = False) -> Any:
        try:
            image = original(content, flag, float32)
        except (AttributeError, TypeError, ValueError, cv2.error):
            image = None
        origin = getattr(content, 'origin', 'an image')
        if image is None:
            raise ImageError(f'{origin} {_reason(bytes(content))}; {_remedy(content)}')
        if image.shape[2:] != _CHANNELS.get(flag, image.shape[2:]):
            raise ImageError(f'{origin} was decoded to the shape {image.shape}, not to {flag}; {_remedy(content)}')
        return image

    return imfrombytes


@contextmanager
def _removing(along: str) -> Iterator[None]:
    """Around ``__getitem__`` of a data set: errors say what to remove along with an image."""
    token = _ALONG.set(along)
    try:
        yield
    finally:
        _ALONG.reset(token)


def _name_pairs(original: Callable[..., Any]) -> Callable[..., Any]:
    """``__getitem__`` of a data set whose errors name the files, and which refuses a pair whose sizes do not fit."""
    @functools.wraps(original)
    def getitem(self: Any, index: int) -> Any:
        try:
            sample = original(self, index)
        except ImageError:
            raise
        except OSError as error:
            raise ImageError(f'{error.filename or _files(self, index)} cannot be read: {error.strerror or error}'
                             ) from None
        except ValueError as error:
            text = ' '.join(''.join(map(str, error.args)).split())
            raise ImageError(f'{_files(self, index)} cannot be used: {text} Make both images with mipkd prepare, or '
                             'remove them') from None
        lq, gt = (sample.get(key) if isinstance(sample, dict) else None for key in ('lq', 'gt'))
        if isinstance(lq, Tensor) and isinstance(gt, Tensor):
            wanted = [side * self.opt['scale'] for side in lq.shape[-2:]]
            if list(gt.shape[-2:]) != wanted:
                raise ImageError(f'{_files(self, index)} do not fit: LR {lq.shape[-2]}×{lq.shape[-1]} needs HR '
                                 f'{wanted[0]}×{wanted[1]} for scale {self.opt["scale"]}, and HR has only '
                                 f'{gt.shape[-2]}×{gt.shape[-1]}; make both images with mipkd prepare')
        return sample

    return getitem


def _files(dataset: Any, index: int) -> str:
    """The files or keys of a sample."""
    paths, opt = dataset.paths[index], dataset.opt
    if not isinstance(paths, dict):
        return str(paths)
    if str(opt.get('dataroot_gt')).endswith('.lmdb'):
        return f'{paths["gt_path"]} of {opt["dataroot_gt"]} and of {opt["dataroot_lq"]}'
    return f'{paths["gt_path"]} and {paths["lq_path"]}'


def apply() -> bool:
    """Repair the reading of images. Does nothing the second time.

    Returns:
        Whether the repair was made.
    """
    plain = img_util.imfrombytes
    if hasattr(plain, '__wrapped__'):
        return False
    FileClient.get = _name_files(FileClient.get)
    LmdbBackend.__init__ = _share(LmdbBackend.__init__)
    pair = ' together with its partner'
    for dataset, along in ((PairedImageDataset, pair), (SingleImageDataset, ''), (RealESRGANPairedDataset, pair)):
        dataset.__getitem__ = _removing(along)(_name_pairs(dataset.__getitem__))
    RealESRGANDataset.__getitem__ = _removing(' and its line of meta_info')(RealESRGANDataset.__getitem__)
    checked = _refuse_broken(plain)
    replace_everywhere('basicsr', 'imfrombytes', plain, checked)
    return True
