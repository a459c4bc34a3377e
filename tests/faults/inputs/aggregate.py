"""Aggregators of several teachers: files of others, broken files, and teachers that do not fit each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from aggregates import AGGREGATOR, NETWORKS, write_aggregate, write_teachers
from helpers import STUDENTS

from faults.harness import BadInput
from faults.inputs.remedies_compare import METRICS
from faults.remedy_harness import Mistake
from mipkd_plugin.checkpoints.aggregate_file import KEY
from mipkd_plugin.config.remedies import REMOVE
from basicsr.archs import build_network

FILE = 'net_g_latest.pth'
GRAY = {'type': 'SRVGGNetCompact', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8, 'num_conv': 2, 'upscale': 2}
STAGE_2: dict[str, Any] = {'teacher': {'aggregate': FILE}, 'train.distill_opt': {'type': 'WaveletKDLoss'}}


def listed() -> list[dict[str, Any]]:
    return [{'name': name, 'network': dict(network), 'weights': f'{name}.pth', 'param_key': 'params'}
            for name, network in NETWORKS.items()]


def other(number: int, **entries: Any) -> list[dict[str, Any]]:
    """The list of teachers with another entry."""
    teachers = listed()
    teachers[number] |= entries
    return teachers


def stage_1(**entries: Any) -> dict[str, Any]:
    return {'model_type': 'AggregateModel', 'network_g': dict(AGGREGATOR), 'teacher': REMOVE,
            'train.distill_opt': REMOVE, 'teachers': listed(), **entries}


def save(path: Path, network: dict[str, Any]) -> None:
    torch.manual_seed(9)
    torch.save({'params': build_network(network).state_dict()}, path)


def with_other_teacher(folder: Path) -> None:
    write_aggregate(folder)
    save(folder / 'rcan.pth', NETWORKS['rcan'])


def with_other_network(folder: Path) -> None:
    write_aggregate(folder)
    save(folder / 'rcan.pth', {**NETWORKS['rcan'], 'num_feat': 12})


def with_lost_teacher(folder: Path) -> None:
    write_aggregate(folder)
    (folder / 'swinir.pth').unlink()


def cut(folder: Path) -> None:
    path = write_aggregate(folder)
    path.write_bytes(path.read_bytes()[:20_000])


def with_text(change: Any) -> Any:
    """What writes a file whose text is another one."""
    def spoil(folder: Path) -> None:
        path = write_aggregate(folder)
        content = torch.load(path, weights_only=True)
        torch.save({**content, KEY: change(content[KEY])}, path)

    return spoil


def two_of_three(text: str) -> str:
    read = json.loads(text)
    return json.dumps({**read, 'teachers': read['teachers'][:2]})


def of_a_plugin(text: str) -> str:
    read = json.loads(text)
    read['teachers'][1]['network']['type'] = 'TheirNet'
    return json.dumps(read)


def three_times(folder: Path) -> None:
    write_teachers(folder)
    save(folder / 'edsr.pth', {**NETWORKS['edsr'], 'upscale': 3})


def gray(folder: Path) -> None:
    write_teachers(folder)
    save(folder / 'edsr.pth', GRAY)


CASES = [
    BadInput('an aggregator of other teachers', 'teacher.aggregate', (
        "holds other weights than the teacher 'rcan' had when the aggregator was trained",
        'write teacher.files: {rcan: PATH}'), STAGE_2, with_other_teacher, remedy=False),
    BadInput('an aggregator of a teacher of another size', 'teacher.aggregate', (
        "its teacher 'rcan': ", 'does not fit RCAN'), STAGE_2, with_other_network, remedy=False),
    BadInput('an aggregator whose teacher is lost', 'teacher.aggregate', (
        "the weights of its teacher 'swinir' are not in", 'put the file there or beside'), STAGE_2, with_lost_teacher,
        remedy=False),
    BadInput('plain weights as an aggregator', 'teacher.aggregate', (
        'holds no aggregator: it does not say whose images it takes', 'model_type: AggregateModel'),
        {**STAGE_2, 'teacher': {'aggregate': 'teacher.pth'}}, remedy=False),
    BadInput('no file of an aggregator', 'teacher.aggregate', ('does not exist', 'fix the path'),
             {**STAGE_2, 'teacher': {'aggregate': 'nothing.pth'}}, remedy=False),
    BadInput('a broken file of an aggregator', 'teacher.aggregate', ('is damaged', ), STAGE_2, cut, remedy=False),
    BadInput('a file of an aggregator with another text', 'teacher.aggregate', (
        'holds a text about its teachers that cannot be read', ), STAGE_2, with_text(lambda text: text[:-5]),
        remedy=False),
    BadInput('a file of an aggregator that names fewer teachers', 'teacher.aggregate', (
        'it takes the images of 3 teachers, and names 2', ), STAGE_2, with_text(two_of_three), remedy=False),
    BadInput('an aggregator of a network that nobody has registered', 'teacher.aggregate', (
        'is of the network TheirNet, which is not registered here', 'in imports'), STAGE_2, with_text(of_a_plugin),
        remedy=False),
    BadInput('files of an aggregator that are no paths', 'teacher.files.edsr', ('must be the path of a file, not 5', ),
             {**STAGE_2, 'teacher': {'aggregate': FILE, 'files': {'edsr': 5}}}, write_aggregate),
    BadInput('an aggregator and a network', 'teacher.aggregate', (
        'network and weights beside it name another teacher', 'remove network and weights, or remove aggregate'),
        {'teacher.aggregate': FILE, 'train.distill_opt': {'type': 'WaveletKDLoss'}}, write_aggregate),
    BadInput('files of an unknown teacher', 'teacher.files.swin', (
        f"{FILE} has no teacher 'swin', only edsr, rcan, swinir", "did you mean 'swinir'?"),
        {**STAGE_2, 'teacher': {'aggregate': FILE, 'files': {'swin': 'swinir.pth'}}}, write_aggregate),
    BadInput('files without an aggregator', 'teacher.files', ('is for a teacher with aggregate', ),
             {'teacher.files': {'edsr': 'edsr.pth'}}),
    BadInput('an aggregator for another number of teachers', 'network_g.num_teachers', (
        'is 4, and there are 3 teachers', 'write num_teachers: 3'),
        stage_1(network_g={**AGGREGATOR, 'num_teachers': 4}), write_teachers),
    BadInput('an aggregator for another scale', 'network_g.upscale', ('is 4, and scale is 2', ),
             stage_1(network_g={**AGGREGATOR, 'upscale': 4}), write_teachers),
    BadInput('an aggregator without teachers', 'teachers', (
        'is missing: AggregateModel aggregates the images of several teachers', 'teachers: [{name: '),
        stage_1(teachers=REMOVE), remedy=False),
    BadInput('teachers of different scales', 'teachers[0].network', (
        'turns a patch of 3×8×8 into (channels, height, width) = (3, 24, 24)', 'use teachers for this scale'),
        stage_1(teachers=other(0, network={**NETWORKS['edsr'], 'upscale': 3})), three_times, remedy=False),
    BadInput('teachers of different channels', 'teachers[0].network', (
        'works on 1 channel, and an aggregator takes RGB images', ),
        stage_1(teachers=other(0, network=GRAY)),
        gray, remedy=False),
    BadInput('a teacher of an aggregator in another number format', 'teachers[1].dtype', (
        'AggregateModel does not read it', ), stage_1(teachers=other(1, dtype='bfloat16')), write_teachers),
    BadInput('an aggregator as a teacher of an aggregator', 'teachers[1].aggregate', (
        'an aggregator cannot be a teacher of another aggregator', ), stage_1(teachers=[
            listed()[0], {'name': 'all', 'aggregate': FILE}]), write_aggregate, remedy=False),
    BadInput('a student of LR images in place of an aggregator', 'network_g', (
        'EDSR does not take the images of 3 teachers, 9 channels in the size of the HR image',
        'KnowledgeAggregator'), stage_1(network_g=dict(STUDENTS['EDSR'])), write_teachers),
    BadInput('the Y channel for an aggregator', 'datasets.train.color', ('is y, and an aggregator takes RGB images', ),
             stage_1(**{'datasets.train.color': 'y', 'datasets.val.color': 'y'}), write_teachers),
    BadInput('a loss of a distillation for an aggregator', 'train.distill_opt', (
        'AggregateModel does not distill and would ignore it', '-> remove distill_opt\n'),
        stage_1(**{'train.distill_opt': {'type': 'LogitsKDLoss'}}), write_teachers),
    BadInput('a start from a slice for an aggregator', 'train.init', (
        'AggregateModel does not distill and would ignore it', '-> remove init\n'),
        stage_1(**{'train.init': 'teacher_slice'}), write_teachers),
    BadInput('an aggregator that leaves out all of its blocks', 'network_g.drop_path_rate', ('must be below 1', ),
             stage_1(network_g={**AGGREGATOR, 'drop_path_rate': 1.0}), write_teachers),
]

REMEDIES = [
    *(Mistake(case.name, case.where, case.entries, case.spoil) for case in CASES if case.remedy),
    Mistake('a start from an aggregator of teachers with other options', 'path.pretrain_network_g', stage_1(
        teachers=other(0, network={**NETWORKS['edsr'], 'res_scale': 0.5}), **{'path.pretrain_network_g': FILE}),
        write_aggregate),
    Mistake('a test of an aggregator with other options', 'path.pretrain_network_g', stage_1(
        network_g={**AGGREGATOR, 'image_skip': True}, **{'path.pretrain_network_g': FILE}), write_aggregate, 'test'),
    Mistake('one cache for two teachers of a comparison', 'compare.methods.mtkd.teacher.cache', {
        'teacher.cache': 'answers.lmdb', 'datasets.train.type': 'CropPoolDataset', 'datasets.train.crops': 8,
        'train.distill_opt': REMOVE, 'val.metrics': METRICS, 'logger.print_freq': 2, 'compare': {
            'seeds': [0], 'methods': {'logits': {'type': 'LogitsKDLoss'}, 'mtkd': {
                'losses': {'type': 'WaveletKDLoss'}, 'teacher': {'aggregate': FILE}}}}}, write_aggregate, 'comparison'),
]
