"""Networks that spandrel knows: an option file can name them, with equal output."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers import make_pair
from torch import nn

from mipkd_plugin.recognition import RecognitionError, recognize, through_spandrel


def hat() -> nn.Module:
    from spandrel.architectures.HAT import HAT

    return HAT(embed_dim=24, depths=(2, 2), num_heads=(2, 2), window_size=8, upscale=2, upsampler='pixelshuffle',
               compress_ratio=3, squeeze_factor=6, img_size=16, num_feat=16)


def dat() -> nn.Module:
    from spandrel.architectures.DAT import DAT

    return DAT(embed_dim=24, depth=[4, 4], num_heads=[2, 2], split_size=[4, 8], expansion_factor=2.0, upscale=2,
               img_size=16)


def span() -> nn.Module:
    from spandrel.architectures.SPAN import SPAN

    return SPAN(num_in_ch=3, num_out_ch=3, feature_channels=16, upscale=2)


def safmn() -> nn.Module:
    from spandrel.architectures.SAFMN import SAFMN

    return SAFMN(dim=16, n_blocks=2, ffn_scale=2.0, upscaling_factor=2)


@pytest.mark.filterwarnings('ignore')  # torch.meshgrid, and layers without elements
@pytest.mark.parametrize(('make', 'expected'), [
    (hat, {'type': 'HAT', 'embed_dim': 24, 'depths': [2, 2], 'window_size': 8, 'upscale': 2, 'num_feat': 16}),
    (dat, {'type': 'DAT', 'embed_dim': 24, 'depth': [4, 4], 'split_size': [4, 8], 'upscale': 2}),
    (span, {'type': 'SPAN', 'feature_channels': 16, 'upscale': 2}),
    (safmn, {'type': 'SAFMN', 'dim': 16, 'n_blocks': 2, 'upscaling_factor': 2}),
], ids=['HAT', 'DAT', 'SPAN', 'SAFMN'])
def test_networks_of_spandrel(make: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip('spandrel')
    net = make().eval()
    torch.save({'params_ema': {f'module.{name}': tensor for name, tensor in net.state_dict().items()}},
               tmp_path / 'net.pth')
    found = recognize(tmp_path / 'net.pth')
    assert {key: found.network[key] for key in expected} == expected
    assert (found.scale, found.param_key, found.source) == (2, 'params_ema', f'spandrel ({expected["type"]})')
    assert found.notes == ('arguments that a weights file does not show are those that spandrel assumes', )
    images = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(found.build()(images), net(images), atol=1e-6, rtol=0)


@pytest.mark.parametrize(('purpose', 'error', 'says'), [
    ('FaceSR', None, 'net.pth holds SPAN, which is for other work (FaceSR), not for super-resolution; if it is'),
    ('SR', KeyError('x'), 'net.pth looks like a network that spandrel knows, but it cannot read it: '),
])
def test_what_spandrel_cannot_give_is_a_sentence(purpose: str, error: Exception | None, says: str, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    spandrel = pytest.importorskip('spandrel')

    def load(_: Any) -> Any:
        if error is not None:
            raise error
        return SimpleNamespace(architecture=SimpleNamespace(name='SPAN'), purpose=purpose)

    monkeypatch.setattr(spandrel.MAIN_REGISTRY, 'load', load)
    torch.save({'stem.weight': torch.zeros(3)}, tmp_path / 'net.pth')
    with pytest.raises(RecognitionError) as caught:
        recognize(tmp_path / 'net.pth')
    assert str(caught.value).startswith(f'{tmp_path}/{says}')


def test_without_spandrel_the_error_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(through_spandrel, 'is_installed', lambda: False)
    torch.save(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)).state_dict(), tmp_path / 'net.pth')
    with pytest.raises(RecognitionError, match=r"spandrel: pip install 'mipkd-plugin\[teacher\]'"):
        recognize(tmp_path / 'net.pth')


def test_basicsr_networks_need_no_spandrel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'spandrel', None)  # an import of it fails
    torch.save({'params': make_pair('RRDBNet')[0].state_dict()}, tmp_path / 'net.pth')
    assert recognize(tmp_path / 'net.pth').network['type'] == 'RRDBNet'
