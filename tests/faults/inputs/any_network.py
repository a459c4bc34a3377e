"""Networks and models of others: outputs that are no image, windows that no option names, models without a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from helpers import STUDENTS

from faults import stand_ins  # noqa: F401  (registers them)
from faults.harness import BadInput
from faults.inputs.rehearsal import PLAIN
from mipkd_plugin.config.remedies import REMOVE

WIDE = {'num_feat': 16, 'num_block': 3}


def more(kind: str, **sizes: int) -> dict[str, Any]:
    return {'type': 'ReturnsMore', 'kind': kind, **sizes}


def windows(split: int, **sizes: int) -> dict[str, Any]:
    return {'type': 'UnnamedWindows', 'split': split, **sizes}


def teacher(network: dict[str, Any]) -> Any:
    def write(folder: Path) -> None:
        torch.save({'params': build_network(network).state_dict()}, folder / 'teacher.pth')

    return write


def of_teacher(name: str, where: str, says: tuple[str, ...], network: dict[str, Any], remedy: bool = True,
               **entries: Any) -> BadInput:
    """A bad input about a teacher."""
    taps = {} if 'train__distill_opt' in entries else {'train.distill_opt.taps': 3}
    return BadInput(name, where, says, {'teacher.network': network, **taps, **{
        key.replace('__', '.'): value for key, value in entries.items()}}, teacher(network), remedy=remedy)


OUTPUTS = [
    BadInput('student that returns a list', 'network_g', (
        'ReturnsMore returns a list of 2: 0: 1×3×8×8, 1: 1×3×16×16, and not an image alone',
        'write output: 1 beside network_g'), {'network_g': more('list')}),
    BadInput('student that returns a dict', 'network_g', (
        "returns a dict of 'loss': one number, 'sr': 1×3×16×16, 'lr': 1×3×8×8", 'write output: sr beside network_g'),
        {'network_g': more('dict')}),
    of_teacher('teacher that returns a tuple', 'teacher.network', (
        'ReturnsMore returns a tuple of 2: 0: 1×3×16×16, 1: 1', 'write output: 0 in teacher'), more('tuple', **WIDE)),
    of_teacher('wrong key of a teacher', 'teacher.output', (
        "ReturnsMore has no output 'hr': it returns a dict of 'loss': one number, 'sr'", 'write output: sr in teacher'),
        more('dict', **WIDE), teacher__output='hr'),
    BadInput('wrong number of an output', 'output', (
        'ReturnsMore has no output 5: it returns a list of 2', 'write output: 1 beside network_g'),
        {'network_g': more('list'), 'output': 5}),
    BadInput('outputs without an image', 'network_g', (
        'none of it has the size of the image, 3×16×16: fix the arguments of this network', ),
        {'network_g': more('small')}, remedy=False),
    BadInput('output of a network that returns an image', 'output', (
        'is for a network that returns more than an image, and EDSR returns an image alone', 'remove output'),
        {'output': 0}),
    BadInput('output of a model that does not read it', 'output', (
        'SRModel does not read it', 'write model_type: AnySRModel'), {
            **PLAIN, 'network_g': more('list'), 'output': 1}),
]
PATCHES = [
    of_teacher('windows of 8 and unnamed ones of 12', 'datasets.train.gt_size', (
        'gt_size / scale = 8 is not a multiple of 24, the least common multiple of the sizes needed, 8 of network_g '
        'and 12 of teacher.network', 'write gt_size: 48'), windows(12, **WIDE),
        network_g={**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8}),
    of_teacher('unnamed windows of 4 and 6', 'datasets.train.gt_size', (
        'gt_size / scale = 8 is not a multiple of 12, the least common multiple of the sizes needed, 4 of network_g '
        'and 6 of teacher.network', 'write gt_size: 24'), windows(6, **WIDE), network_g=windows(4)),
]
MODELS = [
    BadInput('model that would train without its teacher', 'model_type', (
        'OwnTestModel does not distill: it would ignore teacher and train.distill_opt, and train without a teacher',
        'write model_type: DistillModel, which trains in the same way and pads images by itself'),
        {'model_type': 'OwnTestModel'}),
    BadInput('model with a step of its own and a teacher', 'model_type', (
        'StepsItselfModel does not distill',
        'class StepsItselfDistillModel(DistillMixin, StepsItselfModel): pass in stand_ins.py'),
        {'model_type': 'StepsItselfModel'}, remedy=False),
    BadInput('loss of ours in a model that does not distill', 'model_type', (
        'would ignore train.distill_opt, and', ), {'model_type': 'OwnTestModel', 'teacher': REMOVE}, remedy=False),
]
FITNET = {'type': 'FitNetLoss', 'taps': [['body.0', 'body.0'], ['body.2', 'body.2']]}
EXTRA = {'train.distill_opt.taps': [['extra', 'body.2']]}
OF_TEACHER = [['body.0', 'body.0'], ['body.2', 'extra']]
ODD = [
    BadInput('tap in a module that runs twice', 'train.distill_opt.taps', (
        "tap 'extra' of the student Twice: its module runs 2 times in one forward pass, not once",
        'list the modules that can be tapped: mipkd taps -opt '),
        {'network_g': {'type': 'Twice'}, **EXTRA}, remedy=False),
    of_teacher('tap of a teacher in a module that runs twice', 'train.distill_opt.taps', (
        "tap 'extra' of the teacher Twice: its module runs 2 times", ), {'type': 'Twice', **WIDE},
        train__distill_opt__taps=OF_TEACHER, remedy=False),
    BadInput('tap in a module that never trains', 'train.distill_opt.taps', (
        "tap 'extra' of the student InOneMode: its module runs in eval mode alone, and never in training", ),
        {'network_g': {'type': 'InOneMode', 'in_training': False}, **EXTRA}, remedy=False),
    of_teacher('tap of a teacher in a module that only trains', 'train.distill_opt.taps', (
        "tap 'extra' of the teacher InOneMode: its module runs in training mode alone, and a teacher runs in eval "
        'mode', ),
        {'type': 'InOneMode', 'in_training': True, **WIDE},
        train__distill_opt__taps=OF_TEACHER, remedy=False),
    BadInput('tap beside the image', 'train.distill_opt.taps', (
        "Beside: no gradient comes back from the image to 'extra', so a feature that re-enters there has no effect", ),
        {'network_g': {'type': 'Beside'}, **EXTRA}, remedy=False),
    BadInput('student that mixes a batch', 'network_g', (
        'the student OverBatch depends on the batch', 'so no feature can re-enter it', 'normalize each image by '
        'itself'),
        {'network_g': {'type': 'OverBatch'}}, remedy=False),
    of_teacher('teacher that mixes a batch', 'teacher.network', (
        'the teacher OverBatch depends on the batch', 'so no feature can re-enter it'),
        {'type': 'OverBatch', **WIDE}, remedy=False),
    of_teacher('cache of a teacher that mixes a batch', 'teacher.cache', (
        'OverBatch depends on the batch: its result for an image changes with the images beside it, and a cache keeps '
        'the first', 'remove cache; or normalize each image by itself'), {'type': 'OverBatch', **WIDE},
        train__distill_opt=FITNET, teacher__cache='memory', datasets__train__type='CropPoolDataset',
        datasets__train__crops=4),
    BadInput('student of one image at a time', 'network_g', (
        'the student OneByOne takes one image at a time, and fails on two: RuntimeError: shape ',
        'fix its forward(), so that it takes a batch'), {'network_g': {'type': 'OneByOne'}}, remedy=False),
    BadInput('student that cannot train', 'network_g', (
        'the student WritesInTraining fails in a training step on two images: RuntimeError: one of the variables '
        'needed for gradient', 'fix its forward()'), {
            'network_g': {'type': 'WritesInTraining'}, 'train.distill_opt': FITNET}, remedy=False),
    of_teacher('teacher without a gradient', 'train.distill_opt.taps', (
        "CutOff: no gradient comes back from the image to 'body.0'", ), {'type': 'CutOff', **WIDE}, remedy=False),
]
CASES = [*OUTPUTS, *PATCHES, *MODELS, *ODD]
