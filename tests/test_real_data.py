"""Published numbers of published teachers, and a heterogeneous pair on real images, through the command line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

METRICS = {name: {'type': f'calculate_{name}', 'crop_border': 2, 'test_y_channel': True} for name in ('psnr', 'ssim')}
EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 5, 'upscale': 2, 'res_scale': 1,
        'img_range': 255.0, 'rgb_mean': [0, 0, 0]}
RRDB = {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 4, 'num_feat': 64, 'num_block': 23,
        'num_grow_ch': 32}
SWINIR = {'type': 'SwinIR', 'upscale': 4, 'in_chans': 3, 'img_size': 16, 'window_size': 8, 'img_range': 1.0,
          'depths': [2, 2, 2, 2], 'embed_dim': 60, 'num_heads': [6, 6, 6, 6], 'mlp_ratio': 2,
          'upsampler': 'pixelshuffledirect', 'resi_connection': '1conv'}


def command(name: str, *arguments: str, cwd: Path) -> str:
    executable = Path(sys.executable).with_name(name)
    result = subprocess.run([str(executable), *arguments], capture_output=True, text=True, cwd=cwd)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout + result.stderr


def images(name: str, hr: Path, lr: Path, backend: str, **more: Any) -> dict[str, Any]:
    return {'name': name, 'type': 'PairedImageDataset', 'dataroot_gt': str(hr), 'dataroot_lq': str(lr),
            'io_backend': {'type': backend}, **more}


def test_options(network: dict[str, Any], weights: Path, scale: int, datasets: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: {**metric, 'crop_border': scale} for name, metric in METRICS.items()}
    return {'name': 'numbers', 'model_type': 'SRModel', 'scale': scale, 'num_gpu': 'auto', 'manual_seed': 0,
            'datasets': datasets, 'network_g': network,
            'path': {'pretrain_network_g': str(weights), 'param_key_g': 'params', 'strict_load_g': True},
            'val': {'save_img': False, 'suffix': None, 'metrics': metrics}}


test_options.__test__ = False  # a helper with the name of what it makes


def measured(log: str, dataset: str) -> tuple[float, float]:
    block = log[log.index(f'Validation {dataset}'):]
    return (float(re.search(r'# psnr: ([\d.]+)', block)[1]), float(re.search(r'# ssim: ([\d.]+)', block)[1]))


def test_edsr_teacher_from_folders_and_from_lmdb(shared: Path, tmp_path: Path) -> None:
    data = shared / 'data'
    command('mipkd', 'prepare', '--hr', str(data / 'Set5/HR'), '--scale', '2', '--out', 'set5', '--lmdb', cwd=tmp_path)
    opt = test_options(EDSR, shared / 'weights/EDSR_x2_f64b5.pth', 2, {
        'test_1': images('folders', data / 'Set5/HR', data / 'Set5/LRbicx2', 'disk'),
        'test_2': images('lmdb', tmp_path / 'set5/HR.lmdb', tmp_path / 'set5/LRbicx2.lmdb', 'lmdb')})
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    log = command('basicsr', 'test', '-opt', 'test.yml', cwd=tmp_path)
    assert measured(log, 'folders') == pytest.approx((37.652, 0.9592), abs=6e-4)
    assert measured(log, 'lmdb') == pytest.approx((37.652, 0.9592), abs=6e-4)


def test_rrdb_teacher(shared: Path, tmp_path: Path) -> None:
    data = shared / 'data'
    opt = test_options(RRDB, shared / 'weights/RRDB_PSNR_x4.pth', 4, {
        'test': images('Set5', data / 'Set5/HR', data / 'Set5/LRbicx4', 'disk')})
    (tmp_path / 'test.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    log = command('basicsr', 'test', '-opt', 'test.yml', cwd=tmp_path)
    assert measured(log, 'Set5') == pytest.approx((32.730, 0.9011), abs=6e-4)


def test_heterogeneous_pair_trains_saves_and_resumes(shared: Path, tmp_path: Path) -> None:
    data = shared / 'data'
    opt = {
        'name': 'heterogeneous', 'model_type': 'SwinIRDistillModel', 'scale': 4, 'num_gpu': 'auto', 'manual_seed': 0,
        'datasets': {'train': images(
            'Set5', data / 'Set5/HR', data / 'Set5/LRbicx4', 'disk', gt_size=64, use_hflip=True, use_rot=True,
            num_worker_per_gpu=0, batch_size_per_gpu=2, dataset_enlarge_ratio=100)},
        'network_g': SWINIR,
        'teacher': {'network': RRDB, 'weights': str(shared / 'weights/RRDB_PSNR_x4.pth'), 'param_key': 'params'},
        'path': {'pretrain_network_g': None, 'strict_load_g': True, 'resume_state': None},
        'train': {'ema_decay': 0.99, 'total_iter': 4, 'warmup_iter': -1,
                  'optim_g': {'type': 'Adam', 'lr': 0.0001, 'betas': [0.9, 0.99]},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [100], 'gamma': 0.5},
                  'pixel_opt': {'type': 'L1Loss', 'loss_weight': 1.0, 'reduction': 'mean'},
                  'distill_opt': [{'type': 'MiPKDLoss', 'taps': 4, 'latent_channels': 32},
                                  {'type': 'KRNetLoss', 'taps': 2, 'meta_every': 3}]},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 4, 'use_tb_logger': False}}
    (tmp_path / 'train.yml').write_text(yaml.safe_dump(opt, sort_keys=False))
    first = command('basicsr', 'train', '-opt', 'train.yml', cwd=tmp_path)
    second = command('basicsr', 'train', '-opt', 'train.yml', '--auto_resume', '--force_yml', 'train:total_iter=6',
                     cwd=tmp_path)
    assert 'Resuming training from epoch: 0, iter: 4' in second
    logged = re.findall(r'(l_\w+): ([\d.]+e[+-]\d+)', first + second)
    assert {name for name, _ in logged} == {'l_pix', 'l_logits', 'l_feat', 'l_ae', 'l_block', 'l_kr'}
    assert len(logged) == 6 * 6
    assert (first + second).count('meta_rec: ') == 2
