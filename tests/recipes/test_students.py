"""Students: they cost what was asked for, are built by BasicSR, and can be distilled."""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mipkd_plugin.losses import MiPKDLoss
from mipkd_plugin.losses.binding import bind
from mipkd_plugin.losses.trial_step import trial_problem
from mipkd_plugin.recipes import students_work
from mipkd_plugin.recipes.students import PARTS, choose, students, table
from mipkd_plugin.recipes.students_families import FAMILIES, NEAR
from mipkd_plugin.recipes.students_search import Search
from mipkd_plugin.recipes.students_work import build, channels_of, measured
from mipkd_plugin.utils.errors import MipkdError
from basicsr.archs import build_network


@dataclass
class Teacher:
    """What is known of a teacher, without a file."""

    network: dict[str, Any]
    scale: int

    def build(self) -> nn.Module:
        torch.manual_seed(0)
        return build(self.network).eval()


_COLOR = {'num_in_ch': 3, 'num_out_ch': 3}
_WINDOW = {'in_chans': 3, 'img_size': 16, 'img_range': 1., 'resi_connection': '1conv', 'upscale': 2,
           'upsampler': 'pixelshuffledirect'}
NETWORKS: dict[str, dict[str, Any]] = {
    'EDSR': {**_COLOR, 'num_feat': 32, 'num_block': 6, 'upscale': 2, 'img_range': 255., 'rgb_mean': [0, 0, 0]},
    'RCAN': {**_COLOR, 'num_feat': 32, 'num_group': 4, 'num_block': 4, 'squeeze_factor': 8, 'upscale': 2},
    'MSRResNet': {**_COLOR, 'num_feat': 32, 'num_block': 6, 'upscale': 2},
    'RRDBNet': {**_COLOR, 'num_feat': 32, 'num_block': 4, 'num_grow_ch': 16, 'scale': 2},
    'SRVGGNetCompact': {**_COLOR, 'num_feat': 32, 'num_conv': 8, 'upscale': 2, 'act_type': 'prelu'},
    'ECBSR': {**_COLOR, 'num_channel': 32, 'num_block': 6, 'with_idt': False, 'act_type': 'prelu', 'scale': 2},
    'SwinIR': {**_WINDOW, 'embed_dim': 32, 'depths': [4] * 4, 'num_heads': [2] * 4, 'window_size': 8, 'mlp_ratio': 2},
    'MambaLite': {**_COLOR, 'num_feat': 16, 'num_block': 4, 'upscale': 2},
    'SPAN': {**_COLOR, 'feature_channels': 32, 'upscale': 2},
    'SAFMN': {'dim': 32, 'n_blocks': 6, 'upscaling_factor': 2},
    'PLKSR': {'dim': 32, 'n_blocks': 6, 'upscaling_factor': 2},
    'RealPLKSR': {'dim': 32, 'n_blocks': 6, 'upscaling_factor': 2},
    'HAT': {**_WINDOW, 'embed_dim': 32, 'depths': [2] * 4, 'num_heads': [2] * 4, 'window_size': 8, 'mlp_ratio': 2,
            'compress_ratio': 3, 'squeeze_factor': 6, 'overlap_ratio': 0.5, 'conv_scale': 0.01,
            'upsampler': 'pixelshuffle', 'num_feat': 16},
    'DAT': {**_WINDOW, 'embed_dim': 32, 'depth': [2] * 4, 'num_heads': [2] * 4, 'split_size': [4, 8],
            'expansion_factor': 2.}}
"""A small teacher of each architecture, x2."""


def teacher(name: str, **changes: Any) -> Teacher:
    """One of them."""
    if name in ('SPAN', 'SAFMN', 'PLKSR', 'RealPLKSR', 'HAT', 'DAT') and importlib.util.find_spec('spandrel') is None:
        pytest.skip('spandrel is not installed')
    network = {'type': name, **NETWORKS[name], **changes}
    return Teacher(network, network[FAMILIES[name].scale])


@pytest.fixture(autouse=True)
def _short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(students_work, '_LONG_ENOUGH', 1)
    monkeypatch.setattr(students_work, '_ROUNDS', 1)
    monkeypatch.setattr(students_work, '_SIDES', {'cpu': (16, 16), 'cuda': (16, 16)})


def test_every_architecture_has_a_teacher_here() -> None:
    assert set(NETWORKS) == set(FAMILIES)


@pytest.mark.parametrize('name', NETWORKS)
def test_a_third_of_each_architecture_can_be_distilled(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has about a third of the work by an exact count, is built by BasicSR, and MiPKD binds and trains."""
    monkeypatch.setattr(Search, 'around', lambda *_: [])
    great = teacher(name)
    choice = choose('1/3', great)
    net = build_network(dict(choice.network))
    exact = measured(choice.network, 2, 3, net)
    own = measured(great.network, 2, 3)
    assert own.work / 3 / NEAR < exact.work < own.work / 3 * NEAR
    assert choice.fraction == pytest.approx(exact.work / own.work)
    assert choice.macs == pytest.approx(exact.work * 1280 * 720 / 4, abs=1)
    assert choice.parameters == sum(p.numel() for p in net.parameters()) < own.parameters
    rest = {key: value for key, value in choice.network.items()
            if key not in (*FAMILIES[name].keys, 'num_heads', 'squeeze_factor')}
    assert rest == {key: great.network[key] for key in rest}
    losses = [MiPKDLoss(taps=2, latent_channels=8)]
    nets = bind(losses, net, great.build(), torch.rand(1, 3, 8, 8))
    assert trial_problem(losses[0], nets, (3, 8, 8), 2) == ''
    nets.close()


@pytest.mark.parametrize('name', ['EDSR', 'RCAN', 'RRDBNet', 'SwinIR', 'SPAN'])
def test_sizes_are_written_as_they_are_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each alternative can be typed, and is the same network then."""
    great = teacher(name)
    choice = choose(f'{name}:1/2', great)
    assert choice.alternatives
    monkeypatch.setattr(Search, 'around', lambda *_: [])  # the alternatives of these are not looked at
    for other in (choice, *choice.alternatives[:1]):
        assert choose(other.notation, great).network == other.network
    assert len({other.notation for other in (choice, *choice.alternatives)}) == 1 + len(choice.alternatives)


@pytest.mark.parametrize('name', NETWORKS)
def test_a_student_of_another_architecture(name: str) -> None:
    great = Teacher({'type': 'RRDBNet', **_COLOR, 'scale': 4, 'num_feat': 64, 'num_block': 23, 'num_grow_ch': 32}, 4)
    teacher(name)
    network = FAMILIES[name].network(FAMILIES[name].size, FAMILIES[name].base(great.network, 4, 3))
    assert network['type'] == name
    assert channels_of(network) == 3
    assert measured(network, 4, 3).parameters > 0
    assert FAMILIES[name].size_of(network) == FAMILIES[name].size


def test_what_two_architectures_share_is_the_teachers() -> None:
    great = teacher('EDSR')
    network = choose('RCAN:16x2x1', great).network
    assert network == {'type': 'RCAN', **_COLOR, 'num_feat': 16, 'num_group': 2, 'num_block': 1, 'upscale': 2,
                       'squeeze_factor': 4, 'img_range': 255., 'rgb_mean': [0, 0, 0]}


@pytest.mark.parametrize(('text', 'notation'), [
    ('RRDBNet:16x2', 'RRDBNet:16x2x8'), ('RRDBNet:16x2x4', 'RRDBNet:16x2x4'), ('RRDBNet:16', 'RRDBNet:16x4x8'),
    ('rrdbnet:32x4x16', 'RRDBNet:32x4x16')])
def test_numbers_that_are_left_out(text: str, notation: str) -> None:
    assert choose(text, teacher('RRDBNet')).notation == notation


def test_a_student_as_large_as_its_teacher_is_no_error() -> None:
    choice = choose('EDSR:32x6', teacher('EDSR'))
    assert choice.fraction == 1
    assert all(other.fraction <= 1 for other in choice.alternatives)


def test_the_work_of_all_sizes_is_the_exact_one() -> None:
    for name in ('EDSR', 'RCAN', 'RRDBNet', 'SwinIR'):
        great = teacher(name)
        search = Search(FAMILIES[name], great.network, 2, 3)
        works = search.works()
        for size in sorted(works)[::max(1, len(works) // 4)]:
            exact = measured(FAMILIES[name].network(size, search.base), 2, 3).work
            assert works[size] == pytest.approx(exact, rel=0.005), (name, size)


def test_the_merging_of_kernels_is_no_work_of_an_image() -> None:
    great = teacher('SPAN')
    own = measured(great.network, 2, 3)
    merged = sum(math.prod(p.shape) for name, p in own.net.named_parameters() if 'eval_conv.weight' in name
                 or name.startswith(('conv_cat', 'upsampler')) and p.ndim == 4)
    assert own.work == pytest.approx(merged, rel=0.01)


def test_list() -> None:
    great = teacher('EDSR', num_feat=64, num_block=16)
    found = students(great)
    assert 5 <= len(found) <= len(PARTS)
    assert [choice.macs for choice in found] == sorted((choice.macs for choice in found), reverse=True)
    for choice in found:
        assert min(abs(math.log(choice.fraction * part)) for part in PARTS) < math.log(NEAR)
        assert choice.network['num_feat'] % 8 == 0
        assert choice.milliseconds > 0
        assert choice.teacher is not None
        assert choice.speedup == pytest.approx(choice.teacher.milliseconds / choice.milliseconds)
    lines = table(found)
    rows = lines[:2 + len(found)]
    assert rows[0].split() == ['--student', 'parameters', 'GMACs', 'of', 'teacher', 'ms', 'faster']
    assert rows[1].startswith('teacher  EDSR:64x16')
    assert len({len(row) for row in rows}) == 1
    assert 'multiply-accumulates' in lines[len(rows)]
    assert 'LR image of 16×16, this machine (CPU, ' in lines[len(rows) + 1]
    assert table([]) == []


def test_a_list_says_what_it_lacks() -> None:
    last = table(students(teacher('SwinIR', upsampler='pixelshuffle')))[-1]
    assert last.startswith('SwinIR has no size near ')
    assert last.endswith('1/32; SRVGGNetCompact may have: --student SRVGGNetCompact:1/32')


def test_the_lines_of_a_choice() -> None:
    lines = choose('1/4', teacher('EDSR')).lines()
    assert [line.split()[0] for line in lines[1:4]] == ['teacher', 'student', 'or']
    assert 'EDSR:32x6' in lines[1]
    assert '1.0×' in lines[1]


def test_a_student_that_is_no_faster_is_told() -> None:
    choice = choose('1/4', teacher('EDSR'))
    assert 'no faster on this machine' in replace(choice, speedup=0.7).lines()[-1]
    assert 'no faster' not in ''.join(replace(choice, speedup=1.4).lines())


def test_random_numbers_stay() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(1)
    great = teacher('EDSR')
    net = great.build()
    great.build = lambda: net  # type: ignore[method-assign]
    torch.manual_seed(3)
    choose('1/4', great)
    assert torch.rand(1).equal(wanted)


@pytest.mark.parametrize(('name', 'text', 'says'), [
    ('EDSR', 'EDSR:64x16', r'larger than its teacher \(parameters: 1,.*, and the teacher 1.*multiply-accumulates for'),
    ('EDSR', 'EDSR', 'larger than its teacher .* as --student EDSR:1/4'),
    ('SwinIR', 'SwinIR:25x4x2', '25 is not a multiple of 2, its number of heads: write SwinIR:24x4x2 or SwinIR:26x4x2'),
    ('SAFMN', 'SAFMN:18x2', '18 is not a multiple of 4: write SAFMN:16x2 or SAFMN:20x2'),
    ('EDSR', '1/1000', 'the smallest EDSR to choose here has 1/'),
    ('EDSR', 'EDSR:99999x1', '^--student EDSR:99999x1: .*write smaller numbers for its size'),
    ('EDSR', 'EDSR:16x9999', '^--student EDSR:16x9999: .*more than 10,000 tensors')])
def test_sizes_that_do_not_fit(name: str, text: str, says: str) -> None:
    with pytest.raises(MipkdError, match=says) as error:
        choose(text, teacher(name))
    assert str(error.value).count('\n') == 0 or 'network_g' in str(error.value)
    assert error.value.exit_code == 2


def test_a_teacher_that_is_the_smallest_of_its_kind() -> None:
    """The student that the message names can be chosen."""
    great = teacher('SwinIR', embed_dim=24, depths=[2, 2], num_heads=[2, 2])
    with pytest.raises(MipkdError, match='no SwinIR to choose here has clearly less work than the teacher; choose '
                       'another architecture, as --student SRVGGNetCompact:1/8$'):
        choose('1/8', great)
    assert choose('SRVGGNetCompact:1/8', great).fraction == pytest.approx(1 / 8, rel=NEAR - 1)


def test_a_teacher_without_a_rule() -> None:
    network = {'type': 'RIDNet', 'in_channels': 3, 'mid_channels': 16, 'out_channels': 3, 'num_block': 2}
    for call in (lambda: choose('1/4', Teacher(network, 1)), lambda: students(Teacher(network, 1))):
        with pytest.raises(MipkdError, match='no rule for smaller networks of the type RIDNet.*SPAN:1/8.*option file'):
            call()


def test_gray_teachers() -> None:
    great = teacher('SRVGGNetCompact', num_in_ch=1, num_out_ch=1)
    assert choose('1/4', great).network['num_in_ch'] == 1
    assert choose('MSRResNet:8x2', great).network['num_out_ch'] == 1
    for text in ('EDSR:8x2', 'EDSR:1/4'):
        with pytest.raises(MipkdError, match='EDSR takes color images only.*SRVGGNetCompact'):
            choose(text, great)


def write(folder: Path, text: str) -> str:
    (folder / 'student.yml').write_text(text)
    return str(folder / 'student.yml')


def test_a_student_from_a_file(tmp_path: Path) -> None:
    text = 'network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 12, num_block: 3, upscale: 2}\n'
    choice = choose(write(tmp_path, text), teacher('EDSR'))
    assert choice.network == {'type': 'EDSR', **_COLOR, 'num_feat': 12, 'num_block': 3, 'upscale': 2}
    assert (choice.notation, choice.alternatives, choice.imports) == ('EDSR:12x3', (), ())


def test_a_network_of_my_own_from_a_file(tmp_path: Path) -> None:
    (tmp_path / 'my_net_of_students.py').write_text(
        'from basicsr.utils.registry import ARCH_REGISTRY\nfrom torch import nn\n'
        '@ARCH_REGISTRY.register()\nclass MyNetOfStudents(nn.Sequential):\n    def __init__(self, scale=2):\n'
        '        super().__init__(nn.Conv2d(3, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))\n')
    text = 'imports: [my_net_of_students.py]\nnetwork_g: {type: MyNetOfStudents}\n'
    choice = choose(write(tmp_path, text), teacher('EDSR'))
    assert choice.imports == (str(tmp_path / 'my_net_of_students.py'), )
    assert choice.notation == 'MyNetOfStudents'
    assert choice.parameters == 336


@pytest.mark.parametrize(('text', 'says'), [
    ('scale: 4\nnetwork_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_block: 2, upscale: 4}',
     'scale is 4, and the teacher enlarges by 2'),
    ('network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 8, num_block: 2, upscale: 4}',
     '32×32 with 3 channels from one of 8×8 .* choose a student of that scale'),
    ('network_g: {type: SRVGGNetCompact, num_in_ch: 1, num_out_ch: 1, num_feat: 8, num_conv: 2, upscale: 2}',
     'SRVGGNetCompact does not run on color images'),
    ('network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 64, num_block: 16, upscale: 2}', 'larger than'),
    ('network_g: {type: EDRS, num_in_ch: 3}', 'EDSR'),
    ('network_g: {type: SwinIR, embed_dim: 50, num_heads: [6, 6], depths: [2, 2]}',
     'the width 50 is not a multiple of 6, its number of heads'),
    ('network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_fea: 8}', 'num_feat'),
    ('network_g: {type: EDSR, num_in_ch: 3, num_out_ch: 3, num_feat: 0}', 'EDSR does not run on color images of 8×8')])
def test_files_whose_student_does_not_fit(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(MipkdError, match=says) as error:
        choose(write(tmp_path, text), teacher('EDSR'))
    assert error.value.exit_code == 2
    assert 'Traceback' not in str(error.value)


@pytest.mark.parametrize(('name', 'depth'), [('EDSR', 1 / 2), ('SwinIR', 2 / 3)])
def test_the_rule_of_width_and_depth(name: str, depth: float) -> None:
    """Of a student of a quarter, depth brings so much of the saving; widths that kernels waste are avoided."""
    great = teacher('EDSR', num_feat=256, num_block=32) if name == 'EDSR' else teacher(
        'SwinIR', embed_dim=180, depths=[6] * 6, num_heads=[6] * 6)
    search = Search(FAMILIES[name], great.network, 2, 3)
    size = search.nearest(search.works()[search.like] / 4)
    by_width = 2 * math.log(search.like[0] / size[0])
    by_depth = math.log(FAMILIES[name].depth(search.like) / FAMILIES[name].depth(size))
    assert by_depth / (by_width + by_depth) == pytest.approx(depth, abs=0.12)
    assert size[0] % (16 if name == 'EDSR' else 6) == 0
