"""PSNR of the finished students of a comparison on images they were trained on, beside the test sets.

    python tests/benchmarks/generalization_gap.py options/compare_EDSR_x2_small_60k.yml

Takes the weights of the runs (``experiments/<name>_<method>_seed<k>``, the moving average), evenly spaced images of the
training set, whole, and BasicSR's own PSNR with the options of the file. The teacher is measured too. Images differ in
how hard they are, so the difference between training and test images means something only beside that of another
student. Prints a Markdown table, which is also written to ``experiments/<name>/gap.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.archs import build_network
from basicsr.data import build_dataset
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img
from mipkd_plugin import config
from mipkd_plugin.compare import read_comparison

TEACHER, TRAINING = 'teacher', 'training images'


def samples(opt: dict[str, Any], phase: str, most: int) -> list[dict[str, Any]]:
    """Up to ``most`` evenly spaced, whole images of a data set."""
    options = {key: value for key, value in opt['datasets'][phase].items() if key not in ('type', 'crops', 'crop_seed')}
    images = build_dataset({**options, 'type': 'PairedImageDataset', 'phase': 'val', 'scale': opt['scale']})
    return [images[index] for index in np.linspace(0, len(images) - 1, min(most, len(images))).astype(int)]


@torch.no_grad()
def psnr(net: torch.nn.Module, images: Iterable[dict[str, Any]], border: int) -> float:
    found = [calculate_psnr(tensor2img(net(image['lq'][None])), tensor2img(image['gt'][None]), crop_border=border,
                            test_y_channel=True) for image in images]
    return float(np.mean(found))


def load(network: dict[str, Any], path: str | Path, key: str | None) -> torch.nn.Module:
    net: torch.nn.Module = build_network(network).eval()
    state = torch.load(path, map_location='cpu', weights_only=True)
    net.load_state_dict(state if key is None else state[key])
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_file')
    parser.add_argument('--images', type=int, default=200, help='training images to measure on (default: 200)')
    args = parser.parse_args()
    opt = config.read_options(args.option_file)
    comparison = read_comparison(opt)
    border = next(metric['crop_border'] for metric in opt['val']['metrics'].values() if 'psnr' in metric['type'])
    sets = {TRAINING: samples(opt, 'train', args.images),
            **{opt['datasets'][phase]['name']: samples(opt, phase, 10**6)
               for phase in opt['datasets'] if phase.startswith('val')}}
    teacher = opt['teacher']
    nets = {(TEACHER, ''): load(teacher['network'], teacher['weights'], teacher.get('param_key', 'params'))}
    for trial in comparison.trials:
        path = Path('experiments') / trial.name / 'models' / 'net_g_latest.pth'
        if path.is_file():
            nets[trial.method, str(trial.seed)] = load(opt['network_g'], path, 'params_ema')
    header = ['method', 'seed', *sets, *(f'{TRAINING} − {name}' for name in sets if name != TRAINING)]
    lines = [f'| {" | ".join(header)} |', '|' + '---|' * len(header)]
    for (method, seed), net in nets.items():
        found = {name: psnr(net, images, border) for name, images in sets.items()}
        gaps = [found[TRAINING] - value for name, value in found.items() if name != TRAINING]
        cells = [method, seed, *(f'{value:.3f}' for value in found.values()), *(f'{gap:+.3f}' for gap in gaps)]
        lines.append(f'| {" | ".join(cells)} |')
        sys.stderr.write(f'{lines[-1]}\n')
    lines += ['', f'PSNR in dB (Y, border {border}) of the moving average; {len(sets[TRAINING])} training images.', '']
    text = '\n'.join(lines)
    (Path('experiments') / comparison.name / 'gap.md').write_text(text, encoding='utf-8')
    sys.stdout.write(text)


if __name__ == '__main__':
    main()
