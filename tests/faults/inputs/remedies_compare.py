"""Comparisons whose mistakes have a remedy as data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from aggregates import write_aggregate
from basicsr.archs import build_network
from helpers import STUDENTS

from faults.harness import nothing
from faults.remedy_harness import Mistake
from mipkd_plugin.config.remedies import REMOVE

METRICS = {kind: {'type': f'calculate_{kind}', 'crop_border': 2, 'test_y_channel': True} for kind in ('psnr', 'ssim')}
LOGITS = {'type': 'LogitsKDLoss'}
BASE: dict[str, Any] = {
    'train.distill_opt': REMOVE, 'val.metrics': METRICS, 'logger.print_freq': 2,
    'compare': {'seeds': [0], 'methods': {'logits': LOGITS, 'mipkd': {'type': 'MiPKDLoss', 'taps': 3}}}}
ABLATE = {'method': 'logits', 'options': {'loss_weight': [0.5, 2.0]}}


def wrong(name: str, where: str, value: Any, check: str = 'comparison', **more: Any) -> Mistake:
    """A mistake of one entry in a comparison."""
    return Mistake(name, more.get('at', where), {**BASE, where: value, **more.get('entries', {})}, check=check,
                   spoil=more.get('spoil', nothing))


def student(folder: Path) -> None:
    """Weights of a student to start from."""
    torch.save({'params': build_network(dict(STUDENTS['EDSR'])).state_dict()}, folder / 'student.pth')


CASES = [
    wrong('no comparison', 'compare', REMOVE),
    wrong('comparison that is a list', 'compare', [1]),
    wrong('no methods', 'compare.methods', REMOVE),
    wrong('methods that are a list', 'compare.methods', [1]),
    wrong('control as a method', 'compare.methods.none', LOGITS),
    wrong('control of equal time as a method', 'compare.methods.none (equal time)', LOGITS),
    wrong('method with a space', 'compare.methods.my method', LOGITS),
    wrong('method with a dot in front', 'compare.methods', {'logits': LOGITS, '.x': LOGITS}, at='compare.methods..x'),
    wrong('method that is a number', 'compare.methods.mipkd', 5),
    wrong('mistake in a method with a dot', 'compare.methods', {'x1.5': {'type': 'LogitsKDLoss', 'loss_weight': -1}},
          at='compare.methods.x1.5.loss_weight'),
    wrong('misspelled loss of a method with settings', 'compare.methods.mipkd', {
        'losses': {'type': 'MiPKDLos'}, 'crops': 8}, at='compare.methods.mipkd.losses.type'),
    wrong('schedule of a method', 'compare.methods.mipkd', {'losses': LOGITS, 'distill': {'until': 2}},
          at='compare.methods.mipkd.distill.until'),
    wrong('eco of a method', 'compare.methods.mipkd', {'eco': {'end_ratio': 2}},
          at='compare.methods.mipkd.eco.end_ratio'),
    wrong('mode of the eco of a method', 'compare.methods.mipkd', {'losses': LOGITS, 'eco': {'mode': 'x'}},
          at='compare.methods.mipkd.eco.mode'),
    wrong('method of an eco that is off', 'compare.methods.mipkd', {'eco': None}, at='compare.methods.mipkd'),
    wrong('schedule of a method without losses', 'compare.methods.mipkd', {'eco': {}, 'distill': {'until': 0.5}},
          at='compare.methods.mipkd.distill'),
    wrong('weights of a method', 'compare.methods.mipkd', {'losses': LOGITS, 'teacher': {
        'weights': 'other.pth', 'dtype': 'float32'}}, at='compare.methods.mipkd.teacher.weights'),
    wrong('weights beside the aggregator of a method', 'compare.methods.mipkd', {'losses': LOGITS, 'teacher': {
        'aggregate': 'net_g_latest.pth', 'weights': 'other.pth', 'param_key': 'params'}},
          at='compare.methods.mipkd.teacher.weights', spoil=write_aggregate),
    wrong('key that the aggregator of a method lacks', 'compare.methods.mipkd', {'losses': LOGITS, 'teacher': {
        'aggregate': 'net_g_latest.pth', 'param_key': 'param'}},
          at='compare.methods.mipkd.teacher.param_key', spoil=write_aggregate),
    wrong('a start that nobody knows', 'compare.init', 'teacher', at='compare.init'),
    wrong('a start of a method that nobody knows', 'compare.methods.slice', {'init': 'slice'},
          at='compare.methods.slice.init'),
    wrong('schedule of a control that only starts otherwise', 'compare.methods.slice', {
        'init': 'teacher_slice', 'distill': {'until': 0.5}}, at='compare.methods.slice.distill'),
    wrong('a second control', 'compare.methods.again', {'init': 'random'}),
    wrong('losses of all methods', 'train.distill_opt', LOGITS),
    wrong('eco of all methods', 'train.eco', {'end_ratio': 0.5}),
    wrong('eco of all methods that is no eco', 'train.eco', 5),
    wrong('start of all trainings', 'train.init', 'teacher_slice'),
    wrong('start of all trainings that is none', 'train.init', 'slice'),
    wrong('two starts', 'compare.init', 'teacher_slice', at='compare.init', entries={
        'path.pretrain_network_g': 'student.pth'}, spoil=student),
    wrong('a slice of a narrower teacher for all', 'compare.init', 'teacher_slice', at='compare.init',
          entries={'network_g.num_feat': 99}),
    wrong('a method that is a slice of a narrower teacher', 'compare.methods.slice', {'init': 'teacher_slice'},
          at='compare.methods.slice.init', entries={'network_g.num_feat': 99}),
    wrong('a method with losses that starts from a slice of a narrower teacher', 'compare.methods.slice', {
        'init': 'teacher_slice', 'losses': LOGITS}, at='compare.methods.slice.init',
          entries={'network_g.num_feat': 99}),
    wrong('two methods that start from a slice of a narrower teacher', 'compare.methods.slice', {
        'init': 'teacher_slice'},
          at='compare.methods.slice.init', entries={'network_g.num_feat': 99, 'compare.methods.logits_slice': {
              'init': 'teacher_slice', 'losses': [LOGITS]}}),
    wrong('no seeds', 'compare.seeds', REMOVE),
    wrong('seeds that are a number', 'compare.seeds', 3),
    wrong('seeds below 0', 'compare.seeds', [-1]),
    wrong('a seed twice', 'compare.seeds', [1, 1, 2]),
    wrong('equal time that is a number', 'compare.equal_time', 5),
    wrong('equal time of a method that is misspelled', 'compare.equal_time', 'mipdk'),
    wrong('equal time of a method that is not there', 'compare.equal_time', 'zzz'),
    wrong('equal time asked for and switched off', 'compare.equal_time', False, 'comparison equal', at='--methods'),
    wrong('no validation', 'val', REMOVE),
    wrong('no SSIM', 'val.metrics', {'psnr': METRICS['psnr']}),
    wrong('log that misses the validations', 'logger.print_freq', 3),
    wrong('comparison without a name', 'name', REMOVE),
    wrong('comparison with a slash', 'name', 'a/b', at=('name', )),
    wrong('comparison without distillation', 'model_type', 'SRModel'),
    wrong('ablation of a misspelled method', 'compare.ablate', {**ABLATE, 'method': 'logist'}, 'comparison ablate',
          at='compare.ablate.method'),
    wrong('ablation of a misspelled option', 'compare.ablate', {**ABLATE, 'options': {'los_weight': [0.5]}},
          'comparison ablate', at='compare.ablate.options.los_weight'),
    wrong('folder of a table with a slash', 'name', 'a/b', 'table'),
]
