"""DCKDLoss: options that do not go together, files of other weights, a resume with another history student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from faults.harness import BadInput
from faults.inputs.resume import EXACT, RESUME, after_training
from mipkd_plugin.config.remedies import REMOVE

OPT = 'train.distill_opt'
VQGAN = {'encoder': 'vqgan', 'taps': REMOVE}
TRAINED = {f'{OPT}.type': 'DCKDLoss', f'{OPT}.taps': 2, f'{OPT}.latent_channels': REMOVE, f'{OPT}.history_every': 2}


def dckd(name: str, option: str, *says: str, remedy: bool = False, **options: Any) -> BadInput:
    entries = {'type': 'DCKDLoss', 'taps': 2, 'history_every': 2, **options}
    return BadInput(name, f'{OPT}.{option}', says,
                    {OPT: {key: value for key, value in entries.items() if value is not REMOVE}}, remedy=remedy)


def spoiled_vqgan(folder: Path) -> None:
    torch.save({'state_dict': {'encoder.conv_in.weight': torch.zeros(32, 3, 3, 3)}}, folder / 'last.ckpt')


def resumed(name: str, where: str, *says: str, exact: bool = False, remedy: bool = True, **entries: Any) -> BadInput:
    before = {**TRAINED, **(EXACT if exact else {})}
    return BadInput(name, where, says, {**before, **{key.replace('__', '.'): value for key, value in entries.items()}},
                    after_training(entries=before), arguments=RESUME, remedy=remedy)


CASES = [
    dckd('DCKD with too few layer weights', 'layer_weights', 'must have 2 numbers, one for each feature, got [1.0]',
         layer_weights=[1]),
    dckd('DCKD with the teacher and no taps', 'taps', 'is missing: encoder: teacher compares features of the '
         'teacher; write taps: 3', '-> write this option of DCKDLoss\n', taps=REMOVE),
    dckd('DCKD with more taps than λ', 'layer_weights', 'there are 6 features; write 6 numbers, or fewer taps\n',
         '-> write this option of DCKDLoss\n', taps=6),
    dckd('DCKD with the codebook of another encoder', 'codebook_weight', 'goes with encoder: vqgan alone, and the '
         'encoder is teacher', '-> remove it\n', remedy=True, codebook_weight=1.0),
    dckd('DCKD with an empty list of s', 'history_every', '): must have 1 or more entries, not 0, got []\n',
         remedy=True, history_every=[]),
    dckd('DCKD with VQGAN and taps', 'taps', 'goes with encoder: teacher alone, and the encoder is vqgan',
         encoder='vqgan', weights='last.ckpt'),
    dckd('DCKD with VQGAN and no weights', 'weights', 'is missing: encoder: vqgan needs the file of its weights',
         **VQGAN),
    dckd('DCKD with VQGAN that is not there', 'weights', 'last.ckpt does not exist', 'give the path of last.ckpt of '
         'vqgan_imagenet_f16_1024', weights='last.ckpt', **VQGAN),
    dckd('DCKD with a VQGAN that is a teacher', 'weights', 'teacher.pth does not hold the encoder and the codebook of '
         'a VQGAN: it has no encoder.conv_in.weight', weights='teacher.pth', **VQGAN),
    dckd('DCKD with half a VQGAN', 'weights', 'of a VQGAN: it has no encoder.conv_out.weight', weights='last.ckpt',
         **VQGAN)._replace(spoil=spoiled_vqgan),
    dckd('DCKD with a negative noise', 'noise[0]', 'must be at least 0, got -1', noise=[-1, 30]),
    dckd('DCKD with the noise in the wrong order', 'noise', 'must be [lowest, highest], got [30.0, 1.0]',
         noise=[30, 1]),
    dckd('DCKD whose history student never changes', 'history_decay', 'must be below 1', history_decay=1.0),
    dckd('DCKD with an s that is larger than the run', 'history_every', 'is 100, and only the first 4 iterations '
         'distill: it would never happen', 'write a smaller number, as history_every: 1', remedy=True,
         history_every=100),
    dckd('DCKD with the s of the paper in a short run', 'history_every', 'is not written, and by default it is 1000, '
         'and only the first 4 iterations distill', 'as history_every: 1', remedy=True, history_every=REMOVE),
    dckd('DCKD with a list of s that are larger than the run', 'history_every', 'is [5, 6], and only the first 4 ',
         remedy=True, history_every=[5, 6]),
    resumed('another s on resume', f'{OPT}.history_every', 'is 1, and ', 'distill_4.pth was saved with 2: what it '
            'holds cannot go on with another value', 'write history_every: 2, or start a new run under another name',
            train__distill_opt__history_every=1),
    resumed('another α on resume', f'{OPT}.history_decay', 'is 0.5, and ', 'was saved with 0.1',
            train__distill_opt__history_decay=0.5),
    resumed('another period of s on resume', f'{OPT}.history_period', 'is 50, and ', 'was saved with 100000',
            'write history_period: 100000', train__distill_opt__history_period=50),
    resumed('another s in an exact resume', f'{OPT}.history_every', exact=True, train__distill_opt__history_every=1),
    resumed('another width of the student on resume', '--auto_resume', 'net_g_4.pth', 'does not fit EDSR', remedy=False,
            network_g__num_feat=10),
]
