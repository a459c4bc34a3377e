"""The lines of ``mipkd distill`` in README and docs: typed in a folder with a teacher's file and photographs."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from helpers import REPO
from training import forget_logger

from mipkd_plugin.cli import mipkd_main

LINE = re.compile(r'^mipkd distill .*$', re.MULTILINE)
LINES = LINE.findall((REPO / 'docs/distill.md').read_text(encoding='utf-8'))
TEACHERS = {
    'EDSR_x2_f64b5.pth': {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 20, 'num_block': 6,
                          'upscale': 2, 'res_scale': 1},
    'RealESRGAN_x4plus.pth': {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 4, 'num_feat': 48,
                              'num_block': 3, 'num_grow_ch': 24}}
SHORT = ['--iterations', '3', '--batch', '2', '--patch', '16', '--crops', '4', '--threads', '1']


def folder_of_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(3):
        cv2.imwrite(str(folder / f'{index}.png'), cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (72, 64)))


@pytest.mark.parametrize('line', LINES)
def test_a_line_of_the_docs(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)
    teacher = words[words.index('--teacher') + 1]
    torch.save({'params': build_network(TEACHERS[teacher]).state_dict()}, teacher)
    for flag in ('--hr', '--val'):
        if flag in words:
            folder_of_images(tmp_path / words[words.index(flag) + 1])
    if '--val' in words:  # other images than those that are trained on
        for path in (tmp_path / words[words.index('--val') + 1]).iterdir():
            cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    monkeypatch.setattr(sys, 'argv', [*words, *SHORT])
    forget_logger()
    assert mipkd_main([*words[1:], *SHORT]) == 0
    said = capsys.readouterr().out
    table, picture, student = (re.search(rf'^  {name} +(.*)$', said, re.MULTILINE)[1]
                               for name in ('table', 'picture', 'student'))
    assert '| student' in Path(table).read_text()
    assert cv2.imread(picture) is not None
    assert 'params_ema' in torch.load(student, weights_only=True)


def test_readme_has_lines_of_the_docs() -> None:
    own = LINE.findall((REPO / 'README.md').read_text(encoding='utf-8'))
    assert len(LINES) == 2
    assert {shlex.join(shlex.split(line, comments=True)) for line in own} <= {
        shlex.join(shlex.split(line, comments=True)) for line in LINES}
