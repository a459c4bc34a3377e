"""Files with the names of official releases: the right network, and the output of the official network.

SwinIR has one layout, in BasicSR and in https://github.com/JingyunLiang/SwinIR (6545850): no difference was found.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from official_layouts import MiddleEsrgan, OldEsrgan, edsr, rcan
from torch import nn

from mipkd_plugin.recognition import RecognitionError, recognize
from mipkd_plugin.recognition.families.edsr import FAMILIES
from mipkd_plugin.recognition.layout import Layout
from mipkd_plugin.recognition.recognized import build

DIV2K = [0.4488, 0.4371, 0.404]


def saved(net: nn.Module, folder: Path) -> Path:
    torch.save(net.state_dict(), folder / 'official.pt')
    return folder / 'official.pt'


@pytest.mark.parametrize(('net', 'value_range', 'source', 'expected'), [
    (edsr(12, 3, 4), 255, 'official EDSR', {'type': 'EDSR', 'num_feat': 12, 'num_block': 3, 'upscale': 4,
                                            'res_scale': 1, 'img_range': 255.0, 'rgb_mean': DIV2K}),
    (edsr(8, 2, 3, value_range=1), 1, 'official EDSR', {'upscale': 3, 'img_range': 1.0, 'rgb_mean': DIV2K}),
    (edsr(8, 2, 2), 255, 'official EDSR', {'upscale': 2, 'num_block': 2}),
    (rcan(16, 2, 2, 4), 255, 'official RCAN', {'type': 'RCAN', 'num_group': 2, 'num_block': 2, 'squeeze_factor': 4,
                                               'upscale': 2, 'res_scale': 1, 'img_range': 255.0, 'rgb_mean': DIV2K}),
    (rcan(32, 1, 1, 16, scale=3), 255, 'official RCAN', {'num_feat': 32, 'squeeze_factor': 16, 'upscale': 3}),
    (rcan(scale=8), 255, 'official RCAN', {'upscale': 8}),
    (OldEsrgan(), 1, 'official ESRGAN (old layout)', {'type': 'RRDBNet', 'scale': 4, 'num_feat': 8, 'num_block': 2,
                                                      'num_grow_ch': 4}),
    (MiddleEsrgan(), 1, 'official ESRGAN', {'type': 'RRDBNet', 'scale': 4, 'num_block': 2}),
], ids=lambda value: value if isinstance(value, str) else '')
def test_official_names(net: nn.Module, value_range: float, source: str, expected: dict[str, Any],
                        tmp_path: Path) -> None:
    found = recognize(saved(net, tmp_path))
    assert found.source == source
    assert {key: found.network[key] for key in expected} == expected
    images = torch.rand(2, 3, 9, 11)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(images), net(images * value_range) / value_range, atol=2e-6, rtol=0)


def test_large_edsr_scales_its_residuals() -> None:
    shapes = {name: tensor for name, tensor in edsr(256, 1).state_dict().items() if 'body.0.' not in name}
    block = {name: tensor for name, tensor in edsr(256, 1).state_dict().items() if 'body.0.' in name}
    many = {name.replace('body.0.', f'body.{index}.', 1): tensor for index in range(32)
            for name, tensor in block.items()}
    many |= {name.replace('body.1.', 'body.32.'): tensor for name, tensor in shapes.items()}
    found = FAMILIES[1].read(Layout(many))
    assert (found.network['num_feat'], found.network['num_block']) == (256, 32)
    assert [choice['res_scale'] for choice in found.choices] == [0.1, 1]


@pytest.mark.parametrize('net', [edsr(), rcan()])
def test_layers_that_shift_by_zero_are_known_too(net: nn.Module, tmp_path: Path) -> None:
    for layer in (net.sub_mean, net.add_mean):
        layer.bias.data.zero_()
    found = recognize(saved(net, tmp_path))
    assert (found.network['rgb_mean'], found.network['img_range']) == ([0.0, 0.0, 0.0], 255.0)
    assert 'rgb_mean is that of its layers sub_mean and add_mean' in found.notes
    images = torch.rand(1, 3, 9, 8)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(images), net(images * 255) / 255, atol=2e-6, rtol=0)


def test_layers_that_do_more_than_shift_are_refused(tmp_path: Path) -> None:
    net = edsr()
    net.sub_mean.weight.data[0, 1] = 0.5
    with pytest.raises(RecognitionError, match='looks like official EDSR, but sub_mean does more than to subtract'):
        recognize(saved(net, tmp_path))


def test_old_esrgan_for_x2_is_one_of_spandrel(tmp_path: Path) -> None:
    pytest.importorskip('spandrel')
    net = OldEsrgan(grow=32, factors=1)  # spandrel knows no other growth
    found = recognize(saved(net, tmp_path))
    assert (found.network['type'], found.scale, found.source) == ('ESRGAN', 2, 'spandrel (ESRGAN)')
    images = torch.rand(1, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(images), net(images))


def test_yaml_builds_the_same_network(tmp_path: Path) -> None:
    found = recognize(saved(edsr(), tmp_path))
    block = yaml.safe_load(found.as_yaml())
    assert block == {'teacher': {'network': found.network, 'weights': str(tmp_path / 'official.pt'),
                                 'param_key': None}}


CLASSICAL = {'type': 'SwinIR', 'upscale': 3, 'in_chans': 3, 'img_size': 48, 'window_size': 8, 'img_range': 1.0,
             'depths': [2, 2], 'embed_dim': 36, 'num_heads': [6, 6], 'mlp_ratio': 2, 'upsampler': 'pixelshuffle',
             'resi_connection': '1conv'}


@pytest.mark.parametrize(('network', 'key'), [
    (CLASSICAL, 'params'),
    ({**CLASSICAL, 'upscale': 2, 'img_size': 64, 'embed_dim': 24, 'upsampler': 'pixelshuffledirect'}, 'params'),
    ({**CLASSICAL, 'upscale': 4, 'img_size': 64, 'upsampler': 'nearest+conv'}, 'params_ema'),
    ({**CLASSICAL, 'upscale': 4, 'img_size': 64, 'upsampler': 'nearest+conv', 'resi_connection': '3conv'},
     'params_ema'),
    ({**CLASSICAL, 'upscale': 1, 'in_chans': 1, 'img_size': 128, 'upsampler': ''}, 'params'),
    ({**CLASSICAL, 'upscale': 1, 'img_size': 126, 'window_size': 7, 'img_range': 255.0, 'upsampler': ''}, 'params'),
], ids=['classical', 'light', 'real', 'real, large', 'gray noise', 'JPEG'])
def test_swinir(network: dict[str, Any], key: str, tmp_path: Path) -> None:
    net = build(network)
    state = {name: tensor.half() if key == 'params_ema' and tensor.is_floating_point() else tensor
             for name, tensor in net.state_dict().items()}
    torch.save({key: state}, tmp_path / 'net.pth')
    found = recognize(tmp_path / 'net.pth')
    assert found.network == network
    assert (found.param_key, found.scale) == (key, network['upscale'])
    net.load_state_dict(state)
    images = torch.rand(1, network['in_chans'], 2 * network['window_size'], network['window_size'])
    with torch.no_grad():
        assert torch.equal(found.build()(images), net(images))


def test_real_swinir_for_x2_is_refused(tmp_path: Path) -> None:
    net = build({**CLASSICAL, 'upscale': 4, 'upsampler': 'nearest+conv'})
    torch.save({name: tensor for name, tensor in net.state_dict().items() if 'conv_up2' not in name},
               tmp_path / 'net.pth')
    with pytest.raises(RecognitionError, match='it enlarges x2 with nearest.conv, and that of BasicSR does so x4 only'):
        recognize(tmp_path / 'net.pth')
