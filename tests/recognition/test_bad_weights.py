"""Files that hold no network: each one clear error that says what the file seems to be."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN, VGGStyleDiscriminator
from helpers import make_pair
from torch import nn
from torchvision.models import mobilenet_v3_small, resnet18
from torchvision.models.detection import ssdlite320_mobilenet_v3_large

from mipkd_plugin.recognition import RecognitionError, recognize

DISCRIMINATOR = r'seems to hold the discriminator of a GAN; give the generator that was trained with it: net_g_\*.pth'


def state(**changes: Any) -> dict[str, Any]:
    return {**make_pair('EDSR')[0].state_dict(), **changes}


def file_of(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def saved(make: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda path: torch.save(make(), path)


def half_of_a_file(path: Path) -> None:
    torch.save(state(), path)
    path.write_bytes(path.read_bytes()[:-5000])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('EDSR/readme.txt', 'x')


def named(*names: str) -> Callable[[Path], object]:
    return saved(lambda: {name: torch.zeros(4, 4) for name in names})


CASES: list[tuple[str, Callable[[Path], object], str]] = [
    ('page.pth', file_of(b'<!DOCTYPE html><html>'), 'is a web page, not a file of weights; download the file itself'),
    ('page.safetensors', file_of(b'<html><head>'), 'is a web page, not a file of weights; download the file itself'),
    ('lfs.pth', file_of(b'version https://git-lfs.github.com/spec/v1\noid sha256:1\n'), 'is a pointer of git-lfs'),
    ('empty.pth', file_of(b''), 'is empty; copy or download it again'),
    ('half.pth', half_of_a_file, 'is damaged: its end is missing'),
    ('zip.pth', zipped, 'is a zip archive of other files'),
    ('photo.pth', file_of(b'\xff\xd8\xff\xe0' + bytes(99)), 'is an image, not a file of weights'),
    ('net.onnx', file_of(b'\x08\x08\x12\x07pytorch' + bytes(99)), 'is a file of ONNX; give the file of PyTorch'),
    ('net.param', file_of(b'7767517\n3 3\nInput data 0 1 data\n'), 'is the description of a network for ncnn'),
    ('net.bin', file_of(b'Gk0\x01' + bytes(99)), 'holds weights for ncnn'),
    ('cut.safetensors', file_of((500).to_bytes(8, 'little') + b'{"a":{}'), 'is a damaged file of safetensors'),
    ('2.state', saved(lambda: {'epoch': 1, 'iter': 2, 'optimizers': [], 'schedulers': []}),
     r'is a training state of BasicSR \(\*.state\): the optimizer, no network; give the net_g_\*.pth of the same'),
    ('adam.pth', saved(lambda: torch.optim.Adam(nn.Linear(1, 1).parameters()).state_dict()),
     'is the state of an optimizer, no network'),
    ('distill_2.pth', saved(lambda: {'teacher': 'ab', 'types': [], 'pairs': [], 'losses': {}, 'random': []}),
     r'is the state of a distillation \(distill_\*.pth\)'),
    ('list.pth', saved(lambda: [1, 2]), 'holds a list, but no state dict'),
    ('tensor.pth', saved(lambda: torch.zeros(3, 4)), r'holds a single tensor \(3, 4\), no network'),
    ('nothing.pth', saved(dict), 'holds nothing, but no state dict'),
    ('whole.pth', saved(lambda: nn.Conv2d(1, 1, 1)), 'holds Python objects beside tensors'),
    ('unet_d.pth', saved(lambda: {'params': UNetDiscriminatorSN(3, 8).state_dict()}), DISCRIMINATOR),
    ('vgg_d.pth', saved(lambda: {'params': VGGStyleDiscriminator(3, 4).state_dict()}), DISCRIMINATOR),
    ('resnet.pth', saved(lambda: resnet18().state_dict()),
     r'seems to hold a ResNet that classifies images \(1,000 classes\); give the weights of a network that enlarges'),
    ('mobilenet.pth', saved(lambda: mobilenet_v3_small(num_classes=7).state_dict()), r'classifies images \(7 classes'),
    ('ssd.pth', saved(lambda: ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None).state_dict()),
     'seems to hold a detector'),
    ('yolo.pt', named('model.model.0.conv.weight', 'model.model.22.dfl.conv.weight'), 'seems to hold a detector'),
    ('llm.pth', named('model.embed_tokens.weight', 'lm_head.weight'), 'seems to hold a language model'),
    ('video.pth', named('spynet.basic_module.0.x', 'backward_resblocks.weight'), 'seems to hold a network for video'),
    ('rdn.pt', named('SFENet1.weight', 'SFENet2.weight'), 'seems to hold RDN, which neither BasicSR nor spandrel has'),
    ('wrapped.pth', saved(lambda: {f'module.{name}': tensor for name, tensor in resnet18().state_dict().items()}),
     'seems to hold a ResNet that classifies images'),
    ('own.pth', named('stem.weight'), r'holds 1 tensors \(stem.weight 4×4\), and no network that is known here'),
    ('lacks.pth', saved(lambda: {name: value for name, value in state().items() if name != 'body.1.conv1.bias'}),
     'looks like EDSR, but it lacks body.1.conv1.bias; download it again'),
    ('more.pth', saved(lambda: state(extra=torch.zeros(1))), 'looks like EDSR, but it also has extra'),
    ('int8.pth', saved(lambda: state(**{'conv_last.bias': torch.zeros(3, dtype=torch.int8)})),
     'looks like EDSR, but its tensors cannot be used: conv_last.bias is int8'),
    ('scalar.pth', saved(lambda: state(**{'upsample.0.weight': torch.zeros(0, 0, 3, 3)})),
     'looks like EDSR, but channels of upsample.0, 0, is no multiple of 0'),
    ('shapes.pth', saved(lambda: {name: torch.zeros(()) if 'table' in name else tensor
                                  for name, tensor in make_pair('SwinIR')[0].state_dict().items()}),
     'looks like SwinIR, but its shapes do not belong together'),
    ('nan.pth', saved(lambda: state(**{'conv_last.bias': torch.full((3, ), torch.nan)})),
     'holds weights that are not finite: 1 of 20 tensors have NaN or infinity, the first is conv_last.bias'),
    ('inf.pth', saved(lambda: state(**{'conv_last.bias': torch.full((3, ), torch.inf)})), 'are not finite'),
    ('stretched.pth', saved(lambda: state(extra=torch.zeros(1, dtype=torch.float16).expand(10**5, 10**5))),
     'its tensors would take 20.00 GB of memory: they repeat few numbers; save it again'),
    ('long.pth', named('x' * 9000), r'holds 1 tensors \(x{77}… 4×4\)'),
    ('sparse.pth', saved(lambda: state(**{'conv_last.bias': torch.zeros(3).to_sparse()})),
     'has tensors that cannot be weights: conv_last.bias is sparse_coo'),
]


@pytest.mark.parametrize(('name', 'write', 'says'), CASES, ids=[name for name, *_ in CASES])
def test_what_it_seems_to_be(name: str, write: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    write(tmp_path / name)
    with pytest.raises(RecognitionError, match=says) as found:
        recognize(tmp_path / name)
    assert found.value.exit_code == 2
    assert str(found.value).startswith(str(tmp_path / name))
    assert len(str(found.value)) < 700


@pytest.mark.parametrize(('name', 'shape'), [
    ('body.999999999.conv1.weight', (8, 8, 3, 3)), ('body.99999999999999999999.conv1.weight', (8, 8, 3, 3)),
    ('body.\u00b2.conv1.weight', (8, 8, 3, 3)), ('conv_first.weight', (10**6, 3, 1, 1)),
    ('upsample.0.weight', (10**6, 1, 1, 1))])
def test_numbers_that_would_make_it_huge(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.save(state(**{name: torch.zeros(shape)}), tmp_path / 'net.pth')
    with pytest.raises(RecognitionError, match='looks like EDSR, but '):
        recognize(tmp_path / 'net.pth')


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(RecognitionError, match='nope.pth does not exist'):
        recognize(tmp_path / 'nope.pth')
    with pytest.raises(RecognitionError, match='is a folder'):
        recognize(tmp_path)
    os.mkfifo(tmp_path / 'pipe.pth')
    with pytest.raises(RecognitionError, match='is not a file'):
        recognize(tmp_path / 'pipe.pth')


def test_a_good_file_is_no_case_of_these(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / 'net.pth')
    assert recognize(tmp_path / 'net.pth').build()(torch.rand(1, 3, 4, 4)).shape == (1, 3, 8, 8)
