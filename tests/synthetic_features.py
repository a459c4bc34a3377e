"""Losses on features that are given, with no networks: for tests that know the features."""

from __future__ import annotations

import torch
from torch import Tensor

from mipkd_plugin import DistillationLoss, NetPass, Step
from mipkd_plugin.losses import TapPair
from mipkd_plugin.networks.features import TapInfo

Pairs = list[tuple[Tensor, Tensor]]


def two_taps(seed: int = 1, samples: int = 4) -> Pairs:
    """(F_S, F_T) at two taps of different sizes, the teacher's wider and larger."""
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(samples, 2, h, w, generator=generator, dtype=torch.double),
             40 * torch.randn(samples, 3, h, w, generator=generator, dtype=torch.double) + 5)
            for h, w in ((3, 4), (2, 3))]


def step_of(pairs: Pairs) -> Step:
    """A step that shows a loss these features, and nothing else."""
    nothing = torch.zeros(())
    student, teacher = (NetPass(nothing, {f'{role}{k}': pair[side] for k, pair in enumerate(pairs)})
                        for side, role in enumerate('st'))
    lq = torch.zeros(len(pairs[0][0]), 3, 1, 1)
    return Step(lq, nothing, 1, student, teacher, None)


def fitted(loss: DistillationLoss, pairs: Pairs) -> DistillationLoss:
    """The loss as ``bind`` would leave it, in double precision."""
    torch.manual_seed(0)
    loss.pairs = [(f's{k}', f't{k}') for k in range(len(pairs))]
    loss.build([TapPair(TapInfo('', f_s.shape[1]), TapInfo('', f_t.shape[1])) for f_s, f_t in pairs])
    loss.is_bound = True
    return loss.double()


def values(loss: DistillationLoss, pairs: Pairs) -> dict[str, float]:
    return {name: term.item() for name, term in loss(step_of(pairs)).items()}
