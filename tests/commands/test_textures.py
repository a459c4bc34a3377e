"""``mipkd textures``: its numbers are the KRNets' own, its sheets can be read, and what it refuses."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS
from training import typed
from torch import nn

from mipkd_plugin import KRNetLoss, bind, config
from mipkd_plugin.archs.krnet_arch import KRNet
from mipkd_plugin.checkpoints.distill_state import save_state
from mipkd_plugin.cli import basicsr_main, mipkd_main
from mipkd_plugin.commands.textures import look as textures
from mipkd_plugin.commands.textures.sheet import Caption, TapTextures, draw_sheet, look

Make = Callable[..., dict[str, Any]]
KRNETS = [{'type': 'KRNetLoss', 'taps': 2, 'num_kernels': 3, 'meta_every': 2}, {'type': 'LogitsKDLoss'},
          {'type': 'KRNetLoss', 'taps': [['body.0', 'body.1']], 'num_kernels': 2, 'meta_every': 2}]


@pytest.fixture
def work(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the option file of a run that trains KRNets, and an image, 30 wide and 20 high."""
    folder = tmp_path / 'work'
    folder.mkdir()
    monkeypatch.chdir(folder)
    write_options(train_options())
    rng = np.random.default_rng(0)
    cv2.imwrite('lr.png', cv2.resize(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8), (30, 20)))
    return folder


def write_options(opt: dict[str, Any], distill_opt: Any = KRNETS, **changes: Any) -> None:
    opt = {**opt, **changes, 'train': {**opt['train'], 'distill_opt': distill_opt}}
    Path('x.yml').write_text(yaml.safe_dump(opt, sort_keys=False))


def save_run(*labels: str) -> None:
    """What a training run with x.yml would have saved, without the training."""
    opt = config.read_options('x.yml')
    models = Path('experiments/tiny/models')
    models.mkdir(parents=True)
    student, built = build_network(opt['network_g']), config.build_distillation(opt)
    losses = built.losses.values()
    state = {'losses': {}, 'cpu': torch.get_rng_state(), 'cuda': None}
    for label in labels:
        torch.save({'params': student.state_dict()}, models / f'net_g_{label}.pth')
        save_state(models / f'distill_{label}.pth', nn.ModuleList(losses), built.fingerprint, [state])


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('*'))


# --------------------------------------------------------------------------------------------- the command
def mipkd_as_a_process(*arguments: str) -> str:
    result = typed(*arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


@torch.no_grad()
def l_kr_by_hand(number: int, lq: torch.Tensor) -> list[float]:
    """L_kr of each tap of a loss of KRNETS after the training, with nothing of the command's own loading."""
    models = Path('experiments/tiny/models')
    student, teacher = build_network(STUDENTS['EDSR']), build_network(TEACHERS['EDSR'])
    student.load_state_dict(torch.load(models / 'net_g_latest.pth')['params'])
    teacher.load_state_dict(torch.load('../teacher.pth')['params'])
    loss = KRNetLoss(**{key: value for key, value in KRNETS[number].items() if key != 'type'})
    nets = bind([loss], student.eval(), teacher, torch.rand(1, 3, 8, 8))
    saved = torch.load(models / 'distill_latest.pth')['losses']
    loss.load_state_dict({key[2:]: value for key, value in saved.items() if key.startswith(f'{number}.')})
    loss.eval()
    step = nets.step(lq, lq, 1)
    taps = [network(step.student.features[s], step.teacher.features[t]).item()
            for network, (s, t) in zip(loss.networks, loss.pairs)]
    assert np.mean(taps) == pytest.approx(loss.forward(step)['l_kr'].item() / loss.loss_weight, rel=1e-5)
    return taps


def test_train_then_look(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert basicsr_main(['train', '-opt', 'x.yml']) == 0
    lines = mipkd_as_a_process('textures', '-opt', 'x.yml', '--image', 'lr.png', '--size', '16').splitlines()
    folder = Path('results/textures_tiny_latest_lr')
    names = ['loss_1_tap_1.png', 'loss_1_tap_2.png', 'loss_2_tap_1.png']
    assert lines[::2] == [str(folder / name) for name in names]
    assert sorted(os.listdir(folder)) == names
    pattern = r'  KRNetLoss (\d), tap (\d) of \d: (\S+ <- \S+)  weights ([\d. ]+)  L_kr ([\d.]+)'
    found = [re.fullmatch(pattern, line).groups() for line in lines[1::2]]
    assert [one[:3] for one in found] == [
        ('1', '1', 'body.1 <- body.2'), ('1', '2', 'body.2 <- body.4'), ('2', '1', 'body.0 <- body.1')]
    weights = [[float(weight) for weight in one[3].split()] for one in found]
    assert [len(row) for row in weights] == [3, 3, 2]
    assert [sum(row) for row in weights] == pytest.approx([1, 1, 1], abs=2e-3)
    image = cv2.imread('lr.png')[2:18, 7:23, ::-1] / 255.0
    lq = torch.from_numpy(image.transpose(2, 0, 1)[None].copy()).float()
    expected = l_kr_by_hand(0, lq) + l_kr_by_hand(2, lq)
    assert [float(one[4]) for one in found] == pytest.approx(expected, abs=1e-4)
    pictures = [cv2.imread(str(folder / name)) for name in names]
    assert pictures[0].shape == pictures[1].shape
    assert pictures[0].shape[0] - pictures[2].shape[0] == 312  # a row: panel of 2.3 inches and 0.3 for its means
    assert all(picture.std() > 20 for picture in pictures)
    teacher = torch.load('../teacher.pth')
    torch.save({**teacher, 'other': {name: value + 1 for name, value in teacher['params'].items()}}, '../teacher.pth')
    before = everything(work)
    capsys.readouterr()
    for forced, piece in (('network_g:num_feat=6', 'net_g_2.pth does not fit'),
                          ('teacher:param_key=other', 'was trained with another teacher'),
                          ('train:distill_opt=[{"type": "KRNetLoss", "taps": 2}]', 'holds the losses')):
        assert mipkd_main(['textures', '-opt', 'x.yml', '--image', 'lr.png', '--iter', '2', '--force_yml', forced]) == 2
        assert piece in capsys.readouterr().err
    assert everything(work) == before


def test_one_loss_a_given_iteration_and_folder(work: Path, train_options: Make, monkeypatch: pytest.MonkeyPatch,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    """With a student that takes windows of 4, and returns tokens."""
    write_options(train_options(network_g=STUDENTS['SwinIR']),
                  {'type': 'KRNetLoss', 'taps': [['layers.1', 'body.3']], 'num_kernels': 2})
    save_run('2', '10')
    Path('there').mkdir()
    sheets = []
    monkeypatch.setattr(textures, 'draw_sheet', lambda *sheet: sheets.append(sheet) or draw_sheet(*sheet))
    assert mipkd_main(['textures', '-opt', 'x.yml', '--image', 'lr.png', '--iter', '2', '--out', 'there']) == 0
    assert os.listdir('there') == ['tap_1.png']
    weights = 'weights 0.500 0.500'  # as every KRNet begins
    out = capsys.readouterr().out
    assert out.startswith(f'there/tap_1.png\n  tap 1 of 1: layers.1 <- body.3  {weights}  L_kr ')
    (seen, crop, caption, _), = sheets
    assert caption.title == 'tiny, iteration 2, tap 1 of 1'
    assert caption.lines[0] == 'student layers.1  ←  teacher body.3'
    assert caption.lines[1] == 'image lr.png, middle 28×20 of 30×20 LR pixels'
    assert f'image: {out.split()[-1]} ' in caption.lines[2]
    assert crop.shape == (20, 28, 3)
    assert seen.student.shape == seen.teacher.shape == (2, 20, 28)


# ------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(('arguments', 'piece'), [
    (['--image', 'no.png'], '--image no.png: does not exist; give a low-resolution image'),
    (['--image', '.'], '--image .: is not a file; give'),
    (['--image', 'x.yml'], '--image x.yml: cannot be read as an image; give a PNG or JPG'),
    (['--image', 'empty.png'], '--image empty.png: cannot be read as an image'),
    (['--image', 'lr.png', '--size', '-1'], '--size -1: must be 0 (the whole image), or at least 1\n'),
    (['--image', 'lr.png', '--iter', '7'], '--iter 7: experiments/tiny/models does not hold both net_g_7.pth and '
     'distill_7.pth; valid here: 2, 10, latest'),
    (['--image', 'lr.png', '--iter', '4'], 'does not hold both net_g_4.pth and distill_4.pth'),
    (['--image', 'lr.png', '--force_yml', 'name=other'], 'experiments/other/models: holds no net_g_<iter>.pth with a '
     'distill_<iter>.pth beside it'),
    (['--image', 'lr.png', '--force_yml', 'name=other'], 'train first: basicsr train -opt x.yml\n'),
    (['--image', 'lr.png', '--force_yml', 'name=none'], 'name (--force_yml): must be the name of a run, not None'),
    (['--image', 'lr.png', '--out', 'experiments'], '--out experiments: is not empty; choose another folder'),
    (['--image', 'lr.png', '--out', 'x.yml'], '--out x.yml: is a file; choose another'),
    (['--image', 'lr.png', '--out', 'x.yml/sheets'], '--out x.yml/sheets: cannot be created (Not a directory); choose'),
    (['--image', 'lr.png', '--force_yml', 'datasets:train:color=y'], 'x.yml: datasets.train.color is y'),
    (['--image', 'lr.png', '--force_yml', 'train:distill_opt=none'], 'x.yml: no KRNetLoss, has no train.distill_opt; '
     'give the option file of a run with one'),
    (['--image', 'lr.png', '--force_yml', 'train:distill_opt=[{"type": "LogitsKDLoss"}]'],
     'no KRNetLoss, train.distill_opt holds only LogitsKDLoss;'),
    (['--image', 'lr.png', '--force_yml', 'teacher:weights=no.pth'], 'teacher.weights (--force_yml): does not exist'),
    (['--image', 'lr.png', '--iter', '2'], 'distill_2.pth is damaged'),
    (['--image', 'lr.png', '--iter', '10'], "net_g_10.pth holds no weights under 'params'"),
    (['--image', 'lr.png', '--iter', '10'], 'distill_10.pth holds no distillation state\n   -> restore it'),
])
def test_refusals(work: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], piece: str) -> None:
    save_run('2', '10', 'latest')
    models = Path('experiments/tiny/models')
    (models / 'distill_2.pth').write_bytes(b'')
    torch.save({'else': {}}, models / 'net_g_10.pth')
    torch.save({'teacher': ''}, models / 'distill_10.pth')
    (models / 'net_g_4.pth').touch()
    Path('empty.png').touch()
    before = everything(work)
    assert mipkd_main(['textures', '-opt', 'x.yml', *arguments]) == 2
    captured = capsys.readouterr()
    assert piece in captured.err
    assert captured.out == ''
    assert everything(work) == before


def test_without_latest_the_highest_iteration_is_taken(work: Path) -> None:
    save_run('9', '10', 'latest')
    models = Path('experiments/tiny/models')
    opt = config.read_options('x.yml')
    assert textures.choose_checkpoint(opt, None)[0] == 'latest'
    assert textures.choose_checkpoint(opt, 9) == ('9', models / 'net_g_9.pth', models / 'distill_9.pth')
    (models / 'net_g_latest.pth').unlink()
    assert textures.choose_checkpoint(opt, None) == ('10', models / 'net_g_10.pth', models / 'distill_10.pth')


# ----------------------------------------------------------------------------------------------- the crop
@pytest.mark.parametrize(('size', 'window', 'rows', 'columns'), [
    (128, 1, (0, 20), (0, 30)), (0, 8, (2, 18), (3, 27)), (16, 1, (2, 18), (7, 23)), (13, 4, (4, 16), (9, 21))])
def test_crop_is_the_middle_in_whole_windows(work: Path, size: int, window: int, rows: tuple[int, int],
                                             columns: tuple[int, int]) -> None:
    crop, whole = textures.read_crop(Path('lr.png'), size, window)
    assert whole == (20, 30)
    assert np.array_equal(np.rint(crop * 255), cv2.imread('lr.png')[slice(*rows), slice(*columns), ::-1])


def test_windows_of_both_networks_count(work: Path, train_options: Make) -> None:
    opt = train_options(network_g={**STUDENTS['SwinIR'], 'window_size': 6})
    opt['teacher']['network'] = {**TEACHERS['SwinIR'], 'window_size': 8}
    assert config.window_size(opt) == 24
    with pytest.raises(textures.TextureError, match=r'--image lr.png: is 30×20, smaller than one window of the '
                                                    r'networks, 24×24; give a larger image'):
        textures.read_crop(Path('lr.png'), 0, 24)
    with pytest.raises(textures.TextureError, match='--size 23: must be 0 .* at least 24, the window size of the net'):
        textures.read_crop(Path('lr.png'), 23, 24)


# -------------------------------------------------------------------------------------------- the numbers
def trained_looking(channels: int, **options: Any) -> KRNet:
    network = KRNet(3, channels, **options).eval()
    network.scale = torch.tensor(2.5)
    nn.init.normal_(network.generator.weight_head.weight)
    return network


@torch.no_grad()
@pytest.mark.parametrize(('channels', 'options'), [
    (10, {}), (5, {'num_kernels': 2, 'kernel_size': 5}), (12, {'num_kernels': 3, 'feature_scale': 'none'})])
def test_numbers_are_those_of_the_krnet(channels: int, options: dict[str, Any]) -> None:
    network = trained_looking(channels, **options)
    student, teacher = torch.randn(1, 3, 6, 7), torch.randn(1, channels, 6, 7)
    seen = look(network, student, teacher)
    projected = network.project(student)
    kernels, weights = network.generate(projected, teacher / network.scale)
    of_student, of_teacher = (network.textures(f, kernels)[0] for f in (projected, teacher / network.scale))
    for drawn, texture in ((seen.student, of_student), (seen.teacher, of_teacher),
                           (seen.difference, of_student - of_teacher)):
        torch.testing.assert_close(torch.from_numpy(drawn), texture.abs().mean(0))
    torch.testing.assert_close(torch.from_numpy(seen.weights), weights[0])
    assert len(np.unique(seen.weights)) == len(seen.weights) == options.get('num_kernels', 4)
    assert seen.distance == pytest.approx(network(student, teacher).item(), rel=1e-5)
    energy = of_teacher.square().sum((2, 3))
    for g, chosen in enumerate(seen.channels):
        assert len(chosen) == min(channels, 8)
        assert chosen.tolist() == energy[:, g].sort(descending=True).indices[:8].tolist()
        assert np.array_equal(seen.kernels[g], kernels[0, chosen, g])


def test_several_images_are_refused() -> None:
    with pytest.raises(ValueError, match='must be of one image, got 2 and 1'):
        look(trained_looking(4), torch.rand(2, 3, 6, 6), torch.rand(1, 4, 6, 6))


# --------------------------------------------------------------------------------------------- the picture
LONG = ['student layers.5.residual_group.blocks.5  ←  teacher layers.5.residual_group.blocks.5',
        'image $a_{photograph}$_with_a_very_long_name_' + 'x' * 90 + '.png, middle 128×85 of 512×340 LR pixels',
        'L_kr of this tap and image: 0.1234   (sum of weight × mean difference)']


@pytest.mark.parametrize(('count', 'height', 'width', 'shown', 'side', 'factor'), [
    (4, 32, 32, 8, 3, 1.0), (2, 10, 40, 5, 5, 1000.0), (3, 60, 20, 3, 3, 1e-5), (1, 1, 1, 1, 7, 0.0)])
def test_words_stay_apart_and_on_the_page(monkeypatch: pytest.MonkeyPatch, count: int, height: int, width: int,
                                          shown: int, side: int, factor: float) -> None:
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    rng = np.random.default_rng(0)
    figures: list[Figure] = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path: figures.append(self))
    maps = [factor * rng.random((count, height, width)) for _ in range(3)]
    seen = TapTextures(*maps, rng.integers(100, 180, (count, shown)), rng.standard_normal((count, shown, side, side)),
                       np.full(count, 1 / count))
    draw_sheet(seen, rng.random((height, width, 3)), Caption('a_run_' * 12 + ', tap 1 of 3', LONG), Path('no.png'))
    figure = figures[0]
    figure.draw_without_rendering()
    hidden = {id(text) for axes in figure.axes if not axes.axison
              for axis in (axes.xaxis, axes.yaxis) for text in axis.findobj(Text)}
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible() and id(text) not in hidden]
    assert {'texture 1', f'texture {count}', f'{1 / count:.3f}', LONG[2]} <= {text.get_text() for text in texts}
    boxes = {text: text.get_window_extent() for text in texts}
    for text, box in boxes.items():
        assert 0 <= box.x0 < box.x1 <= figure.bbox.x1, text
        assert 0 <= box.y0 < box.y1 <= figure.bbox.y1, text
    for (a, box), (b, other) in combinations(boxes.items(), 2):
        assert not box.padded(-1).overlaps(other.padded(-1)), (a, b)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    drawn = [image.get_array() for image in images if image.get_cmap().name == 'magma']
    assert len(drawn) == 3 * count
    assert all(np.array_equal(drawn[3 * g + k], maps[k][g]) for g in range(count) for k in range(3))
