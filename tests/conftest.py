"""Fixtures of all tests: seeds, tiny data, one thread."""

from __future__ import annotations

import functools
import logging
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

# all tests but those of test_gpu.py are of the CPU, also where there is a GPU; before torch looks for one
os.environ['MIPKD_TEST_GPUS'] = os.environ.get('MIPKD_TEST_GPUS', os.environ.get('CUDA_VISIBLE_DEVICES', 'all'))
os.environ['CUDA_VISIBLE_DEVICES'] = ''

import numpy as np
import pytest
import torch
from helpers import SHARED, tiny_options, write_image_pairs
from torchvision.models.vgg import cfgs, make_layers

# tiny networks: a second thread brings little, and waits in a busy loop where another program has the core
torch.set_num_threads(1)
os.environ.setdefault('OMP_NUM_THREADS', '1')
# a shell starts what it puts into the background with Ctrl-C ignored, and programs here respect that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

@pytest.fixture(autouse=True)
def seed_everything() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    log = logging.getLogger('basicsr')  # a training in another test logs to a stream that is closed by now
    for handler in list(log.handlers):
        if getattr(getattr(handler, 'stream', None), 'closed', False):
            log.removeHandler(handler)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f'real images and weights are not at {SHARED} (set MIPKD_SHARED)')
    return SHARED


@pytest.fixture(scope='session')
def vgg_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with random weights for the convolutions of VGG-19, named as in torchvision's own."""
    generator = torch.Generator().manual_seed(19)
    state = make_layers(cfgs['E']).state_dict()
    for name, value in state.items():
        fan_out = len(value) * value[0, 0].numel() if name.endswith('weight') else torch.inf
        state[name] = torch.randn(value.shape, generator=generator) * (2 / fan_out) ** 0.5
    path = tmp_path_factory.mktemp('vgg') / 'vgg19.pth'
    torch.save({f'features.{name}': value for name, value in state.items()}, path)
    return str(path)


@pytest.fixture
def image_pairs(tmp_path: Path) -> Path:
    """Folders HR (48×48) and LRbicx2 (24×24) with four smooth random images."""
    return write_image_pairs(tmp_path)


@pytest.fixture
def train_options(image_pairs: Path) -> Callable[..., dict[str, Any]]:
    """Options of a tiny training run (EDSR x2) with its teacher's weights on disk, as the YAML would hold them."""
    return functools.partial(tiny_options, image_pairs)
