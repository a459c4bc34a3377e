"""PSNR and SSIM are those of BasicSR's validation, and of published tables."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from basicsr.models.sr_model import SRModel
from helpers import STUDENTS, tiny_options

from mipkd_plugin.cli import basicsr_main
from mipkd_plugin.inference.quality import BICUBIC, QualityError, check_pairs, measure, pairs_of, read_pairs
from mipkd_plugin.inference.tiles import Enlarger

X2 = {'num_block': 5, 'upscale': 2, 'res_scale': 1, 'img_range': 255.0, 'rgb_mean': [0.0, 0.0, 0.0]}

GRAY = {'type': 'MSRResNet', 'num_in_ch': 1, 'num_out_ch': 1, 'num_feat': 8, 'num_block': 1, 'upscale': 2}


def validated(monkeypatch: pytest.MonkeyPatch, folder: Path, network: dict[str, Any], **dataset: Any
              ) -> dict[str, float]:
    """What ``basicsr test`` finds for ``student.pth``."""
    found: dict[str, float] = {}
    monkeypatch.setattr(SRModel, '_log_validation_metric_values', lambda model, *_: found.update(model.metric_results))
    opt = tiny_options(folder)
    del opt['teacher'], opt['train'], opt['logger'], opt['datasets']['train']
    opt.update(model_type='SwinIRModel' if network['type'] == 'SwinIR' else 'SRModel', network_g=network)
    opt['datasets'] = {'test': {**opt['datasets']['val'], 'name': 'test', **dataset}}
    opt['path'] = {'pretrain_network_g': 'student.pth'}
    opt['val'] = {'save_img': False, 'suffix': None, 'metrics': {name: {
        'type': f'calculate_{name}', 'crop_border': 2, 'test_y_channel': True} for name in ('psnr', 'ssim')}}
    Path('test.yml').write_text(yaml.safe_dump(opt))
    assert basicsr_main(['test', '-opt', 'test.yml']) == 0
    return found


@pytest.mark.parametrize('arch', ['EDSR', 'SwinIR', 'gray'])
def test_as_basicsr_test_prints_them(arch: str, image_pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(image_pairs)
    network = GRAY if arch == 'gray' else dict(STUDENTS[arch])
    dataset = {'color': 'y'} if arch == 'gray' else {}
    for name in ('0', '1'):  # sizes that no window divides
        high = cv2.imread(f'HR/{name}.png')[:42, :46]
        cv2.imwrite(f'HR/{name}.png', high)
        cv2.imwrite(f'LRbicx2/{name}.png', cv2.resize(high, (23, 21), interpolation=cv2.INTER_AREA))
    net = build_network(network).eval()
    torch.save({'params': net.state_dict()}, 'student.pth')
    printed = validated(monkeypatch, image_pairs, network, **dataset)
    found = measure({'net': Enlarger(net, 2)}, read_pairs(Path('HR'), 2, Path('LRbicx2')), 2)['net']
    assert f'{found.psnr:.4f}' == f'{printed["psnr"]:.4f}'
    assert f'{found.ssim:.4f}' == f'{printed["ssim"]:.4f}'
    assert list(found.images) == ['0.png', '1.png', '2.png', '3.png']
    assert found.psnr == pytest.approx(np.mean([psnr for psnr, _ in found.images.values()]))


def test_published_figures(shared: Path) -> None:
    """All of Set5 with the smaller of the real networks, and the bicubic baseline."""
    net = build_network({'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 32, **X2})
    net.load_state_dict(torch.load(shared / 'weights/EDSR_x2_f32b5.pth')['params'])
    found = measure({'net': Enlarger(net, 2)}, read_pairs(shared / 'data/Set5/HR', 2), 2)
    assert found['net'].psnr == pytest.approx(37.377, abs=0.01)
    assert found['net'].ssim == pytest.approx(0.9582, abs=0.0001)
    assert found[BICUBIC].psnr == pytest.approx(33.673, abs=0.0006)
    assert found[BICUBIC].ssim == pytest.approx(0.9303, abs=0.00006)


def test_partners_by_name(image_pairs: Path) -> None:
    hr, lr = image_pairs / 'HR', image_pairs / 'LRbicx2'
    (lr / '0.png').rename(lr / '0x2.png')
    assert [partner.name for _, partner in pairs_of(hr, 2, lr) if partner] == ['0x2.png', '1.png', '2.png', '3.png']
    (lr / '3.png').unlink()
    with pytest.raises(QualityError, match='holds no image for 3.png of'):
        pairs_of(hr, 2, lr)


def test_what_cannot_be_measured_on(image_pairs: Path) -> None:
    hr, lr = image_pairs / 'HR', image_pairs / 'LRbicx2'
    for folder, message in ((image_pairs / 'none', 'cannot be read: No such file'),
                            (image_pairs, r'holds no images \(subfolders are not searched; endings: .*\); name .*HR')):
        with pytest.raises(QualityError, match=message):
            pairs_of(folder, 2)
    with pytest.raises(QualityError, match=r'0.png: has 24×24 pixels, which are 96×96 at scale 4, and .* 48×48'):
        list(read_pairs(hr, 4, lr))
    for small, fits in ((20, True), (12, False)):  # of HR cropped to 40×40; of another scale
        for number in range(4):
            cv2.imwrite(str(lr / f'{number}.png'), np.zeros((small, small, 3), np.uint8))
        if fits:
            assert [pair.hr.shape[2:] for pair in read_pairs(hr, 2, lr)] == [(40, 40)] * 4
            check_pairs(hr, 2, lr)
        else:
            for look in (check_pairs, lambda *args: list(read_pairs(*args))):
                with pytest.raises(QualityError, match=r'which are 24×24 at scale 2, and .* 48×48; give low-.* of x2$'):
                    look(hr, 2, lr)
    cv2.imwrite(str(hr / '1.png'), np.zeros((14, 40, 3), np.uint8))
    with pytest.raises(QualityError, match='1.png: has 40×14 pixels, and PSNR and SSIM need 15×15 or more'):
        check_pairs(hr, 2)
    with pytest.raises(QualityError, match='1.png: has 40×14 pixels, and PSNR and SSIM need 15×15 or more'):
        list(read_pairs(hr, 2))
    shutil.copy(hr / '0.png', hr / '1.png')
    (hr / '1.png').write_bytes((hr / '1.png').read_bytes()[:100])
    with pytest.raises(QualityError, match='1.png: is cut short after 100 bytes; restore it'):
        list(read_pairs(hr, 2))
