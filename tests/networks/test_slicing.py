"""A slice of the teacher: its values by NumPy, its shapes, and what cannot be sliced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from basicsr.metrics import calculate_psnr
from helpers import SHARED, STUDENTS, TEACHERS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from mipkd_plugin.networks.slice_rules import SliceError
from mipkd_plugin.networks.slicing import sliced, spaced

BASE: dict[str, dict[str, Any]] = {
    'EDSR': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 12, 'num_block': 5, 'upscale': 4, 'res_scale': 0.1},
    'MSRResNet': {'num_feat': 12, 'num_block': 5, 'upscale': 4},
    'RCAN': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 12, 'num_group': 3, 'num_block': 4, 'squeeze_factor': 2,
             'upscale': 3},
    'RRDBNet': {'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 12, 'num_grow_ch': 8, 'num_block': 4, 'scale': 2},
    'SRVGGNetCompact_basicsr': {'num_feat': 12, 'num_conv': 6, 'upscale': 2},
    'SwinIR': {'img_size': 16, 'embed_dim': 24, 'depths': [4, 2, 4], 'num_heads': [4, 4, 4], 'window_size': 8,
               'mlp_ratio': 2, 'upscale': 2, 'img_range': 1.0, 'upsampler': 'pixelshuffle'},
    'SwinIR light': {'img_size': 16, 'embed_dim': 24, 'depths': [4, 2, 4], 'num_heads': [4, 4, 4], 'window_size': 8,
                     'mlp_ratio': 2, 'upscale': 2, 'upsampler': 'pixelshuffledirect', 'resi_connection': '3conv',
                     'ape': True},
    'SwinIR real': {'img_size': 16, 'embed_dim': 24, 'depths': [4], 'num_heads': [4], 'window_size': 8, 'upscale': 4,
                    'mlp_ratio': 2, 'upsampler': 'nearest+conv', 'qkv_bias': False, 'patch_norm': False}}
WIDTH = {'RRDBNet': {'num_feat': 6, 'num_grow_ch': 4}, **{name: {'embed_dim': 12} for name in BASE if 'Swin' in name}}
DEPTH = {'RCAN': {'num_group': 2, 'num_block': 3}, 'SRVGGNetCompact_basicsr': {'num_conv': 3},
         **{name: {'depths': [2, 2], 'num_heads': [4, 2]} for name in BASE if 'Swin' in name},
         'SwinIR real': {'depths': [2]}}


def net_of(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    torch.manual_seed(seed)
    return build_network({'type': name.partition(' ')[0], **BASE[name], **changes}).eval()


def output(net: nn.Module) -> Tensor:
    with torch.no_grad():
        return net(torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize('name', BASE)
def test_a_student_of_the_teachers_size_is_the_teacher(name: str) -> None:
    teacher, student = net_of(name), net_of(name, seed=1)
    before = {key: value.clone() for key, value in student.state_dict().items()}
    state = sliced(student, teacher)
    assert all(value.equal(before[key]) for key, value in student.state_dict().items()), 'the student is left as it is'
    assert list(state) == list(before)
    assert all(value.equal(state[key]) for key, value in teacher.state_dict().items())
    student.load_state_dict(state, strict=True)
    assert output(student).equal(output(teacher))


@pytest.mark.parametrize('name', ['EDSR', 'MSRResNet', 'RRDBNet', 'SRVGGNetCompact_basicsr'])
def test_networks_on_a_gpu_are_sliced_too(name: str) -> None:
    """A pretended one, which refuses an operation on tensors of two devices as a real one does."""
    with FakeTensorMode():
        with torch.device('cuda'):
            student, teacher = (build_network({'type': name, **BASE[name], **changes})
                                for changes in (WIDTH.get(name, {'num_feat': 6}), {}))
        state = sliced(student, teacher)
        student.load_state_dict(state)
        assert {value.device.type for value in student.state_dict().values()} == {'cuda'}


@pytest.mark.parametrize('kind', ['width', 'depth', 'both'])
@pytest.mark.parametrize('name', BASE)
def test_slices_load_strictly_and_run(name: str, kind: str) -> None:
    width, depth = WIDTH.get(name, {'num_feat': 6}), DEPTH.get(name, {'num_block': 2})
    changes = {**(width if kind != 'depth' else {}), **(depth if kind != 'width' else {})}
    if 'Swin' in name and kind == 'both':
        changes['num_heads'] = [4] * len(changes['depths'])
    if 'Swin' in name and kind == 'depth':
        changes['num_heads'] = [4] * len(changes['depths'])
    student, teacher = net_of(name, seed=1, **changes), net_of(name)
    state = sliced(student, teacher)
    student.load_state_dict(state, strict=True)
    assert torch.isfinite(output(student)).all()
    own = dict(teacher.named_parameters())
    values = np.unique(np.concatenate([tensor.detach().numpy().ravel() for tensor in own.values()]))
    for key, _ in student.named_parameters():
        assert np.isin(state[key].detach().numpy(), values).all(), key  # no value is made up
    again = sliced(net_of(name, seed=2, **changes), teacher)
    assert all(again[key].equal(value) for key, value in state.items()), 'nothing of the student enters'


def l1(weight: np.ndarray) -> np.ndarray:
    return np.abs(weight).reshape(len(weight), -1).sum(1)


def best(scores: np.ndarray, count: int) -> np.ndarray:
    return np.sort(np.argsort(-scores, kind='stable')[:count])


def arrays(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in state.items()}


@pytest.mark.parametrize('upscale', [2, 3, 4])
def test_edsr_by_hand(upscale: int) -> None:
    """Channels of the stream by all that is added to it, of a block by its own; r² filters each before a shuffle."""
    teacher = arrays(net_of('EDSR', upscale=upscale).state_dict())
    state = arrays(sliced(net_of('EDSR', seed=1, upscale=upscale, num_feat=5, num_block=3),
                          net_of('EDSR', upscale=upscale)))
    blocks = [0, 2, 4]
    writers = ['conv_first', *(f'body.{b}.conv2' for b in blocks), 'conv_after_body']
    stream = best(sum(l1(teacher[f'{name}.weight']) for name in writers), 5)
    expected = {'conv_first.weight': teacher['conv_first.weight'][stream],
                'conv_first.bias': teacher['conv_first.bias'][stream]}
    for own, block in enumerate(blocks):
        first, second = (teacher[f'body.{block}.conv{n}.weight'] for n in (1, 2))
        inner = best(l1(first), 5)
        expected |= {f'body.{own}.conv1.weight': first[np.ix_(inner, stream)],
                     f'body.{own}.conv1.bias': teacher[f'body.{block}.conv1.bias'][inner],
                     f'body.{own}.conv2.weight': second[np.ix_(stream, inner)],
                     f'body.{own}.conv2.bias': teacher[f'body.{block}.conv2.bias'][stream]}
    expected |= {'conv_after_body.weight': teacher['conv_after_body.weight'][np.ix_(stream, stream)],
                 'conv_after_body.bias': teacher['conv_after_body.bias'][stream]}
    stages = ['upsample.0'] if upscale < 4 else ['upsample.0', 'upsample.2']
    square = upscale**2 if upscale < 4 else 4
    wide = best(sum(l1(teacher[f'{name}.weight']).reshape(12, square).sum(1) for name in stages), 5)
    rows, inputs = (wide[:, None] * square + np.arange(square)).reshape(-1), stream
    for name in stages:
        expected |= {f'{name}.weight': teacher[f'{name}.weight'][np.ix_(rows, inputs)],
                     f'{name}.bias': teacher[f'{name}.bias'][rows]}
        inputs = wide
    expected |= {'conv_last.weight': teacher['conv_last.weight'][:, wide], 'conv_last.bias': teacher['conv_last.bias']}
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert np.array_equal(state[name], value), name


def test_a_dense_block_by_hand() -> None:
    """The input of a convolution of RRDBNet: the stream, then what each convolution before it has grown."""
    teacher = arrays(net_of('RRDBNet').state_dict())
    state = arrays(sliced(net_of('RRDBNet', seed=1, num_feat=6, num_grow_ch=3, num_block=1), net_of('RRDBNet')))
    writers = [f'body.0.rdb{n}.conv5' for n in (1, 2, 3)]
    stream = best(sum(l1(teacher[f'{name}.weight']) for name in ('conv_first', *writers, 'conv_body')), 6)
    inputs = stream
    for number in range(1, 5):
        weight = teacher[f'body.0.rdb2.conv{number}.weight']
        grown = best(l1(weight), 3)
        assert np.array_equal(state[f'body.0.rdb2.conv{number}.weight'], weight[np.ix_(grown, inputs)])
        inputs = np.concatenate([inputs, 12 + 8 * (number - 1) + grown])
    weight = teacher['body.0.rdb2.conv5.weight']
    assert np.array_equal(state['body.0.rdb2.conv5.weight'], weight[np.ix_(stream, inputs)])


def test_attention_by_hand() -> None:
    """Heads first, by query, key and value; in each, the same channels of query and key, and others of value."""
    teacher = arrays(net_of('SwinIR').state_dict())
    state = arrays(sliced(net_of('SwinIR', seed=1, embed_dim=8, num_heads=[2, 2, 2]), net_of('SwinIR')))
    path = 'layers.1.residual_group.blocks.1.attn'
    qkv = l1(teacher[f'{path}.qkv.weight']).reshape(3, 4, 6)
    heads = best(qkv.sum((0, 2)), 2)
    both = np.concatenate([head * 6 + best(qkv[:2].sum(0)[head], 4) for head in heads])
    value = np.concatenate([head * 6 + best(qkv[2][head], 4) for head in heads])
    rows = np.concatenate([both, 24 + both, 48 + value])
    assert np.array_equal(state[f'{path}.qkv.bias'], teacher[f'{path}.qkv.bias'][rows])
    assert np.array_equal(state[f'{path}.relative_position_bias_table'],
                          teacher[f'{path}.relative_position_bias_table'][:, heads])
    writers = [name for name in teacher if name.endswith(('attn.proj.weight', 'mlp.fc2.weight', '.conv.weight'))]
    stream = best(sum(l1(teacher[name]) for name in [*writers, 'conv_first.weight', 'conv_after_body.weight']), 8)
    assert np.array_equal(state[f'{path}.qkv.weight'], teacher[f'{path}.qkv.weight'][np.ix_(rows, stream)])
    assert np.array_equal(state[f'{path}.proj.weight'], teacher[f'{path}.proj.weight'][np.ix_(stream, value)])
    assert np.array_equal(state['norm.weight'], teacher['norm.weight'][stream])
    assert np.array_equal(state['conv_before_upsample.0.weight'],
                          teacher['conv_before_upsample.0.weight'][:, stream])
    assert np.array_equal(state['upsample.0.weight'], teacher['upsample.0.weight'])


def test_the_gates_of_rcan_do_not_rank_channels() -> None:
    teacher = net_of('RCAN')
    before = sliced(net_of('RCAN', num_feat=6), teacher)
    with torch.no_grad():
        teacher.body[0].residual_group[0].rcab[3].attention[3].weight.mul_(torch.arange(12).view(12, 1, 1, 1) * 1e6)
    assert sliced(net_of('RCAN', num_feat=6), teacher)['conv_first.weight'].equal(before['conv_first.weight'])


def test_the_activation_goes_with_its_convolution() -> None:
    teacher = net_of('SRVGGNetCompact_basicsr')
    with torch.no_grad():
        teacher.body[5].weight.copy_(torch.arange(12.0))
    state = sliced(net_of('SRVGGNetCompact_basicsr', num_feat=4), teacher)
    kept = best(l1(teacher.body[4].weight.detach().numpy()), 4)
    assert state['body.5.weight'].tolist() == kept.tolist()


@pytest.mark.parametrize(('blocks', 'chosen', 'found'), [
    (5, 2, [0, 4]), (5, 3, [0, 2, 4]), (5, 5, [0, 1, 2, 3, 4]), (5, 1, [0]), (1, 1, [0]),
    (20, 6, [0, 4, 8, 11, 15, 19]), (32, 8, [0, 4, 9, 13, 18, 22, 27, 31]), (6, 4, [0, 2, 3, 5])])
def test_blocks_are_spaced_evenly(blocks: int, chosen: int, found: list[int]) -> None:
    assert spaced(blocks, chosen) == found


def test_every_choice_of_blocks_is_in_order_and_without_a_double() -> None:
    for blocks in range(1, 40):
        for chosen in range(1, blocks + 1):
            assert len(set(spaced(blocks, chosen))) == chosen
            assert spaced(blocks, chosen) == sorted(spaced(blocks, chosen))
            assert set(spaced(blocks, chosen)) <= set(range(blocks))


def test_swin_blocks_are_dropped_in_pairs() -> None:
    """A block with shifted windows comes from one with shifted windows."""
    base = {'depths': [6], 'num_heads': [4]}
    teacher = net_of('SwinIR', **base)
    state = sliced(net_of('SwinIR', seed=1, depths=[4], num_heads=[4]), teacher)
    own = teacher.state_dict()
    for block, source in enumerate([0, 1, 4, 5]):
        path = 'layers.0.residual_group.blocks.{}.attn.qkv.weight'
        assert state[path.format(block)].equal(own[path.format(source)])


# --------------------------------------------------------------------------------------------- what cannot be sliced
@pytest.mark.parametrize(('name', 'student', 'teacher', 'says'), [
    ('EDSR', {'num_feat': 16}, {}, 'the student has 16 channels where the teacher has 12 (in conv_first.weight): a'),
    ('EDSR', {'num_block': 6}, {}, 'the student has 6 blocks in body, and the teacher 5: a slice has as many or fewer'),
    ('RCAN', {'num_block': 5}, {}, 'the student has 5 blocks in body.0.residual_group, and the teacher 4'),
    ('RRDBNet', {'num_grow_ch': 9}, {}, 'the student has 9 channels where the teacher has 8 (in body.0.rdb1.conv1.w'),
    ('EDSR', {'upscale': 2}, {}, 'only the teacher has upsample.2'),
    ('EDSR', {}, {'upscale': 2}, 'only the student has upsample.2'),
    ('EDSR', {'upscale': 2}, {'upscale': 3}, 'upsample.0.weight has the shape (48, 12, 3, 3), and a slice'),
    ('EDSR', {'res_scale': 1}, {}, 'res_scale is 1 in the student and 0.1 in the teacher, so their weights do'),
    ('EDSR', {'rgb_mean': [0, 0, 0]}, {}, 'mean is [0.0, 0.0, 0.0] in the student and [0.4'),
    ('EDSR', {'num_in_ch': 1, 'num_out_ch': 1}, {}, 'conv_first.weight has the shape (12, 1, 3, 3), and a slice of'),
    ('SRVGGNetCompact_basicsr', {'act_type': 'relu'}, {}, 'act_type is relu in the student and prelu in the teacher'),
    ('SwinIR', {'window_size': 4}, {}, 'window_size is 4 in the student and 8 in the teacher'),
    ('SwinIR', {'upsampler': 'pixelshuffledirect'}, {}, 'upsampler is pixelshuffledirect in the student and pixelshuf'),
    ('SwinIR', {'qkv_bias': False}, {}, 'only the teacher has layers.0.residual_group.blocks.0.attn.qkv.bias'),
    ('SwinIR', {'resi_connection': '3conv'}, {}, 'only the teacher has layers.0.conv.bias, layers.0.conv.weight'),
    ('SwinIR', {'depths': [3, 2, 4]}, {}, 'blocks with shifted windows and without stand in turn, so they are dropped'),
    ('SwinIR', {'num_heads': [2, 2, 2]}, {}, 'the student has 2 heads of 12 channels in layers.0.residual_group.'),
    ('SwinIR', {'num_heads': [6, 4, 4], 'embed_dim': 12}, {}, 'the student has 6 heads of 2 channels in layers.0'),
    ('SwinIR', {'mlp_ratio': 3}, {}, 'the student has 72 channels where the teacher has 48 (in layers.0.residual'),
])
def test_what_is_no_slice_is_refused_by_name(name: str, student: dict[str, Any], teacher: dict[str, Any],
                                             says: str) -> None:
    with pytest.raises(SliceError) as caught:
        sliced(net_of(name, **student), net_of(name, **teacher))
    assert says in caught.value.what
    assert caught.value.remedy


def test_other_architectures_are_refused() -> None:
    edsr, rcan = net_of('EDSR'), net_of('RCAN')
    with pytest.raises(SliceError, match='the student is of the class RCAN and the teacher of EDSR: a slice has the'):
        sliced(rcan, edsr)
    mine = type('EDSR', (nn.Conv2d, ), {})  # the name alone does not make it BasicSR's
    with pytest.raises(SliceError, match="there is no rule to slice EDSR, the teacher; train .*; BasicSR's EDSR"):
        sliced(edsr, mine(3, 3, 1))


@pytest.mark.parametrize('arch', ['EDSR', 'RCAN', 'RRDBNet'])
def test_the_pairs_of_the_tests_are_slices(arch: str) -> None:
    student, teacher = build_network(dict(STUDENTS[arch])), build_network(dict(TEACHERS[arch]))
    student.load_state_dict(sliced(student, teacher), strict=True)


@pytest.mark.parametrize(('changes', 'least'), [
    ({'num_block': 2}, 25.0), ({'num_feat': 48}, 12.0), ({'num_feat': 16}, 5.0)])
def test_psnr_at_the_start_with_a_real_teacher(changes: dict[str, Any], least: float) -> None:
    """With random weights it is below 11 dB; a slice of the depth alone is nearly there."""
    weights, images = SHARED / 'weights' / 'EDSR_x2_f64b5.pth', SHARED / 'data' / 'Set5'
    if not weights.exists() or not images.exists():
        pytest.skip(f'needs {weights} and {images}')
    base = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 5, 'upscale': 2,
            'rgb_mean': [0, 0, 0]}
    teacher, student = build_network(dict(base)), build_network({**base, **changes})
    teacher.load_state_dict(torch.load(weights)['params'])
    student.load_state_dict(sliced(student, teacher))
    hr, lr = (cv2.imread(str(sorted((images / name).iterdir())[0])) for name in ('HR', 'LRbicx2'))
    hr, lr = hr[:160, :160], lr[:80, :80]
    with torch.no_grad():
        image = student(torch.from_numpy(lr[..., ::-1].copy()).permute(2, 0, 1)[None] / 255)[0].permute(1, 2, 0)
    found = (image.clamp(0, 1) * 255).round().numpy()[..., ::-1]
    assert least < calculate_psnr(found, hr, 2, test_y_channel=True) < 60
