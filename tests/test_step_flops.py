"""What the benchmark counts is what a hand counts; what it takes from a curve is on the curve."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import break_even, step_flops
from helpers import batch, tiny_options
from torch import nn
from torch.nn import functional as F

from mipkd_plugin.losses import MiPKDLoss, bind
from mipkd_plugin.networks.features import NetPass
from mipkd_plugin.networks.step import NetPair
from basicsr.archs import build_network

SIDE = 8


@pytest.fixture
def opt(tmp_path: Path) -> dict[str, Any]:
    return tiny_options(tmp_path)


def by_hand(network: dict[str, Any]) -> list[int]:
    """Operations of each convolution of EDSR x2: two (multiply, add) for each weight and output pixel."""
    convolutions = [m for m in build_network(network).modules() if isinstance(m, nn.Conv2d)]
    sides = [2 * SIDE if m is convolutions[-1] else SIDE for m in convolutions]  # the last is behind the upsampling
    return [2 * m.weight.numel() * side**2 for m, side in zip(convolutions, sides)]


def test_plain_step_and_teacher_are_those_of_a_hand_count(opt: dict[str, Any]) -> None:
    cost = step_flops.measure(opt)
    student = by_hand(opt['network_g'])
    assert cost.plain == 3 * sum(student) - student[0]  # backward: weights and inputs; the image needs no gradient
    assert cost.teacher == sum(by_hand(opt['teacher']['network']))


def cached_step(nets: NetPair, loss: MiPKDLoss, kept: NetPass) -> None:
    lq, gt = batch('EDSR', size=SIDE, samples=1)
    step = nets.step(lq, gt, teacher=kept)
    torch.stack([F.l1_loss(step.student.output, gt), *loss(step).values()]).sum().backward()


def test_losses_are_the_mean_over_the_routes_of_ordinary_steps(opt: dict[str, Any]) -> None:
    """On the CPU, with the teacher's pass made before: what is left is the student and the losses."""
    options = {'taps': 2, 'latent_channels': 8, 'route_probability': 0.25}
    opt['train']['distill_opt'] = {'type': 'MiPKDLoss', **options}
    loss, lq = MiPKDLoss(**options), batch('EDSR', size=SIDE, samples=1)[0]
    nets = bind([loss], build_network(opt['network_g']), build_network(opt['teacher']['network']), lq)
    kept, expected, counts = nets.teacher(lq), 0.0, set()
    for route in itertools.product((True, False), repeat=2):
        loss.block_mixer.draw_route = lambda *_, route=route: list(route)  # type: ignore[method-assign]
        count = step_flops.flops(partial(cached_step, nets, loss, kept))
        expected += count * 0.25**sum(route) * 0.75**(2 - sum(route))
        counts.add(count)
    cost = step_flops.measure(opt)
    assert len(counts) > 1
    assert cost.plain + cost.losses == pytest.approx(expected)


def test_a_rare_chain_costs_its_share(opt: dict[str, Any]) -> None:
    losses = []
    for changes in ({}, {'block_every': 4}, {'block_weight': 0}):
        opt['train']['distill_opt'] = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 8, **changes}
        losses.append(step_flops.measure(opt).losses)
    always, rarely, never = losses
    assert rarely == pytest.approx(never + (always - never) / 4)


def test_ratio_adds_up() -> None:
    cost = step_flops.Cost(plain=2, teacher=4, losses=6)
    assert [cost.ratio(), cost.ratio(0.5), cost.ratio(0), cost.ratio(0, every=4)] == [6, 5, 4, 1.75]


def test_losses_that_train_themselves_and_runs_without_distillation_are_refused(opt: dict[str, Any]) -> None:
    opt['train']['distill_opt'] = {'type': 'KRNetLoss', 'taps': 2}
    with pytest.raises(SystemExit, match='KRNetLoss trains something'):
        step_flops.measure(opt)
    del opt['train']['distill_opt']
    with pytest.raises(SystemExit, match='tiny has no train.distill_opt'):
        step_flops.measure(opt)


def test_curve_is_read_between_its_points_and_not_beyond() -> None:
    curve = {1000: 30.0, 4000: 31.0}
    assert break_even.psnr_at(curve, 2000) == pytest.approx(30.5)
    assert break_even.first_at(curve, 30.5) == pytest.approx(2000)
    assert break_even.decimals(break_even.psnr_at(curve, 5000)) == '–'
    assert break_even.decimals(break_even.first_at(curve, 31.5)) == '–'
