"""Files of weights that cannot be what they should be."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from helpers import STUDENTS, TEACHERS

from basicsr.archs import build_network
from faults.harness import BadInput

State = dict[str, Any]


def student_state(**changes: Any) -> State:
    return dict(build_network({**STUDENTS['EDSR'], **changes}).state_dict())


def teacher(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / 'teacher.pth').write_bytes(content)


def spoiled(change: Callable[[State], object]) -> Callable[[Path], object]:
    """Change the tensors of the teacher's file."""
    def spoil(folder: Path) -> None:
        content = torch.load(folder / 'teacher.pth', weights_only=True)
        change(content['params'])
        torch.save(content, folder / 'teacher.pth')

    return spoil


def replaced(make: Callable[[torch.Tensor], torch.Tensor], name: str = 'body.0.conv1.weight') -> Callable[
        [Path], object]:
    return spoiled(lambda state: state.update({name: make(state[name])}))


def student(content: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda folder: torch.save(content(), folder / 'student.pth')


def case(name: str, spoil: Callable[[Path], object], *says: str, where: str = 'teacher.weights') -> BadInput:
    return BadInput(name, where, says, spoil=spoil, remedy=False)


def pretrained(name: str, content: Callable[[], Any], where: str, *says: str, remedy: bool = True,
               **entries: Any) -> BadInput:
    """A student that starts from a file."""
    own = {'path.pretrain_network_g': 'student.pth', 'train.ema_decay': 0}
    return BadInput(name, where, says, {**own, **{key.replace('__', '.'): value for key, value in entries.items()}},
                    student(content), remedy=remedy)


def cut(folder: Path) -> None:
    content = (folder / 'teacher.pth').read_bytes()
    (folder / 'teacher.pth').write_bytes(content[:len(content) // 2])


def packed(folder: Path) -> None:
    """3 MB that unpack to 3 GB: the records of a file of torch.save, compressed."""
    target = folder / 'teacher.pth'
    with zipfile.ZipFile(target) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(target, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in records.items():
            archive.writestr(name, bytes(150_000_000) if name.endswith('/data/0') else content)


def archive_of(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, 'w') as archive:
        archive.writestr(name, 'x')
    return stream.getvalue()


class Canary:
    """Makes a file ``canary`` in the working directory when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return open, ('canary', 'w')


def scripted(folder: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Conv2d(1, 1, 1)), folder / 'teacher.pth')


def quantized(tensor: torch.Tensor) -> torch.Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


SAFETENSORS = struct.pack('<Q', 8) + b'{"a":{}}'
NEW_FILE = "save the weights alone: torch.save({'params': net.state_dict()}, 'FILE.pth')"
FLOATS = 'give a file with plain float tensors'

FILES = [
    case('empty weights', teacher(b''), 'teacher.pth is empty', 'copy or download it again'),
    case('web page as weights', teacher(b'\n<!DOCTYPE html>\n<html>'), 'is a web page', 'download the file itself'),
    case('git-lfs pointer as weights', teacher(b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n'),
         'is a pointer of git-lfs, not the file itself', 'run: git lfs pull'),
    case('text as weights', teacher(b'404: Not Found'), 'is a text file, not a file of weights'),
    case('gzip as weights', teacher(gzip.compress(b'x')), 'is compressed by gzip', 'unpack it'),
    case('HDF5 as weights', teacher(b'\x89HDF\r\n\x1a\n' + bytes(99)), 'is a file of HDF5 (Keras), not of PyTorch'),
    case('NumPy array as weights', teacher(b'\x93NUMPY' + bytes(99)), 'is an array of NumPy'),
    case('image as weights', teacher(b'\x89PNG\r\n\x1a\n' + bytes(99)), 'is an image, not a file of weights'),
    case('damaged safetensors as weights', teacher(SAFETENSORS), 'is a damaged file of safetensors',
         'copy or download it again'),
    BadInput('safetensors as weights of a student', 'path.pretrain_network_g', ('is a file of safetensors',
             'convert it, and name the new file: python -c "import torch, safetensors.torch as s; torch.save('),
             {'path.pretrain_network_g': 'student.pth'},
             lambda folder: (folder / 'student.pth').write_bytes(SAFETENSORS), remedy=False),
    case('JPEG as weights', teacher(b'\xff\xd8\xff\xe0' + bytes(99)), 'is an image, not a file of weights'),
    case('ONNX as weights', teacher(b'\x08\x08\x12\x07pytorch\x1a\x05' + bytes(99)), 'is a file of ONNX',
         'give the file of PyTorch that it was converted from'),
    case('description for ncnn as weights', teacher(b'7767517\n3 3\nInput data 0 1 data\n'),
         'is the description of a network for ncnn'),
    case('zip of something else as weights', teacher(archive_of('a/readme.txt')), 'is a zip archive of other files',
         'unpack it, and name the file of weights in it'),
    case('weights cut in half', cut, 'is damaged: its end is missing', 'copy or download it again'),
    case('noise as weights', teacher(bytes(range(200, 256)) * 4), 'is damaged, or no file of torch.save'),
    case('TorchScript as weights', scripted, 'is a TorchScript program', NEW_FILE),
    case('whole network as weights', lambda folder: torch.save(torch.nn.Conv2d(1, 1, 1), folder / 'teacher.pth'),
         'holds Python objects beside tensors (torch.nn.modules.conv.Conv2d)', 'nothing was loaded', NEW_FILE),
    case('pickle as weights', teacher(pickle.dumps(Canary())),
         'is a pickle of Python objects: to load it could run code, so nothing'),
    case('old pickle as weights', teacher(pickle.dumps(Canary(), protocol=0)),
         'holds Python objects beside tensors ('),
    case('packed weights', packed, 'and would take 0.15 GB of memory: it is compressed, as no file of torch.save is'),
    case('list as weights', lambda folder: torch.save([1, 2], folder / 'teacher.pth'), 'holds a list, but no state'),
    case('nothing as weights', lambda folder: torch.save({}, folder / 'teacher.pth'), 'holds nothing, but no state'),
    case('numbers as weights', lambda folder: torch.save({'params': {'a': 1}}, folder / 'teacher.pth'),
         "holds the keys params, but no state dict under 'params'"),
    BadInput('folder as weights', 'teacher.weights', ('is not a file; looked for', ), {'teacher.weights': 'HR'},
             remedy=False),
]
VALUES = [
    case('int8 weights', replaced(lambda t: t.to(torch.int8)),
         'has tensors that no EDSR can use: body.0.conv1.weight is int8, and the network has float32', FLOATS),
    case('boolean weights', replaced(lambda t: t > 0), 'body.0.conv1.weight is bool', FLOATS),
    case('complex weights', replaced(lambda t: t.to(torch.complex64)), 'body.0.conv1.weight is complex64', FLOATS),
    case('float8 weights', replaced(lambda t: t.to(torch.float8_e4m3fn)), 'body.0.conv1.weight is float8_e4m3fn'),
    case('sparse weights', replaced(lambda t: t.to_sparse()), 'body.0.conv1.weight is sparse_coo', FLOATS),
    case('quantized weights', replaced(quantized), 'body.0.conv1.weight is quantized', FLOATS),
    case('weights without values', replaced(lambda t: t.to('meta')), 'body.0.conv1.weight has no values (device meta)'),
    case('weights with an odd key', spoiled(lambda state: state.update({'\x1b[31mred': torch.ones(1)})),
         '1 unexpected (red (1,))'),
]
KEYS = [
    BadInput('another key than the one named', 'teacher.param_key', ("'params_ema' is not in ", 'which holds the keys '
             'params', 'write param_key: params'), {'teacher.param_key': 'params_ema'}),
    BadInput('no key named where there is one', 'teacher.param_key', ('is ~, for a bare state dict, and ',
             'holds the keys params', 'write param_key: params'), {'teacher.param_key': None}),
    BadInput('key named where there is none', 'teacher.param_key', ("'params' is not in ", 'a bare state dict',
             'write param_key: ~'), spoil=lambda folder: torch.save(
                 build_network(TEACHERS['EDSR']).state_dict(), folder / 'teacher.pth')),
    pretrained('student under another key', lambda: {'model': student_state(), 'epoch': 3}, 'path.param_key_g',
               "'params' is not in ", 'holds the keys model, epoch', 'write param_key_g: model'),
    pretrained('no key named for a student', lambda: {'params': student_state()}, 'path.param_key_g',
               'is ~, for a bare state dict, and ', 'write param_key_g: params', path__param_key_g=None),
    pretrained('bare student with a moving average', student_state, 'train.ema_decay',
               'BasicSR wants the key params_ema or params in ', 'which has neither', 'give the weights the key',
               'or write ema_decay: 0', train__ema_decay=0.9, path__param_key_g=None),
    pretrained('bare student with a moving average and a key', student_state, 'train.ema_decay',
               'BasicSR wants the key params_ema or params in ', 'write ema_decay: 0', train__ema_decay=0.9),
    pretrained('average that is nothing', lambda: {'params': student_state(), 'params_ema': None},
               'path.pretrain_network_g', "holds the keys params, params_ema, but no state dict under 'params_ema'",
               remedy=False, train__ema_decay=0.9),
    pretrained('student for x4', lambda: {'params': student_state(upscale=4)}, 'path.pretrain_network_g',
               'does not fit EDSR', 'write strict_load_g: false to load only the tensors that fit'),
    pretrained('student that is text', lambda: 'weights', 'path.pretrain_network_g', 'holds a str, but no state dict',
               remedy=False),
    BadInput('student that is not there', 'path.pretrain_network_g', ('does not exist; looked for', 'or write ~ for '
             'random weights'), {'path.pretrain_network_g': 'no.pth'}),
]
OTHERS = [
    BadInput('VGG that is no VGG', 'train.distill_opt.weights', ('teacher.pth does not hold the weights of VGG-19',
             'give the path of vgg19-dcbb9e9d.pth'),
             {'train.distill_opt': {'type': 'CSDLoss', 'weights': 'teacher.pth'}}, remedy=False),
    BadInput('VGG that is a pickle', 'train.distill_opt.weights', ('vgg.pth holds Python objects ',
             'give the path of vgg19-dcbb9e9d.pth'), {'train.distill_opt': {'type': 'CSDLoss', 'weights': 'vgg.pth'}},
             lambda folder: torch.save(Canary(), folder / 'vgg.pth'), remedy=False),
    BadInput('weights of a network that are not there', 'network_g.load_path', ('does not exist; looked for no.pth', ),
             {'network_g': {'type': 'SpyNet', 'load_path': 'no.pth'}}, remedy=False),
    BadInput('weights of a network that are a pickle', 'network_g.load_path', ('spy.pth holds Python objects beside '
             'tensors', 'nothing was loaded'), {'network_g': {'type': 'SpyNet', 'load_path': 'spy.pth'}},
             lambda folder: torch.save(Canary(), folder / 'spy.pth'), remedy=False),
    BadInput('weights of a network that are those of another', 'network_g.load_path', (
             'teacher.pth does not fit SpyNet: RuntimeError: Error(s) in loading state_dict for SpyNet: Missing key',
             'give the file that SpyNet was published with'),
             {'network_g': {'type': 'SpyNet', 'load_path': 'teacher.pth'}}, remedy=False),
    BadInput('model class of somebody else', 'model_type', ("there is no model 'HATDistillModel'",
             'Your own model: write @MODEL_REGISTRY.register() above its class and name its file or module'),
             {'model_type': 'HATDistillModel'}, remedy=False),
]
CASES = [*FILES, *VALUES, *KEYS, *OTHERS]
