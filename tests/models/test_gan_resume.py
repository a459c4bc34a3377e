"""A training with a discriminator does not go on as one without distillation, whose optimizer is another one."""

from __future__ import annotations

from pathlib import Path

import pytest
from gan_options import options, write_images
from training import train, train_until, write_options


@pytest.mark.parametrize('kind', ['RealESRGAN', 'SRGAN'])
def test_the_plain_class_is_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                    capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(write_images(tmp_path))
    opt = options(tmp_path, kind, [{'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}])
    opt['logger']['use_tb_logger'] = False
    path = write_options(opt, tmp_path / 'x.yml')
    train_until(path, 'trained', 3)
    plain = {key: value for key, value in opt.items() if key != 'teacher'}
    plain.update(model_type=f'{kind}Model', train={key: value for key, value in opt['train'].items()
                                                   if key != 'distill_opt'})
    capsys.readouterr()
    assert train(write_options(plain, tmp_path / 'plain.yml'), '--auto_resume') == 2
    assert 'holds an optimizer for ' in capsys.readouterr().err
    assert train(path, '--auto_resume') == 0
