"""Exports of all main networks, opened by onnxruntime, plain BasicSR and spandrel without our package."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from export_students import MAMBA, NETWORKS, UNUSUAL, student
from helpers import PACKAGE

from mipkd_plugin.exporting import Plan, export, onnx_export
from mipkd_plugin.exporting.onnx_file import Session
from mipkd_plugin.exporting.student import noise
from mipkd_plugin.version import __version__

onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('spandrel')
safetensors = pytest.importorskip('safetensors')

SIZES = ((16, 16), (24, 40), (19, 29))
LIMIT = 1e-4
ENDINGS = {'onnx': '.onnx', 'spandrel': '.safetensors', 'basicsr': '.pth'}

COMPARE = '''
import json, sys
import numpy as np

def compare(run, multiples=False):
    found = {}
    for name, network in json.load(open('networks.json')).items():
        call, worst = run(name, network), 0.0
        data = np.load(f'{name}.npz')
        for key in [key for key in data if key.startswith('in')]:
            if multiples and name == 'SwinIR' and any(side % 8 for side in data[key].shape[2:]):
                continue
            output, right = np.asarray(call(data[key])), data['out' + key[2:]]
            assert output.shape == right.shape, (name, output.shape, right.shape)
            worst = max(worst, float(abs(output - right).max()))
        found[name] = worst
    assert not [name for name in sys.modules if name.startswith('mipkd_plugin')], 'our package was imported'
    print(json.dumps(found))
'''
READERS = {
    'onnx': '''
import onnxruntime
def run(name, network):
    session = onnxruntime.InferenceSession(f'{name}.onnx')
    return lambda lq: session.run(None, {'input': lq})[0]
compare(run)
''',
    'spandrel': '''
import torch, spandrel, spandrel_sr
def run(name, network):
    net = spandrel.ModelLoader().load_from_file(f'{name}.safetensors')
    assert net.scale == network.get('upscale', network.get('scale')), net.scale
    def call(lq):
        with torch.no_grad():
            image = net.model.eval()(torch.from_numpy(lq.copy()))
            assert torch.equal(net(torch.from_numpy(lq.copy())), image.clamp(0, 1))
        return image
    return call
compare(run)
''',
    'basicsr': '''
import types, torch, torchvision.transforms.functional as F
repair = types.ModuleType('torchvision.transforms.functional_tensor')  # BasicSR 1.4.2 wants what torchvision took out
repair.rgb_to_grayscale = F.rgb_to_grayscale
sys.modules[repair.__name__] = repair
from basicsr.models import build_model
def run(name, network):
    model = build_model({'model_type': 'SRModel', 'num_gpu': 0, 'dist': False, 'is_train': False, 'network_g': network,
                         'path': {'pretrain_network_g': f'{name}.pth', 'param_key_g': 'params', 'strict_load_g': True}})
    def call(lq):
        model.feed_data({'lq': torch.from_numpy(lq)})
        model.test()
        return model.output
    return call
compare(run, multiples=True)
''',
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All exports of all networks, and the images that PyTorch makes."""
    path = tmp_path_factory.mktemp('exports')
    for number, (name, network) in enumerate(NETWORKS.items()):
        made = student(network, number)
        for to, ending in ENDINGS.items():
            exported = export(made, Plan(to, path / f'{name}{ending}'))
            assert exported.check.difference.largest < LIMIT, (name, to)
            assert len(exported.check.sizes) == 3
            assert tuple(exported.check.batches) == (1, 2)
        images = {f'{size}_{batch}': noise(3, *size, batch=batch, seed=7) for size in SIZES
                  for batch in ((1, 2) if name != 'RRDBNet' else (2, ))}
        np.savez(path / f'{name}.npz', **{f'in{key}': lq.numpy() for key, lq in images.items()},
                 **{f'out{key}': made(lq).numpy() for key, lq in images.items()})
    (path / 'networks.json').write_text(json.dumps(NETWORKS))
    return path


@pytest.mark.parametrize('reader', READERS)
def test_files_open_elsewhere_without_our_package(reader: str, folder: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    done = subprocess.run([sys.executable, '-c', COMPARE + READERS[reader]], cwd=folder, env=environment,
                          capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == set(NETWORKS)
    assert max(found.values()) < LIMIT, found


def test_onnx_files_say_what_they_are(folder: Path) -> None:
    model = onnx.load(folder / 'SwinIR.onnx')
    told = {entry.key: entry.value for entry in model.metadata_props}
    assert told['scale'] == '2'
    assert told['architecture'] == 'SwinIR'
    assert told['padding_multiple'] == '8'
    assert told['padding'] == 'in the graph, by reflection'
    assert told['mipkd_plugin'] == __version__
    assert json.loads(told['network_g']) == NETWORKS['SwinIR']
    assert 'RGB' in told['input']
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [
        'batch', 3, 'height', 'width']
    assert not list(folder.glob('.*'))


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (8, 8), (41, 9)])
def test_window_attention_takes_any_size_in_onnx(size: tuple[int, int], folder: Path) -> None:
    """Smaller than the padding too, where an image is reflected more than once."""
    made, lq = student(NETWORKS['SwinIR'], list(NETWORKS).index('SwinIR')), noise(3, *size)
    assert (Session(folder / 'SwinIR.onnx')(lq) - made(lq)).abs().max() < LIMIT


@pytest.mark.parametrize('name', UNUSUAL)
def test_what_spandrel_fixes_is_folded_into_the_weights(name: str, tmp_path: Path) -> None:
    exported = export(student(UNUSUAL[name]), Plan('spandrel', tmp_path / 'net.pth'))
    assert exported.check.difference.largest < LIMIT
    assert torch.load(tmp_path / 'net.pth', weights_only=True).keys() == {'params'}


def test_the_file_for_spandrel_stands_alone(folder: Path) -> None:
    text = (folder / 'spandrel_sr.py').read_text()
    assert text == (PACKAGE / 'exporting' / 'spandrel_sr.py').read_text() + '\n\nregister()\n'
    assert 'import mipkd_plugin' not in text


def test_an_export_leaves_this_process_as_it_is(folder: Path) -> None:
    """What it was loaded with for the check is nobody else's: recognition reads files of strangers."""
    spandrel = pytest.importorskip('spandrel')
    assert (folder / 'spandrel_sr.py').is_file()
    assert not [support.architecture.id for support in spandrel.MAIN_REGISTRY
                if support.architecture.id in ('BasicSR_EDSR', 'BasicSR_MSRResNet')]


@pytest.mark.parametrize(('network', 'size'), [(UNUSUAL['RRDBNet x2'], (13, 7)), (MAMBA, (9, 14))])
def test_odd_sizes_in_onnx(network: dict[str, object], size: tuple[int, int], tmp_path: Path) -> None:
    made = student(network)
    export(made, Plan('onnx', tmp_path / 'net.onnx'))
    lq = noise(3, *size)
    assert (Session(tmp_path / 'net.onnx')(lq) - made(lq)).abs().max() < LIMIT


@pytest.mark.parametrize('name', ['SwinIR', 'RRDBNet x2'])
def test_padding_with_the_oldest_operators(name: str, tmp_path: Path) -> None:
    made = student({**NETWORKS, **UNUSUAL}[name])
    exported = export(made, Plan('onnx', tmp_path / 'net.onnx', opset=11))
    assert exported.check.difference.largest < LIMIT


def test_pooling_in_uneven_windows_is_padded_in_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SAFMN takes any size in PyTorch; the graph is right at multiples of 8 alone."""
    monkeypatch.setattr(onnx_export, 'EXPORTERS', ('trace', ))  # the other way fails too, slowly
    made = student({'type': 'SAFMN', 'dim': 16, 'n_blocks': 1, 'ffn_scale': 2.0, 'upscaling_factor': 2})
    assert made.multiple == 1
    exported = export(made, Plan('onnx', tmp_path / 'net.onnx'))
    assert exported.student.multiple == 8
    assert 'multiples of 8' in exported.notes[0]
    lq = noise(3, 24, 16)
    assert (Session(tmp_path / 'net.onnx')(lq) - made(lq)).abs().max() < LIMIT


def test_safetensors_hold_their_network(tmp_path: Path) -> None:
    path = tmp_path / 'net.safetensors'
    export(student(NETWORKS['EDSR']), Plan('safetensors', path))
    with safetensors.safe_open(path, 'pt') as file:
        told = file.metadata()
    assert json.loads(told['network_g']) == NETWORKS['EDSR']
    assert told['scale'] == '2'


@pytest.mark.parametrize('to', ENDINGS)
def test_half_precision_halves_the_file(to: str, tmp_path: Path) -> None:
    made, sizes = student({**NETWORKS['EDSR'], 'num_feat': 48}), []
    for half in (False, True):
        path = tmp_path / f'{half}{ENDINGS[to]}'
        apart = export(made, Plan(to, path, half=half)).check.difference
        assert (1e-5 < apart.largest < 0.02) if half else apart.largest < LIMIT
        sizes.append(path.stat().st_size)
    assert sizes[1] < 0.55 * sizes[0]
    if to == 'onnx':
        assert Session(path).session.get_inputs()[0].type == 'tensor(float)'
