"""CSDLoss: where VGG-19 is cut, the contrast in NumPy, and what is said where its weights cannot be had."""

from __future__ import annotations

import dataclasses
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import batch, make_pair
from torch import Tensor, nn
from torchvision.models import _api
from torchvision.models.vgg import cfgs, make_layers

from mipkd_plugin import CSDLoss, NetPass, Step, bind
from mipkd_plugin.losses.base import LossError
from mipkd_plugin.losses.csd_loss import contrast
from mipkd_plugin.losses.vgg_features import LAYERS, VGGFeatures
from mipkd_plugin.utils.weight_files import WeightFileError

WEIGHTS = [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]


def vgg19(weights: str) -> nn.Sequential:
    """As torchvision builds it, with ReLUs that work in place."""
    layers = make_layers(cfgs['E'])
    state = torch.load(weights)
    layers.load_state_dict({name.removeprefix('features.'): value for name, value in state.items()})
    return layers.eval().requires_grad_(False)


def step_of(weights: str, samples: int = 3, **options: Any) -> tuple[CSDLoss, Step]:
    loss = CSDLoss(weights=weights, **options)
    lq, gt = batch('EDSR', samples=samples)
    return loss, bind([loss], *make_pair('EDSR'), lq[:1]).step(lq, gt, iteration=1)


# --------------------------------------------------------------------------------------------- VGG-19
def test_the_cuts_are_behind_the_first_relu_of_each_block() -> None:
    names, block, number = [], 1, 0
    for layer in make_layers(cfgs['E']):
        if isinstance(layer, nn.MaxPool2d):
            block, number = block + 1, 0
        number += isinstance(layer, nn.Conv2d)
        names.append(f'{type(layer).__name__}{block}_{number}')
    assert [names[index - 1] for index in LAYERS] == ['ReLU1_1', 'ReLU2_1', 'ReLU3_1', 'ReLU4_1', 'ReLU5_1']


def test_features_are_those_of_the_cut_network(vgg_weights: str) -> None:
    """The input is normalized as for ImageNet; no later layer changes a feature in place."""
    images = torch.rand(2, 3, 20, 17)
    before = images.clone()
    normalized = images.numpy().transpose(0, 2, 3, 1)
    normalized = (normalized - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    normalized = torch.from_numpy(normalized.transpose(0, 3, 1, 2).astype(np.float32))
    found = VGGFeatures(vgg_weights)(images)
    assert [feature.shape[1] for feature in found] == [64, 128, 256, 512, 512]
    for index, feature in zip(LAYERS, found):
        torch.testing.assert_close(feature, vgg19(vgg_weights)[:index](normalized))
    assert torch.equal(images, before)


def test_a_pass_in_16_bits_changes_no_later_one(vgg_weights: str) -> None:
    features, images = VGGFeatures(vgg_weights), torch.rand(1, 3, 16, 16)
    before = features(images)
    with torch.autocast('cpu', torch.bfloat16):
        features(images.bfloat16())
    assert all(now.equal(then) for now, then in zip(features(images), before))


def test_images_that_are_too_small_are_refused(vgg_weights: str) -> None:
    assert VGGFeatures(vgg_weights)(torch.rand(1, 3, 16, 16))[-1].shape == (1, 512, 1, 1)
    with pytest.raises(LossError, match='VGG-19 takes images of 16×16 pixels or more, and these have 15×18; train on '
                       'HR patches of 16 pixels or more: gt_size'):
        VGGFeatures(vgg_weights)(torch.rand(1, 3, 15, 18))


def test_the_weights_of_vgg_stay_out_of_checkpoints_and_optimizers(vgg_weights: str) -> None:
    loss, step = step_of(vgg_weights)
    sum(loss(step).values()).backward()
    assert list(loss.state_dict()) == list(loss.parameters()) == list(loss.buffers()) == []
    assert all(p.grad is None and not p.requires_grad for p in loss.vgg.layers.parameters())
    assert not any(module.training for module in loss.train().vgg.layers.modules())
    assert step.nets.student.net.conv_first.weight.grad.abs().sum() > 0


# --------------------------------------------------------------------------------------------- the contrast
def contrast_in_numpy(anchor: list[np.ndarray], positive: list[np.ndarray], negative: list[np.ndarray],
                      count: int) -> float:
    """Layer by layer; the negatives of sample n are n − 1, …, n − count."""
    total = 0.0
    for weight, a, p, v in zip(WEIGHTS, anchor, positive, negative):
        toward, away = [], []
        for n in range(len(a)):
            toward.append(np.mean(np.abs(a[n] - p[n])))
            away += [np.mean(np.abs(a[n] - v[(n - shift) % len(a)])) for shift in range(1, count + 1)]
        total += weight * np.mean(toward) / (np.mean(away) + 1e-7)
    return total


@pytest.mark.parametrize(('num_negatives', 'count'), [(None, 3), (3, 3), (2, 2), (1, 1), (10, 3)])
def test_contrast_follows_the_formula(num_negatives: int | None, count: int) -> None:
    rng = np.random.default_rng(0)
    features = [[rng.normal(size=(4, 2 + i, 5 - i, 3)) for i in range(5)] for _ in range(3)]
    found = contrast(*([torch.from_numpy(f) for f in images] for images in features), WEIGHTS, num_negatives)
    assert found.item() == pytest.approx(contrast_in_numpy(*features, count))


def bicubic(side: int, scale: int) -> np.ndarray:
    """The matrix (scale · side, side) of cubic interpolation with a = −0.75 and borders that repeat."""
    matrix = np.zeros((scale * side, side))
    for row in range(scale * side):
        center = (row + 0.5) / scale - 0.5
        for place in range(int(np.floor(center)) - 1, int(np.floor(center)) + 3):
            x, a = abs(center - place), -0.75
            weight = (a + 2) * x ** 3 - (a + 3) * x ** 2 + 1 if x <= 1 else a * (x ** 3 - 5 * x ** 2 + 8 * x - 4)
            matrix[row, min(max(place, 0), side - 1)] += weight
    return matrix


def test_negatives_are_the_upsampled_images_of_the_other_samples(vgg_weights: str) -> None:
    loss, step = step_of(vgg_weights, loss_weight=3)
    up = bicubic(8, 2)
    upsampled = torch.from_numpy(np.einsum('ai,ncij,bj->ncab', up, step.lq.numpy(), up).astype(np.float32))
    features = [[feature.detach().numpy() for feature in loss.vgg(images)]
                for images in (step.student.output, step.teacher.output, upsampled)]
    expected = 3 * contrast_in_numpy(*features, count=2)
    assert loss(step)['l_csd'].item() == pytest.approx(expected, rel=1e-4)


def test_layer_weights(vgg_weights: str) -> None:
    alone = [step_of(vgg_weights, layer_weights=[float(i == k) for i in range(5)]) for k in range(5)]
    terms = [loss(step)['l_csd'].item() for loss, step in alone]
    loss, step = step_of(vgg_weights)
    assert loss(step)['l_csd'].item() == pytest.approx(np.dot(WEIGHTS, terms))


def test_gradients_of_the_contrast_and_of_the_image(vgg_weights: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features = [[torch.randn(3, 2, 3, 2, generator=generator, dtype=torch.double) for _ in range(5)] for _ in range(3)]
    anchor = [feature.requires_grad_() for feature in features[0]]
    assert torch.autograd.gradcheck(lambda *a: contrast(a, *features[1:], WEIGHTS), anchor)
    loss, step = step_of(vgg_weights)
    loss.vgg.layers.double()
    step = dataclasses.replace(step, lq=step.lq.double(), gt=step.gt.double(),
                               teacher=NetPass(step.teacher.output.double(), {}))

    def term(output: Tensor) -> Tensor:
        return loss(dataclasses.replace(step, student=NetPass(output, {})))['l_csd']

    output = step.student.output.detach().double().requires_grad_()
    assert torch.autograd.gradcheck(term, output, fast_mode=True)


# --------------------------------------------------------------------------------------------- where to get the weights
@pytest.mark.parametrize('weights', ['no.pth', '.'])
def test_a_file_that_is_not_there(weights: str) -> None:
    with pytest.raises(WeightFileError, match=r'(does not exist|is not a file); give the path of vgg19-dcbb9e9d.pth, '
                                              'from https.*, or leave weights out'):
        CSDLoss(weights=weights)


def test_the_file_of_the_perceptual_loss_serves_both(vgg_weights: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    """BasicSR reads it from there; nothing is downloaded then."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments/pretrained_models').mkdir(parents=True)
    shutil.copy(vgg_weights, tmp_path / 'experiments/pretrained_models/vgg19-dcbb9e9d.pth')
    monkeypatch.setattr(_api, 'load_state_dict_from_url', lambda *_, **__: pytest.fail('it was downloaded'))
    images = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(VGGFeatures()(images), VGGFeatures(vgg_weights)(images))


@pytest.mark.parametrize('change', ['cut short', 'a web page', 'empty', 'noise', 'a whole module'])
def test_a_damaged_file(change: str, vgg_weights: str, tmp_path: Path) -> None:
    path = tmp_path / 'vgg19.pth'
    if change == 'a whole module':
        torch.save(nn.Linear(2, 2), path)
    else:
        with open(vgg_weights, 'rb') as file:
            path.write_bytes({'cut short': file.read(10_000), 'a web page': b'<!DOCTYPE html>\n', 'empty': b'',
                              'noise': np.random.default_rng(0).bytes(1000)}[change])
    with pytest.raises(WeightFileError, match=r'vgg19.pth (is|holds) .*; give the path of vgg19-dcbb9'):
        CSDLoss(weights=str(path))


@pytest.mark.parametrize('content', [
    {'features.0.weight': torch.zeros(64, 3, 3, 3)}, {'params': {}}, [1, 2], {0: torch.zeros(1)},
    {'features.0.weight': 3}, {f'features.{n}': p for n, p in make_layers(cfgs['A']).state_dict().items()}],
    ids=['incomplete', 'nested', 'list', 'numbered', 'no tensors', 'VGG-11'])
def test_a_file_of_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'other.pth')
    with pytest.raises(WeightFileError, match=r'other.pth does not hold the weights of VGG-19: .* the first is '
                                              'features.*; give the path'):
        CSDLoss(weights=str(tmp_path / 'other.pth'))


@pytest.mark.parametrize('error', [urllib.error.URLError('no route to host'), RuntimeError('invalid hash value')])
def test_no_internet(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(url: str, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(_api, 'load_state_dict_from_url', download)
    with pytest.raises(ValueError, match=r'^the file of weights of VGG-19 could not be downloaded .*(no route|invalid '
                                         r'hash).*; download .*/checkpoints/vgg19-dcbb9e9d.pth or '
                                         r'experiments/pretrained_models/vgg19-dcbb9e9d.pth, or write '
                                         r'weights: FILE with its path'):
        CSDLoss()


def test_without_a_file_torchvision_brings_its_own(vgg_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def download(url: str, *args: Any, **kwargs: Any) -> Any:
        asked.append((url.rpartition('/')[2], kwargs['check_hash']))
        return torch.load(vgg_weights)

    monkeypatch.setattr(_api, 'load_state_dict_from_url', download)
    images = torch.rand(1, 3, 16, 16)
    for a, b in zip(VGGFeatures()(images), VGGFeatures(vgg_weights)(images)):
        torch.testing.assert_close(a, b)
    assert asked == [('vgg19-dcbb9e9d.pth', True)]


def test_a_batch_of_one_and_gray_images_are_refused(vgg_weights: str) -> None:
    loss, step = step_of(vgg_weights, samples=1)
    with pytest.raises(ValueError, match='CSDLoss needs batches of 2 images or more, got 1: the negatives'):
        loss(step)
    loss, step = step_of(vgg_weights)
    gray = dataclasses.replace(step, student=NetPass(step.student.output[:, :1], {}))
    with pytest.raises(ValueError, match='needs RGB images, as VGG-19 does, got 1 channels'):
        loss(gray)


def test_layer_weights_of_zero_are_refused(vgg_weights: str) -> None:
    with pytest.raises(ValueError, match='layer_weights are all 0'):
        CSDLoss(weights=vgg_weights, layer_weights=[0] * 5)
