"""Files of tensors: read them without running code from them, and say in plain words why one cannot be read.

Whoever else calls ``torch.load`` on a file during a command, such as BasicSR, gets the same treatment.
"""

from __future__ import annotations

import functools
import pickle
import re
import struct
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import PathLike, fsdecode, path
from pathlib import Path
from typing import TYPE_CHECKING, Any

import wrapt

from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError
from mipkd_plugin.utils.weight_bombs import packed, stretched

if TYPE_CHECKING:
    from torch import Tensor

SAVE = "torch.save({'params': net.state_dict()}, 'FILE.pth')"
"""How weights are saved, for remedies."""

_ERRORS = (*FOREIGN_ERRORS, EOFError, MemoryError, pickle.UnpicklingError, struct.error, zipfile.BadZipFile, zlib.error)
_GLOBAL = re.compile(r'(?:GLOBAL|class|instantiate|global)\s+([A-Za-z_][\w.]*\.\w+)')
_AGAIN = 'copy or download it again'
_PYTORCH = 'give the file of PyTorch that it was converted from'
_HEADS = (
    (b'version https://git-lfs', 'is a pointer of git-lfs, not the file itself', 'run: git lfs pull'),
    (b'\x1f\x8b', 'is compressed by gzip', 'unpack it, and name the file inside'),
    (b'\x89HDF', 'is a file of HDF5 (Keras), not of PyTorch', f'write it with PyTorch: {SAVE}'),
    (b'\x93NUMPY', 'is an array of NumPy, not a file of PyTorch', f'write it with PyTorch: {SAVE}'),
    *((start, 'is an image, not a file of weights', 'name the file of weights') for start in (
        b'\x89PNG', b'\xff\xd8\xff', b'GIF8', b'BM', b'II*\0', b'MM\0*')),
    (b'7767517', 'is the description of a network for ncnn, which holds no weights', _PYTORCH),
    (b'Gk0\x01', 'holds weights for ncnn, which lack their names', _PYTORCH),
)
_MAGIC = b'\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.'  # of files that PyTorch wrote before version 1.6
_LARGEST_HEADER = 10**8  # of safetensors, by its own rule


class WeightFileError(MipkdError):
    """A file of tensors cannot be read.

    Attributes:
        path: The file.
        what: What is wrong with it, as the rest of a sentence that starts with its name.
        remedy: What to do.
    """

    def __init__(self, path: str, what: str, remedy: str) -> None:
        self.path, self.what, self.remedy = path, what, remedy
        super().__init__(f'{path} {what}; {remedy}')

    def as_damage(self) -> str:
        """What is wrong with a file that this package has written itself, and that must so be damaged."""
        return self.what if self.what.startswith('is damaged') else f'is damaged: it {self.what}'


def read_tensors(file: str | Path, load: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Load a file of ``torch.save`` without running code from it.

    Args:
        file: The file.
        load: ``torch.load``, or what stands in its place.
        options: Further arguments of ``torch.load``; by default the tensors go to the CPU.

    Returns:
        The content.

    Raises:
        WeightFileError: The file cannot be read, holds more than tensors, or would take far more memory than its size
            says.
        FileNotFoundError: There is no such file.
    """
    import torch

    name = fsdecode(file)
    if not path.exists(name):
        raise FileNotFoundError(2, 'No such file', name)
    _refuse(name, packed(name))
    options = {'map_location': 'cpu', **options, 'weights_only': True, 'pickle_module': None}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            content = (load or torch.load)(name, **options)
            _refuse(name, stretched(name, content))
            return content
    except WeightFileError:
        raise
    except _errors() as error:
        what, remedy = _diagnosis(name, error)
        raise WeightFileError(name, what, remedy) from error


def _errors() -> tuple[type[BaseException], ...]:
    """The errors of a file that cannot be loaded; PyTorch hands files that end in .safetensors to that package."""
    package = sys.modules.get('safetensors')
    return _ERRORS if package is None else (*_ERRORS, package.SafetensorError)


def _refuse(name: str, what: str) -> None:
    if what:
        raise WeightFileError(name, what, f'save it again: {SAVE}')


def _diagnosis(name: str, error: BaseException) -> tuple[str, str]:
    """What is wrong with a file that cannot be loaded, and what to do."""
    if path.isdir(name):
        return 'is a folder', 'name a file'
    try:
        with open(name, 'rb') as file:
            head = file.read(1024)
    except OSError as reason:
        return f'cannot be read: {reason.strerror}', 'fix the rights of the file'
    if not head:
        return 'is empty', _AGAIN
    for start, what, remedy in _HEADS:
        if head.startswith(start):
            return what, remedy
    if head[:1] == b'\x08' and (name.endswith('.onnx') or b'pytorch' in head[:64] or b'onnx' in head[:64]):
        return 'is a file of ONNX', _PYTORCH
    if head.lstrip().lower().startswith((b'<!doctype', b'<html', b'<?xml', b'<head')):
        return 'is a web page, not a file of weights', 'download the file itself, not the page that shows it'
    if is_safetensors(name):
        return ('is a file of safetensors, and BasicSR reads files of torch.save only',
                'convert it, and name the new file: python -c "import torch, safetensors.torch as s; torch.save('
                f"{{'params': s.load_file('{name}')}}, '{Path(name).with_suffix('.pth').name}')\"")
    if head.startswith(b'PK'):
        found = _diagnosis_of_archive(name)
        if found is not None:
            return found
    if isinstance(error, pickle.UnpicklingError):
        named = _GLOBAL.search(str(error))
        if named is not None:
            return (f'holds Python objects beside tensors ({named[1]}): to load them could run code, so nothing was '
                    'loaded', f'save the weights alone: {SAVE}')
    if head.startswith(b'\x80') and not head.startswith(_MAGIC):
        return ('is a pickle of Python objects: to load it could run code, so nothing was loaded',
                f'save the weights alone: {SAVE}')
    if 'allocate memory' in str(error) or isinstance(error, MemoryError):
        return 'asks for more memory than there is', _AGAIN
    if _is_text(head):
        return 'is a text file, not a file of weights', 'name the file of weights, or download it again'
    return 'is damaged, or no file of torch.save', f'{_AGAIN}, or save it again: {SAVE}'


def _diagnosis_of_archive(name: str) -> tuple[str, str] | None:
    try:
        with zipfile.ZipFile(name) as archive:
            names = [entry.split('/', 1)[-1] for entry in archive.namelist()]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, struct.error, NotImplementedError, LookupError):
        return 'is damaged: its end is missing, or bytes in it have changed', _AGAIN
    if 'constants.pkl' in names:
        return 'is a TorchScript program, not a file of weights', f'save the weights alone: {SAVE}'
    if 'data.pkl' not in names:
        return 'is a zip archive of other files', 'unpack it, and name the file of weights in it'
    return None


def is_safetensors(path: str | Path) -> bool:
    """Whether a file begins as safetensors does: the length of a header, and the header in JSON."""
    with suppress(OSError), open(path, 'rb') as file:
        head = file.read(9)
        return len(head) == 9 and head[8:] == b'{' and int.from_bytes(head[:8], 'little') <= _LARGEST_HEADER
    return False


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode('utf-8')
    except UnicodeDecodeError:
        return False
    return all(letter.isprintable() or letter.isspace() for letter in text)


def unusable(tensor: Tensor, wanted: Tensor | None = None) -> str:
    """Why a tensor cannot be the weight of a network; '' if it can.

    Args:
        tensor: From a file.
        wanted: The network's own tensor.

    Returns:
        For instance ``is int8``.
    """
    import torch

    if tensor.is_quantized:
        return 'is quantized'
    if tensor.layout is not torch.strided:
        return f'is {str(tensor.layout).removeprefix("torch.")}'
    if tensor.is_meta:
        return 'has no values (device meta)'
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    kind = str(tensor.dtype).removeprefix('torch.')
    if wanted is not None and wanted.is_floating_point() != (tensor.dtype in floats):
        return f'is {kind}, and the network has {str(wanted.dtype).removeprefix("torch.")}'
    if tensor.dtype not in floats:
        return '' if wanted is None or not (tensor.is_complex() or tensor.is_floating_point()) else f'is {kind}'
    return ''


_blocks: list[list[str]] = []  # the files that were read in each running block; threads share the guard


@contextmanager
def only_tensors() -> Iterator[list[str]]:
    """Inside the block, ``torch.load`` runs no code from a file, whatever its caller asks for, and explains itself.

    BasicSR calls ``torch.load`` without ``weights_only`` (before PyTorch 2.6 this runs code from the file), and
    torchvision with ``weights_only=False``. Objects in memory are left alone: PyTorch itself sends them so between
    processes.

    Yields:
        The files that the block has read so, in turn.
    """
    wrapt.register_post_import_hook(_guard, 'torch')
    files: list[str] = []
    _blocks.append(files)
    try:
        yield files
    finally:
        _blocks[:] = [block for block in _blocks if block is not files]


def _guard(torch: Any) -> None:
    """Put the guard in front of ``torch.load``, once."""
    original = torch.load
    if hasattr(original, 'unguarded'):
        return

    @functools.wraps(original)
    def load(f: Any, *args: Any, **options: Any) -> Any:
        file = f if isinstance(f, (str, bytes, PathLike)) else getattr(f, 'name', None)
        if not _blocks or not isinstance(file, (str, bytes, PathLike)) or options.get('weights_only') is True:
            return original(f, *args, **options)
        for block in _blocks:
            block.append(fsdecode(file))
        options.update(zip(('map_location', 'pickle_module'), args))
        return read_tensors(fsdecode(file), original, **options)

    load.unguarded = original  # type: ignore[attr-defined]  # marks the guard
    torch.load = load
