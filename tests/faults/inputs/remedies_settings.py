"""Entries of an option file whose remedy is data: keys, values, losses, optimizer, scheduler, loggers, networks."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS

from faults import stand_ins  # noqa: F401  (registers them)
from faults.inputs.rehearsal import PLAIN, VGG
from faults.remedy_harness import Mistake
from mipkd_plugin.config import reconstruction, teacher_run, training
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.networks.execution import Execution

FULL = 'training full'
LOSS = 'train.distill_opt'
GAN = {**PLAIN, 'model_type': 'SRGANModel'}
COSINE = {'type': 'CosineAnnealingRestartLR', 'periods': [4], 'restart_weights': [1]}
SWINIR = {key: value for key, value in STUDENTS['SwinIR'].items() if key != 'window_size'}


def odd(name: str, where: str, value: Any, check: str = 'training', **patch: Any) -> Mistake:
    """An odd value of one entry."""
    return Mistake(name, where, {where: value}, check=check, **patch)


def gone(name: str, where: str, check: str = 'training', **entries: Any) -> Mistake:
    """An entry that is missing."""
    return Mistake(name, where, {**entries, where: REMOVE}, check=check)


def lacks(*packages: str) -> Any:
    """Some packages are not installed."""
    def find(name: str, *rest: Any) -> Any:
        return None if name in packages else importlib.util.find_spec(name, *rest)

    return lambda patch: patch.setattr(training, 'find_spec', find)


def has_wandb(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(training, 'find_spec', lambda name: True)


def teacher_of_scale_1(folder: Path) -> None:
    torch.save({'params': build_network({**TEACHERS['EDSR'], 'upscale': 1}).state_dict()}, folder / 'teacher.pth')


def cannot_compile(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(teacher_run, '_compile_problem', lambda device: 'no compiler')


def old_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(teacher_run, '_training_device', lambda ctx, here: (
        torch.device('cuda') if ctx.opt['teacher']['dtype'] == 'bfloat16' else here))
    patch.setattr(torch.cuda, 'is_bf16_supported', lambda **flags: False)
    patch.setattr(torch.cuda, 'get_device_name', lambda device: 'an old GPU')


def cannot_cast(patch: pytest.MonkeyPatch) -> None:
    def measure(execution: Execution, *rest: Any) -> Any:
        if execution.dtype == torch.float16:
            raise RuntimeError('not implemented')
        return before(execution, *rest)

    before = teacher_run._measure

    patch.setattr(teacher_run, '_measure', measure)


def offline(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.hub, 'get_dir', lambda: 'nowhere')
    patch.setattr(reconstruction, '_out_of_reach', lambda url: 'no network')


def vgg_at_hand(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reconstruction, '_check_vgg', lambda *args: None)


def two_gpus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, 'device_count', lambda: 2)


KEYS = [
    odd('misspelled key', 'datasets.train.gtsize', 16),
    Mistake('misspelled key that is needed', 'datasets.train.gtsize', {
        'datasets.train.gt_size': REMOVE, 'datasets.train.gtsize': 16}),
    Mistake('misspelled key beside the right one', 'train.total_iters', {'train.total_iters': 4}),
    odd('key that nothing reads', 'train.zzz', 1),
    Mistake('key with a dot that nothing reads', 'teacher.a.b', {'teacher': {
        'a.b': 1, 'network': dict(TEACHERS['EDSR']), 'weights': 'teacher.pth'}}),
    odd('teacher that is a file', 'teacher', 'teacher.pth'),
    odd('name that is a number', 'name', 5),
    odd('patch that is a text', 'datasets.val.gt_size', 'x'),
    odd('block that is a number', 'dist_params', 5),
    odd('pixel loss that is a number', 'train.pixel_opt', 5),
    odd('losses that are a number', 'train.distill_opt', 5),
    odd('validation that is a number', 'val', 5),
    odd('validation that is a number in a test', 'val', 5, 'test'),
    odd('number in quotes', 'train.optim_g.lr', '1e-4'),
    odd('whole number in quotes', 'train.total_iter', '4'),
    odd('number in quotes in a list', 'train.scheduler.milestones[0]', '3'),
    odd('scale in quotes', 'scale', '2'),
    odd('number in quotes where no number fits', 'val.save_img', '1e-4'),
    odd('number in quotes that is out of range', 'val.metrics.psnr.crop_border', '-1'),
    odd('key of weights that is a number', 'teacher.param_key', -1),
    odd('patch that is nothing', 'datasets.train.gt_size', None),
    odd('batch of a billion', 'datasets.train.batch_size_per_gpu', 10**9)._replace(
        where='datasets.train.dataset_enlarge_ratio'),
    *(gone(f'no {where}', where) for where in (
        'name', 'model_type', 'scale', 'num_gpu', 'path', 'train.total_iter', 'train.optim_g', 'train.scheduler',
        'logger', 'logger.print_freq', 'logger.use_tb_logger', 'val.val_freq', 'val.save_img',
        'datasets.train.name', 'datasets.train.type', 'datasets.train.batch_size_per_gpu',
        'datasets.train.num_worker_per_gpu', 'datasets.train.use_rot', 'datasets.train.io_backend',
        'datasets.val.name', 'train.optim_g.lr', 'train.distill_opt')),
    gone('no val in a test', 'val', 'test'),
    gone('no suffix in a test that saves', 'val.suffix', 'test', **{'val.save_img': True}),
    odd('empty val in a test', 'val', None, 'test full'),
    Mistake('GPUs where there are none', 'num_gpu', {**PLAIN, 'num_gpu': 1}),
    odd('GPUs without a launcher', 'num_gpu', 2, patch=two_gpus),
    Mistake('teacher at the top level', ('network_t', 'path.pretrain_network_t'), {
        'network_t': dict(TEACHERS['EDSR']), 'teacher': REMOVE, 'path.pretrain_network_t': 'teacher.pth'}),
    Mistake('weights of the teacher among the paths', 'path.param_key_t', {
        'path.param_key_t': 'params', 'teacher.param_key': REMOVE}),
    Mistake('wrong key of a teacher without a network', 'teacher.param_key', {
        'teacher.network': REMOVE, 'teacher.param_key': 'params_ema'}),
    Mistake('teacher for a model that does not distill', 'teacher', {'model_type': 'SRModel',
                                                                   'train.distill_opt': REMOVE}),
    Mistake('block distill for a model that does not distill', 'train.distill', {
        **PLAIN, 'train.distill': {'until': 0.5}}),
    odd('too many pictures', 'logger.val_pictures', 101),
    Mistake('pictures of a plain model', 'logger.val_pictures', {**PLAIN, 'logger.val_pictures': 2}),
    Mistake('pictures without a validation', 'logger.val_pictures', {'logger.val_pictures': 2, 'val': REMOVE}),
]
COMPONENTS = [
    odd('model that does not exist', 'model_type', 'DistilModel'),
    odd('network that does not exist', 'network_g.type', 'EDSRR'),
    odd('metric that does not exist', 'val.metrics.psnr.type', 'calculate_pnsr'),
    odd('argument that does not exist', 'network_g.num_feats', 8)._replace(entries={
        'network_g.num_feats': 8, 'network_g.num_feat': REMOVE}),
    odd('argument that nothing is close to', 'network_g.zzz', 1),
    odd('loss that is no distillation loss', 'train.distill_opt.type', 'L1Loss')._replace(entries={
        'train.distill_opt': {'type': 'L1Loss', 'reduction': 'mean'}}),
    odd('option of a loss out of range', 'train.distill_opt.latent_channels', -1),
    odd('option of a loss of another kind', 'train.distill_opt.taps', 'x'),
    odd('better of a metric', 'val.metrics.psnr.better', 'foo'),
    odd('order of axes of a metric', 'val.metrics.psnr.input_order', 'XYZ'),
    odd('crop_border that is negative', 'val.metrics.psnr.crop_border', -1),
    odd('milestones that are a text', 'train.scheduler.milestones', 'x'),
    Mistake('periods that are a text', 'train.scheduler.periods', {'train.scheduler': {**COSINE, 'periods': 'x'}}),
    odd('weights of a network that are not there', 'network_g.load_path', 'no.pth')._replace(entries={
        **PLAIN, 'network_g': {'type': 'SpyNet', 'load_path': 'no.pth'}, 'val': REMOVE, 'datasets.val': REMOVE}),
    Mistake('window that is not named', 'network_g.window_size', {
        'model_type': 'SwinIRDistillModel', 'network_g': SWINIR, 'datasets.train.gt_size': 14}),
    Mistake('windows of a network without windows', 'network_g.window_size', {'model_type': 'SwinIRDistillModel'}),
    Mistake('checkpointing', 'network_g.use_checkpoint', {
        'model_type': 'SwinIRDistillModel', 'network_g': {**STUDENTS['SwinIR'], 'use_checkpoint': True}}),
    odd('network that enlarges too much', 'network_g.upscale', 99),
    odd('network for another scale', 'network_g.upscale', 4, FULL),
    Mistake('network for the scale of its default', 'network_g.type', {
        'network_g': {key: value for key, value in STUDENTS['EDSR'].items() if key != 'upscale'}}, check=FULL),
    Mistake('network with one channel', 'network_g', {**PLAIN, 'val': REMOVE, 'datasets.val': REMOVE, 'network_g': {
        'type': 'MSRResNet', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8, 'num_block': 2, 'upscale': 2}},
        check=FULL),
]
TRAINING = [
    Mistake('slice of a narrower teacher', 'train.init', {
        'train.init': 'teacher_slice', 'network_g.num_feat': 99}, check=FULL),
    Mistake('slice of a teacher with other settings', 'train.init', {
        'train.init': 'teacher_slice', 'network_g.img_range': 1.0}, check=FULL),
    gone('no pixel loss', 'train.pixel_opt'),
    Mistake('no discriminator', 'network_d', GAN),
    odd('no tensorboard', 'logger.use_tb_logger', True, patch=lacks('tensorboard')),
    Mistake('no wandb', 'logger.wandb', {'logger.wandb': {'project': 'x'}}, patch=lacks('wandb')),
    Mistake('wandb without tensorboard', 'logger.use_tb_logger', {
        'logger.wandb': {'project': 'x'}, 'logger.use_tb_logger': False}, patch=has_wandb),
    odd('optimizer without anything', 'train.optim_g', {})._replace(where='train.optim_g.type'),
    Mistake('SGD', 'train.optim_g.type', {'train.optim_g': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9}}),
    odd('three betas', 'train.optim_g.betas', [0.9, 0.9, 0.9]),
    odd('betas out of range', 'train.optim_g.betas', [0.9, 1.5]),
    odd('Adam upwards', 'train.optim_g.maximize', True),
    odd('capturable without a GPU', 'train.optim_g.capturable', True),
    Mistake('weights that overflow', 'train.optim_g', {'train.optim_g.lr': 1e30, 'train.optim_g.eps': 1e-38,
                                                       'train.optim_g.weight_decay': 1e30}),
    odd('scheduler that does not exist', 'train.scheduler.type', 'MultiStep'),
    Mistake('scheduler with two lengths', 'train.scheduler', {
        'train.scheduler': {**COSINE, 'restart_weights': [1, 1]}}),
    Mistake('periods between iterations', 'train.scheduler.periods', {'train.scheduler': {**COSINE, 'periods': [4.5]}}),
    Mistake('periods that end too early', 'train.scheduler.periods', {'train.scheduler': {
        **COSINE, 'periods': [1, 2], 'restart_weights': [1, 1]}}),
    Mistake('pixel loss without an HR image', 'train.pixel_opt.type', {'train.pixel_opt': {'type': 'WeightedTVLoss'}}),
    *(Mistake(name, where, {'train.perceptual_opt': {**VGG, **entries}}, patch=vgg_at_hand)
      for name, where, entries in (
            ('VGG that does not exist', 'train.perceptual_opt.vgg_type', {'vgg_type': 'vgg_19'}),
            ('layers of VGG that are a list', 'train.perceptual_opt.layer_weights', {'layer_weights': ['conv5_4']}),
            ('layer that VGG lacks', 'train.perceptual_opt.layer_weights.conv5_5', {'layer_weights': {'conv5_5': 1}}),
            ('criterion that does not work', 'train.perceptual_opt.criterion', {'criterion': 'l2'}))),
    Mistake('VGG out of reach', 'train.perceptual_opt', {'train.perceptual_opt': VGG}, patch=offline),
    Mistake('VGG out of reach, and no other loss', 'train.perceptual_opt', {
        'train.perceptual_opt': VGG, 'train.pixel_opt': REMOVE}, patch=offline),
]
SCHEDULE = [
    *(odd(f'distill.{key}: {value}', f'train.distill.{key}', value) for key, value in (
        ('until', 1.5), ('every', 11), ('share', True), ('fade', 'fast'), ('evry', 2), ('zzz', 5))),
    Mistake('schedule of a script without a length', 'train.distill', {
        'train.distill': {'until': 0.5}, 'train.total_iter': REMOVE}, check='script'),
    *(odd(f'eco.{key}: {value}', f'train.eco.{key}', value) for key, value in (
        ('end_ratio', 1.5), ('mode', 'lr'), ('moed', 'full'), ('zzz', 5))),
    Mistake('eco of a script without a length', 'train.eco', {'train.eco': {}, 'train.total_iter': REMOVE},
            check='script'),
    Mistake('eco that shrinks nothing', 'train.eco.mode', {
        'train.eco': {'mode': 'full'}, 'scale': 1, 'network_g.upscale': 1, 'teacher.network.upscale': 1,
        'datasets.train.dataroot_lq': 'HR', 'datasets.val.dataroot_lq': 'HR'}, spoil=teacher_of_scale_1),
    Mistake('turn that never comes', 'train.distill_opt.block_every', {'train.distill_opt.block_every': 100}),
    Mistake('batch that is too small', 'datasets.train.batch_size_per_gpu', {
        'train.distill_opt': {'type': 'RKDLoss', 'taps': 1}, 'datasets.train.batch_size_per_gpu': 1}),
    odd('compiler that does not work', 'teacher.compile', True, FULL, patch=cannot_compile),
    odd('type that the GPU cannot compute in', 'teacher.dtype', 'bfloat16', FULL, patch=old_gpu),
    odd('type that the device cannot compute in', 'teacher.dtype', 'float16', FULL, patch=cannot_cast),
]
RESUME = [
    Mistake('exact resume of several processes', 'train.exact_resume', {'train.exact_resume': True},
            check='training pytorch'),
    Mistake('exact resume without a seed', 'manual_seed', {'train.exact_resume': True, 'manual_seed': REMOVE}),
    Mistake('exact resume with lasting workers', 'datasets.train.persistent_workers', {
        'train.exact_resume': True, 'datasets.train.persistent_workers': True, 'datasets.train.num_worker_per_gpu': 1}),
    Mistake('exact resume with a queue', 'datasets.train.prefetch_mode', {
        'train.exact_resume': True, 'datasets.train.prefetch_mode': 'cpu'}),
]
IMPORTS = [
    odd('imports that are a text', 'imports', 'json', 'imports'),
    odd('imports that are a number', 'imports', 5, 'imports'),
    odd('import that is a number', 'imports[1]', 5, 'imports')._replace(entries={'imports': ['json', 5]}),
]
STUDENTS_OF_OTHERS = [
    Mistake('features of other sizes', f'{LOSS}.taps', {
        'network_g': {'type': 'PadsItself'}, LOSS: {'type': 'FitNetLoss', 'taps': 3}}, check=FULL),
    Mistake('no second derivative', LOSS, {'network_g': {'type': 'Gated', 'kind': 'hard'}, LOSS: {
        'type': 'KRNetLoss', 'taps': 3, 'first_order': False}}, check=FULL),
]
CASES = [*KEYS, *COMPONENTS, *TRAINING, *SCHEDULE, *RESUME, *IMPORTS, *STUDENTS_OF_OTHERS]
