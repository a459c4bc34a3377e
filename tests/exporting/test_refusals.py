"""Exports that cannot be: one clear error, no file, nothing overwritten."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from export_students import MAMBA, NETWORKS, SWIN, UNUSUAL, of_class, student
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.exporting import FORMATS, ExportError, Plan, check_plan, export, formats, size_of
from mipkd_plugin.exporting.ncnn_ready import OPERATORS
from mipkd_plugin.exporting.onnx_file import nodes

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('spandrel')


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)

    def change(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(self.change(x)), 2)


class NoOperator(Base):
    """ONNX has no singular values."""

    def change(self, x: Tensor) -> Tensor:
        return x * torch.linalg.svdvals(x).mean()


class SizeInCode(Base):
    """A number from the image's size that neither a trace nor a program keeps."""

    def change(self, x: Tensor) -> Tensor:
        return x + 0.1 * float(x.shape[2])


def refused(made: Any, plan: Plan) -> str:
    with pytest.raises(ExportError) as caught:
        export(made, plan)
    assert not list(plan.out.parent.iterdir())
    return str(caught.value)


def test_an_operator_without_counterpart_is_named(tmp_path: Path) -> None:
    text = refused(of_class(NoOperator), Plan('onnx', tmp_path / 'net.onnx'))
    assert 'aten::linalg_svd' in text
    assert 'no counterpart in ONNX' in text


def test_a_size_in_the_graph_is_found_and_a_static_file_offered(tmp_path: Path) -> None:
    made = of_class(SizeInCode)
    assert '--static' in refused(made, Plan('onnx', tmp_path / 'net.onnx'))
    exported = export(made, Plan('onnx', tmp_path / 'net.onnx', size=(20, 31)))
    assert exported.check.sizes == [(20, 31)]


def test_numbers_too_large_for_half_precision(tmp_path: Path) -> None:
    made = student(NETWORKS['EDSR'])
    with torch.no_grad():
        made.net.conv_first.weight *= 1e4
        made.net.conv_last.weight /= 1e4
    assert 'numbers inside of the network' in refused(made, Plan('onnx', tmp_path / 'net.onnx', half=True))
    with torch.no_grad():
        made.net.conv_first.weight *= 1e4
    assert 'weight conv_first.weight is too large' in refused(made, Plan('basicsr', tmp_path / 'net.pth', half=True))


@pytest.mark.parametrize(('network', 'said'), [
    (MAMBA, 'spandrel does not know MambaLite'),
    ({**NETWORKS['RRDBNet'], 'num_grow_ch': 40}, 'num_grow_ch above 32'),
    ({**SWIN, 'upscale': 2, 'img_size': 16, 'window_size': 8, 'depths': [2], 'upsampler': 'pixelshuffledirect',
      'patch_norm': False}, 'patch_norm: false'),
])
def test_networks_that_spandrel_lacks(network: dict[str, Any], said: str, tmp_path: Path) -> None:
    text = refused(student(network), Plan('spandrel', tmp_path / 'net.safetensors'))
    assert said in text
    assert '--to onnx' in text


@pytest.mark.parametrize(('network', 'said'), [(NETWORKS['SwinIR'], 'lacks the operators'), (MAMBA, 'Loop')])
def test_networks_that_ncnn_lacks(network: dict[str, Any], said: str, tmp_path: Path) -> None:
    text = refused(student(network), Plan('ncnn-ready-onnx', tmp_path / 'net.onnx'))
    assert said in text
    assert 'take --to onnx' in text


@pytest.mark.parametrize('name', ['EDSR', 'RCAN', 'SRVGGNetCompact', 'RRDBNet x2', 'MSRResNet x3'])
def test_ncnn_gets_only_what_it_has(name: str, tmp_path: Path) -> None:
    exported = export(student({**NETWORKS, **UNUSUAL}[name]), Plan('ncnn-ready-onnx', tmp_path / 'net.onnx'))
    assert {node.op_type for node in nodes(tmp_path / 'net.onnx')} <= OPERATORS
    assert not {'Shape', 'Gather', 'Reshape', 'Transpose'} & set(exported.operators)
    assert 'any size' in exported.notes[0]
    assert ('multiples of 2' in exported.notes[0]) == (name == 'RRDBNet x2')


@pytest.mark.parametrize(('module', 'to', 'ending'), [
    ('onnx', 'onnx', '.onnx'), ('onnxruntime', 'onnx', '.onnx'), ('spandrel', 'spandrel', '.pth'),
    ('safetensors', 'safetensors', '.safetensors')])
def test_a_missing_package_names_the_extra(module: str, to: str, ending: str, tmp_path: Path,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition('.')[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    text = refused(student(NETWORKS['SRVGGNetCompact']), Plan(to, tmp_path / f'net{ending}'))
    assert f'needs the package {module}, which is not installed' in text
    assert "pip install 'mipkd-plugin[export]'" in text


APE = {**NETWORKS['SwinIR'], 'img_size': 32, 'ape': True}


@pytest.mark.parametrize(('network', 'said'), [
    ({**NETWORKS['SwinIR'], 'img_size': 8}, 'never shifts its windows'),
    ({**NETWORKS['SwinIR'], 'img_size': 28, 'window_size': 7, 'depths': [1, 2], 'num_heads': [2, 2]},
     'a window_size of 7 and one block in its first layer'),
])
def test_windows_that_spandrel_lacks(network: dict[str, Any], said: str, tmp_path: Path) -> None:
    assert said in refused(student(network), Plan('spandrel', tmp_path / 'net.safetensors'))


@pytest.mark.parametrize('to', ['basicsr', 'safetensors', 'onnx'])
def test_a_network_for_one_size_says_so(to: str, tmp_path: Path) -> None:
    made = student(APE)
    text = refused(made, Plan(to, tmp_path / f'net{FORMATS[to][0]}'))
    assert 'does not run on images of 19×29' in text
    assert '--static HEIGHT' in text
    exported = export(made, Plan('onnx', tmp_path / 'net.onnx', size=(32, 32)))
    assert exported.check.difference.largest < 1e-4


@pytest.mark.parametrize('to', ['onnx', 'basicsr'])
def test_two_exports_at_once_overwrite_nothing(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, out = student(NETWORKS['SRVGGNetCompact']), tmp_path / f'net{FORMATS[to][0]}'
    number = iter((1, 2))

    def meanwhile(*arguments: Any) -> Any:
        if next(number) == 1:
            export(made, Plan(to, out))
        return usual(*arguments)

    usual = formats._onnx if to == 'onnx' else formats._weights
    monkeypatch.setattr(formats, usual.__name__, meanwhile)
    with pytest.raises(ExportError, match='exists and was left as it is'):
        export(made, Plan(to, out))
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_disk_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> None:
        raise PermissionError(1, 'Operation not permitted')

    monkeypatch.setattr(os, 'link', none)
    out = tmp_path / 'net.pth'
    export(student(NETWORKS['SRVGGNetCompact']), Plan('basicsr', out))
    before = out.read_bytes()
    with pytest.raises(ExportError, match='exists'):
        export(student(NETWORKS['SRVGGNetCompact'], 1), Plan('basicsr', out))
    assert out.read_bytes() == before
    assert list(tmp_path.iterdir()) == [out]


def test_another_spandrel_sr_is_left(tmp_path: Path) -> None:
    other = tmp_path / 'spandrel_sr.py'
    other.write_text('mine = 1\n')
    with pytest.raises(ExportError, match='is another file'):
        export(student(NETWORKS['EDSR']), Plan('spandrel', tmp_path / 'net.pth'))
    assert other.read_text() == 'mine = 1\n'
    assert list(tmp_path.iterdir()) == [other]


@pytest.mark.parametrize('text', ['64', '0x5', '64x', 'axb', '5000x5000', '-1x4'])
def test_sizes(text: str) -> None:
    with pytest.raises(ExportError, match='HEIGHTxWIDTH'):
        size_of(text)
    assert size_of('180x320') == size_of('180×320') == (180, 320)


@pytest.mark.parametrize(('plan', 'said'), [
    (Plan('onnx', Path('a.pth')), r'ends in \.onnx; write --out a\.onnx'),
    (Plan('onnx', Path('no/a.onnx')), 'mkdir -p no'),
    (Plan('onnx', Path('a.onnx'), opset=40), 'from 11 to 20'),
    (Plan('basicsr', Path('a.pth'), size=(8, 8)), '--static is for ONNX'),
    (Plan('spandrel', Path('a.pth'), opset=13), '--opset is for ONNX'),
    (Plan('ncnn-ready-onnx', Path('a.onnx'), half=True), 'leave out --fp16'),
    (Plan('onnx', Path('a.onnx'), size=(8, 8), images=Path()), '--static makes a file for one'),
    (Plan('onnx', Path('there.onnx')), 'left as it is'),
    (Plan('basicsr', Path('weights.pth'), force=True), 'never overwritten'),
])
def test_plans(plan: Plan, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ('there.onnx', 'weights.pth'):
        Path(name).write_text('kept')
    with pytest.raises(ExportError, match=said):
        check_plan(plan, Path('weights.pth'))
    assert {path.read_text() for path in tmp_path.iterdir()} == {'kept'}


@pytest.mark.parametrize('to', FORMATS)
def test_a_full_disk_leaves_nothing(to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = student(NETWORKS['SRVGGNetCompact'])

    def full(*_: Any) -> None:
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(Path, 'write_bytes', full)
    with pytest.raises(OSError, match='No space left'):
        export(made, Plan(to, tmp_path / f'net{FORMATS[to][0]}'))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('to', ['onnx', 'spandrel', 'basicsr'])
def test_gray_images(to: str, tmp_path: Path) -> None:
    made = student({**NETWORKS['SRVGGNetCompact'], 'num_in_ch': 1, 'num_out_ch': 1})
    assert made.channels == 1
    assert export(made, Plan(to, tmp_path / f'net{FORMATS[to][0]}')).check.difference.largest < 1e-4
