"""``mipkd export``, as it is typed."""

from __future__ import annotations

import ast
import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from export_students import ECBSR, NETWORKS, student
from helpers import STUDENTS, tiny_options
from training import typed

from mipkd_plugin.cli import mipkd_main
from basicsr.archs import build_network

pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('spandrel')


@pytest.fixture
def run(image_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the option file of a run and its weights."""
    (image_pairs / 'run.yml').write_text(yaml.safe_dump(tiny_options(image_pairs)))
    torch.save({'params': build_network(dict(STUDENTS['EDSR'])).state_dict()}, image_pairs / 'net_g.pth')
    monkeypatch.chdir(image_pairs)
    return image_pairs


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_typed_in_a_shell(run: Path) -> None:
    before = files(run)
    done = typed('export', '-opt', 'run.yml', '--weights', 'net_g.pth', '--to', 'onnx')
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert 'EDSR x2' in done.stdout
    assert 'wrote net_g.onnx, ' in done.stdout
    assert 'any height, width and batch' in done.stdout
    assert 'at 24×24, 19×29, 33×17, batch 1 and 2: largest difference ' in done.stdout
    assert "onnxruntime.InferenceSession('net_g.onnx')" in done.stdout
    assert files(run) == sorted([*before, 'net_g.onnx'])


def test_the_lines_that_it_prints_load_the_file(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['export', '--weights', 'net_g.pth', '--to', 'spandrel']) == 0
    out = capsys.readouterr().out
    lines = [line.strip() for line in out.partition('load it elsewhere:\n')[2].splitlines()]
    assert len(lines) == 2
    done = subprocess.run([sys.executable, '-c', '\n'.join([
        'import torch, spandrel, sys', 'lq = torch.rand(1, 3, 9, 7)', *lines, 'print(tuple(image.shape))',
        'assert "mipkd_plugin" not in sys.modules'])], capture_output=True, text=True, timeout=200)
    assert done.stdout.strip() == '(1, 3, 18, 14)', done.stderr


@pytest.mark.parametrize('to', ['onnx', 'basicsr', 'spandrel', 'safetensors'])
def test_lines_for_a_file_of_an_odd_name(to: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "it's a: net" + {'onnx': '.onnx', 'basicsr': '.pth'}.get(to, '.safetensors')
    assert mipkd_main(['export', '--weights', 'net_g.pth', '--to', to, '--out', name]) == 0
    lines = [line[2:] for line in capsys.readouterr().out.splitlines() if line.startswith('  ')]
    if to == 'basicsr':
        assert yaml.safe_load('\n'.join(lines))['path']['pretrain_network_g'] == name
    else:
        loads = next(line for line in lines if 'it' in line).partition('  # ')[0]
        assert name in [node.value for node in ast.walk(ast.parse(loads)) if isinstance(node, ast.Constant)]


def test_a_disk_that_is_full_says_to_free_space(run: Path, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    for number, remedy in ((errno.ENOSPC, 'free some space, or give --out'), (errno.EROFS, '; give --out in another')):
        def fails(*_: object, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, 'write_bytes', fails)
        before = files(run)
        assert mipkd_main(['export', '--weights', 'net_g.pth', '--to', 'safetensors']) == 2
        err = capsys.readouterr().err
        assert remedy in err
        assert ('free' in err) == (number == errno.ENOSPC)
        assert files(run) == before


def test_half_precision_says_what_it_costs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mipkd_main(['export', '--weights', 'net_g.pth', '--to', 'onnx', '--fp16', '--images', 'HR']) == 0
    out = capsys.readouterr().out
    assert 'half precision' in out
    assert 'PSNR on 4 images of HR: ' in out
    assert ' dB lost, most on ' in out


def test_merged_layers_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                     capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({'params': student(ECBSR).net.state_dict()}, 'ecbsr.pth')
    Path('run.yml').write_text(yaml.safe_dump({'name': 'run', 'scale': 2, 'network_g': ECBSR}))
    command = ['export', '-opt', 'run.yml', '--weights', 'ecbsr.pth', '--to', 'basicsr']
    assert mipkd_main(command) == 0
    out = capsys.readouterr().out
    assert 'merged: 4 ECB into plain convolutions' in out
    network = next(line for line in out.splitlines() if line.strip().startswith('network_g:'))
    merged = yaml.safe_load(network)['network_g']
    assert merged['type'] == 'SRVGGNetCompact'
    net = build_network(merged)
    net.load_state_dict(torch.load('ecbsr_basicsr.pth', weights_only=True)['params'])
    assert mipkd_main([*command, '--no-merge', '--force']) == 0
    assert 'merged' not in capsys.readouterr().out
    build_network(ECBSR).load_state_dict(torch.load('ecbsr_basicsr.pth', weights_only=True)['params'])


@pytest.mark.parametrize(('arguments', 'said'), [
    (['-opt', 'run.yml', '--weights', 'teacher.pth', '--to', 'onnx'], 'holds the weights of the teacher'),
    (['-opt', 'run.yml', '--weights', 'other.pth', '--to', 'onnx'], 'does not fit EDSR'),
    (['--weights', 'nowhere.pth', '--to', 'onnx'], 'nowhere.pth does not exist'),
    (['--weights', 'page.pth', '--to', 'onnx'], 'web page'),
    (['--weights', 'net_g.pth', '--to', 'onnx', '--out', 'no/net.onnx'], 'mkdir -p no'),
    (['--weights', 'net_g.pth', '--to', 'onnx', '--images', 'no'], 'there is no such folder'),
    (['--weights', 'net_g.pth', '--to', 'basicsr', '--out', 'net_g.pth', '--force'], 'never overwritten'),
    (['--weights', 'net_g.pth', '--to', 'basicsr', '--out', 'teacher.pth'], 'with --force'),
    (['-opt', 'run.yml', '--force_yml', 'scale=4', '--weights', 'net_g.pth', '--to', 'onnx'], 'write scale: 2'),
])
def test_bad_input(arguments: list[str], said: str, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({'params': student(NETWORKS['RCAN']).net.state_dict()}, 'other.pth')
    Path('page.pth').write_text('<!DOCTYPE html><html></html>')
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert mipkd_main(['export', *arguments]) == 2
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_an_unknown_format_lists_the_formats(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        mipkd_main(['export', '--weights', 'net_g.pth', '--to', 'tflite'])
    assert ended.value.code == 2
    assert 'ncnn-ready-onnx' in capsys.readouterr().err
