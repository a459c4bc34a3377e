"""One start of a training builds teacher and losses once, whatever checks them on the way."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import REPO

LOSSES = [{'type': 'MiPKDLoss', 'taps': 3, 'latent_channels': 8}, {'type': 'FitNetLoss', 'taps': 2},
          {'type': 'KRNetLoss', 'taps': 1, 'hidden_channels': 8}, {'type': 'LogitsKDLoss'}]

# counts, then runs `basicsr` with the arguments of the process
DRIVER = '''
import collections, json, sys
from pathlib import Path
import torch
counts = collections.Counter()
load = torch.load

def counting_load(path, *args, **kwargs):
    if isinstance(path, (str, Path)):  # torch.distributed reads buffers with it
        counts[Path(path).name] += 1
    return load(path, *args, **kwargs)

torch.load = counting_load
import mipkd_plugin
from mipkd_plugin import archs, cli, compat, losses

def count(cls):
    init = cls.__init__
    def counting(self, *args, **kwargs):
        if type(self) is cls:
            counts[cls.__name__] += 1
        init(self, *args, **kwargs)
    cls.__init__ = counting

for cls in (archs.FeaturePriorMixer, archs.FeatureProjection, archs.KRNet, losses.MiPKDLoss, losses.FitNetLoss,
            losses.KRNetLoss, losses.LogitsKDLoss):
    count(cls)
compat.leave_without_gpu = lambda: None
code = cli.basicsr_main(sys.argv[1:])
print('COUNTS ' + json.dumps(counts), flush=True)
import os
os._exit(code)
'''


def counts_of(folder: Path, *arguments: str, **variables: str) -> dict[str, int]:
    (folder / 'driver.py').write_text(DRIVER)
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'CUDA_VISIBLE_DEVICES': '',
                   **variables}
    result = subprocess.run([sys.executable, 'driver.py', 'train', '-opt', 'x.yml', *arguments], cwd=folder,
                            env=environment, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
    line = next(line for line in result.stdout.splitlines() if line.startswith('COUNTS '))
    return json.loads(line.removeprefix('COUNTS '))


@pytest.mark.parametrize('launcher', ['none', 'pytorch'])
def test_a_start_reads_the_teacher_once_and_makes_each_mixer_once(
        launcher: str, train_options: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    opt = train_options()
    opt['train'].update(distill_opt=LOSSES, total_iter=2)
    opt['logger']['use_tb_logger'] = False
    (tmp_path / 'x.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    torchrun: dict[str, str] = {}
    if launcher == 'pytorch':
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        torchrun = {'RANK': '0', 'LOCAL_RANK': '0', 'WORLD_SIZE': '1', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port}
    counts = counts_of(tmp_path, '--launcher', launcher, **torchrun)
    assert counts == {'teacher.pth': 1, 'FeaturePriorMixer': 3, 'FeatureProjection': 2, 'KRNet': 1, 'MiPKDLoss': 1,
                      'FitNetLoss': 1, 'KRNetLoss': 1, 'LogitsKDLoss': 1}
