"""Networks of BasicSR: right arguments and equal output, whatever the sizes, the key and the type of the weights."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mipkd_plugin.recognition import RecognitionError, Recognized, measuring, recognize
from mipkd_plugin.recognition.layout import Found
from mipkd_plugin.recognition.measuring import smooth_image
from mipkd_plugin.recognition.recognized import build

DIV2K = [0.4488, 0.4371, 0.404]
EDSR = {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_block': 2, 'upscale': 2}


def outputs(one: nn.Module, other: nn.Module, network: dict[str, Any]) -> tuple[Tensor, Tensor]:
    images = smooth_image(network)
    with torch.no_grad():
        return one.eval()(images), other.eval()(images)


def recognized(net: nn.Module, folder: Path) -> Recognized:
    torch.save({'params': net.state_dict()}, folder / 'net.pth')
    return recognize(folder / 'net.pth')


def drawn(arch: str, seed: int) -> dict[str, Any]:
    """Random arguments of an architecture."""
    draw = random.Random(f'{arch} {seed}')
    width, depth, colors = draw.choice([4, 8, 12]), draw.randint(1, 3), draw.choice([1, 3, 4])
    both = {'num_in_ch': colors, 'num_out_ch': colors, 'num_feat': width}
    if arch in ('EDSR', 'RCAN'):
        own = {'num_block': depth} if arch == 'EDSR' else {
            'num_group': depth, 'num_block': draw.randint(1, 2), 'squeeze_factor': draw.choice([1, 2, 4])}
        return {'type': arch, **both, 'num_in_ch': 3, 'num_out_ch': 3, **own, 'upscale': draw.choice([1, 2, 3, 4, 8])}
    if arch == 'RRDBNet':
        return {'type': arch, **both, 'scale': draw.choice([1, 2, 4]), 'num_block': depth,
                'num_grow_ch': draw.choice([2, 6])}
    if arch == 'SRVGGNetCompact':
        return {'type': arch, **both, 'num_conv': draw.randint(0, 3), 'upscale': draw.choice([1, 2, 3, 4]),
                'act_type': 'prelu'}
    if arch == 'MSRResNet':
        return {'type': arch, **both, 'num_block': depth, 'upscale': draw.choice([2, 3, 4])}
    if arch == 'MambaLite':
        return {'type': arch, **both, 'num_block': depth, 'expand': draw.choice([1, 2]), 'num_state': draw.choice(
            [2, 8]), 'upscale': draw.choice([2, 3])}
    if arch == 'ECBSR':
        return {'type': arch, 'num_in_ch': 1, 'num_out_ch': 1, 'num_block': depth, 'num_channel': width,
                'scale': draw.choice([2, 3, 4]), 'with_idt': False, 'act_type': 'prelu'}
    return swinir(draw)


def swinir(draw: random.Random) -> dict[str, Any]:
    upsampler = draw.choice(['pixelshuffle', 'pixelshuffledirect', 'nearest+conv', ''])
    window, layers = draw.choice([2, 4, 5, 7, 8]), draw.randint(1, 2)
    upscale = {'nearest+conv': 4, '': 1}.get(upsampler, draw.choice([2, 3, 4]))
    optional = {'qkv_bias': False, 'patch_norm': False, 'ape': True}
    return {'type': 'SwinIR', 'upscale': upscale, 'in_chans': draw.choice([1, 3]), 'window_size': window,
            'img_size': draw.choice([window, 2 * window, 3 * window, [2 * window, 4 * window]]),
            'embed_dim': draw.choice([12, 24]), 'depths': [draw.randint(2, 3), *[draw.randint(1, 3)] * (layers - 1)],
            'num_heads': [draw.choice([1, 2, 3]) for _ in range(layers)],
            'mlp_ratio': draw.choice([1, 2, 2.5, 4]), 'upsampler': upsampler,
            'resi_connection': draw.choice(['1conv', '3conv']),
            'img_range': 255.0 if window == 7 and upsampler == '' else 1.0,
            **{key: value for key, value in optional.items() if draw.random() < 0.2}}


@pytest.mark.parametrize('seed', range(8))
@pytest.mark.parametrize('arch', ['EDSR', 'RCAN', 'RRDBNet', 'SRVGGNetCompact', 'SwinIR', 'MSRResNet', 'ECBSR',
                                  'MambaLite'])
def test_random_arguments(arch: str, seed: int, tmp_path: Path) -> None:
    network = drawn(arch, seed)
    torch.manual_seed(seed)
    net = build(network)
    found = recognized(net, tmp_path)
    given = {key: value for key, value in network.items() if (key, value) not in (('qkv_bias', True), ('ape', False))}
    if arch == 'RCAN':  # several factors leave the same channels
        assert network['num_feat'] // found.network['squeeze_factor'] == network['num_feat'] // given.pop(
            'squeeze_factor')
    assert {key: found.network[key] for key in given} == given
    one, other = outputs(net, found.build(), network)
    assert torch.equal(one, other)
    assert one.shape[-1] == found.scale * smooth_image(network).shape[-1]


@pytest.mark.parametrize(('name', 'expected', 'scale', 'dtype'), [
    ('EDSR_x2_f64b5', {'type': 'EDSR', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 64, 'num_block': 5, 'upscale': 2,
                       'res_scale': 1, 'img_range': 255.0, 'rgb_mean': [0.0, 0.0, 0.0]}, 2, torch.float32),
    ('EDSR_x2_f32b5', {'type': 'EDSR', 'num_feat': 32, 'num_block': 5, 'res_scale': 1, 'img_range': 255.0,
                       'rgb_mean': [0.0, 0.0, 0.0]}, 2, torch.float32),
    ('RRDB_PSNR_x4', {'type': 'RRDBNet', 'num_in_ch': 3, 'num_out_ch': 3, 'scale': 4, 'num_feat': 64, 'num_block': 23,
                      'num_grow_ch': 32}, 4, torch.float32),
    ('RealESRGAN_x4plus', {'type': 'RRDBNet', 'num_feat': 64, 'num_block': 23, 'num_grow_ch': 32}, 4, torch.float16),
    ('realesr-animevideov3', {'type': 'SRVGGNetCompact', 'num_feat': 64, 'num_conv': 16, 'upscale': 4,
                              'act_type': 'prelu'}, 4, torch.float16),
])
def test_real_weights(name: str, expected: dict[str, Any], scale: int, dtype: torch.dtype, shared: Path) -> None:
    path = shared / 'weights' / f'{name}.pth'
    found = recognize(path)
    assert {key: found.network[key] for key in expected} == expected
    assert (found.scale, found.param_key) == (scale, 'params')
    saved = torch.load(path, weights_only=True)['params']
    assert next(iter(saved.values())).dtype == dtype
    net = build({**found.network, **expected})
    net.load_state_dict(saved)  # in float32, as BasicSR loads it
    images = smooth_image(found.network)[..., :8, :8]
    with torch.no_grad():
        assert torch.equal(found.build()(images), net(images))


def test_every_shared_file_is_among_them(shared: Path) -> None:
    assert {path.stem for path in (shared / 'weights').glob('*.pth')} == {
        'EDSR_x2_f64b5', 'EDSR_x2_f32b5', 'RRDB_PSNR_x4', 'RealESRGAN_x4plus', 'realesr-animevideov3'}


STATES: dict[str, tuple[Any, str | None]] = {
    'bare': (lambda state: state, None),
    'params': (lambda state: {'params': state}, 'params'),
    'params_ema alone': (lambda state: {'params_ema': state}, 'params_ema'),
    'both': (lambda state: {'params': {name: tensor + 1 for name, tensor in state.items()}, 'params_ema': state},
             'params_ema'),
    'a key of its own': (lambda state: {'student_v2': state, 'epoch': 3}, 'student_v2'),
    'DataParallel': (lambda state: {'state_dict': {f'module.{name}': tensor for name, tensor in state.items()}},
                     'state_dict'),
    'compiled and averaged': (lambda state: {'ema': {'n_averaged': torch.tensor(3), **{
        f'module._orig_mod.{name}': tensor for name, tensor in state.items()}}}, 'ema'),
    'of a GAN in Lightning': (lambda state: {'state_dict': {
        **{f'generator.{name}': tensor for name, tensor in state.items()}, 'discriminator.0.weight': torch.ones(3)}},
        'state_dict'),
    'with its losses in Lightning': (lambda state: {'epoch': 3, 'state_dict': {
        **{f'model.{name}': tensor for name, tensor in state.items()}, 'loss.vgg.0.weight': torch.ones(3)}},
        'state_dict'),
    'half': (lambda state: {'params': {name: tensor.half() for name, tensor in state.items()}}, 'params'),
    'bfloat16': (lambda state: {'params': {name: tensor.bfloat16() for name, tensor in state.items()}}, 'params'),
    'double': (lambda state: {'params': {name: tensor.double() for name, tensor in state.items()}}, 'params'),
}


@pytest.mark.parametrize('kind', STATES)
@pytest.mark.parametrize('legacy', [False, True])
def test_keys_prefixes_and_types(kind: str, legacy: bool, tmp_path: Path) -> None:
    make, key = STATES[kind]
    net = build(EDSR)
    torch.save(make(net.state_dict()), tmp_path / 'net.pth', _use_new_zipfile_serialization=not legacy)
    found = recognize(tmp_path / 'net.pth')
    assert {name: found.network[name] for name in EDSR} == EDSR
    assert found.param_key == key
    assert all(tensor.dtype == torch.float32 for tensor in found.state.values())
    tolerance = {'half': 1e-3, 'bfloat16': 1e-2}.get(kind, 0)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(found.state[name], tensor, atol=tolerance, rtol=tolerance)
    assert any('the moving average (params_ema) was taken' in note for note in found.notes) == (kind == 'both')


def test_a_given_key(tmp_path: Path) -> None:
    state = build(EDSR).state_dict()
    torch.save({'params': state, 'params_ema': {name: tensor + 1 for name, tensor in state.items()}},
               tmp_path / 'net.pth')
    plain = recognize(tmp_path / 'net.pth', 'params')
    assert plain.param_key == 'params'
    assert torch.equal(plain.state['conv_first.bias'], state['conv_first.bias'])
    with pytest.raises(RecognitionError, match=r"no state dict under the key 'ema'; write one of its keys: params, "):
        recognize(tmp_path / 'net.pth', 'ema')
    with pytest.raises(RecognitionError, match='holds no state dict itself'):
        recognize(tmp_path / 'net.pth', None)


def test_several_unknown_keys(tmp_path: Path) -> None:
    state = build(EDSR).state_dict()
    torch.save({'a': state, 'b': state}, tmp_path / 'net.pth')
    with pytest.raises(RecognitionError, match='holds several state dicts: a, b; say which one with param_key'):
        recognize(tmp_path / 'net.pth')


def test_safetensors(tmp_path: Path) -> None:
    save_file = pytest.importorskip('safetensors.torch').save_file
    net = build(EDSR)
    save_file(net.state_dict(), tmp_path / 'net.safetensors')
    found = recognize(tmp_path / 'net.safetensors')
    assert found.param_key is None
    assert torch.equal(*outputs(net, found.build(), found.network))


def test_swinir_whose_buffers_were_left_out(tmp_path: Path) -> None:
    network = {'type': 'SwinIR', 'upscale': 2, 'img_size': 48, 'window_size': 8, 'embed_dim': 12, 'depths': [2],
               'num_heads': [2], 'upsampler': 'pixelshuffledirect'}
    net = build(network)
    torch.save({name: tensor for name, tensor in net.state_dict().items()
                if not name.endswith(('attn_mask', 'relative_position_index'))}, tmp_path / 'net.pth')
    found = recognize(tmp_path / 'net.pth')
    assert found.network['img_size'] == 64
    assert any('img_size is not in the file' in note for note in found.notes)
    assert torch.equal(*outputs(net, found.build(), network))


@pytest.mark.parametrize('values', [
    {'res_scale': 1, 'img_range': 255.0, 'rgb_mean': DIV2K}, {'res_scale': 0.1, 'img_range': 255.0, 'rgb_mean': DIV2K}])
def test_hidden_values_are_measured(values: dict[str, Any], tmp_path: Path) -> None:
    """A few steps of training on smooth images make a network whose hidden arguments can be measured."""
    torch.manual_seed(0)
    net = build({**EDSR, 'num_feat': 12, **values}).train()
    adam = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(150):
        coarse = torch.rand(4, 3, 4, 4) * torch.rand(4, 1, 1, 1)
        high = nn.functional.interpolate(coarse, size=(24, 24), mode='bicubic', align_corners=True)
        loss = (net(high[..., ::2, ::2]) - nn.functional.interpolate(
            high[..., ::2, ::2], scale_factor=2, mode='bicubic')).abs().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = recognized(net, tmp_path)
    assert {key: found.network[key] for key in values} == values


def test_random_weights_decide_nothing(tmp_path: Path) -> None:
    net = build({**EDSR, 'res_scale': 0.1, 'img_range': 1.0, 'rgb_mean': [0.0, 0.0, 0.0]})
    found = recognized(net, tmp_path)
    assert (found.network['res_scale'], found.network['img_range'], found.network['rgb_mean']) == (1, 255.0, DIV2K)
    assert found.notes[0].startswith('assumed: ')
    assert 'a weights file does not show ' in found.notes[0]


@pytest.mark.parametrize(('errors', 'taken', 'says'), [
    ((0.014, 0.008, 0.03), 0, 'assumed: '),  # nearer, but not twice as near
    ((0.020, 0.008, 0.03), 1, 'measured: '),
    ((0.030, 0.012, 0.009), 1, 'assumed: '),  # nearly alike: the first of them
    ((0.200, 0.090, 0.08), 0, 'assumed: ')])  # far away: not trained
def test_convention_gives_way_to_what_is_clearly_nearer(errors: tuple[float, ...], taken: int, says: str,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    choices = ({'res_scale': 1}, {'res_scale': 0.1}, {'res_scale': 0.5})
    left = list(errors)
    monkeypatch.setattr(measuring, '_distance', lambda found, net: left.pop(0))
    found, (note, ) = measuring.choose(Found(EDSR, 2, {}, choices=choices), build(EDSR))
    assert found == choices[taken]
    assert note.startswith(says)
