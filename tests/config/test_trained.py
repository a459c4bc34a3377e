"""``load_trained``: the network of an option file with the weights of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs import build_network

from mipkd_plugin.config import OptionError
from mipkd_plugin.config.trained import load_trained

Make = Callable[..., dict[str, Any]]


def state_of(network: dict[str, Any], value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full_like(tensor, value) for name, tensor in build_network(network).state_dict().items()}


@pytest.mark.parametrize(('content', 'param_key', 'value'), [
    ({'params': 1.0, 'params_ema': 2.0}, ..., 2.0), ({'params': 1.0, 'params_ema': 2.0}, 'params', 1.0),
    ({'params': 1.0}, ..., 1.0), (3.0, ..., 3.0), (3.0, None, 3.0), ({'average': 4.0}, 'average', 4.0)])
def test_which_weights(content: Any, param_key: Any, value: float, train_options: Make, tmp_path: Path) -> None:
    opt, key = train_options(), {} if param_key is ... else {'param_key': param_key}
    saved = ({name: state_of(opt['network_g'], own) for name, own in content.items()} if isinstance(content, dict)
             else {f'module.{name}': tensor for name, tensor in state_of(opt['network_g'], content).items()})
    torch.save(saved, tmp_path / 'net.pth')
    net = load_trained(opt, tmp_path / 'net.pth', **key)
    assert not net.training
    assert all(bool((tensor == value).all()) for tensor in net.state_dict().values())


def test_the_teacher_of_an_option_file(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    weights = opt['teacher']['weights']
    net = load_trained(opt, weights, section='teacher')
    assert torch.equal(net.conv_first.weight, torch.load(weights)['params']['conv_first.weight'])
    del opt['teacher']['network'], opt['teacher']['param_key']
    assert str(load_trained(opt, weights, section='teacher')) == str(net)


def refused(opt: dict[str, Any], path: Path, *says: str, **options: Any) -> None:
    with pytest.raises(OptionError) as error:
        load_trained(opt, path, **options)
    assert len(error.value.problems) == 1
    for piece in says:
        assert piece in str(error.value)


@pytest.mark.parametrize('written', [True, False])
def test_weights_of_the_teacher(written: bool, train_options: Make) -> None:
    opt = train_options()
    if not written:
        del opt['teacher']['network'], opt['teacher']['param_key']
    refused(opt, Path(opt['teacher']['weights']), '--weights: ', 'holds the weights of the teacher, not of the student '
            'EDSR', 'give a net_g_*.pth of the run, in experiments/tiny/models')


def test_what_does_not_fit(train_options: Make, tmp_path: Path) -> None:
    opt, path = train_options(), tmp_path / 'net.pth'
    refused(opt, tmp_path / 'no.pth', 'does not exist', 'fix the path')
    path.write_text('<!doctype html>')
    refused(opt, path, 'is a web page, not a file of weights')
    own = state_of(opt['network_g'], 1.0)
    torch.save({'params': state_of({**opt['network_g'], 'num_block': 4}, 1.0)}, path)
    refused(opt, path, 'does not fit EDSR: 4 unexpected (body.3.conv1.weight', 'describe the saved network in ')
    torch.save({'params': {**own, 'conv_last.bias': torch.full((3, ), torch.nan)}}, path)
    refused(opt, path, 'are not finite: 1 of 20 tensors', 'the first is conv_last.bias')
    torch.save({'params': own}, path)
    refused(opt, path, "holds the keys params, but no state dict under 'params_ema'", param_key='params_ema')
    opt['network_g'] = {**opt['network_g'], 'num_feet': 8}
    refused(opt, path, 'network_g.num_feet', 'num_feat')
    del opt['network_g']
    refused(opt, path, 'network_g.type: does not name a network')


def test_safetensors_and_a_teacher_with_official_names(train_options: Make, tmp_path: Path) -> None:
    save_file = pytest.importorskip('safetensors.torch').save_file
    opt = train_options()
    save_file(state_of(opt['network_g'], 2.0), tmp_path / 'net.safetensors')
    net = load_trained(opt, tmp_path / 'net.safetensors')
    assert all(bool((tensor == 2).all()) for tensor in net.state_dict().values())
    names = {'conv_first': 'head.0', 'conv_after_body': 'body.5', 'conv_last': 'tail.1', 'upsample.0': 'tail.0.0'}
    state = {}
    for name, tensor in torch.load(opt['teacher']['weights'])['params'].items():
        module, _, kind = name.rpartition('.')
        module = names.get(module, module.replace('conv1', 'body.0').replace('conv2', 'body.2'))
        state[f'{module}.{kind}'] = tensor
    torch.save(state, tmp_path / 'official.pt')
    one, other = (load_trained(opt, path, section='teacher') for path in (tmp_path / 'official.pt',
                                                                          opt['teacher']['weights']))
    images = torch.rand(1, 3, 8, 8)
    assert torch.equal(one(images), other(images))
