"""Teachers without a network: files that cannot be recognized."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from helpers import TEACHERS
from torchvision.models import resnet18

from faults.harness import BadInput

ALONE = {'weights': 'teacher.pth'}


def bytes_(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / 'teacher.pth').write_bytes(content)


def saved(content: Callable[[], Any]) -> Callable[[Path], object]:
    return lambda folder: torch.save(content(), folder / 'teacher.pth')


def state(arch: str = 'EDSR') -> dict[str, torch.Tensor]:
    return dict(build_network(TEACHERS[arch]).state_dict())


def with_nan() -> dict[str, Any]:
    own = state()
    own['body.1.conv1.weight'][0, 0, 0, 0] = torch.nan
    return {'params': own}


def without(name: str) -> dict[str, Any]:
    own = state()
    del own[name]
    return {'params': own}


def case(name: str, spoil: Callable[[Path], object], *says: str) -> BadInput:
    return BadInput(f'unnamed teacher: {name}', 'teacher.weights', says, {'teacher': ALONE}, spoil, remedy=False)


CASES = [
    case('web page', bytes_(b'<!DOCTYPE html><html>'), 'is a web page', 'download the file itself'),
    case('git-lfs pointer', bytes_(b'version https://git-lfs.github.com/spec/v1\n'), 'is a pointer of git-lfs',
         'run: git lfs pull'),
    case('nothing', bytes_(b''), 'teacher.pth is empty'),
    case('weights with NaN', saved(with_nan), 'holds weights that are not finite: 1 of 28 tensors',
         'the first is body.1.conv1.weight', 'give another one'),
    case('another scale', saved(lambda: {'params': state('RRDBNet')}), 'holds a teacher for x4 (RRDBNet), and scale '
         'is 2', 'give a teacher for x2, or write scale: 4'),
    case('a discriminator', saved(lambda: {'params': UNetDiscriminatorSN(3, 8).state_dict()}),
         'seems to hold the discriminator of a GAN', 'net_g_*.pth'),
    case('a classifier', saved(lambda: resnet18().state_dict()),
         'seems to hold a ResNet that classifies images (1,000 classes)'),
    case('a training state', saved(lambda: {'epoch': 1, 'iter': 2, 'optimizers': [], 'schedulers': []}),
         'is a training state of BasicSR', 'give the net_g_*.pth of the same iteration'),
    case('a tensor that is gone', saved(lambda: without('body.1.conv1.weight')),
         'looks like EDSR, but it lacks body.1.conv1.weight', 'download it again'),
    BadInput('unnamed teacher: file that is not there', 'teacher.weights', ('no.pth does not exist', ),
             {'teacher': {'weights': 'no.pth'}}, remedy=False),
    BadInput('unnamed teacher: wrong key', 'teacher.param_key', ("holds no state dict under the key 'params_ema'",
             'write param_key: params'), {'teacher': {**ALONE, 'param_key': 'params_ema'}}),
]
