"""``docs/new_method.md`` as printed: its files written into an empty folder, its commands typed there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import REPO

from mipkd_plugin.cli import mipkd_main

DOC = (REPO / 'docs/new_method.md').read_text(encoding='utf-8')
METHOD, TEST, NETWORK = re.findall(r'```python\n(.*?)```', DOC, flags=re.S)
OPTIONS, = re.findall(r'```yaml\n(.*?)```', DOC, flags=re.S)
TYPED, = re.findall(r'```bash\n(.*?)```', DOC, flags=re.S)
COMMANDS = [shlex.split(line, comments=True) for line in TYPED.splitlines()]


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the method, its option file, and what that names: data and a teacher."""
    folder, images = tmp_path_factory.mktemp('method'), tmp_path_factory.mktemp('images')
    (folder / 'spkd.py').write_text(METHOD, encoding='utf-8')
    (folder / 'spkd.yml').write_text(OPTIONS, encoding='utf-8')
    rng = np.random.default_rng(0)
    for index in range(8):  # times 10: full batches of 16
        coarse = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f'{index}.png'), cv2.resize(coarse, (64, 64), interpolation=cv2.INTER_CUBIC))
    for data, *lmdb in (('BSDS500_T91', '--lmdb'), ('Set5', )):
        assert mipkd_main(['prepare', '--hr', str(images), '--scale', '2', '--out', str(folder / 'datasets' / data),
                           *lmdb]) == 0
    teacher = yaml.safe_load(OPTIONS)['teacher']
    (folder / teacher['weights']).parent.mkdir(parents=True)
    torch.save({'params': build_network(teacher['network']).state_dict()}, folder / teacher['weights'])
    return folder


def run(command: Sequence[str], folder: Path, bin_folder: Path) -> subprocess.CompletedProcess[str]:
    """Type a command. The programs lie elsewhere, as installed ones do: the folder is not in their path."""
    program, *arguments = command
    path = bin_folder / program
    module, function = ('pytest', 'console_main') if program == 'pytest' else ('mipkd_plugin.cli', f'{program}_main')
    path.write_text(f'import sys\nfrom {module} import {function}\n'
                    f'if __name__ == "__main__":\n    sys.exit({function}())\n')
    environment = {**os.environ, 'PYTHONPATH': str(REPO), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    return subprocess.run([sys.executable, str(path), *arguments], cwd=folder, env=environment, capture_output=True,
                          text=True, timeout=240, check=False)


def test_it_is_short() -> None:
    assert METHOD.count('\n') <= 40
    assert OPTIONS.count('\n') <= 35
    assert DOC.count('\n') <= 140


def test_the_commands_are_these() -> None:
    assert COMMANDS == [['pytest', 'test_spkd.py'], ['mipkd', 'check', '-opt', 'spkd.yml'],
                        ['basicsr', 'train', '-opt', 'spkd.yml']]


def test_check_then_train(folder: Path, tmp_path: Path) -> None:
    before = sorted(str(path) for path in folder.rglob('*'))
    checked = run(COMMANDS[1], folder, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert 'loss     SPKDLoss, 0 parameters' in checked.stdout
    assert 'body.4 16×24×24 <- body.4 64×24×24' in checked.stdout
    assert sorted(str(path) for path in folder.rglob('*')) == before
    trained = run([*COMMANDS[2], '--force_yml', 'train:total_iter=2', 'logger:print_freq=1'], folder, tmp_path)
    assert trained.returncode == 0, trained.stderr
    run_folder = folder / 'experiments/SPKD_EDSR_x2_small'
    assert (run_folder / 'models/net_g_latest.pth').is_file()
    log = next(run_folder.glob('train_*.log')).read_text(encoding='utf-8')
    assert re.search(r'l_pix: [\d.e+-]+ l_spkd: [1-9][\d.]*e[+-]\d+', log)
    assert '# psnr: ' in log


def test_its_test(tmp_path: Path) -> None:
    (tmp_path / 'work').mkdir()
    (tmp_path / 'bin').mkdir()
    (tmp_path / 'work/spkd.py').write_text(METHOD, encoding='utf-8')
    (tmp_path / 'work/test_spkd.py').write_text(TEST, encoding='utf-8')
    result = run(COMMANDS[0], tmp_path / 'work', tmp_path / 'bin')
    assert result.returncode == 0, result.stdout + result.stderr
    assert ' 1 passed' in result.stdout


def test_the_network(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, = re.findall(r'`(network_g: \{.*?\})`', DOC)
    imports, = re.findall(r'`(imports: \[spkd.py, plain_net.py\])`', DOC)
    options = re.sub(r'^network_g: .*$', line, OPTIONS, flags=re.M).replace('imports: [spkd.py]', imports)
    (folder / 'plain_net.py').write_text(NETWORK, encoding='utf-8')
    (folder / 'plain.yml').write_text(options, encoding='utf-8')
    checked = run(['mipkd', 'check', '-opt', 'plain.yml'], folder, tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert 'student  PlainNet, ' in checked.stdout
    assert 'body.3 16×24×24 <- body.4 64×24×24' in checked.stdout
