"""Students and teachers whose features have other sizes, and students that the meta step of KRNets finds difficult."""

from __future__ import annotations

from typing import Any

from faults.harness import BadInput
from faults.inputs.any_network import WIDE, of_teacher

PADS = {'type': 'PadsItself'}
LOSS = 'train.distill_opt'


def of_loss(name: str, where: str, says: tuple[str, ...], student: dict[str, Any], **loss: Any) -> BadInput:
    """A bad input about a student and a loss."""
    return BadInput(name, where, says, {'network_g': student, LOSS: {'taps': 3, **loss}})


SIZES = [
    of_loss('features of 12 and of 8', f'{LOSS}.taps', (
        'the student has 12×12, the teacher 8×8', 'write resample: area, to compare the finer feature in the size of '
        'the coarser one; or choose modules whose'), PADS, type='FitNetLoss'),
    of_loss('features of 12 and of 8 that re-enter', f'{LOSS}.taps', (
        'the student has 12×12, the teacher 8×8', 'write resample: area and block_weight: 0, to compare'), PADS,
        type='MiPKDLoss', latent_channels=8),
    of_loss('resampled features that re-enter the student', f'{LOSS}.taps', (
        'MiPKDLoss lets features re-enter the student there, and resample: bilinear loses what such a feature needs',
        'tap pairs [body.0, ', 'write block_weight: 0, with which none re-enters, or choose'), PADS, type='MiPKDLoss',
        latent_channels=8, resample='bilinear'),
    of_loss('unknown way to resample', f'{LOSS}.resample', ("must be 'area' or 'bilinear', got 'cubic'", ), PADS,
            type='RKDLoss', resample='cubic')._replace(remedy=False),
    of_teacher('finer teacher', f'{LOSS}.taps', ('the student has 8×8, the teacher 12×12', 'write resample: area,'),
               {**PADS, **WIDE}, train__distill_opt={'type': 'AttentionTransferLoss', 'taps': 3}),
    of_teacher('finer teacher that features re-enter', f'{LOSS}.taps', (
        'the student has 8×8, the teacher 12×12; choose modules whose', ), {**PADS, **WIDE},
        train__distill_opt={'type': 'CrossKDLoss', 'taps': 3})._replace(remedy=False),
    of_teacher('resampled features that re-enter the teacher', f'{LOSS}.taps', (
        'CrossKDLoss lets features re-enter the teacher there, and resample: area loses', ), {**PADS, **WIDE},
        train__distill_opt={'type': 'CrossKDLoss', 'taps': 3, 'resample': 'area'})._replace(remedy=False),
]
META_STEPS = [
    of_loss('second order without a second derivative', LOSS, (
        'KRNetLoss: the student Gated has no second derivative (derivative for aten::hardsigmoid_backward is not '
        'implemented), and first_order: false needs it', 'write first_order: true'), {'type': 'Gated', 'kind': 'hard'},
        type='KRNetLoss', first_order=False),
    of_loss('half batches of one for BatchNorm', 'datasets.train.batch_size_per_gpu', (
        'is 2, and KRNetLoss needs 4 images or more in a batch: the meta step runs the student on half batches, and on '
        'one image BatchNorm in Gated has a single value per channel', 'write batch_size_per_gpu: 4, or more'),
        {'type': 'Gated', 'kind': 'norm'}, type='KRNetLoss'),
]
FROZEN = [
    of_loss('taps behind frozen layers', LOSS, (
        "no gradient of l_fitnet reaches the student Gated: all that runs before its tap 'body.2' has "
        'requires_grad=False', 'tap modules behind layers that train'), {'type': 'Gated', 'kind': 'frozen'},
        type='FitNetLoss')._replace(remedy=False),
]
VALIDATION = [
    BadInput('images of one size alone', 'datasets.val', (
        'OneSize of network_g cannot run on 0.png of datasets.val (LR 24×24): RuntimeError: ',
        'fix the arguments of network_g, or remove'), {'network_g': {'type': 'OneSize'}, 'datasets.train.gt_size': 32},
        remedy=False),
]
CASES = [*SIZES, *META_STEPS, *FROZEN, *VALIDATION]
