"""The methods that papers compare with, against formulas in NumPy (CSDLoss and DUKDLoss: in files of their own)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import batch, make_pair
from synthetic_features import Pairs, fitted, two_taps, values
from torch import nn

from mipkd_plugin import AttentionTransferLoss, CrossKDLoss, FAKDLoss, FitNetLoss, RKDLoss, Step, bind, config
from mipkd_plugin.archs import FeatureProjection


def numpy_of(pairs: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(f_s.numpy(), f_t.numpy()) for f_s, f_t in pairs]


# --------------------------------------------------------------------------------------------- the formulas
def projected(projection: nn.Module, feature: np.ndarray) -> np.ndarray:
    weight, bias = (p.detach().numpy() for p in (projection.projection.weight, projection.projection.bias))
    return np.einsum('oc,nchw->nohw', weight[:, :, 0, 0], feature) + bias[None, :, None, None]


@pytest.mark.parametrize('feature_scale', ['running', 'none'])
def test_fitnet(feature_scale: str) -> None:
    """MSE(P F_S / scale, F_T / scale), the scale being a running mean of |F_T| that the first batch sets."""
    first, second = two_taps(1), two_taps(2)
    loss = fitted(FitNetLoss(taps=2, feature_scale=feature_scale, momentum=0.25, loss_weight=3), first)
    scales = [1.0, 1.0]
    for number, pairs in enumerate((first, second, first)):
        loss.train(number < 2)  # in eval mode the scale stays
        if feature_scale == 'running' and number < 2:
            means = [np.mean(np.abs(f_t)) for _, f_t in numpy_of(pairs)]
            scales = means if number == 0 else [0.75 * old + 0.25 * new for old, new in zip(scales, means)]
        errors = [np.mean((projected(p, f_s / scale) - f_t / scale) ** 2)
                  for p, scale, (f_s, f_t) in zip(loss.projections, scales, numpy_of(pairs))]
        assert values(loss, pairs) == pytest.approx({'l_fitnet': 3 * np.mean(errors)})


def test_attention_transfer() -> None:
    def attention(feature: np.ndarray) -> np.ndarray:
        maps = [sum(channel ** 2 for channel in sample) / len(sample) for sample in feature]
        return np.stack([q.ravel() / np.sqrt(np.sum(q ** 2)) for q in maps])

    pairs = two_taps()
    expected = [np.mean((attention(f_s) - attention(f_t)) ** 2) for f_s, f_t in numpy_of(pairs)]
    found = values(fitted(AttentionTransferLoss(taps=2), pairs), pairs)
    assert found == pytest.approx({'l_at': 1000 * np.mean(expected)})


def relations(feature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances between samples over their mean, and cosines of angles."""
    codes = [sample.mean((1, 2)) for sample in feature]
    n = len(codes)
    distances, cosines = np.zeros((n, n)), np.zeros((n, n, n))
    for i in range(n):
        for j in range(n):
            distances[i, j] = np.sqrt(np.sum((codes[i] - codes[j]) ** 2))
            for k in range(n):
                if i not in (j, k):
                    a, b = codes[j] - codes[i], codes[k] - codes[i]
                    cosines[i, j, k] = a @ b / np.sqrt((a @ a) * (b @ b))
    return distances / (distances.sum() / (n * n - n)), cosines


def huber(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < 1, x ** 2 / 2, np.abs(x) - 0.5)


def test_rkd() -> None:
    pairs = two_taps()
    errors = [[a - b for a, b in zip(relations(f_s), relations(f_t))] for f_s, f_t in numpy_of(pairs)]
    assert max(np.abs(distance).max() for distance, _ in errors) > 1, 'the linear part of the loss goes untested'
    assert max(np.abs(angle).max() for _, angle in errors) > 1
    found = values(fitted(RKDLoss(taps=2, loss_weight=2), pairs), pairs)
    assert found == pytest.approx({'l_rkd_distance': 50 * np.mean([huber(d).mean() for d, _ in errors]),
                                   'l_rkd_angle': 100 * np.mean([huber(a).mean() for _, a in errors])})


def affinities(feature: np.ndarray) -> np.ndarray:
    """Cosine between the vectors of any two positions, sample by sample."""
    found = []
    for sample in feature:
        vectors = [sample[:, y, x] for y in range(sample.shape[1]) for x in range(sample.shape[2])]
        units = [vector / np.sqrt(vector @ vector) for vector in vectors]
        found.append([[a @ b for a in units] for b in units])
    return np.array(found)


def test_fakd() -> None:
    pairs = two_taps()
    expected = [np.mean(np.abs(affinities(f_s) - affinities(f_t))) for f_s, f_t in numpy_of(pairs)]
    for positions in (None, 12, 100):
        found = values(fitted(FAKDLoss(taps=2, positions=positions), pairs), pairs)
        assert found == pytest.approx({'l_fakd': 10 * np.mean(expected)})


def test_crosskd() -> None:
    """The projected feature, in the teacher's units, takes the place of a block's output: the rest is the teacher's."""
    student, teacher = make_pair('EDSR')
    loss = CrossKDLoss(taps=2, loss_weight=3)
    nets = bind([loss], student, teacher, batch('EDSR')[0][:1])
    with torch.no_grad():
        step = nets.step(*batch('EDSR'), iteration=1)
        images = []
        for (s, t), projection in zip(loss.pairs, loss.projections):
            scale = np.mean(np.abs(step.teacher.features[t].numpy()))
            h = torch.from_numpy(scale * projected(projection, step.student.features[s].numpy() / scale))
            for block in teacher.body[int(t.removeprefix('body.')) + 1:]:
                h = block(h)
            x = teacher.conv_first((step.lq - teacher.mean) * teacher.img_range)
            images.append(teacher.conv_last(teacher.upsample(teacher.conv_after_body(h) + x)) / teacher.img_range
                          + teacher.mean)
    expected = 3 * np.mean([np.mean(np.abs(image.numpy() - step.teacher.output.numpy())) for image in images])
    assert loss.pairs == [('body.1', 'body.2'), ('body.2', 'body.4')]
    assert loss(step)['l_crosskd'].item() == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------------------------- numbers and gradients
GOLDEN = {
    'AttentionTransferLoss': {'l_at': 4.7645},
    'CSDLoss': {'l_csd': 0.14635},
    'CrossKDLoss': {'l_crosskd': 0.026792},
    'DUKDLoss': {'l_zoom_in': 0.061959, 'l_zoom_out': 0.26022, 'l_zoom_out_logits': 0.026121},
    'FAKDLoss': {'l_fakd': 3.289},
    'FitNetLoss': {'l_fitnet': 2.1179},
    'RKDLoss': {'l_rkd_distance': 0.065786, 'l_rkd_angle': 0.069152},
}


def bound(name: str, student: nn.Module, teacher: nn.Module, **options: Any) -> tuple[Any, Step]:
    torch.manual_seed(5)
    FeatureProjection(1, 1)  # the golden values were recorded after these numbers had been drawn
    loss = LOSS_REGISTRY.get(name)(**options)
    loss.seed(1)
    lq, gt = batch('EDSR', samples=3)
    return loss, bind([loss], student, teacher, lq[:1]).step(lq, gt, iteration=1)


@pytest.mark.parametrize('name', GOLDEN)
def test_golden_values(name: str, vgg_weights: str) -> None:
    """Changing these numbers is a deliberate change of the method."""
    loss, step = bound(name, *make_pair('EDSR'), **({'weights': vgg_weights} if name == 'CSDLoss' else {}))
    assert {term: value.item() for term, value in loss(step).items()} == pytest.approx(GOLDEN[name], rel=1e-3)


@pytest.mark.parametrize('name', GOLDEN)
def test_a_student_that_is_the_teacher_costs_nothing(name: str, vgg_weights: str) -> None:
    teacher = make_pair('EDSR')[1]
    options = {'CSDLoss': {'weights': vgg_weights}, 'DUKDLoss': {'probability': 0}, 'FAKDLoss': {'positions': 20}}
    loss, step = bound(name, copy.deepcopy(teacher), teacher, **options.get(name, {}))
    for projection in getattr(loss, 'projections', []):
        nn.init.dirac_(projection.projection.weight)
        nn.init.zeros_(projection.projection.bias)
    for term, value in loss(step).items():
        assert value.item() == pytest.approx(0, abs=1e-5) or term == 'l_zoom_out', term  # that one compares with x


# --------------------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize(('name', 'least', 'why'), [
    ('RKDLoss', 3, 'an angle needs three samples'), ('CSDLoss', 2, 'the negatives of a sample are the other ones')])
def test_batches_that_are_too_small_are_refused(name: str, least: int, why: str, vgg_weights: str,
                                                train_options: Callable[..., dict[str, Any]]) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = {'type': name, **({'weights': vgg_weights} if name == 'CSDLoss' else {})}
    opt['datasets']['train']['batch_size_per_gpu'] = least - 1
    problem, = map(str, config.check_options(opt, is_train=True).problems)
    where = 'datasets.train.batch_size_per_gpu'
    assert f'{where}: is {least - 1}, and {name} needs {least} images or more in a batch: {why}' in problem
    assert f'write batch_size_per_gpu: {least}, or more' in problem
    opt['datasets']['train']['batch_size_per_gpu'] = least
    assert config.check_options(opt, is_train=True).problems == []
