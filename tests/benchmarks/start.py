"""Seconds from the start of a training to its first iteration, with and without the check, on a CPU.

    python tests/benchmarks/start.py
    python tests/benchmarks/start.py --pairs 100 --height 1356 --width 2040 --starts 3

Makes random PNGs and random weights of a teacher in a temporary folder. Each row is the best of some starts, each a
process of its own: ``basicsr train``, which checks first, and BasicSR's own pipeline on the same option file. Behind
them stand the seconds that the check itself took, and those of its rehearsal of validation.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import yaml

import mipkd_plugin  # noqa: F401  (before basicsr)
from basicsr.archs import build_network

EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 16, 'upscale': 2}
SWINIR = {'type': 'SwinIR', 'img_size': 24, 'window_size': 8, 'mlp_ratio': 2, 'upscale': 2, 'embed_dim': 60,
          'depths': [6, 6, 6, 6], 'num_heads': [6, 6, 6, 6], 'upsampler': 'pixelshuffledirect'}
STARTS = {
    'SRModel, EDSR': ('SRModel', EDSR, None),
    'DistillModel, EDSR <- EDSR': ('DistillModel', {**EDSR, 'num_block': 4}, EDSR),
    'SwinIRModel, SwinIR': ('SwinIRModel', SWINIR, None),
}
WAYS = {'with the check': 'from mipkd_plugin.cli import basicsr_main; basicsr_main(sys.argv[1:])',
        'without': 'from basicsr.train import train_pipeline; del sys.argv[1]; train_pipeline(os.getcwd())'}
TIMED = '''
import os, sys, time, mipkd_plugin, torch
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
from mipkd_plugin.config import check
def timed(name):
    function = getattr(check, name)
    def run(*args, **kwargs):
        begin = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            print(f"took {name} {time.perf_counter() - begin}", flush=True)
    setattr(check, name, run)
timed("_run")
timed("rehearse")
'''


def write_images(folder: Path, pairs: int, height: int, width: int) -> None:
    """Folders HR and LR with smooth random images, and val with five pairs of odd sizes."""
    rng = np.random.default_rng(0)
    odd = [('val', height // 4 + 2 * number + 1, width // 4 + number) for number in range(5)]
    for number, (place, rows, columns) in enumerate([('', height // 2, width // 2)] * pairs + odd):
        coarse = rng.integers(0, 256, (rows // 8 + 1, columns // 8 + 1, 3), dtype=np.uint8)
        for name, scale in (('HR', 2), ('LR', 1)):
            (folder / place / name).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / place / name / f'{number:04}.png'),
                        cv2.resize(coarse, (scale * columns, scale * rows), interpolation=cv2.INTER_CUBIC))


def options_of(folder: Path, model: str, student: dict[str, Any], teacher: dict[str, Any] | None) -> dict[str, Any]:
    """Options of a training that prints each iteration."""
    def images(name: str) -> dict[str, Any]:
        return {'name': name or 'train', 'type': 'PairedImageDataset', 'dataroot_gt': str(folder / name / 'HR'),
                'dataroot_lq': str(folder / name / 'LR'), 'io_backend': {'type': 'disk'}}

    metrics = {key: {'type': f'calculate_{key}', 'crop_border': 2, 'test_y_channel': True} for key in ('psnr', 'ssim')}
    opt: dict[str, Any] = {
        'name': 'start', 'model_type': model, 'scale': 2, 'num_gpu': 0, 'manual_seed': 0, 'datasets': {
            'train': {**images(''), 'gt_size': 96, 'use_hflip': True, 'use_rot': True, 'num_worker_per_gpu': 2,
                      'batch_size_per_gpu': 4, 'dataset_enlarge_ratio': 1000}, 'val': images('val')},
        'network_g': student, 'path': {}, 'val': {'val_freq': 1000, 'save_img': False, 'metrics': metrics},
        'train': {'total_iter': 1000, 'pixel_opt': {'type': 'L1Loss'}, 'optim_g': {'type': 'Adam', 'lr': 0.0001},
                  'scheduler': {'type': 'MultiStepLR', 'milestones': [500], 'gamma': 0.5}},
        'logger': {'print_freq': 1, 'save_checkpoint_freq': 1000, 'use_tb_logger': False}}
    if teacher is not None:
        torch.save({'params': build_network(teacher).state_dict()}, folder / 'teacher.pth')
        opt['teacher'] = {'network': teacher, 'weights': str(folder / 'teacher.pth')}
        opt['train']['distill_opt'] = {'type': 'MiPKDLoss', 'taps': 3}
    return opt


def seconds_to_first_iteration(way: str, folder: Path) -> dict[str, float]:
    """Start a training; stop it after its first iteration."""
    begin, found = time.perf_counter(), {}
    command = [sys.executable, '-W', 'ignore', '-c', TIMED + WAYS[way], 'train', '-opt', 'options.yml']
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env={'OMP_NUM_THREADS': '1', **os.environ}) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith('took '):
                _, name, value = line.split()
                found[name] = float(value)
            if 'iter:       1,' in line:
                found['start'] = time.perf_counter() - begin
                process.kill()
                return found
    raise SystemExit(f'no first iteration {way}:\n{"".join(lines)[-3000:]}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--pairs', type=int, default=20)
    parser.add_argument('--height', type=int, default=680)
    parser.add_argument('--width', type=int, default=1020)
    parser.add_argument('--starts', type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder, args.pairs, args.height, args.width)
        for title, case in STARTS.items():
            text = yaml.safe_dump(options_of(folder, *case), sort_keys=False)
            (folder / 'options.yml').write_text(text, encoding='utf-8')
            for way in WAYS:
                best = min((seconds_to_first_iteration(way, folder) for _ in range(args.starts)),
                           key=lambda found: found['start'])
                check = f'  check {best["_run"]:5.2f} s, rehearsal {best["rehearse"]:5.2f} s' if '_run' in best else ''
                sys.stdout.write(f'{title:28} {way:16} {best["start"]:6.2f} s{check}\n')


if __name__ == '__main__':
    main()
