"""``test()`` of models for any student: padding where the network needs it, and nothing else where it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel
from basicsr.models.swinir_model import SwinIRModel
from basicsr.utils.registry import ARCH_REGISTRY, MODEL_REGISTRY
from helpers import STUDENTS, as_parsed
from training import train, write_options

from mipkd_plugin import DistillMixin, config
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.models import student as student_module

Make = Callable[..., dict[str, Any]]
WINDOWED = '''
import torch
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn


class Block(nn.Module):
    def __init__(self, width, window):
        super().__init__()
        self.window, self.conv = window, nn.Linear(width, width)

    def forward(self, x):
        n, c, h, w = x.shape
        a = self.window
        x = x.view(n, c, h // a, a, w // a, a).mean((3, 5), keepdim=True) + x.view(n, c, h // a, a, w // a, a)
        x = x.view(n, c, h, w)
        return x + self.conv(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@ARCH_REGISTRY.register()
class WindowNet(nn.Module):
    def __init__(self, width=8, blocks=3, split=6):
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Block(width, split) for _ in range(blocks)))
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x):
        return nn.functional.pixel_shuffle(self.last(self.blocks(self.first(x))), 2)
'''


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with a network of windows of 6 in arch.py and images of 23×25 to validate on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'arch.py').write_text(WINDOWED)
    rng = np.random.default_rng(0)
    for name, factor in (('val/HR', 2), ('val/LR', 1)):
        (tmp_path / name).mkdir(parents=True)
        for index, size in enumerate(((23, 25), (2, 5))):
            shape = (*(factor * side for side in size), 3)
            cv2.imwrite(str(tmp_path / name / f'{index}.png'), rng.integers(0, 256, shape, dtype=np.uint8))
    before = dict(ARCH_REGISTRY._obj_map)
    monkeypatch.setattr(sys, 'path', list(sys.path))
    yield tmp_path
    sys.modules.pop('arch', None)
    ARCH_REGISTRY._obj_map.clear()
    ARCH_REGISTRY._obj_map.update(before)


def on_odd_images(opt: dict[str, Any], **changes: Any) -> dict[str, Any]:
    opt['datasets']['val'].update(dataroot_gt='val/HR', dataroot_lq='val/LR')
    opt['val']['metrics']['psnr']['crop_border'] = 0
    opt['train']['distill_opt']['taps'] = 3
    opt.update(changes)
    return opt


def model_of(opt: dict[str, Any], root: Path) -> Any:
    torch.manual_seed(0)
    return build_model(as_parsed(opt, root))


def image_of(model: Any, lq: torch.Tensor) -> torch.Tensor:
    model.feed_data({'lq': lq})
    model.test()
    assert model.lq.equal(lq)
    return model.output


@pytest.mark.parametrize('decay', [0, 0.9])
@pytest.mark.parametrize('size', [(23, 25), (24, 24), (9, 10)], ids=str)
def test_it_is_what_basicsrs_swinir_model_does(train_options: Make, tmp_path: Path, size: tuple[int, int],
                                               decay: float) -> None:
    opt = train_options(network_g={**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8})
    opt['train']['ema_decay'] = decay
    model = model_of(opt, tmp_path)
    lq = torch.rand(1, 3, *size)
    output = image_of(model, lq)
    assert output.shape == (1, 3, 2 * size[0], 2 * size[1])
    SwinIRModel.test(model)
    assert torch.equal(model.output, output)
    assert model.net_g.training


def test_a_convolutional_network_runs_on_the_image_itself(train_options: Make, tmp_path: Path,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(train_options(), tmp_path)
    seen: list[torch.Tensor] = []
    model.net_g_ema.register_forward_pre_hook(lambda net, args: seen.append(args[0]))
    lq = torch.rand(1, 3, 9, 10)
    output = image_of(model, lq)
    assert [tuple(image.shape[2:]) for image in seen] == [(13, 11), (9, 10)]
    assert seen[-1] is model.lq
    monkeypatch.setattr(student_module, 'needed_multiple', lambda *args: pytest.fail('is remembered'))
    SRModel.test(model)
    assert torch.equal(model.output, output)
    image_of(model, torch.rand(1, 3, 7, 7))


def test_the_search_leaves_the_training_as_it_was(train_options: Make, tmp_path: Path) -> None:
    opt = train_options(network_g={**STUDENTS['SwinIR'], 'drop_path_rate': 0.5})
    opt['train']['ema_decay'] = 0
    model = model_of(opt, tmp_path)
    before, state = torch.get_rng_state(), {k: v.clone() for k, v in model.net_g.state_dict().items()}
    image_of(model, torch.rand(1, 3, 9, 9, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in model.net_g.state_dict().items())
    assert all(module.training for module in model.net_g.modules())


def test_a_test_of_somebody_elses_class_is_kept(train_options: Make, tmp_path: Path) -> None:
    class OwnTest(SRModel):
        def test(self) -> None:
            self.output = self.lq

    class OwnTestDistills(DistillMixin, OwnTest):
        pass

    torch.manual_seed(0)
    model = OwnTestDistills(as_parsed(train_options(), tmp_path))
    lq = torch.rand(1, 3, 5, 5)
    assert image_of(model, lq) is model.lq


# --------------------------------------------------------------------------------------------- from end to end
@pytest.mark.parametrize('network', [{'type': 'WindowNet'}, {**STUDENTS['SwinIR'], 'window_size': 6, 'img_size': 12}],
                         ids=['own', 'SwinIR'])
def test_windowed_students_train_and_validate(work: Path, train_options: Make, network: dict[str, Any]) -> None:
    opt = on_odd_images(train_options(network_g=network))
    opt['datasets']['train']['gt_size'] = 24
    opt['train']['total_iter'] = opt['val']['val_freq'] = 2
    path = write_options(opt, work / 'x.yml')
    assert mipkd_main(['check', '-opt', str(path), '--import', 'arch.py']) == 0
    assert train(path, '--import', 'arch.py') == 0
    log = next((work / 'experiments/tiny').glob('train_*.log')).read_text()
    assert '# psnr:' in log


def test_a_windowed_network_is_tested(work: Path, train_options: Make, capsys: pytest.CaptureFixture[str]) -> None:
    opt = on_odd_images(train_options(network_g={'type': 'WindowNet'}))
    opt['datasets'] = {'test': dict(opt['datasets']['val'])}
    opt['val'].update(suffix=None, save_img=True)
    del opt['val']['val_freq'], opt['train'], opt['teacher'], opt['logger']
    scope: dict[str, Any] = {}
    exec(WINDOWED.replace('@ARCH_REGISTRY.register()', ''), scope)
    torch.save({'params': scope['WindowNet']().state_dict()}, work / 'student.pth')
    opt['path']['pretrain_network_g'] = 'student.pth'
    del opt['path']['resume_state']
    path = write_options({**opt, 'model_type': 'SRModel'}, work / 'x.yml')
    assert basicsr_main(['test', '-opt', str(path), '--import', 'arch.py']) == 2
    message = capsys.readouterr().err
    assert 'It takes only sides that are multiples of 6\n   -> crop' in message
    assert 'or write model_type: AnySRModel, which pads images' in message
    for model_type in ('AnySRModel', 'DistillModel'):
        path = write_options({**opt, 'name': model_type, 'model_type': model_type}, work / 'x.yml')
        assert basicsr_main(['test', '-opt', str(path), '--import', 'arch.py']) == 0
        saved = cv2.imread(str(next((work / f'results/{model_type}').rglob('1_*.png'))))
        assert saved.shape == (4, 10, 3)


# --------------------------------------------------------------------------------------------- training patches
@pytest.mark.parametrize(('gt_size', 'student', 'teacher', 'says', 'fix'), [
    (16, {**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8}, {'type': 'WindowNet', 'split': 12},
     'gt_size / scale = 8 is not a multiple of 24, the least common multiple of the sizes needed, 8 of network_g and '
     '12 of teacher.network', 48),
    (20, {**STUDENTS['SwinIR'], 'window_size': 8, 'img_size': 8}, {'type': 'WindowNet', 'split': 12},
     'gt_size / scale = 10 is not a multiple of 24, the least common multiple of the sizes needed, 8 of network_g and '
     '12 of teacher.network', 48),
    (28, {'type': 'WindowNet', 'split': 4}, {'type': 'WindowNet', 'split': 6},
     'gt_size / scale = 14 is not a multiple of 12, the least common multiple of the sizes needed, 4 of network_g and '
     '6 of teacher.network', 24),
    (16, STUDENTS['EDSR'], {'type': 'WindowNet', 'split': 6},
     'gt_size / scale = 8 is not a multiple of the size 6 needed by teacher.network', 12),
    (33, STUDENTS['EDSR'], {'type': 'WindowNet', 'split': 12}, '33 is not a multiple of the scale, 2', 24)], ids=str)
def test_a_patch_must_fit_both_networks(work: Path, train_options: Make, gt_size: int, student: dict[str, Any],
                                        teacher: dict[str, Any], says: str, fix: int) -> None:
    config.load_plugins(named=['arch.py'])
    opt = on_odd_images(train_options(network_g=student))
    opt['teacher']['network'] = {**teacher, 'width': 16}
    torch.save({'params': ARCH_REGISTRY.get('WindowNet')(16).state_dict()}, opt['teacher']['weights'])
    opt['datasets']['train']['gt_size'] = gt_size
    found = config.check_options(opt, is_train=True, probe='full').problems
    assert len(found) == 1, '\n'.join(map(str, found))
    problem, = found
    assert (problem.where, problem.what) == ('datasets.train.gt_size', says)
    assert problem.fix == {'datasets.train.gt_size': fix}
    assert problem.remedy == f'write gt_size: {fix}'
    opt['datasets']['train']['gt_size'] = fix
    assert config.check_options(opt, is_train=True, probe='full').problems == []


def test_names() -> None:
    assert MODEL_REGISTRY.get('AnySRModel').__bases__ == (student_module.StudentMixin, SRModel)
