"""Option files: read as BasicSR reads them; every mistake gets a message with the place and the remedy."""

from __future__ import annotations

import copy
import os
import shutil
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.utils.lmdb_util import make_lmdb_from_imgs
from basicsr.utils.options import parse_options
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO, STUDENTS, TEACHERS, change
from torch import nn
from training import launched

from mipkd_plugin import DistillationLoss, Step, config
from mipkd_plugin.archs.supply import IN_SPANDREL
from mipkd_plugin.compare import CONTROL, read_comparison

Make = Callable[..., dict[str, Any]]
OPTION_FILES = sorted((REPO / 'options').rglob('*.yml'))


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


def read_clean(path: Path, force_yml: list[str] | None = None) -> None:
    opt = config.read_options(path, force_yml)
    config.require_clean(opt.problems, opt)


def problems_of(opt: dict[str, Any], **kwargs: Any) -> list[str]:
    return [str(problem) for problem in config.check_options(opt, **{'is_train': True, **kwargs}).problems]


def write(opt: Any, path: Path) -> Path:
    path.write_text(opt if isinstance(opt, str) else yaml.safe_dump(opt, sort_keys=False), encoding='utf-8')
    return path


def listing(root: Path) -> list[tuple[str, int]]:
    return sorted((str(path), path.stat().st_mtime_ns) for path in root.rglob('*'))


# --------------------------------------------------------------------------------------------- whole files
@pytest.mark.parametrize('path', OPTION_FILES, ids=lambda p: p.name)
def test_every_option_file_is_in_order(path: Path) -> None:
    opt = config.read_options(path)
    probe = 'small' if 'SwinIR_x4' in path.name or 'small' in path.name else 'none'
    head = ''.join(path.read_text(encoding='utf-8').splitlines(keepends=True)[:15])
    assert head.startswith('#')
    if path.stem.split('_')[0] == 'compare':
        comparison = read_comparison(opt, files=False, probe=probe)
        assert comparison.name == path.stem
        assert comparison.methods[0] == CONTROL
        assert f'mipkd compare -opt options/{path.name}' in head
        if 'ablate' in opt['compare']:
            read_comparison(opt, ablate=(None, {}), files=False, probe=probe)
        return
    problems = config.check_options(opt, is_train=config.is_training(opt), files=False, probe=probe).problems
    if opt['network_g']['type'] in IN_SPANDREL and find_spec('spandrel') is None:
        assert [p.where for p in problems] == ['network_g.type']
        assert "pip install 'mipkd-plugin[teacher]'" in head
    else:
        assert [str(p) for p in problems] == []
    assert path.stem.split('_')[0] in ('train', 'test', 'demo')
    assert 'basicsr ' in head


def test_the_papers_pairs_have_the_papers_sizes() -> None:
    wanted = {'EDSR': (43.1, 2.70), 'RCAN': (15.6, 5.17), 'SwinIR': (11.9, 1.2)}  # ×4, million parameters
    for arch, sizes in wanted.items():
        opt = config.read_options(REPO / f'options/train_MiPKD_{arch}_x4.yml')
        for options, size in zip((opt['teacher']['network'], opt['network_g']), sizes):
            count = sum(p.numel() for p in build_network(options).parameters()) / 1e6
            assert count == pytest.approx(size, abs=0.05)
        assert opt['datasets']['train']['gt_size'] == 4 * 48
        assert opt['train']['optim_g']['lr'] == 1e-4


def test_a_good_file_has_no_problems_and_stays_as_it_is(train_options: Make) -> None:
    opt = train_options()
    before = copy.deepcopy(opt)
    state = torch.get_rng_state()
    assert problems_of(opt) == []
    assert opt == before
    assert torch.equal(torch.get_rng_state(), state)


def test_the_check_leaves_basicsrs_logger_alone(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.utils import logger
    opt = train_options()
    monkeypatch.setattr('mipkd_plugin.config.check.initialized_logger', started := {})
    monkeypatch.setattr(logger, 'initialized_logger', started)
    problems_of(opt)
    assert started == {}


# --------------------------------------------------------------------------------------------- one mistake each
MISTAKES = [
    # (entry, value, pieces of the one message)
    ('model_typo', 1, ['model_typo: unknown key', "did you mean 'model_type'"]),
    ('name', ..., ['name: is missing']),
    ('name', 7, ['name: must be a string, not 7']),
    ('model_type', 'DistilModel', ["model_type: there is no model 'DistilModel'", "did you mean 'DistillModel'"]),
    ('num_gpu', 1, ['num_gpu: is 1, but PyTorch finds no CUDA device here', 'write num_gpu: 0, or auto']),
    ('num_gpu', 'all', ['num_gpu: must be a whole number or auto']),
    ('network_g.num_feats', 8, ["network_g.num_feats: EDSR has no argument 'num_feats'", "'num_feat'"]),
    ('network_g.num_in_ch', ..., ['network_g.num_in_ch: is missing, and EDSR needs it']),
    ('network_g.type', 'EDRS', ["network_g.type: there is no network 'EDRS'", "did you mean 'EDSR'"]),
    ('network_g.upscale', 5, ['network_g: EDSR cannot be built', 'scale 5 is not supported']),
    ('network_g.upscale', 4, ['network_g.upscale: EDSR turns a patch of', 'scale 2 needs (3, ', 'write upscale: 2']),
    ('network_t', {'type': 'EDSR'}, ['network_t: the teacher has a block of its own: on resume', 'teacher: {network:']),
    ('path.pretrain_network_t', 'x.pth', ['path.pretrain_network_t', 'teacher: {weights:']),
    ('path.pretrain_network_g', 'no.pth', ['path.pretrain_network_g: does not exist; looked for /', 'no.pth']),
    ('path.resume_sate', None, ['path.resume_sate: unknown key', "'resume_state'"]),
    ('train.distil_opt', {}, ['train.distil_opt: unknown key', "'distill_opt'"]),
    ('train.total_iter', 0, ['train.total_iter: must be a whole number from 1 to 1e12, not 0']),
    ('train.total_iter', '5000', ["train.total_iter: '5000' is a string, not a number", 'write 5000 without quotes']),
    ('train.ema_decay', 1.5, ['train.ema_decay: must be a number from 0']),
    ('train.optim_g.lr', '1e-4', ["train.optim_g.lr: '1e-4' is a string, not a number", 'write !!float 1e-4']),
    ('train.optim_g.lr', ..., ['train.optim_g.lr: is missing']),
    ('train.optim_g.type', 'AdamW', ["train.optim_g.type: 'AdamW' is not supported", 'write type: Adam']),
    ('train.optim_g.beta', [0.9, 0.9], ["train.optim_g.beta: Adam has no argument 'beta'", "'betas'"]),
    ('train.optim_g.betas', [0.9, 1.9], ['train.optim_g.betas: Adam refuses it', 'remove betas']),
    ('train.scheduler.type', 'MultistepLr', ["there is no scheduler 'MultistepLr'", "'MultiStepLR'"]),
    ('train.scheduler.milestone', [3], ["MultiStepLR has no argument 'milestone'", "'milestones'"]),
    ('train.scheduler', {'type': 'CosineAnnealingRestartLR', 'periods': [3]},
     ['train.scheduler.periods: end at iteration 3, but total_iter is 4']),
    ('train.pixel_opt', None, ['train.pixel_opt: is missing']),
    ('train.pixel_opt.type', 'L1', ["train.pixel_opt.type: there is no loss 'L1'"]),
    ('train.pixel_opt.weight', 2, ["L1Loss has no argument 'weight'", "'loss_weight'"]),
    ('train.distill_opt', ..., ['train.distill_opt: is missing, and DistillModel needs it']),
    ('train.distill_opt', [], ['train.distill_opt: must be one loss']),
    ('train.distill_opt', [{'type': 'L1Loss'}], ['train.distill_opt[0].type: L1Loss is not a distillation loss',
                                                 'MiPKDLoss']),
    ('train.distill_opt.type', 'MiPKDLos', ["train.distill_opt.type: there is no loss 'MiPKDLos'", "'MiPKDLoss'"]),
    ('train.distill_opt.latent', 8, ["MiPKDLoss has no argument 'latent'", "'latent_channels'"]),
    ('train.distill_opt.mask_type', '4d', ['train.distill_opt.mask_type: must be', "got '4d'",
                                              'fix this option of MiPKDLoss']),
    ('train.distill_opt', {'type': 'KRNetLoss'}, ['train.distill_opt.taps: is missing, and KRNetLoss needs it']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': None}, ['train.distill_opt.taps: ', 'got None']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'meta_every': -1},
     ['train.distill_opt.meta_every: ', 'must be at least 0, got -1']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'first_order': 'yes'},
     ['train.distill_opt.first_order: ', "must be true or false, got 'yes'"]),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'inner': 'adm'},
     ["inner: must be 'adam', 'rmsprop' or 'sgd', got 'adm'"]),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'inner_lr': 0}, ['inner_lr: must be above 0, got 0']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'meta_lr': -1.0},
     ['meta_lr: must be above 0, got -1.0']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'kernel_size': 1},
     ['kernel_size: must be at least 3, got 1']),
    ('train.distill_opt', {'type': 'KRNetLoss', 'taps': 3, 'loss_weight': 0},
     ['loss_weight: must be above 0, got 0']),
    ('train.distill_opt.taps', 9, ['train.distill_opt.taps: 9 is not between 1 and 3', 'mipkd taps -opt']),
    ('train.distill_opt.taps', [['body.30', 'body.3']], ["tap 'body.30' does not exist in the student EDSR"]),
    ('train.distill_opt.taps', [['body.0', 'bodi.3']], ["tap 'bodi.3' does not exist in the teacher", "'body.3'"]),
    ('train.distill_opt.taps', 'all', ['train.distill_opt.taps: must be a whole number of at least 1, or a', "'all'"]),
    ('teacher', ..., ['teacher: is missing, and DistillModel needs it']),
    ('teacher.weight', 'x', ['teacher.weight: unknown key', "'weights'"]),
    ('teacher.weights', ..., ['teacher.weights: is missing']),
    ('teacher.weights', 'no.pth', ['teacher.weights: does not exist; looked for /', 'no.pth']),
    ('teacher.param_key', 'param', ["teacher.param_key: 'param' is not in", 'the keys params', 'param_key: params']),
    ('teacher.network.num_feat', 10, ['teacher.weights: ', 'does not fit EDSR', 'of another shape',
                                      'conv_first.weight: file (12, 3, 3, 3), network (10, 3, 3, 3)']),
    ('teacher.network.num_block', 6, ['4 missing (body.5.conv1.weight']),
    ('teacher.network.type', 'RRDB', ["there is no network 'RRDB'"]),
    ('val.val_freq', ..., ['val.val_freq: is missing']),
    ('val.metrics.psnr.type', 'psnr', ["val.metrics.psnr.type: there is no metric 'psnr'"]),
    ('val.metrics.psnr.crop_border', ..., ['val.metrics.psnr.crop_border: is missing, and calculate_psnr']),
    ('val.metrics.psnr.test_y', True, ["calculate_psnr has no argument 'test_y'", "'test_y_channel'"]),
    ('logger.print_freq', ..., ['logger.print_freq: is missing']),
    ('logger.print_frequency', 1, ['logger.print_frequency: unknown key']),
    ('datasets.train', ..., ['datasets.train: is missing']),
    ('datasets.test', {}, ["datasets.test: BasicSR does not use a data set 'test' for training"]),
    ('datasets.train.type', 'PairedImagesDataset', ["there is no data set 'PairedImagesDataset'"]),
    ('datasets.train.use_hflp', True, ['datasets.train.use_hflp: unknown key', "'use_hflip'"]),
    ('datasets.train.batch_size_per_gpu', 2.5, ['must be a whole number, 1 or more, not 2.5']),
    ('datasets.train.gt_size', 15, ['datasets.train.gt_size: 15 is not a multiple of the scale, 2', 'gt_size: 14']),
    ('datasets.train.gt_size', 50, ['gt_size: 50 is larger than 4 of 4 HR images', '0.png']),
    ('datasets.train.dataset_enlarge_ratio', 0.25, ['dataset_enlarge_ratio: 4 images × 0.25', 'of 4 iterations',
                                                    'write dataset_enlarge_ratio: 10']),
    ('datasets.train.io_backend', {'type': 'disc'}, ["there is no backend 'disc'", "'disk'"]),
    ('datasets.train.io_backend', {'type': 'lmdb'}, ['datasets.train.dataroot_gt: ', 'does not end in .lmdb']),
    ('datasets.train.filename_tmpl', 'x4', ['filename_tmpl: ', "'{}x4'"]),
    ('datasets.train.filename_tmpl', '{:>9999999999}', ['filename_tmpl: ', "has no usable {}"]),
    ('datasets.train.filename_tmpl', '{0.__class__}', ['filename_tmpl: ', "has no usable {}"]),
    ('datasets.train.filename_tmpl', '{}x2', ["for filename_tmpl '{}x2' the LR images 0x2.png", '0.png']),
    ('datasets.train.prefetch_mode', 'cuda', ['datasets.train.prefetch_mode: cuda needs a GPU']),
    ('datasets.train.persistent_workers', True, ['persistent_workers: needs workers']),
    ('datasets.val.dataroot_gt', 'no/HR', ['datasets.val.dataroot_gt: no/HR does not exist; looked for /',
                                           'mipkd prepare --hr DIR --scale 2 --out no']),
    ('datasets.val.dataroot_gt', 'no/HR.lmdb', ['no/HR.lmdb is an LMDB, but io_backend is disk']),
]


@pytest.mark.parametrize(('path', 'value', 'pieces'), MISTAKES, ids=[f'{p}={v}' for p, v, _ in MISTAKES])
def test_one_mistake_one_message(train_options: Make, path: str, value: Any, pieces: list[str]) -> None:
    opt = train_options()
    change(opt, path, value)
    found = problems_of(opt)
    matching = [text for text in found if all(piece in text for piece in pieces)]
    assert len(matching) == 1, found
    assert len(found) <= 2, found  # a second one only where two entries contradict each other
    assert '\n   -> ' in matching[0] or 'must be' in matching[0]


def test_all_problems_at_once_in_the_order_of_the_file(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(num_gpu=2, scael=2)
    change(opt, 'train.optim_g.lr', '1e-4')
    change(opt, 'train.distill_opt.type', 'MiPKDLos')
    change(opt, 'teacher.param_key', 'ema')
    change(opt, 'datasets.val.dataroot_lq', 'no/LR')
    before = listing(tmp_path)
    file = write(opt, tmp_path / 'x.yml')
    read = config.read_options(file)
    found = config.check_options(read, is_train=True).problems
    assert [p.where for p in found] == ['num_gpu', 'num_gpu', 'datasets.val.dataroot_lq', 'teacher.param_key',
                                        'train.optim_g.lr', 'train.distill_opt.type', 'scael']
    lines = [int(p.place.removeprefix('line ')) for p in found]
    assert lines == sorted(lines)
    text = file.read_text().splitlines()
    assert all(p.where.rpartition('.')[2] in text[line - 1] for p, line in zip(found, lines))
    assert f'torchrun --nproc_per_node=2 -m mipkd_plugin train -opt {file} --launcher pytorch' in found[0].remedy
    error = str(config.OptionError(found, file))
    assert error.startswith(f'{file}: 7 problems\n1. num_gpu (line 4): 2 GPUs without a launcher')
    file.unlink()
    assert listing(tmp_path) == before


@pytest.mark.parametrize(('number', 'value'), enumerate([None, 'x', -1, [], {'type': 'x'}]), ids=repr)
def test_odd_values_anywhere_are_problems_not_crashes(train_options: Make, number: int, value: Any) -> None:
    """One value for each entry; tests/faults/mutations.py tries many."""
    def paths(options: dict[str, Any], prefix: str = '') -> list[str]:
        own = [f'{prefix}{key}' for key in options]
        return own + [p for key, inner in options.items() if isinstance(inner, dict)
                      for p in paths(inner, f'{prefix}{key}.')]

    for index, path in enumerate(paths(train_options())[number::5]):
        opt = copy.deepcopy(train_options())
        change(opt, path, value)
        config.check_options(opt, is_train=index % 4 != 0)


# --------------------------------------------------------------------------------------------- teacher and student
def test_a_teacher_of_another_scale(train_options: Make, tmp_path: Path) -> None:
    network = {**TEACHERS['EDSR'], 'upscale': 4}
    torch.save({'params': build_network(network).state_dict()}, tmp_path / 'x4.pth')
    opt = train_options()
    opt['teacher'] = {'network': network, 'weights': str(tmp_path / 'x4.pth'), 'param_key': 'params'}
    found = problems_of(opt)
    assert len(found) == 1
    assert found[0].startswith('teacher.network.upscale: EDSR turns a patch of 3×8×8 into (channels, height, width) = '
                               '(3, 32, 32); scale 2 needs (3, 16, 16)')
    assert 'use a teacher for this scale' in found[0]


@pytest.mark.parametrize(('content', 'piece'), [
    (b'no weights at all', 'is a text file, not a file of weights'),
    ([1, 2], 'holds a list, but no state dict'),
    ({'params': {'a': 1}}, "but no state dict under 'params'"),
    (nn.Conv2d(1, 1, 1), 'holds Python objects beside tensors (torch.nn.modules.conv.Conv2d)'),
], ids=['bytes', 'list', 'numbers', 'module'])
def test_a_teacher_file_that_is_no_state_dict(train_options: Make, tmp_path: Path, content: Any,
                                              piece: str) -> None:
    path = tmp_path / 'odd.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    opt = train_options()
    opt['teacher']['weights'] = str(path)
    found = problems_of(opt)
    assert len(found) == 1
    assert found[0].startswith('teacher.weights: ')
    assert piece in found[0]


def test_a_bare_state_dict_wants_no_key(train_options: Make, tmp_path: Path) -> None:
    state = build_network(TEACHERS['EDSR']).state_dict()
    torch.save({f'module.{name}': tensor for name, tensor in state.items()}, tmp_path / 'bare.pth')
    opt = train_options()
    opt['teacher']['weights'] = str(tmp_path / 'bare.pth')
    found = problems_of(opt)
    assert len(found) == 1
    assert 'write param_key: ~' in found[0]
    opt['teacher']['param_key'] = None
    assert problems_of(opt) == []


def test_one_builder_makes_teacher_losses_and_probe(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [opt['train']['distill_opt'], {'type': 'LogitsKDLoss'}]
    built = config.build_distillation(opt)
    saved = torch.load(opt['teacher']['weights'])['params']
    assert all(torch.equal(tensor, saved[name]) for name, tensor in built.teacher.state_dict().items())
    assert not any(p.requires_grad for p in built.teacher.parameters())
    assert [type(loss).__name__ for loss in built.losses.values()] == ['MiPKDLoss', 'LogitsKDLoss']
    assert all(loss.is_bound for loss in built.losses.values())
    assert built.probe.shape == (1, 3, 8, 8)
    again = config.build_distillation(opt)
    assert again is not built
    assert again.fingerprint == built.fingerprint == config.teacher_fingerprint(built.teacher)
    with torch.no_grad():
        built.teacher.conv_last.bias += 1
    assert config.teacher_fingerprint(built.teacher) != built.fingerprint
    first, second = (next(iter(each.losses.values())).state_dict() for each in (built, again))
    assert all(torch.equal(first[name], second[name]) for name in first if not name.endswith('_extra_state'))


def test_a_script_of_somebody_else_may_have_keys_of_its_own(train_options: Make) -> None:
    """Of its options only what looks like a misspelled key of ours, the teacher and the losses are checked."""
    opt = train_options(mydata={'path': 3}, model_type='TheirModel')
    for section, key in (('datasets', 'val'), ('train', 'total_iter'), ('train', 'scheduler')):
        del opt[section][key]
    del opt['logger'], opt['path']
    student = build_network(STUDENTS['EDSR'])
    assert list(config.build_distillation(opt, student).losses) == ['train.distill_opt']
    opt['train'].update(optim_e={'lr': '1e-4'}, pixel_opt2={}, my_threshold='1e-3')
    config.build_distillation(opt, student)
    opt['train']['ema_decayy'] = 0.9
    opt['teacher']['weight'] = 'x.pth'
    with pytest.raises(config.OptionError) as caught:
        config.build_distillation(opt, student)
    assert [problem.where for problem in caught.value.problems] == ['train.ema_decayy', 'teacher.weight']


def test_no_options_at_all() -> None:
    with pytest.raises(config.OptionError, match='train.distill_opt: is missing'):
        config.build_distillation({})


class RememberingLoss(DistillationLoss):
    """Keeps the outputs of its last step in a plain attribute, and counts its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: torch.Tensor | None = None
        self.steps = 0

    def forward(self, step: Step) -> dict[str, torch.Tensor]:
        before = step.teacher.output if self.memory is None else self.memory
        self.memory, self.steps = step.student.output.detach(), self.steps + 1
        return {'l_memory': (step.student.output - before).abs().mean()}


def test_the_trial_step_leaves_no_memory_in_the_loss(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'RememberingLoss', RememberingLoss)
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'RememberingLoss'}
    loss = config.build_distillation(opt).losses['train.distill_opt']
    assert (loss.memory, loss.steps) == (None, 0)


def test_taps_of_a_loss_without_ranges_are_named(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    class FreeLoss(DistillationLoss):
        def __init__(self, taps: Any) -> None:
            super().__init__(taps)

    monkeypatch.setitem(LOSS_REGISTRY._obj_map, 'FreeLoss', FreeLoss)
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'FreeLoss', 'taps': 'all'}
    problem, = problems_of(opt)
    assert problem.startswith("train.distill_opt.taps: must be a whole number of at least 1, or a list of [student")
    assert "got 'all'" in problem
    opt['train']['distill_opt'] = {'type': 'CSDLoss', 'weights': 'no.pth'}
    problem, = problems_of(opt)
    assert problem.startswith('train.distill_opt.weights: no.pth does not exist\n   -> give the path of vgg19-dcbb9e9d')


def test_the_builder_raises_all_problems_at_once(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'].update(mask_type='4d', feat_weight=-1)
    opt['train']['ema_decayy'] = 0.9
    opt['teacher']['param_key'] = 'ema'
    with pytest.raises(config.OptionError) as caught:
        config.build_distillation(opt)
    assert sorted(problem.where for problem in caught.value.problems) == [
        'teacher.param_key', 'train.distill_opt.feat_weight', 'train.distill_opt.mask_type', 'train.ema_decayy']


@pytest.mark.parametrize(('file_keys', 'section', 'piece'), [
    (['params'], {'param_key_g': 'params_ema'}, None),  # BasicSR falls back by itself
    (['params_ema'], {'param_key_g': 'params_ema'}, None),
    (['params_ema'], {}, "path.param_key_g: 'params' is not in"),
    (['params'], {'param_key_g': 'parms'}, "path.param_key_g: 'parms' is not in"),
    (['wide'], {'param_key_g': 'wide', 'strict_load_g': True}, 'does not fit EDSR'),
])
def test_pretrained_student(train_options: Make, tmp_path: Path, file_keys: list[str], section: dict[str, Any],
                            piece: str | None) -> None:
    student = build_network(STUDENTS['EDSR']).state_dict()
    wide = build_network(TEACHERS['EDSR']).state_dict()
    torch.save({key: wide if key == 'wide' else student for key in file_keys}, tmp_path / 's.pth')
    opt = train_options()
    opt['train']['ema_decay'] = 0
    opt['path'].update(pretrain_network_g=str(tmp_path / 's.pth'), **section)
    found = problems_of(opt)
    assert len(found) == (0 if piece is None else 1)
    assert piece is None or piece in found[0]


def test_patches_and_windows(train_options: Make) -> None:
    opt = train_options(model_type='SwinIRDistillModel', network_g=dict(STUDENTS['SwinIR']))
    opt['train']['distill_opt']['taps'] = 3
    assert problems_of(opt) == []
    opt['datasets']['train']['gt_size'] = 20
    assert problems_of(opt) == [
        'datasets.train.gt_size: gt_size / scale = 10 is not a multiple of the window size 4 of network_g\n'
        '   -> write gt_size: 16']
    del opt['network_g']['window_size']
    assert any(text.startswith('network_g.window_size: is missing') for text in problems_of(opt))


def test_a_swinir_file_of_another_image_size(train_options: Make, tmp_path: Path) -> None:
    network = {**TEACHERS['SwinIR'], 'depths': [2, 2, 2]}
    network['num_heads'] = [2, 2, 2]
    torch.save({'params': build_network(network).state_dict()}, tmp_path / 't.pth')
    opt = train_options()
    opt['teacher'] = {'network': {**network, 'img_size': 16}, 'weights': str(tmp_path / 't.pth')}
    found = problems_of(opt)
    assert len(found) == 1
    assert 'the img_size that the file was trained with' in found[0]


def test_plain_models_do_not_distill(train_options: Make) -> None:
    found = problems_of(train_options(model_type='SRModel'))
    assert [text.split(':')[0] for text in found] == ['teacher', 'train.distill_opt']
    assert 'SRModel does not distill' in found[0]
    assert 'write model_type: DistillModel' in found[0]


def test_models_of_others_keep_their_own_keys(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.models.sr_model import SRModel
    from basicsr.utils.registry import MODEL_REGISTRY

    class TiledModel(SRModel):
        pass

    monkeypatch.setitem(MODEL_REGISTRY._obj_map, 'TiledModel', TiledModel)
    opt = train_options(model_type='TiledModel', tile={'size': 8}, teacher='mine')
    opt['train']['distill_opt'] = 'mine'
    opt['train']['total_iters'] = 4
    found = problems_of(opt)
    assert [text.split(':')[0] for text in found if 'total_iters' in text] == ['train.total_iters']
    assert not any('tile' in text for text in found)


# --------------------------------------------------------------------------------------------- data
def test_counts_and_names(train_options: Make, image_pairs: Path) -> None:
    opt = train_options()
    (image_pairs / 'LRbicx2' / '3.png').unlink()
    found = problems_of(opt)
    assert [text.split(':')[0] for text in found] == ['datasets.train', 'datasets.val']
    assert '4 HR images in' in found[0]
    assert '3 LR images in' in found[0]
    assert 'unpaired: 3.png' in found[0]
    (image_pairs / 'HR' / '3.png').rename(image_pairs / 'LRbicx2' / 'notes.txt')
    assert 'holds notes.txt, and BasicSR reads every file as an image' in problems_of(opt)[0]
    shutil.rmtree(image_pairs / 'LRbicx2')
    (image_pairs / 'LRbicx2').mkdir()
    assert 'holds no images' in problems_of(opt)[0]


def test_sizes(train_options: Make, image_pairs: Path) -> None:
    opt = train_options()
    cv2.imwrite(str(image_pairs / 'LRbicx2' / '2.png'), np.zeros((24, 23, 3), np.uint8))
    found = problems_of(opt)
    assert 'scale 2 does not fit 1 of 4 pairs, first 2.png: HR 48×48, LR 24×23' in found[0]
    (image_pairs / 'LRbicx2' / '2.png').write_bytes(b'no image')
    assert 'cannot be read as images' in problems_of(opt)[0]
    cv2.imwrite(str(image_pairs / 'LRbicx2' / '2.png'), np.zeros((24, 24, 3), np.uint8))
    cv2.imwrite(str(image_pairs / 'HR' / '2.png'), np.zeros((49, 49, 3), np.uint8))
    found = problems_of(opt)  # validation crops HR, training does not
    assert [text.split(':')[0] for text in found] == ['datasets.train']


def make_lmdb(folder: Path, target: Path, names: list[str]) -> None:
    make_lmdb_from_imgs(str(folder), str(target), [f'{n}.png' for n in names], names, multiprocessing_read=False)


def test_lmdb(train_options: Make, image_pairs: Path) -> None:
    opt = train_options()
    opt['datasets']['train'].update(
        io_backend={'type': 'lmdb'}, dataroot_gt=str(image_pairs / 'HR.lmdb'),
        dataroot_lq=str(image_pairs / 'LR.lmdb'))
    assert '--lmdb --crop 480 --step 240' in problems_of(opt)[0]
    make_lmdb(image_pairs / 'HR', image_pairs / 'HR.lmdb', ['0', '1', '2', '3'])
    make_lmdb(image_pairs / 'LRbicx2', image_pairs / 'LR.lmdb', ['0', '1', '2', '3'])
    assert problems_of(opt) == []
    shutil.rmtree(image_pairs / 'LR.lmdb')
    make_lmdb(image_pairs / 'LRbicx2', image_pairs / 'LR.lmdb', ['0', '1'])
    assert '4 HR images in' in (found := problems_of(opt))[0]
    assert 'in only one of them: 2, 3' in found[0]
    (image_pairs / 'LR.lmdb' / 'meta_info.txt').unlink()
    assert 'has no meta_info.txt: the LMDB is incomplete' in problems_of(opt)[0]
    (image_pairs / 'LR.lmdb' / 'meta_info.txt').write_text('0.png (24,24,3) 1\n' * 3)
    assert 'lists 3 images but holds 2' in problems_of(opt)[0]


# --------------------------------------------------------------------------------------------- launcher, resume, test
def test_launcher(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 'torchrun did not start this process' in problems_of(train_options(), launcher='pytorch')[0]
    launched(monkeypatch)
    assert problems_of(train_options(), launcher='pytorch') == []
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    assert 'nproc_per_node=4' in problems_of(train_options(num_gpu='auto'))[0]
    assert problems_of(train_options(num_gpu='auto'), launcher='pytorch') == []
    assert 'CUDA_VISIBLE_DEVICES= torchrun' in problems_of(train_options(), launcher='pytorch')[0]
    plain = train_options(num_gpu=2, model_type='SRModel')
    del plain['teacher'], plain['train']['distill_opt']
    assert problems_of(plain) == []


def test_resume(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    assert problems_of(opt, auto_resume=True, root=tmp_path) == []  # nothing to resume from: a fresh start
    folder = tmp_path / 'experiments' / 'tiny'
    (folder / 'training_states').mkdir(parents=True)
    (folder / 'models').mkdir()
    torch.save({'epoch': 0, 'iter': 12, 'optimizers': [], 'schedulers': []}, folder / 'training_states/12.state')
    torch.save({'epoch': 0, 'iter': 8, 'optimizers': [], 'schedulers': []}, folder / 'training_states/8.state')
    found = problems_of(opt, auto_resume=True, root=tmp_path)
    assert [name in text for name, text in zip(('net_g_12.pth', 'distill_12.pth'), found)] == [True, True]
    torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, folder / 'models/net_g_12.pth')
    built = config.build_distillation(opt)
    losses = list(built.losses.values())
    state = {'teacher': built.fingerprint, 'types': ['MiPKDLoss'], 'random': [],
             'pairs': [[list(pair) for pair in losses[0].pairs]], 'losses': torch.nn.ModuleList(losses).state_dict()}
    torch.save(state, folder / 'models/distill_12.pth')
    problem, = problems_of(opt, auto_resume=True, root=tmp_path)
    assert '12.state holds 0 optimizers, and DistillModel has one' in problem
    torch.save({**state, 'teacher': 'f00d'}, folder / 'models/distill_12.pth')
    found = problems_of(opt, auto_resume=True, root=tmp_path)
    assert len(found) == 1
    assert 'is not the teacher that' in found[0]
    assert 'distill_12.pth' in found[0]
    assert opt['teacher']['weights'] in found[0]
    opt['path']['resume_state'] = 'experiments/tiny/training_states/9.state'
    assert 'path.resume_state: does not exist' in problems_of(opt, root=tmp_path)[0]


def test_options_for_testing(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(model_type='SRModel')
    for key in ('train', 'teacher', 'logger'):
        del opt[key]
    opt['datasets'] = {'test_1': opt['datasets']['val']}
    torch.save({'params': build_network(STUDENTS['EDSR']).state_dict()}, weights := f'{tmp_path}/student.pth')
    opt['path']['pretrain_network_g'] = weights
    opt['val'] = {'save_img': True, 'metrics': opt['val']['metrics']}
    found = problems_of(opt, is_train=False)
    assert found == ['val.suffix: is missing, and BasicSR needs it to save images\n   -> write suffix: ~']
    opt['datasets'] = {'train': opt['datasets']['test_1']}
    opt['val']['suffix'] = None
    assert 'for testing' in problems_of(opt, is_train=False)[0]


# --------------------------------------------------------------------------------------------- reading
def basicsr_reads(path: Path, force_yml: list[str], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(sys, 'argv', ['basicsr', '-opt', str(path), '--force_yml', *force_yml])
    return parse_options(os.getcwd())[0]


@pytest.mark.parametrize('entry', [
    'train:ema_decay=0.99', 'manual_seed=7', 'name=other', 'path:resume_state=~', 'val:save_img=True',
    'train:optim_g:lr=!!float1e-4', 'train:scheduler:milestones=[1, 2]', 'train:new_key=x', 'name=-1',
    'train:warmup_iter = !!float-1'])
def test_force_yml_agrees_with_basicsr(train_options: Make, tmp_path: Path, entry: str,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(train_options(), tmp_path / 'x.yml')
    theirs = basicsr_reads(path, [entry], monkeypatch)
    ours = config.read_options(path, [entry])
    *parents, last = entry.split('=')[0].strip().split(':')
    for key in parents:
        theirs, ours = theirs[key], ours[key]
    assert ours[last] == theirs[last]
    assert type(ours[last]) is type(theirs[last])


@pytest.mark.parametrize(('entry', 'piece'), [
    ('tarin:ema_decay=0.99', "there is no 'tarin' in the option file\n   -> did you mean 'train'?"),
    ('train:optim:lr=1', "there is no 'train.optim'"),
    ('train:distill_opt:0:taps=3', "there is no 'train.distill_opt.0'"),
    ('name:x=3', "name is 'tiny': --force_yml cannot set anything inside it"),
    ('a=b=c', 'has 2 equals signs'),
    ('train:ema_decay', 'has 0 equals signs'),
    ('name=[__import__("os").getcwd()]', 'cannot be read'),
    ('x"]=1;import os;opt["y=2', 'has 2 equals signs'),
    ('x"]["y=2', 'is not a path of keys'),
    ('train:optim_g:lr=!!floatx', 'cannot be read'),
])
def test_force_yml_refuses(train_options: Make, tmp_path: Path, entry: str, piece: str) -> None:
    path = write(train_options(), tmp_path / 'x.yml')
    with pytest.raises(config.OptionError) as caught:
        read_clean(path, [entry])
    assert f'--force_yml {entry}: ' in str(caught.value)
    assert piece in str(caught.value)


def test_forced_texts_that_look_like_numbers(train_options: Make, tmp_path: Path) -> None:
    path = write(train_options(), tmp_path / 'x.yml')
    opt = config.read_options(path, ['train:optim_g:lr=1e-4', 'train:warmup_iter=-1'])
    found = problems_of(opt)
    assert [text.splitlines()[0] for text in found] == [
        "train.warmup_iter (--force_yml): '-1' is a string, not a number",
        "train.optim_g.lr (--force_yml): '1e-4' is a string, not a number"]
    assert found[0].endswith('--force_yml train:warmup_iter=!!float-1')
    assert found[1].endswith('--force_yml train:optim_g:lr=!!float1e-4')
    assert problems_of(config.read_options(path, ['train:warmup_iter=!!float-1'])) == []


@pytest.mark.parametrize(('text', 'pieces'), [
    ('a: 1\nb:\n  c: 1\n  c: 2\n', ['b.c (line 4): given twice, first in line 3']),
    ('a: 1\nb: !!python/object/apply:os.getcwd []\n', ['b (line 2): the tag !!python/object/apply:os.getcwd']),
    ('a: !!python/tuple [1]\nb: !x 1\n', ['a (line 1): the tag !!python/tuple', 'b (line 2): the tag !x']),
    ('a: &x {b: 1}\nc:\n  <<: *x\n', ['c.<< (line 3): BasicSR cannot read merge keys']),
    ('a: [1, 2\nb: 3\n', ['not valid YAML', 'line 2']),
    ('a: &x [*x]\n', ['refers to itself']),
    ('- 1\n- 2\n', ['holds no `key: value` pairs']),
    ('', ['holds no `key: value` pairs']),
    ('a: !!float x\n', ['not valid YAML']),
], ids=['twice', 'object', 'tuple', 'merge', 'syntax', 'cycle', 'list', 'empty', 'float'])
def test_files_that_cannot_be_read(tmp_path: Path, text: str, pieces: list[str]) -> None:
    with pytest.raises(config.OptionError) as caught:
        read_clean(write(text, tmp_path / 'x.yml'))
    assert all(piece in str(caught.value) for piece in pieces)


def test_values_are_read_as_basicsr_reads_them(tmp_path: Path) -> None:
    from basicsr.utils.options import ordered_yaml
    text = 'a: !!float 1e-4\nb: ~\nc: 1e-4\nd: [1, 2.5, yes]\ne: {f: 1., g: 010}\nh: &k [1]\ni: *k\nj: 1:30\n'
    ours = config.read_options(write(text, tmp_path / 'x.yml'))
    assert ours == yaml.load(text, Loader=ordered_yaml()[0])
    assert list(ours) == list('abcdehij')


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(config.OptionError, match='cannot read .*no.yml: No such file'):
        config.read_options(tmp_path / 'no.yml')


# --------------------------------------------------------------------------------------------- what a loss demands
def test_a_batch_of_one_cannot_be_split(train_options: Make) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'LogitsKDLoss'}, {'type': 'KRNetLoss', 'taps': 3}]
    opt['datasets']['train']['batch_size_per_gpu'] = 1
    problem, = problems_of(opt)
    assert 'datasets.train.batch_size_per_gpu: is 1, and KRNetLoss needs 2 images or more in a batch' in problem
    assert 'write batch_size_per_gpu: 2' in problem
    opt['train']['distill_opt'][1]['meta_every'] = 0
    assert problems_of(opt) == []


def test_a_student_with_batch_norm_gets_a_meta_step(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from basicsr.archs.arch_util import ResidualBlockNoBN
    plain = ResidualBlockNoBN.__init__

    def with_batch_norm(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        self.relu = torch.nn.Sequential(torch.nn.BatchNorm2d(self.conv1.out_channels), torch.nn.ReLU())

    monkeypatch.setattr(ResidualBlockNoBN, '__init__', with_batch_norm)
    opt = train_options()
    opt['teacher']['network'] = dict(opt['network_g'])
    torch.save({'params': build_network(opt['network_g']).state_dict()}, opt['teacher']['weights'])
    opt['train']['distill_opt'] = {'type': 'KRNetLoss', 'taps': 3}
    assert problems_of(opt) == []
