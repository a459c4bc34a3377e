"""Re-parameterised layers become plain convolutions, and only where the numbers agree."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from export_students import ECBSR, NETWORKS, SPAN, of_class, student
from torch import Tensor, nn
from torch.nn import functional as F

from mipkd_plugin.exporting import Plan, export
from mipkd_plugin.exporting.merging import merge
from mipkd_plugin.exporting.student import noise


def test_ecbsr_becomes_a_network_that_options_can_describe() -> None:
    before = student(ECBSR)
    merged = merge(before)
    assert merged is not None
    assert merged.blocks == 4
    assert merged.is_described
    assert merged.student.network == {
        'type': 'SRVGGNetCompact', 'num_in_ch': 3, 'num_out_ch': 3, 'num_feat': 8, 'num_conv': 2, 'upscale': 2,
        'act_type': 'prelu'}
    assert merged.difference.largest < 1e-5
    assert merged.student.parameters < before.parameters / 2
    lq = noise(3, 9, 14)
    assert (merged.student(lq) - before(lq)).abs().max() < 1e-5


@pytest.mark.parametrize('change', [{'act_type': 'softplus'}, {'act_type': 'relu', 'with_idt': False},
                                    {'num_in_ch': 1, 'num_out_ch': 1}])
def test_other_ecbsr(change: dict[str, object]) -> None:
    before = student({**ECBSR, **change})
    merged = merge(before)
    assert merged is not None
    assert merged.is_described == ('softplus' not in change.values())
    lq = noise(before.channels, 9, 14)
    assert (merged.student(lq) - before(lq)).abs().max() < 1e-5


def test_span_is_merged_for_onnx_and_left_whole_for_weights(tmp_path: Path) -> None:
    pytest.importorskip('spandrel')
    before = student(SPAN)
    merged = merge(before)
    assert merged is not None
    assert merged.blocks == 20
    assert not merged.is_described
    assert not any(hasattr(module, 'eval_conv') for module in merged.student.net.modules())
    exported = export(before, Plan('basicsr', tmp_path / 'net.pth'))
    assert exported.merged is None
    assert exported.student.parameters == before.parameters


def test_plain_networks_have_nothing_to_merge() -> None:
    assert merge(student(NETWORKS['EDSR'])) is None


class RepBlock(nn.Module):
    """Two branches, of which ``switch_to_deploy`` makes one; ``bias`` is forgotten if it is wrong."""

    right = True

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)
        self.merged: nn.Conv2d | None = None

    def switch_to_deploy(self) -> None:
        merged = nn.Conv2d(3, 3, 3, padding=1)
        merged.weight.data = self.wide.weight.data + F.pad(self.narrow.weight.data, (1, 1, 1, 1))
        merged.bias.data = self.wide.bias.data + (self.narrow.bias.data if self.right else 0)
        self.merged = merged
        del self.wide, self.narrow

    def forward(self, x: Tensor) -> Tensor:
        return self.wide(x) + self.narrow(x) if self.merged is None else self.merged(x)


class WrongBlock(RepBlock):
    right = False


class RepNet(nn.Module):
    block: type[RepBlock] = RepBlock

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(self.block(), nn.ReLU(), self.block())

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.body(x), scale_factor=2)


class WrongNet(RepNet):
    block = WrongBlock


def test_blocks_that_switch_to_deploy() -> None:
    before = of_class(RepNet)
    merged = merge(before)
    assert merged is not None
    assert (merged.blocks, merged.kept) == (2, 0)
    assert merged.difference.largest < 1e-6
    assert isinstance(before.net.body[0].wide, nn.Conv2d)  # the student is left as it was


def test_blocks_whose_numbers_differ_are_left() -> None:
    before = of_class(WrongNet)
    assert merge(before) is None
    lq = torch.rand(1, 3, 8, 8)
    assert torch.equal(before(lq), before.net(lq))
