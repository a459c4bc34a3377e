"""Mistakes in the list ``teachers``, and in the losses that name one of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from basicsr.archs import build_network
from helpers import TEACHERS, several_teachers, tiny_options
from training import train, write_options

from faults.harness import BadInput
from faults.inputs.remedies_compare import METRICS
from faults.remedy_harness import Mistake
from mipkd_plugin.config.remedies import REMOVE, remedied

LOGITS = {'type': 'LogitsKDLoss'}
FROM_SWINIR = {**LOGITS, 'teacher': 'swinir'}
EDSR: dict[str, Any] = {'name': 'edsr', 'network': TEACHERS['EDSR'], 'weights': 'teacher.pth', 'param_key': 'params'}
SWINIR: dict[str, Any] = {'name': 'swinir', 'network': TEACHERS['SwinIR'], 'weights': 'swinir.pth'}
TWO: dict[str, Any] = {'teacher': REMOVE, 'teachers': [EDSR, SWINIR], 'train.distill_opt': [LOGITS, FROM_SWINIR]}
NAMELESS = {key: value for key, value in SWINIR.items() if key != 'name'}
GRAY = {**TEACHERS['SwinIR'], 'in_chans': 1}
ECO = {'train.eco': {'mode': 'hr_only'}}
POOL = {'datasets.train.type': 'CropPoolDataset', 'datasets.train.crops': 8}
COMPARE: dict[str, Any] = {
    **TWO, 'train.distill_opt': REMOVE, 'val.metrics': METRICS, 'logger.print_freq': 2,
    'compare': {'seeds': [0], 'methods': {'edsr': LOGITS, 'swinir': FROM_SWINIR}}}


def other(**network: Any) -> Callable[[Path], object]:
    """The weights of the second teacher are those of another network: an EDSR, if no type is given."""
    def spoil(folder: Path) -> None:
        torch.save({'params': build_network({**TEACHERS['EDSR'], **network}).state_dict()}, folder / 'swinir.pth')

    return spoil


def trained(folder: Path, **entries: Any) -> None:
    """A run with both teachers has saved a checkpoint."""
    several_teachers(folder)
    opt = remedied(tiny_options(folder), {**TWO, 'val': REMOVE, 'logger.use_tb_logger': False, 'train.total_iter': 2,
                                          **entries})
    before = Path.cwd()
    os.chdir(folder)
    try:
        if train(write_options(opt, folder / 'before.yml')) != 0:
            raise RuntimeError('the run before has failed')
    finally:
        os.chdir(before)


def bad(name: str, where: str, says: tuple[str, ...], entries: dict[str, Any],
        spoil: Callable[[Path], object] = several_teachers, remedy: bool = True) -> BadInput:
    return BadInput(name, where, says, {**TWO, **entries}, spoil, remedy=remedy)


RECOGNIZED = {'teachers': [EDSR, {'name': 'swinir', 'weights': 'swinir.pth'}]}

CASES = [
    bad('an empty list of teachers', 'teachers', ('is empty', 'teachers: [{name: big'), {
        'teachers': [], 'train.distill_opt': LOGITS}, remedy=False),
    bad('teachers that are a word', 'teachers', ("must be a list of teachers, not 'all'", ), {
        'teachers': 'all', 'train.distill_opt': LOGITS}, remedy=False),
    bad('a teacher that is a file', 'teachers[1]', ("must be a block with name and weights, not 'swinir.pth'", ), {
        'teachers[1]': 'swinir.pth', 'train.distill_opt': LOGITS}, remedy=False),
    bad('one teacher beside several', 'teacher', ('is given beside teachers', 'put it into the list'), {
        'teacher': {key: value for key, value in EDSR.items() if key != 'name'}}),
    bad('a teacher without a name', 'teachers[1].name', ('is missing', 'write name: swinir'), {
        'teachers[1]': NAMELESS}),
    bad('a teacher whose name has a space', 'teachers[1].name', ("not 'Swin IR'", 'write name: Swin_IR'), {
        'teachers[1].name': 'Swin IR', 'train.distill_opt[1].teacher': 'Swin_IR'}),
    bad('two teachers of one name', 'teachers[1].name', ("'edsr' is the name of teachers[0] too", 'edsr_2'), {
        'teachers[1].name': 'edsr', 'train.distill_opt[1].teacher': 'edsr_2'}),
    bad('one teacher under two names', 'teachers[1]', ("'swinir' is the same as 'edsr', teachers[0]", ), {
        'teachers[1]': {**EDSR, 'name': 'swinir'}}),
    bad('a key of the second teacher misspelled', 'teachers[1].wieghts', ("did you mean 'weights'", ), {
        'teachers[1]': {'wieghts': 'swinir.pth', **{k: v for k, v in SWINIR.items() if k != 'weights'}}}),
    bad('weights of the second teacher missing', 'teachers[1].weights', ('does not exist; looked for', 'gone.pth'), {
        'teachers[1].weights': 'gone.pth'}, remedy=False),
    bad('weights of the first teacher for the second', 'teachers[1].weights', (
        'does not fit SwinIR', 'in teachers[1].network'), {'teachers[1].weights': 'teacher.pth'}, remedy=False),
    bad('a teacher of another scale', 'teachers[1].weights', ('holds a teacher for x3 (EDSR), and scale is 2',
        'give a teacher for x2'), RECOGNIZED, other(upscale=3), remedy=False),
    bad('a network of another scale', 'teachers[1].network.upscale', (
        'EDSR turns a patch of 3×8×8 into (channels, height, width) = (3, 24, 24)', 'use a teacher for this scale'), {
        'teachers[1].network': {**TEACHERS['EDSR'], 'upscale': 3}}, other(upscale=3), remedy=False),
    bad('a teacher of other channels', 'teachers[1].network', (
        'is for images with 1 channel, and those of the training have 3', 'give a teacher for 3 channels'), {
        'teachers[1].network': GRAY}, other(**GRAY), remedy=False),
    bad('a file of other channels', 'teachers[1].network', ('is for images with 1 channel', ), RECOGNIZED,
        other(**GRAY), remedy=False),
    bad('an unknown teacher', 'train.distill_opt[1].teacher', (
        "there is no teacher 'swin'", "did you mean 'swinir'?"), {'train.distill_opt[1].teacher': 'swin'}),
    bad('a teacher that resembles none', 'train.distill_opt[1].teacher', (
        "there is no teacher 'big'", 'valid here: edsr, swinir'), {
        'train.distill_opt': [FROM_SWINIR, {**LOGITS, 'teacher': 'big'}]}),
    bad('a name where there is one teacher', 'train.distill_opt.teacher', (
        "names 'edsr'", 'the block teacher is for'), {
        'teachers': REMOVE, 'train.distill_opt': {**LOGITS, 'teacher': 'edsr'},
        'teacher': {key: value for key, value in EDSR.items() if key != 'name'}}),
    bad('a teacher from whom nobody learns', 'teachers[1]', (
        "no loss learns from 'swinir'", 'write teacher: swinir in a loss'), {'train.distill_opt': LOGITS}),
    bad('one cache for two teachers', 'teachers[1].cache', ("c.lmdb is the cache of 'edsr' too", 'c_swinir.lmdb'), {
        **POOL, 'teachers[0].cache': 'c.lmdb', 'teachers[1].cache': './c.lmdb'}),
    bad('a cache of the second teacher without a pool', 'teachers[1].cache', ('needs crops that stay the same', ), {
        'teachers[1].cache': 'memory'}),
    bad('a tap that the second teacher lacks', 'train.distill_opt[1].taps', (
        "tap 'layer.2' does not exist in the teacher SwinIR; did you mean 'layers.2'", ), {
        'train.distill_opt[1]': {'type': 'FitNetLoss', 'teacher': 'swinir', 'taps': [['body.1', 'layer.2']]}},
        remedy=False),
    bad('several teachers that nothing reads', 'teachers', ('SRModel does not distill and would ignore it', ), {
        'model_type': 'SRModel', 'train.distill_opt': REMOVE}),
]


def mistake(name: str, where: str, entries: dict[str, Any], **more: Any) -> Mistake:
    return Mistake(name, where, {**TWO, **entries}, spoil=several_teachers, **more)


def in_comparison(name: str, where: str, entries: dict[str, Any]) -> Mistake:
    return Mistake(name, where, {**COMPARE, **entries}, spoil=several_teachers, check='comparison')


REMEDIES = [
    *(Mistake(case.name, case.where, case.entries, case.spoil,
              'training full' if 'cache' in case.where else 'training') for case in CASES if case.remedy),
    Mistake('teachers exchanged when a run resumes', (
        'train.distill_opt[0].teacher', 'train.distill_opt[1].teacher'), {
            **TWO, 'train.distill_opt': [FROM_SWINIR, {**LOGITS, 'teacher': 'edsr'}]}, trained, 'training resume'),
    Mistake('teachers in another order when a run with ECO resumes', 'teachers', {
        **TWO, 'teachers': [SWINIR, EDSR], 'train.distill_opt': [{**LOGITS, 'teacher': 'edsr'}, FROM_SWINIR], **ECO},
        lambda folder: trained(folder, **ECO), 'training resume'),
    in_comparison('a teacher from whom no method learns', 'teachers[1]', {'compare.methods.swinir': LOGITS}),
    in_comparison('unknown teacher in a method', 'compare.methods.swinir.teacher', {
        'compare.methods.swinir.teacher': 'swin', 'compare.methods.both': [LOGITS, FROM_SWINIR]}),
    in_comparison('unknown teacher in the settings of a method', 'compare.methods.edsr.teachers.swim', {
        'compare.methods.edsr': {'losses': LOGITS, 'teachers': {'swim': {'dtype': 'bfloat16'}}}}),
    in_comparison('settings of a teacher that are a word', 'compare.methods.edsr.teachers.edsr', {
        'compare.methods.edsr': {'losses': LOGITS, 'teachers': {'edsr': 'bfloat16'}}}),
    in_comparison('weights of one of several teachers in a method', 'compare.methods.edsr.teachers.edsr.weights', {
        'compare.methods.edsr': {'losses': LOGITS, 'teachers': {'edsr': {'weights': 'x.pth'}}}}),
    in_comparison('settings for one teacher where there are several', 'compare.methods.edsr.teacher', {
        'compare.methods.edsr': {'losses': LOGITS, 'teacher': {'dtype': 'bfloat16'}}}),
    in_comparison('settings of a teacher in a method', 'compare.methods.swinir.teachers.swinir.cache_dtype', {
        'compare.methods.swinir': {'losses': FROM_SWINIR, 'teachers': {'swinir': {'cache_dtype': 'float8'}}}}),
    in_comparison('a key of the second teacher in a comparison', 'teachers[1].dtype', {'teachers[1].dtype': 'float8'}),
]
