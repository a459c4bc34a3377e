"""A tiny aggregator of teachers of three architectures: options of both stages, and a file as stage 1 saves it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from helpers import STUDENTS, TEACHERS, tiny_options

from mipkd_plugin.archs import AggregatedTeachers
from mipkd_plugin.checkpoints.aggregate_file import KEY, Aggregate, Member
from mipkd_plugin.config import teacher_fingerprint
from basicsr.archs import build_network

AGGREGATOR: dict[str, Any] = {'type': 'KnowledgeAggregator', 'num_teachers': 3, 'upscale': 2, 'embed_dim': 8,
                              'depths': [2, 1], 'num_heads': 2, 'window_size': 4, 'drop_path_rate': 0.1}
NETWORKS = {'edsr': TEACHERS['EDSR'], 'rcan': STUDENTS['RCAN'], 'swinir': TEACHERS['SwinIR']}


def write_teachers(folder: Path) -> list[dict[str, Any]]:
    """The list ``teachers``, with weights in ``<name>.pth``."""
    for seed, (name, network) in enumerate(NETWORKS.items()):
        if not (folder / f'{name}.pth').exists():
            torch.manual_seed(10 + seed)
            torch.save({'params': build_network(network).state_dict()}, folder / f'{name}.pth')
    return [{'name': name, 'network': dict(network), 'weights': str(folder / f'{name}.pth'), 'param_key': 'params'}
            for name, network in NETWORKS.items()]


def aggregate_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """Options of stage 1."""
    opt = tiny_options(folder, name='aggregate', model_type='AggregateModel', network_g=dict(AGGREGATOR))
    opt['teachers'] = write_teachers(folder)
    del opt['teacher'], opt['train']['distill_opt']
    opt.update(changes)
    return opt


def write_aggregate(folder: Path) -> Path:
    """A file as stage 1 saves it, with random weights."""
    teachers = write_teachers(folder)
    torch.manual_seed(5)
    net = build_network(AGGREGATOR)
    record = Aggregate(dict(AGGREGATOR), tuple(Member(
        entry['name'], entry['network'], entry['weights'], 'params', fingerprint(entry)) for entry in teachers))
    path = folder / 'net_g_latest.pth'
    average = {name: value if 'bias' not in name else value + 0.01 for name, value in net.state_dict().items()}
    torch.save({'params': net.state_dict(), 'params_ema': average, KEY: record.as_text()}, path)
    return path


def fingerprint(entry: dict[str, Any]) -> str:
    """Hash of the weights of a teacher."""
    return teacher_fingerprint(load(entry))


def load(entry: dict[str, Any]) -> torch.nn.Module:
    """A teacher with its weights, in eval mode."""
    net = build_network(entry['network'])
    net.load_state_dict(torch.load(entry['weights'], weights_only=True)['params'])
    return net.eval()


def whole(path: Path, teachers: list[dict[str, Any]], key: str = 'params_ema') -> torch.nn.Module:
    """The aggregator of a file with its teachers."""
    net = build_network(AGGREGATOR)
    net.load_state_dict(torch.load(path, weights_only=True)[key])
    return AggregatedTeachers.of(net, [load(entry) for entry in teachers]).eval()
