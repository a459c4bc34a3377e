"""Floating point operations of one training step, plain and with distillation, counted and not timed.

    python tests/benchmarks/step_flops.py options/train_MiPKD_{EDSR,RCAN,SwinIR}_x{2,4}.yml \\
        options/train_MiPKD_EDSR_x2_small.yml

Prints a Markdown table, one row an option file, per image of the file's own patch size. Forward and backward count;
PyTorch's FlopCounterMode sees matrix products and convolutions, not what works element by element (activations, masks,
sums, Adam, EMA). The networks need no trained weights: they run on the device "meta", which computes shapes alone.
MiPKD's chain is random: the mean over all of its routes, each with its probability. The schedule (`train.distill`), the
cache and the perceptual loss of a file are ignored.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from mipkd_plugin import config
from mipkd_plugin.config.patches import small_shape
from mipkd_plugin.losses import DistillationLoss, MiPKDLoss, bind
from basicsr.archs import build_network
from basicsr.losses import build_loss

HALF = 0.5
EVERY = 4
HEADER = ('pair', 'plain, GFLOPs', 'teacher / plain', 'losses / plain', 'ratio', 'teacher at half its cost',
          'teacher cached', f'and `every: {EVERY}`')
NOTE = '''
GFLOPs: of one training step of the plain student, per image of the training patch, forward and backward. Teacher: its
forward pass. Losses: what they add themselves, forward and backward. Ratio: of the whole distillation step to the plain
one. Counted are matrix products and convolutions only. Mean over all routes of the chain, by their probability. Assumed
and not measured: a teacher at half its cost (bf16, on a card that is twice as fast with it); and the cache holds
all crops already.'''


@dataclass(frozen=True)
class Cost:
    """What the parts of one distillation step cost, in floating point operations per image.

    Attributes:
        plain: The step of a plain student, forward and backward.
        teacher: The teacher's forward pass.
        losses: What the distillation losses add, forward and backward.
    """

    plain: float
    teacher: float
    losses: float

    def ratio(self, teacher: float = 1, every: int = 1) -> float:
        """Of distillation to plain training, with this share of the teacher's cost, in each ``every``-th iteration."""
        return 1 + (teacher * self.teacher + self.losses) / self.plain / every

    def row(self, name: str) -> tuple[str, ...]:
        """Of the table."""
        numbers = (self.teacher / self.plain, self.losses / self.plain, self.ratio(), self.ratio(HALF), self.ratio(0),
                   self.ratio(0, EVERY))
        return name, f'{self.plain / 1e9:#.3g}', *(f'{number:.2f}' for number in numbers)


def flops(work: Callable[[], Any]) -> int:
    """Operations of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def on_meta(losses: Sequence[DistillationLoss]) -> None:
    """Move losses to the device without numbers, where no generator can be made: random numbers need none there."""
    for loss in losses:
        loss.to('meta').train()
        if hasattr(loss, '_generator_on'):
            loss._generator_on = lambda device: None


def courses(losses: Sequence[DistillationLoss]) -> Iterator[tuple[float, int]]:
    """(Probability, number of an iteration) of all courses that a step can take; sets the chain's route for each."""
    chain = next((loss for loss in losses if isinstance(loss, MiPKDLoss) and loss.weights['l_block']), None)
    if chain is None:
        yield 1.0, 1
        return
    if chain.block_every > 1:
        yield 1 - 1 / chain.block_every, 1
    student = chain.block_mixer.route_probability
    for route in itertools.product((True, False), repeat=len(chain.pairs)):
        chain.block_mixer.draw_route = lambda *_, route=route: list(route)
        probability = student**sum(route) * (1 - student)**(len(route) - sum(route))
        if probability:
            yield probability / chain.block_every, chain.block_every


def measure(opt: Mapping[str, Any]) -> Cost:
    """Count the parts of a step with the networks, the losses and the patch size of these options."""
    entries = config.distillation_entries(opt)
    if not entries:
        raise SystemExit(f'{opt.get("name")} has no train.distill_opt: name option files of distillation runs')
    student, teacher = build_network(opt['network_g']).train(), build_network(opt['teacher']['network'])
    losses = [build_loss(options) for _, options in entries]
    batch = max(loss.min_batch_size for loss in losses)
    nets = bind(losses, student, teacher, torch.rand(1, *small_shape(opt)))
    own = [type(loss).__name__ for loss in losses if loss.self_trained_parameters()]
    if own:
        raise SystemExit(f'{", ".join(own)} trains something in steps of its own, which are not counted here; '
                         'name files of other losses')
    student.to('meta')
    teacher.to('meta')
    on_meta(losses)
    channels, height, width = config.probe_shape(opt)
    scale = opt['scale']
    lq = torch.rand(batch, channels, height, width, device='meta')
    gt = torch.rand(batch, channels, scale * height, scale * width, device='meta')

    def pixel_loss(output: Tensor) -> Tensor:
        return F.l1_loss(output, gt)

    def distill(iteration: int) -> None:
        step = nets.step(lq, gt, iteration)
        terms = [pixel_loss(step.student.output), *(term for loss in losses for term in loss(step).values())]
        torch.stack(terms).sum().backward()

    plain = flops(lambda: pixel_loss(student(lq)).backward())
    alone = flops(lambda: nets.teacher(lq))
    whole = sum(probability * flops(partial(distill, iteration)) for probability, iteration in courses(losses))
    return Cost(plain / batch, alone / batch, (whole - plain - alone) / batch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('option_files', nargs='+')
    logging.disable(logging.CRITICAL)
    paths = parser.parse_args().option_files
    table = (measure(config.read_options(path)).row(Path(path).stem) for path in paths)
    for row in itertools.chain([HEADER, ['---'] * len(HEADER)], table):
        sys.stdout.write(f'| {" | ".join(row)} |\n')
        sys.stdout.flush()
    sys.stdout.write(f'{NOTE}\n')


if __name__ == '__main__':
    main()
