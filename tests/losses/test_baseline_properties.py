"""The losses that papers compare with: gradients in double precision, invariances, and memory."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import batch, make_pair
from synthetic_features import fitted, step_of, two_taps, values
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mipkd_plugin import CrossKDLoss, FAKDLoss, NetPass, bind


@pytest.mark.parametrize(('name', 'options'), [
    ('AttentionTransferLoss', {}), ('FAKDLoss', {}), ('FAKDLoss', {'positions': 4}), ('RKDLoss', {}),
    ('FitNetLoss', {}), ('FitNetLoss', {'feature_scale': 'none'})])
def test_gradients_of_features_and_projections(name: str, options: dict[str, Any]) -> None:
    pairs = [(f_s.requires_grad_(), f_t) for f_s, f_t in two_taps(samples=3)]
    loss = fitted(LOSS_REGISTRY.get(name)(taps=2, **options), pairs)

    def terms(*inputs: Tensor) -> tuple[Tensor, ...]:
        loss.seed(0)
        return tuple(loss(step_of(pairs)).values())

    assert torch.autograd.gradcheck(terms, (*(f_s for f_s, _ in pairs), *loss.parameters()))


def test_gradients_through_the_rest_of_the_teacher() -> None:
    student, teacher = (net.double() for net in make_pair('EDSR'))
    lq, gt = (images.double() for images in batch('EDSR', size=4))
    loss = CrossKDLoss(taps=2)
    step = bind([loss], student, teacher, lq[:1]).step(lq, gt, iteration=1)
    loss.double()
    inputs = *(step.student.features[s].detach().requires_grad_() for s, _ in loss.pairs), *loss.parameters()

    def term(*inputs: Tensor) -> Tensor:
        student_pass = NetPass(step.student.output, dict(zip((s for s, _ in loss.pairs), inputs)))
        return loss(dataclasses.replace(step, student=student_pass))['l_crosskd']

    assert torch.autograd.gradcheck(term, inputs, fast_mode=True)


# --------------------------------------------------------------------------------------------- what leaves them alone
def other_students(f_s: Tensor) -> dict[str, Tensor]:
    turned = torch.linalg.qr(torch.randn(2, 2).double())[0]
    positive = torch.rand(len(f_s), 1, *f_s.shape[2:]).double() + 0.1
    return {'scaled': 700 * f_s, 'moved': 7 * torch.einsum('oc,nchw->nohw', turned, f_s) + 3,
            'wider': torch.cat([f_s, -f_s, f_s], 1), 'scaled by position': f_s * positive}


@pytest.mark.parametrize(('name', 'same'), [
    ('AttentionTransferLoss', {'scaled', 'wider'}), ('FAKDLoss', {'scaled', 'wider', 'scaled by position'}),
    ('RKDLoss', {'scaled', 'moved', 'wider'})])
def test_what_a_loss_does_not_see(name: str, same: set[str]) -> None:
    pairs = two_taps()[:1]
    loss = fitted(LOSS_REGISTRY.get(name)(taps=1), pairs)
    plain = pytest.approx(values(loss, pairs))
    assert {change for change, f_s in other_students(pairs[0][0]).items()
            if values(loss, [(f_s, pairs[0][1])]) == plain} == same


@pytest.mark.parametrize('name', ['FitNetLoss', 'CrossKDLoss'])
def test_the_feature_scale_makes_weights_mean_the_same(name: str) -> None:
    pairs = two_taps()
    loss, other = (fitted(LOSS_REGISTRY.get(name)(taps=2), pairs) for _ in range(2))
    found = []
    for each, factor in ((loss, 1), (other, 100)):
        step = step_of([(factor * f_s, factor * f_t) for f_s, f_t in pairs])
        each.update_scales(step.teacher)
        found.append([projected for _, projected, _ in each.projected(step)])
    for a, b in zip(*found):
        torch.testing.assert_close(a, b)


class Largest(TorchDispatchMode):
    """Remembers the number of elements of the largest tensor that is made inside."""

    elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        self.elements = max([self.elements, *(t.numel() for t in tree_leaves(made) if isinstance(t, Tensor))])
        return made


@pytest.mark.parametrize(('positions', 'side'), [(None, 100), (16, 16), (100, 100), (101, 100)])
def test_fakd_positions_bound_the_memory(positions: int | None, side: int) -> None:
    generator = torch.Generator().manual_seed(0)
    f_s, f_t = (torch.randn(2, width, 10, 10, generator=generator) for width in (2, 2))
    loss = fitted(FAKDLoss(taps=1, positions=positions), [(f_s, f_t)])
    with Largest() as largest:
        loss(step_of([(f_s.requires_grad_(), f_t)]))['l_fakd'].backward()
    assert largest.elements == 2 * side * side


def test_fakd_positions_keep_the_expected_value() -> None:
    """But for the diagonal, which is 0 and takes 1 / positions of the elements."""
    generator = torch.Generator().manual_seed(0)
    pairs = [(torch.randn(2, 3, 5, 6, generator=generator), torch.randn(2, 4, 5, 6, generator=generator))]
    full = values(fitted(FAKDLoss(taps=1), pairs), pairs)['l_fakd']
    loss = fitted(FAKDLoss(taps=1, positions=6), pairs)
    drawn = [values(loss, pairs)['l_fakd'] for _ in range(300)]
    assert len(set(drawn)) > 290, 'the positions are not drawn anew'
    assert np.mean(drawn) == pytest.approx(full * (30 / 29) * (5 / 6), rel=0.02)


# ---------------------------------------------------------------------------------- what has no direction
@pytest.mark.parametrize('name', ['FAKDLoss', 'RKDLoss', 'AttentionTransferLoss'])
def test_vectors_of_length_zero_pass_no_gradient_without_bound(name: str) -> None:
    """Dead positions (FAKD), samples that look the same (RKD): a division by their length would pass 1e10 and more."""
    pairs = [(f_s.clone(), f_t) for f_s, f_t in two_taps()]
    for f_s, _ in pairs:
        f_s[:2] = 0
        f_s[2, :, 0, 0] = 0
        f_s.requires_grad_()
    sum(fitted(LOSS_REGISTRY.get(name)(taps=2, loss_weight=1.0), pairs)(step_of(pairs)).values()).backward()
    for f_s, _ in pairs:
        assert torch.isfinite(f_s.grad).all()
        assert f_s.grad.abs().max() < 1e3
        assert f_s.grad.abs().max() > 0


@pytest.mark.parametrize('samples', [1, 2])
def test_a_batch_too_small_for_rkd_is_refused_in_a_plain_loop(samples: int) -> None:
    pairs = two_taps(samples=samples)
    with pytest.raises(ValueError, match=rf'RKDLoss needs batches of 3 images or more, got {samples}: .*drop_last'):
        fitted(LOSS_REGISTRY.get('RKDLoss')(taps=2), pairs)(step_of(pairs))


def test_a_term_of_rkd_of_weight_zero_is_not_computed() -> None:
    pairs = two_taps()
    loss = fitted(LOSS_REGISTRY.get('RKDLoss')(taps=2, angle_weight=0), pairs)
    assert values(loss, pairs).keys() == {'l_rkd_distance'}
    with pytest.raises(ValueError, match='distance_weight and angle_weight are both 0'):
        LOSS_REGISTRY.get('RKDLoss')(taps=2, distance_weight=0, angle_weight=0)
