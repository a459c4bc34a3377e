"""Every loss under autocast, as a training loop of one's own may run it: finite terms and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import batch, make_pair
from losses.test_loss_contract import LOSSES, SMALL

from mipkd_plugin import DistillationLoss, bind


@pytest.fixture(autouse=True, scope='module')
def _vgg(vgg_weights: str) -> None:
    SMALL['CSDLoss'] = {'weights': vgg_weights}


@pytest.mark.parametrize(('arch', 'dtype'), [('EDSR', torch.float16), ('EDSR', torch.bfloat16),
                                             ('SwinIR', torch.float16)])
@pytest.mark.parametrize('name', LOSSES)
def test_terms_and_gradients_are_finite(name: str, dtype: torch.dtype, arch: str) -> None:
    student, teacher = make_pair(arch)
    with torch.no_grad():  # trained features of EDSR are of order 100, and single values far above
        teacher.conv_first.weight *= 30
        student.conv_first.weight *= 30
    options: dict[str, Any] = SMALL.get(name, {})
    loss: DistillationLoss = LOSS_REGISTRY.get(name)(**options)
    lq, gt = batch(arch, samples=4)
    nets = bind([loss], student, teacher, lq[:1])
    with torch.autocast('cpu', dtype):
        plan = nets.plan(lq, gt, torch.optim.Adam(student.parameters()), torch.nn.functional.l1_loss, 10)
        logged = loss.prepare(plan) if loss.self_trained_parameters() else {}
        terms = loss(plan.run())
    assert all(bool(torch.isfinite(value)) for value in [*terms.values(), *logged.values()]), terms
    torch.stack([value.float() for value in terms.values()]).sum().backward()
    for module in (student, loss):
        for path, parameter in module.named_parameters():
            assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all()), path
    assert student.conv_first.weight.grad.abs().sum() > 0
