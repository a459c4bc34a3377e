"""What fixed weights of the images of several teachers can reach at most: fitted on the test images themselves.

    python tests/benchmarks/best_mix.py options/train_MTKD_aggregate_x2_small.yml

Least squares to the HR images of the first test set; then BasicSR's own PSNR of the best mix, of the mean, and
of each teacher alone. An aggregator may do better: its weights may differ from place to place, and it may change the
images. But where fixed weights gain nothing, the teachers have little to add to each other.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import torch
from generalization_gap import samples
from torch import Tensor

import mipkd_plugin  # noqa: F401  (repairs BasicSR before basicsr is imported)
from basicsr.metrics import calculate_psnr
from basicsr.utils import tensor2img
from mipkd_plugin import config


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_file')
    opt = config.read_options(parser.parse_args().option_file)
    nets, aggregate = config.load_members(opt)
    pairs = samples(opt, 'val', 10**6)
    images = [torch.stack([net.eval()(pair['lq'][None])[0] for net in nets]) for pair in pairs]
    product, target = torch.zeros(len(nets), len(nets)).double(), torch.zeros(len(nets)).double()
    for found, pair in zip(images, pairs):
        flat = found.flatten(1).double()
        product += flat @ flat.T / flat.shape[1]
        target += flat @ pair['gt'].flatten().double() / flat.shape[1]
    best = torch.linalg.solve(product, target).float()

    def psnr(weights: Tensor) -> float:
        mixed = [(weights[:, None, None, None] * found).sum(0) for found in images]
        return float(np.mean([calculate_psnr(tensor2img(image), tensor2img(pair['gt']), crop_border=opt['scale'],
                                             test_y_channel=True) for image, pair in zip(mixed, pairs)]))

    mixes = {f'best weights, {", ".join(f"{w:.2f}" for w in best)}': best, 'mean': torch.full_like(best, 1 / len(best)),
             **{member.name: alone for member, alone in zip(aggregate.teachers, torch.eye(len(best)))}}
    for name, weights in mixes.items():
        sys.stdout.write(f'{name}: {psnr(weights):.3f} dB\n')


if __name__ == '__main__':
    main()
