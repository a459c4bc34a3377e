"""A teacher in 16 bits, in another memory layout, compiled: nobody outside of it sees more than a small difference."""

from __future__ import annotations

import copy
import math
import shutil
import sys

import pytest
import torch
from basicsr.archs import build_network
from helpers import ARCHITECTURES, TEACHERS, batch, blocks_of, make_pair
from torch import Tensor, nn
from torch._dynamo.utils import counters

from mipkd_plugin import Execution, NetPass
from mipkd_plugin.networks.execution import PLAIN, difference
from mipkd_plugin.networks.inspection import reentry_problem
from mipkd_plugin.networks.tapped_net import TappedNet

HALVES = {'bfloat16': Execution(torch.bfloat16), 'float16': Execution(torch.float16),
          'bfloat16, channels_last': Execution(torch.bfloat16, channels_last=True),
          'channels_last': Execution(channels_last=True)}
LIMITS = {torch.bfloat16: (0.02, 0.02), torch.float16: (0.003, 0.003), torch.float32: (1e-6, 1e-6)}
"""Largest error of the output, and of a feature relative to its size: a few units in the last place of each type."""


def teacher_of(arch: str) -> nn.Module:
    return make_pair(arch)[1]


def tapped_teacher(arch: str, execution: Execution = PLAIN) -> TappedNet:
    net = teacher_of(arch)
    return TappedNet(net, blocks_of(net), frozen=True, execution=execution)


def test_names() -> None:
    assert [str(execution) for execution in HALVES.values()] == list(HALVES)
    assert str(PLAIN) == 'float32'
    assert str(Execution(torch.float16, True, True)) == 'float16, channels_last, compiled'


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_the_default_changes_no_bit_and_casts_nothing(arch: str) -> None:
    net, lq = teacher_of(arch).eval(), batch(arch)[0]
    with torch.no_grad():
        plain = net(lq)
    before = copy.deepcopy(net.state_dict())
    with TappedNet(net, blocks_of(net), frozen=True) as tapped:
        run = tapped(lq)
        assert torch.equal(run.output, plain)
        assert torch.equal(tapped.image(lq), plain)
        assert tapped._runner is net
        assert tapped.execution.run(lambda x: x, lq) is lq
        assert tapped.execution.leave(lq, torch.float64) is lq
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize('execution', HALVES.values(), ids=HALVES)
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_output_and_features_are_those_of_float32_but_for_rounding(arch: str, execution: Execution) -> None:
    lq = batch(arch)[0]
    reference, tapped = tapped_teacher(arch)(lq), tapped_teacher(arch, execution)
    parameter = tapped.net.conv_first.weight
    assert parameter.dtype == execution.dtype
    assert parameter.is_contiguous(memory_format=torch.channels_last) or not execution.channels_last
    run = tapped(lq)
    for tensor in (run.output, tapped.image(lq), tapped.probe(lq)[1], *run.features.values()):
        assert tensor.dtype == torch.float32
    assert run.output.is_contiguous()
    found, (output, feature) = difference(run, reference), LIMITS[execution.dtype]
    assert found.output_max <= output
    assert max(found.features.values()) <= feature
    assert (found.output_max > 0) is (execution.dtype != torch.float32) or execution.channels_last
    assert list(found.features) == list(reference.features)


@pytest.mark.parametrize('execution', HALVES.values(), ids=HALVES)
@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_features_reenter_and_gradients_pass(arch: str, execution: Execution) -> None:
    """Gradients of a mean over many numbers, with a small weight: float16 would round them to 0."""
    lq, gradients = batch(arch)[0], []
    for tapped in (tapped_teacher(arch), tapped_teacher(arch, execution)):
        first, second, *_, last = tapped.taps
        run = tapped(lq)
        middle = tapped.segment(run.features[first], first, second)
        image = tapped.finish(lq, last, run.features[last])
        assert middle.dtype == image.dtype == torch.float32
        torch.testing.assert_close(middle, run.features[second], rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(image, run.output, rtol=1e-5, atol=1e-5)
        feature = run.features[first].clone().requires_grad_()
        image = tapped.finish(lq, second, tapped.segment(feature, first, second))
        (1e-4 * (image - 0.5).square().mean()).backward()
        assert feature.grad.dtype == torch.float32
        assert all(p.grad is None for p in tapped.net.parameters())
        gradients.append(feature.grad)
    assert gradients[0].norm() > 0
    assert (gradients[1] - gradients[0]).norm() <= 3 * LIMITS[execution.dtype][1] * gradients[0].norm()


def test_an_attention_mask_for_another_size_meets_the_type_of_the_weights() -> None:
    """SwinIR makes it in float32 wherever an image is not of ``img_size``."""
    lq = torch.rand(2, 3, 8, 16)
    tapped = tapped_teacher('SwinIR', HALVES['bfloat16'])
    assert difference(tapped(lq), tapped_teacher('SwinIR')(lq)).output_max < 0.02
    assert reentry_problem(tapped, lq, tapped.taps) == ''


def test_only_a_frozen_network_is_cast() -> None:
    net = build_network(TEACHERS['EDSR'])
    for arguments in ({}, {'frozen': True, 'runner': net}):
        with pytest.raises(ValueError, match='only a frozen network without a runner can be bfloat16'):
            TappedNet(net, ['body.1'], execution=HALVES['bfloat16'], **arguments)
    assert net.conv_first.weight.dtype == torch.float32


def test_difference() -> None:
    reference = NetPass(torch.zeros(1, 1, 2, 2), {'a': torch.tensor([3.0, 4.0]), 'b': torch.zeros(1)})
    run = NetPass(torch.tensor([[[[0.1, 0.0], [0.0, -0.3]]]]), {'a': torch.tensor([3.0, 3.5]), 'b': torch.zeros(1)})
    found = difference(run, reference)
    assert found.output_max == pytest.approx(0.3)
    assert found.output_mean == pytest.approx(0.1)
    assert found.psnr == pytest.approx(-10 * math.log10(0.1 / 4))
    assert found.features == {'a': pytest.approx(0.1), 'b': 0.0}
    assert found.finite
    assert difference(reference, reference).psnr == math.inf
    bad = NetPass(run.output, {**run.features, 'a': torch.tensor([math.nan, 1.0])})
    assert not difference(bad, reference).finite
    assert not difference(NetPass(run.output / 0, run.features), reference).finite


# ----------------------------------------------------------------------------------------------------- torch.compile
def graphs() -> int:
    return int(counters['stats']['unique_graphs'])


def traced(arch: str, taps: list[str] | None, monkeypatch: pytest.MonkeyPatch, net: nn.Module | None = None,
           execution: Execution = Execution(compile=True)) -> TappedNet:  # noqa: B008
    """A teacher whose compiled code is traced as always, but not given to a compiler of machine code."""
    real = torch.compile
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'compile', lambda function: real(function, backend='eager'))
        net = teacher_of(arch) if net is None else net
        return TappedNet(net, blocks_of(net) if taps is None else taps, frozen=True, execution=execution)


@pytest.mark.parametrize('arch', ARCHITECTURES)
def test_the_whole_pass_is_one_graph_and_is_compiled_once(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    counters.clear()
    lq, reference = batch(arch)[0], tapped_teacher(arch)
    with traced(arch, None, monkeypatch, execution=Execution(torch.bfloat16, compile=True)) as tapped:
        tapped(lq)
        assert graphs() == 0, 'the first pass is not compiled'
        for seed in range(4):
            lq = batch(arch, seed=seed)[0]
            found = difference(tapped(lq), reference(lq))
            assert max(found.output_max, *found.features.values()) < 0.02
            assert graphs() == 1, 'compiled again'
        for samples in (3, 5, 4):  # the last batch of an epoch, and others
            other = batch(arch, samples=samples)[0]
            assert difference(tapped(other), reference(other)).output_max < 0.02
        assert graphs() == 2, 'once for the first size, once for all others'
        run = tapped(lq)
        first, second = tapped.taps[:2]
        again = tapped.segment(run.features[first], first, second)
        torch.testing.assert_close(again, run.features[second], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(tapped.finish(lq, second, again), run.output, rtol=1e-5, atol=1e-5)
        tapped(lq)
        assert graphs() == 2, 'a pass that enters in the middle leaves the compiled code alone'
    assert not counters['graph_break']


def test_two_wrappers_of_one_network_do_not_share_compiled_code(monkeypatch: pytest.MonkeyPatch) -> None:
    net, lq = teacher_of('EDSR'), batch('EDSR')[0]
    for taps in (['body.1'], ['body.3', 'body.4'], ['body.1'], []):
        with traced('EDSR', taps, monkeypatch, net) as tapped:
            before = graphs()
            for _ in range(3):
                assert list(tapped(lq).features) == taps
            assert graphs() == before + 1
    closed = traced('EDSR', ['body.1'], monkeypatch, net)
    closed.close()
    with pytest.raises(RuntimeError, match='was closed'):
        closed(lq)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_images_of_other_sizes_record_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """DUKD runs the teacher on smaller images between a pass and a re-entry."""
    lq, small = batch('SwinIR')[0], torch.rand(2, 3, 4, 4)
    reference = tapped_teacher('SwinIR')
    with traced('SwinIR', None, monkeypatch) as tapped:
        for _ in range(2):
            run = tapped(lq)
            torch.testing.assert_close(tapped.image(small), reference.image(small), rtol=1e-4, atol=1e-5)
            first, second = tapped.taps[:2]
            torch.testing.assert_close(tapped.segment(run.features[first], first, second), run.features[second],
                                       rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(sys.platform == 'win32' or shutil.which('g++') is None, reason='torch.compile needs a C++ compiler')
def test_machine_code_gives_the_same_numbers() -> None:
    """The only test that compiles to machine code, which takes half a minute or more."""
    reference = tapped_teacher('EDSR')
    with tapped_teacher('EDSR', Execution(torch.bfloat16, channels_last=True, compile=True)) as tapped:
        for samples in (2, 2, 3):
            lq: Tensor = batch('EDSR', samples=samples)[0]
            run = tapped(lq)
            found = difference(run, reference(lq))
            assert max(found.output_max, *found.features.values()) < 0.02
            assert run.output.dtype == torch.float32
            image = tapped.finish(lq, 'body.2', run.features['body.2'])
            assert (image - run.output).abs().max() < 0.02
