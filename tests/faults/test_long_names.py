"""Names and paths that no system can have: ``Path.is_file`` raises an error for them before Python 3.12."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers import tiny_options, write_image_pairs
from training import train, write_options

from mipkd_plugin.cli import mipkd_main
from mipkd_plugin.config.remedies import remedied

NAMES = {'a long name': 'x' * 300, 'a long path': '/'.join(['x' * 100] * 60), 'a folder of nobody': '~nosuchuser/x',
         'a NUL': 'a\0b', 'many bytes': 'é' * 200}


@pytest.mark.parametrize('name', NAMES.values(), ids=list(NAMES))
@pytest.mark.parametrize('where', ['datasets.train.dataroot_gt', 'datasets.val.dataroot_lq', 'teacher.weights',
                                   'datasets.train.meta_info_file', 'path.pretrain_network_g', 'path.resume_state'])
def test_in_an_option_file(where: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(write_image_pairs(tmp_path))
    write_options(remedied(tiny_options(tmp_path), {where: name}), tmp_path / 'x.yml')
    assert mipkd_main(['check', '-opt', 'x.yml']) == 2
    message = capsys.readouterr().err
    assert where in message
    assert 'Traceback' not in message


@pytest.mark.parametrize('name', ['x' * 300, '/'.join(['x' * 100] * 60)], ids=['name', 'path'])
def test_on_the_command_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(write_image_pairs(tmp_path))
    write_options(tiny_options(tmp_path), tmp_path / 'x.yml')
    for command in (['prepare', '--hr', name, '--scale', '2', '--out', 'o'], ['check', '-opt', name],
                    ['prepare', '--hr', 'HR', '--scale', '2', '--out', name],
                    ['compare', '--report', '--results', name], ['check', '-opt', 'x.yml', '--import', name]):
        assert mipkd_main(command) == 2, command
        assert 'Traceback' not in capsys.readouterr().err


def test_in_a_list_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(write_image_pairs(tmp_path))
    (tmp_path / 'list.txt').write_text(f'{"x" * 300}.png (48,48,3)\n')
    opt = remedied(tiny_options(tmp_path), {'datasets.train.meta_info_file': 'list.txt'})
    assert train(write_options(opt, tmp_path / 'x.yml')) == 2
    assert 'meta_info_file' in capsys.readouterr().err
