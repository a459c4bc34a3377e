"""AugmentedPixelLoss, the control of DUKD: its images and ground truth in NumPy, and no teacher."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import batch, make_pair
from torch import Tensor
from torch.nn import functional as F

from mipkd_plugin import AugmentedPixelLoss, DUKDLoss, Step, bind
from mipkd_plugin.testing import check_loss


def step_of(loss: AugmentedPixelLoss | DUKDLoss, arch: str = 'EDSR') -> Step:
    lq, gt = batch(arch)
    return bind([loss], *make_pair(arch), lq[:1]).step(lq, gt, iteration=1)


def output(step: Step, images: np.ndarray) -> np.ndarray:
    found: Tensor = step.nets.student.net(torch.from_numpy(np.ascontiguousarray(images)))
    return found.detach().numpy()


def test_golden() -> None:
    """Augmentations undone by hand in reverse order; the LR image as ground truth of the smaller one."""
    loss = AugmentedPixelLoss(probability=1, augmentations=['invert', 'hflip', 'transpose'], zoom_in_weight=3,
                              zoom_out_weight=0.5, loss_weight=2)
    step = step_of(loss)
    x, y = step.lq.numpy(), step.gt.numpy()
    augmented = np.swapaxes((1 - x)[..., ::-1], 2, 3)
    restored = 1 - np.swapaxes(output(step, augmented), 2, 3)[..., ::-1]
    height, width = (side // 2 for side in x.shape[2:])
    small = F.interpolate(step.lq, (height, width), mode='bicubic', antialias=True).clamp(0, 1).numpy()
    found = {name: value.item() for name, value in loss(step).items()}
    assert found == pytest.approx({'l_augmented': 6 * np.abs(y - restored).mean(),
                                   'l_zoom_out': np.abs(output(step, small) - x).mean()}, rel=1e-5)


def test_it_draws_what_dukd_draws() -> None:
    control, method = AugmentedPixelLoss(), DUKDLoss()
    for loss in (control, method):
        loss.seed(5)
    first = [control.draw_steps() for _ in range(1)]
    assert first == [method.draw_steps() for _ in range(1)]
    assert torch.equal(control.zoomed_out(step_of(control), [])[0], step_of(control).lq)


@pytest.mark.parametrize('arch', ['EDSR', 'SwinIR'])
def test_nothing_of_it_depends_on_the_teacher(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = AugmentedPixelLoss()
    assert not AugmentedPixelLoss.uses_teacher
    loss.seed(1)
    before = loss(step_of(loss, arch))
    other = step_of(loss, arch)
    monkeypatch.setattr(other.nets.teacher, 'image', None)
    with torch.no_grad():
        for parameter in other.nets.teacher.net.parameters():
            parameter.fill_(float('nan'))
    other.teacher.output.fill_(float('nan'))
    loss.seed(1)
    assert {name: value.item() for name, value in loss(other).items()} == {
        name: value.item() for name, value in before.items()}


def test_one_of_the_two_terms_alone() -> None:
    assert list(AugmentedPixelLoss(zoom_out_weight=0)(step_of(loss := AugmentedPixelLoss()))) == ['l_augmented']
    assert list(AugmentedPixelLoss(zoom_in_weight=0)(step_of(loss))) == ['l_zoom_out']
    with pytest.raises(ValueError, match='zoom_in_weight and zoom_out_weight are both 0: there would be no further'):
        AugmentedPixelLoss(zoom_in_weight=0, zoom_out_weight=0)


def test_contract_with_other_options() -> None:
    check_loss(AugmentedPixelLoss, architectures=['EDSR'], probability=1, augmentations=['transpose', 'hflip'])
