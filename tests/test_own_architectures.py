"""docs/architectures.md: the three lines for a network of a repository work as printed."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from basicsr.utils.registry import ARCH_REGISTRY
from helpers import REPO
from training import train, write_options

PAGE = (REPO / 'docs/architectures.md').read_text(encoding='utf-8')
THREE_LINES = yaml.safe_load(re.findall(r'```yaml\n(.*?)```', PAGE, flags=re.S)[0])
HAT = '''
from basicsr.utils.matlab_functions import rgb2ycbcr  # BasicSR 1.4 has moved it
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


class WindowBlock(nn.Module):
    """Windows become rows of a batch, and are put together again: no other size fits."""

    def __init__(self, width, window):
        super().__init__()
        self.window, self.fc = window, nn.Linear(width, width)

    def forward(self, x):
        n, c, h, w = x.shape
        windows = x.view(n, c, h // self.window, self.window, w // self.window, self.window).permute(0, 2, 4, 3, 5, 1)
        return x + self.fc(windows).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


@ARCH_REGISTRY.register()
class HAT(nn.Module):
    def __init__(self, upscale=2, in_chans=3, window_size=7, depths=(6, 6), **kwargs):
        super().__init__()
        self.conv_first = nn.Conv2d(in_chans, 8, 3, padding=1)
        self.layers = nn.ModuleList(WindowBlock(8, window_size) for _ in depths)
        self.upsample = nn.Conv2d(8, in_chans * upscale**2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(upscale)

    def forward(self, x):
        x = self.conv_first(x)
        for layer in self.layers:
            x = layer(x)
        return self.shuffle(self.upsample(x))
'''


@pytest.fixture(autouse=True)
def _forget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.chdir(tmp_path)
    yield
    ARCH_REGISTRY._obj_map.pop('HAT', None)
    for name in [name for name in sys.modules if name.split('.')[0] == 'hat']:
        del sys.modules[name]


def test_three_lines_train_and_validate_a_windowed_network(train_options: Callable[..., dict[str, Any]], tmp_path: Path,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    """In the repository's folder; the images, 24×24, do not fit the window of 16."""
    assert list(THREE_LINES) == ['imports', 'model_type', 'network_g']
    assert THREE_LINES['network_g']['window_size'] == 16
    file = tmp_path / THREE_LINES['imports'][0]
    file.parent.mkdir(parents=True)
    file.write_text(HAT)
    opt = {**train_options(), **THREE_LINES}
    opt['datasets']['train']['gt_size'] = 32
    opt['train'].update(total_iter=2, distill_opt={'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4})
    opt['val']['val_freq'] = 2
    assert train(write_options(opt, tmp_path / 'x.yml')) == 0
    log = ''.join(path.read_text() for path in tmp_path.glob('experiments/tiny/train_*.log'))
    assert 'MiPKDLoss: layers.2 <- ' in log
    assert re.search(r'Validation val\n\t # psnr: \d', log)
