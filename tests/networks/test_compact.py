"""SRVGGNetCompact, the student of Real-ESRGAN: convolutions and activations in turn in one list."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mipkd_plugin.losses import MiPKDLoss, bind
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import trunk_of
from basicsr.archs import build_network


def compact(act_type: str, num_feat: int = 24, num_conv: int = 8) -> Any:
    torch.manual_seed(num_feat)
    return build_network({'type': 'SRVGGNetCompact', 'num_feat': num_feat, 'num_conv': num_conv, 'upscale': 4,
                          'act_type': act_type})


@pytest.mark.parametrize('act_type', ['prelu', 'relu', 'leakyrelu'])
def test_features_are_those_between_the_layers(act_type: str) -> None:
    """ReLU overwrites the output of the convolution before it, and is tapped itself then."""
    net, lq = compact(act_type), torch.rand(2, 3, 16, 16)
    paths = trunk_of(net, lq).paths
    assert paths == [f'body.{number}' for number in range(act_type != 'prelu', 18, 2)]
    with TappedNet(net, paths) as tapped:
        run = tapped(lq)
        torch.testing.assert_close(run.output, net(lq))
        feature = lq
        by_hand = {}
        for number, layer in enumerate(net.body):
            feature = layer(feature)
            by_hand[f'body.{number}'] = feature.clone()
        for path in paths:
            torch.testing.assert_close(run.features[path], by_hand[path])
            torch.testing.assert_close(tapped.finish(lq, path, run.features[path]), run.output)
        for after, until in zip(paths, paths[1:]):
            torch.testing.assert_close(tapped.segment(run.features[after], after, until, lq), run.features[until])


@pytest.mark.parametrize('act_type', ['prelu', 'relu', 'leakyrelu'])
@pytest.mark.parametrize(('num_feat', 'num_conv'), [(8, 2), (8, 4), (8, 8), (4, 4), (16, 3), (64, 16)])
def test_the_trunk_is_found_at_any_size(act_type: str, num_feat: int, num_conv: int) -> None:
    """Also where the last convolution, which makes the pixels, does more work than all others."""
    paths = trunk_of(compact(act_type, num_feat, num_conv), torch.rand(1, 3, 16, 16)).paths
    assert paths == [f'body.{number}' for number in range(act_type != 'prelu', 2 * num_conv + 2, 2)]


@pytest.mark.parametrize('act_types', [('prelu', 'prelu'), ('relu', 'prelu'), ('prelu', 'leakyrelu')])
def test_mipkd_binds_and_trains_every_layer(act_types: tuple[str, str]) -> None:
    teacher, student = compact(act_types[0], 32, 10), compact(act_types[1])
    lq = torch.rand(2, 3, 16, 16)
    loss = MiPKDLoss(taps=3, latent_channels=8)
    nets = bind([loss], student, teacher, lq)
    loss.seed(0)
    terms = loss(nets.step(lq, torch.rand(2, 3, 64, 64)))
    gradient = torch.autograd.grad(sum(terms.values()), student.body[0].weight)[0]
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0
