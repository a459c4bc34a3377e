"""TappedNet: features by hooks, re-entry in the middle, no trace left behind."""

from __future__ import annotations

import copy

import pytest
import torch
from basicsr.archs import build_network
from helpers import ARCHITECTURES, TEACHERS, batch, blocks_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mipkd_plugin.networks.inspection import reentry_problem
from mipkd_plugin.networks.probing import list_taps
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trunk import TapError, missing_taps

NETWORKS = {**TEACHERS, 'MSRResNet': {'type': 'MSRResNet', 'num_feat': 8, 'num_block': 5, 'upscale': 2},
            'RRDBNet_x2': {**TEACHERS['RRDBNet'], 'scale': 2}}


def hook_count(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def flops(function, *args) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


@pytest.mark.parametrize('arch', NETWORKS)
def test_segment_equals_the_full_run(arch: str) -> None:
    net = build_network(NETWORKS[arch]).eval()
    blocks = blocks_of(net)
    lq = torch.rand(2, 3, 8, 12)
    with TappedNet(net, blocks) as tapped:
        run = tapped(lq)
        for first in range(len(blocks) - 1):
            for last in range(first + 1, len(blocks)):
                result = tapped.segment(run.features[blocks[first]], blocks[first], blocks[last])
                torch.testing.assert_close(result, run.features[blocks[last]], rtol=0, atol=0)


@pytest.mark.parametrize('arch', NETWORKS)
def test_finish_with_own_feature_equals_the_plain_output(arch: str) -> None:
    net = build_network(NETWORKS[arch]).eval()
    blocks = blocks_of(net)
    lq = torch.rand(2, 3, 8, 12)
    plain = net(lq)
    with TappedNet(net, blocks) as tapped:
        run = tapped(lq)
        torch.testing.assert_close(run.output, plain, rtol=0, atol=0)
        for block in blocks:
            torch.testing.assert_close(tapped.finish(lq, block, run.features[block]), plain, rtol=0, atol=0)
    torch.testing.assert_close(net(lq), plain, rtol=0, atol=0)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_finish_depends_on_the_feature_it_is_given(arch: str) -> None:
    net = build_network(NETWORKS[arch]).eval()
    blocks = blocks_of(net)
    lq = batch(arch)[0]
    with TappedNet(net, blocks) as tapped:
        feature = tapped(lq).features[blocks[1]].detach()
        changed = (feature + torch.randn_like(feature)).requires_grad_()
        image = tapped.finish(lq, blocks[1], changed)
        assert (image - net(lq)).abs().max() > 0
        image.sum().backward()
        assert changed.grad.abs().sum() > 0


@pytest.mark.parametrize('arch', NETWORKS)
def test_skipped_blocks_are_not_computed(arch: str) -> None:
    net = build_network(NETWORKS[arch]).eval()
    blocks = blocks_of(net)
    lq = torch.rand(1, 3, 8, 8)
    with TappedNet(net, blocks) as tapped, torch.no_grad():
        features = tapped(lq).features
        tapped.trace(lq)  # made once for a size
        one_block = [flops(tapped.segment, features[a], a, b) for a, b in zip(blocks, blocks[1:])]
        assert min(one_block) > 0
        whole = flops(tapped.segment, features[blocks[0]], blocks[0], blocks[-1])
        assert whole == sum(one_block)
        finishing = [flops(tapped.finish, lq, block, features[block]) for block in blocks]
        assert [a - b for a, b in zip(finishing, finishing[1:])] == one_block


def test_hooks_come_and_go() -> None:
    net = build_network(NETWORKS['EDSR'])
    assert hook_count(net) == 0
    tapped = TappedNet(net, ['body.1', 'body.3'])
    installed = hook_count(net)
    assert installed == 2
    lq = torch.rand(1, 3, 8, 8)
    tapped(lq)
    assert hook_count(net) == installed
    with pytest.raises(RuntimeError):
        tapped(torch.rand(1, 7, 8, 8))
    assert hook_count(net) == installed
    assert tapped(lq).features.keys() == {'body.1', 'body.3'}
    tapped.close()
    assert hook_count(net) == 0
    with pytest.raises(RuntimeError, match='was closed'):
        tapped(lq)


def test_hooks_are_silent_outside_own_calls() -> None:
    net = build_network(NETWORKS['EDSR'])
    tapped = TappedNet(net, ['body.1'])
    with pytest.raises(RuntimeError):
        tapped(torch.rand(1, 7, 8, 8))
    net(torch.rand(1, 3, 8, 8))
    assert tapped._watch.seen is None


def test_exception_during_finish_restores_the_blocks() -> None:
    net = build_network(NETWORKS['EDSR']).eval()
    lq = torch.rand(1, 3, 8, 8)
    plain = net(lq)
    with TappedNet(net, ['body.1', 'body.3']) as tapped:
        tapped.probe(lq)
        with pytest.raises(RuntimeError):
            tapped.finish(lq, 'body.3', torch.rand(1, 5, 8, 8))
        torch.testing.assert_close(net(lq), plain, rtol=0, atol=0)


@pytest.mark.parametrize('arch', NETWORKS)
def test_image_is_the_plain_output_and_records_nothing(arch: str) -> None:
    """A pass of another size between a run and a re-entry changes neither the features nor the blocks' arguments."""
    net = build_network(NETWORKS[arch]).eval()
    blocks = blocks_of(net)
    lq, other = torch.rand(2, 3, 8, 12), torch.rand(1, 3, 16, 4)
    plain = net(other)
    with TappedNet(net, blocks) as tapped:
        run = tapped(lq)
        before, infos = {path: feature.clone() for path, feature in run.features.items()}, dict(tapped.infos)
        image = tapped.image(other)
        torch.testing.assert_close(image, plain, rtol=0, atol=0)
        assert image.requires_grad
        assert (tapped._watch.seen, tapped.infos) == (None, infos)
        assert all(torch.equal(run.features[path], feature) for path, feature in before.items())
        for first, last in zip(blocks, blocks[1:]):
            again = tapped.segment(run.features[first], first, last)
            torch.testing.assert_close(again, run.features[last], rtol=0, atol=0)
        torch.testing.assert_close(tapped.finish(lq, blocks[1], run.features[blocks[1]]), run.output, rtol=0, atol=0)
        (image.sum() + run.output.sum()).backward()  # both graphs are whole


def test_image_goes_through_the_runner_and_leaves_the_mode() -> None:
    net, seen = build_network(NETWORKS['EDSR']).train(), []

    def runner(lq: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(lq.shape))
        return net(lq)

    with TappedNet(net, ['body.1'], runner=runner) as tapped:
        tapped.image(torch.rand(1, 3, 8, 8))
        tapped.image(torch.rand(2, 3, 5, 9))
    assert seen == [(1, 3, 8, 8), (2, 3, 5, 9)]
    assert net.training


def test_image_of_a_frozen_net_has_no_gradient_and_no_drop_path() -> None:
    net = build_network({**NETWORKS['SwinIR'], 'drop_path_rate': 0.9})
    lq = torch.rand(2, 3, 8, 8)
    with TappedNet(net, ['layers.1'], frozen=True) as tapped:
        expected = tapped(lq).output
        net.train()
        image = tapped.image(lq.clone().requires_grad_())
        assert not any(module.training for module in net.modules())
        assert not image.requires_grad
        torch.testing.assert_close(image, expected, rtol=0, atol=0)


def test_order_is_the_given_one() -> None:
    net = build_network({**NETWORKS['EDSR'], 'num_block': 12})
    taps = ['body.2', 'body.10']
    with TappedNet(net, taps) as tapped:
        assert list(tapped(torch.rand(1, 3, 8, 8)).features) == taps


def test_tokens_are_maps_outside() -> None:
    net = build_network(NETWORKS['SwinIR']).eval()
    lq = torch.rand(2, 3, 8, 12)
    with TappedNet(net, ['layers.1', 'patch_unembed']) as tapped:
        infos, _ = tapped.probe(lq)
        assert infos['layers.1'].tokens
        feature = tapped(lq).features['layers.1']
        assert feature.shape == (2, 12, 8, 12)
        tokens = net.layers[1](net.layers[0](net.patch_embed(net.conv_first(lq - net.mean)), (8, 12)), (8, 12))
        torch.testing.assert_close(feature[1, :, 3, 5], tokens[1, 3 * 12 + 5])


@pytest.mark.parametrize(('arch', 'path', 'reason'), [
    ('EDSR', 'conv_after_body', 'changed in place'),
    ('RCAN', 'conv_after_body', 'changed in place'),
    ('EDSR', 'body.0.conv1', 'changed in place'),
    ('RRDBNet', 'body.0.rdb1.conv1', 'changed in place'),
    ('RRDBNet', 'lrelu', 'runs 3 times'),
    ('SwinIR', 'layers.0.residual_group.blocks.0.norm1', 'fine'),
])
def test_probe_refuses_what_a_hook_cannot_see(arch: str, path: str, reason: str) -> None:
    net = build_network(NETWORKS[arch])
    with TappedNet(net, [path]) as tapped:
        info = tapped.probe(torch.rand(1, 3, 8, 8))[0][path]
        assert reason in (info.problem or 'fine')
        if info.problem:
            with pytest.raises(TapError, match=f'{path}.*{reason}'):
                tapped(torch.rand(1, 3, 8, 8))


def test_probe_keeps_modes_and_random_numbers() -> None:
    net = build_network(NETWORKS['SwinIR']).train()
    net.layers[1].eval()
    before = {name: module.training for name, module in net.named_modules()}
    state = torch.get_rng_state()
    with TappedNet(net, ['layers.1']) as tapped:
        tapped.probe(torch.rand(1, 3, 8, 8, generator=torch.Generator()))
    assert {name: module.training for name, module in net.named_modules()} == before
    assert torch.equal(torch.get_rng_state(), state)


def test_frozen_net_stays_in_eval_mode_and_gets_no_gradient() -> None:
    net = build_network({**NETWORKS['SwinIR'], 'drop_path_rate': 0.9})
    lq = torch.rand(2, 3, 8, 8)
    with TappedNet(net, ['layers.1', 'layers.3'], frozen=True) as tapped:
        first = tapped(lq)
        net.train()
        again = tapped(lq)
        assert not any(module.training for module in net.modules())
        torch.testing.assert_close(again.output, first.output, rtol=0, atol=0)
        assert not again.output.requires_grad
        net.train()
        feature = again.features['layers.1'].clone().requires_grad_()
        tapped.finish(lq, 'layers.3', tapped.segment(feature, 'layers.1', 'layers.3')).sum().backward()
        assert feature.grad.abs().sum() > 0
        assert all(p.grad is None for p in net.parameters())
        net.requires_grad_()  # as released code leaves a teacher: without no_grad a graph would be kept
        run = tapped(lq)
        assert not any(found.requires_grad for found in (run.output, *run.features.values(), tapped.image(lq)))


def test_a_feature_belongs_to_one_size() -> None:
    net = build_network(NETWORKS['SwinIR']).eval()
    with TappedNet(net, ['layers.0', 'layers.1']) as tapped:
        with pytest.raises(RuntimeError, match='has not run yet'):
            tapped.segment(torch.rand(1, 12, 8, 8), 'layers.0', 'layers.1')
        run = tapped(torch.rand(1, 3, 8, 8))
        with pytest.raises(RuntimeError, match="'layers.0' of SwinIR returns 8×8 for such images, got 8×12"):
            tapped.segment(torch.rand(1, 12, 8, 12), 'layers.0', 'layers.1')
        wide = torch.rand(1, 3, 8, 12)
        again = tapped.segment(torch.rand(1, 12, 8, 12), 'layers.0', 'layers.1', wide)
        assert again.shape == (1, 12, 8, 12)
        assert tapped.segment(run.features['layers.0'], 'layers.0', 'layers.1').equal(run.features['layers.1'])


def test_errors_name_the_path_and_a_near_one() -> None:
    net = build_network(NETWORKS['EDSR'])
    with pytest.raises(TapError, match="'bodi.1' does not exist in EDSR; did you mean 'body.1'"):
        TappedNet(net, ['bodi.1'])
    with pytest.raises(TypeError, match='needs the bare network, got DataParallel'):
        TappedNet(nn.DataParallel(net), [])
    with TappedNet(net, ['body.1', 'conv_first']) as tapped:
        feature = tapped(torch.rand(1, 3, 8, 8)).features['body.1']
        with pytest.raises(TapError, match="'body.0' does not follow from 'body.1' in EDSR"):
            tapped.segment(feature, 'body.1', 'body.0')
        with pytest.raises(TapError, match="'body.1' does not follow from 'body.1' in EDSR"):
            tapped.segment(feature, 'body.1', 'body.1')


def test_hooks_survive_a_deep_copy_of_the_network() -> None:
    net = build_network(NETWORKS['EDSR'])
    lq = torch.rand(1, 3, 8, 8)
    with TappedNet(net, ['body.1']) as tapped:
        copied = copy.deepcopy(net)
        torch.testing.assert_close(copied(lq), net(lq))
        assert tapped._watch.seen is None


def test_list_taps_looks_at_every_module() -> None:
    net = build_network(NETWORKS['EDSR'])
    infos = {info.path: info for info in list_taps(net, torch.rand(1, 3, 8, 8))}
    assert infos.keys() == {name for name, _ in net.named_modules() if name}
    assert (infos['upsample'].height, infos['upsample'].channels) == (16, 12)
    assert 'in place' in infos['conv_after_body'].problem
    assert hook_count(net) == 0


class KeywordBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
        return x + gain * self.conv(x)


class Toy(nn.Module):
    """A network whose blocks are called in one of several ways."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        self.head = nn.Conv2d(3, 4, 3, padding=1)
        self.layers = nn.ModuleList(KeywordBlock() for _ in range(3))
        self.tail = nn.Conv2d(4, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(x)
        for layer in self.layers:
            if self.style == 'keyword only':
                x = layer(x=x)
            elif self.style == 'between':
                x = torch.relu(layer(x))
            else:
                x = layer(x, gain=3.0)
        return self.tail(x)


def test_keyword_arguments_of_the_blocks_are_kept() -> None:
    net, lq = Toy('gain').eval(), torch.rand(1, 3, 8, 8)
    with TappedNet(net, ['layers.0', 'layers.2']) as tapped:
        run = tapped(lq)
        again = tapped.segment(run.features['layers.0'], 'layers.0', 'layers.2')
        torch.testing.assert_close(again, run.features['layers.2'], rtol=0, atol=0)
        assert reentry_problem(tapped, lq, ['layers.0', 'layers.2']) == ''
    assert hook_count(net) == 0


@pytest.mark.parametrize('style', ['keyword only', 'between'])
def test_whatever_lies_between_the_blocks_features_reenter(style: str) -> None:
    paths, lq = ['layers.0', 'layers.1', 'layers.2'], torch.rand(2, 3, 8, 8)
    with TappedNet(Toy(style), paths) as tapped:
        assert reentry_problem(tapped, lq, paths) == ''
        run = tapped(lq)
        assert tapped.segment(run.features['layers.0'], 'layers.0', 'layers.2').equal(run.features['layers.2'])
        assert tapped.finish(lq, 'layers.1', run.features['layers.1']).equal(run.output)


def test_another_tap_of_another_size_does_not_disturb_reentry() -> None:
    net, lq = build_network(NETWORKS['SwinIR']).eval(), torch.rand(1, 3, 8, 8)
    with TappedNet(net, ['upsample', 'layers.0', 'layers.1']) as tapped:
        run = tapped(lq)
        torch.testing.assert_close(tapped.segment(run.features['layers.0'], 'layers.0', 'layers.1'),
                                   run.features['layers.1'])


def test_a_closed_net_cannot_be_reentered() -> None:
    net, lq = build_network(NETWORKS['EDSR']).eval(), torch.rand(1, 3, 8, 8)
    tapped = TappedNet(net, ['body.0', 'body.1'])
    feature = tapped(lq).features['body.0']
    tapped.close()
    for call in (lambda: tapped.segment(feature, 'body.0', 'body.1'), lambda: tapped.finish(lq, 'body.0', feature)):
        with pytest.raises(RuntimeError, match='was closed'):
            call()


def test_a_feature_reenters_behind_a_sum_that_is_made_in_place() -> None:
    torch.manual_seed(0)
    net, lq = build_network(TEACHERS['EDSR']), torch.rand(2, 3, 8, 8)
    with TappedNet(net, ['upsample']) as tapped:
        run = tapped(lq)
        assert tapped.finish(lq, 'upsample', run.features['upsample']).equal(run.output)


def test_the_name_of_a_view_is_no_tap_and_its_module_is_named() -> None:
    net = build_network(TEACHERS['EDSR'])
    problem, = missing_taps([['body.0', 'body.1 unshuffled 2']], net, net)
    assert problem.endswith("; write 'body.1' alone: how it is shown is chosen for its pair")
