"""WaveletKDLoss against the Haar transform as a formula in NumPy, and the error of the released code."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from helpers import batch, make_pair
from torch import Tensor

from mipkd_plugin import ArgumentError, LogitsKDLoss, Step, WaveletKDLoss, bind
from mipkd_plugin.losses.wavelet_loss import haar


def bands(image: np.ndarray) -> dict[str, np.ndarray]:
    """The four bands of one channel (H, W), each by the kernel of two Haar filters in a row."""
    low, high = np.array([1, 1]) / np.sqrt(2), np.array([1, -1]) / np.sqrt(2)
    height, width = image.shape
    found = {}
    for name, rows, columns in (('LL', low, low), ('LH', low, high), ('HL', high, low), ('HH', high, high)):
        kernel = np.outer(rows, columns)
        found[name] = np.array([[np.sum(kernel * image[y:y + 2, x:x + 2]) for x in range(0, width, 2)]
                                for y in range(0, height, 2)])
    return found


def a_step(samples: int = 3) -> Step:
    student, teacher = make_pair('EDSR')
    lq, gt = batch('EDSR', samples=samples)
    return bind([LogitsKDLoss()], student, teacher, lq[:1]).step(lq, gt)


def test_the_formula() -> None:
    step = a_step()
    images = [net.output.detach().double().numpy().reshape(-1, *net.output.shape[2:])
              for net in (step.student, step.teacher)]
    errors: dict[str, list[float]] = {'LL': [], 'high': []}
    for s, t in zip(*images):
        own, theirs = bands(s), bands(t)
        errors['LL'].append(np.mean(np.abs(own['LL'] - theirs['LL'])))
        errors['high'] += [np.mean(np.abs(own[name] - theirs[name])) for name in ('LH', 'HL', 'HH')]
    terms = WaveletKDLoss(low_weight=2.0, high_weight=3.0)(step)
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {'l_wavelet_low': 2 * np.mean(errors['LL']), 'l_wavelet_high': 3 * np.mean(errors['high'])}, rel=1e-5)


def test_golden_values() -> None:
    """Changing these numbers is a deliberate change of the method."""
    terms = WaveletKDLoss()(a_step())
    assert {name: value.item() for name, value in terms.items()} == pytest.approx(
        {'l_wavelet_low': 0.063281, 'l_wavelet_high': 0.067742}, rel=1e-3)


@pytest.mark.parametrize('sample', range(3))
@pytest.mark.parametrize('term', ['l_wavelet_low', 'l_wavelet_high'])
def test_every_image_of_the_batch_counts(sample: int, term: str) -> None:
    """The released code takes the low band of one image alone: an index of a loop over bands is used once more."""
    step = a_step()
    image = step.teacher.output.clone()
    image[sample, :, ::2] += 0.25  # every other row, which both bands see
    other = dataclasses.replace(step, teacher=dataclasses.replace(step.teacher, output=image))
    same = dataclasses.replace(step, student=dataclasses.replace(step.student, output=step.teacher.output))
    loss = WaveletKDLoss()
    assert loss(same)[term] == 0
    only = dataclasses.replace(other, student=same.student)
    # a band is a difference or sum of two rows over √2 · √2, and both columns of a pair are alike
    expected = {'l_wavelet_low': 0.25 / 3, 'l_wavelet_high': 0.25 / 9}[term]
    assert loss(only)[term].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (1, 1)])
def test_no_pixel_is_lost(size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size)
    low, high = haar(images)
    assert low.shape == (2, 3, (size[0] + 1) // 2, (size[1] + 1) // 2)
    assert high.shape == (3, *low.shape)
    if size[0] % 2 == size[1] % 2 == 0:
        energy = low.square().sum() + high.square().sum()
        assert energy.item() == pytest.approx(images.square().sum().item(), rel=1e-5)
    images.requires_grad_()
    haar(images)[0].sum().backward()
    assert grad_of(images).abs().min() > 0


def grad_of(images: Tensor) -> Tensor:
    assert images.grad is not None
    return images.grad


def test_a_weight_of_0_leaves_its_term_out() -> None:
    step = a_step()
    assert list(WaveletKDLoss(low_weight=0)(step)) == ['l_wavelet_high']
    assert list(WaveletKDLoss(high_weight=0)(step)) == ['l_wavelet_low']
    with pytest.raises(ArgumentError, match='low_weight is 0, and so is high_weight'):
        WaveletKDLoss(low_weight=0, high_weight=0)
    with pytest.raises(ArgumentError, match='low_weight'):
        WaveletKDLoss(low_weight=-1)


def test_an_odd_side_gets_its_last_pixels_twice() -> None:
    images = torch.rand(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    whole = torch.cat([images, images[..., -1:]], 3)
    whole = torch.cat([whole, whole[..., -1:, :]], 2)
    for found, wanted in zip(haar(images), haar(whole)):
        assert torch.equal(found, wanted)
