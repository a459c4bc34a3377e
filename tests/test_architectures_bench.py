"""The bench of architectures judges stand-ins of them as expected, and survives those that crash."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import architecture_cases, architectures
from benchmarks.architecture_table import changes, passes, table
from benchmarks.architecture_trials import Case, is_right
from stand_ins import CASES, Net
from torch import Tensor, nn

from mipkd_plugin.networks.tapped_net import TappedNet


@pytest.mark.parametrize('case', CASES, ids=lambda case: case.name)
def test_shapes_in_which_architectures_come(case: Case) -> None:
    one = architectures.measure(case)
    assert {trial: result for trial, result in one['results'].items() if result != 'ok'} == {}
    assert one['right'], one['taps']
    assert one['reentry'] <= 1e-6
    assert one['gradient'] <= 1e-6


def test_basicsr_architectures_can_be_built_and_have_their_taps() -> None:
    for case in architecture_cases.basicsr_cases():
        net = case.build(False).eval()
        with torch.no_grad():
            image = net(torch.rand(1, 3, case.size, case.size))
        assert image.shape == (1, 3, case.size * case.scale, case.size * case.scale), case.name
        found = [path for path, _ in net.named_modules() if is_right([path], case.taps)]
        assert len(found) >= 3, case.name


def test_right_taps_are_those_of_a_person() -> None:
    assert is_right(['body.0', 'body.12'], ['body.#'])
    assert is_right(['block1', 'blockm'], ['body.#', 'block*'])
    assert is_right(['body.0', 'block1'], ['body.#', 'block*'])
    assert not is_right(['body.0', 'head'], ['body.#', 'block*'])
    assert not is_right(['body.0.conv'], ['body.#', 'body*'])
    assert not is_right([], ['body.#'])


class Endless(Net):
    def forward(self, lq: Tensor) -> Tensor:
        time.sleep(60)
        return super().forward(lq)


class Huge(Net):
    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(lq) + torch.zeros(2**35)[0]


class Dying(Net):
    def forward(self, lq: Tensor) -> Tensor:
        os._exit(7)


class Infinite(Net):
    def forward(self, lq: Tensor) -> Tensor:
        return super().forward(lq) / 0


def missing(wide: bool) -> nn.Module:
    raise ModuleNotFoundError(f"No module named 'mamba_ssm' ({wide})")


@pytest.mark.parametrize(('build', 'said'), [
    (Endless, 'took over 2 s'), (Huge, 'out of memory'), (Dying, 'its process ended'), (Infinite, 'not finite'),
    (missing, "cannot be built: ModuleNotFoundError: No module named 'mamba_ssm' (False)")])
def test_what_goes_wrong_is_said_and_ends_one_architecture_alone(build: Any, said: str,
                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, 'LOSSES', ['MiPKD'])
    monkeypatch.setattr(architectures, 'ROLES', ['student'])
    one = architectures.measure_apart(Case(build.__name__, build, ('body.#', )), seconds=2)
    assert said in one['results']['MiPKD/student']
    assert not one['right']


class Deaf(Net):
    def trunk(self, x: Tensor) -> Tensor:
        return 0 * super().trunk(x)


@pytest.mark.parametrize('role', ['student', 'teacher', 'both'])
def test_gradient_that_is_cut_off_or_doubled_is_seen(role: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, finish = Case('Net', Net, ('body.#', )), TappedNet.finish
    assert architectures.try_role(case, 'MiPKD', role, 60)['gradient'] == 0
    for changed in (lambda x: x.detach() + 0.9 * (x - x.detach()), lambda x: 2 * x - x.detach()):
        monkeypatch.setattr(TappedNet, 'finish', lambda net, lq, path, x, c=changed: finish(net, lq, path, c(x)))
        assert architectures.try_role(case, 'MiPKD', role, 60)['gradient'] > 0.05


def test_trunk_that_does_not_matter_is_seen() -> None:
    result = architectures.try_role(Case('Deaf', Deaf, ('body.#', )), 'MiPKD', 'teacher', 60)['result']
    assert 'so a feature that re-enters there has no effect' in result, result


def test_table_totals_and_changes() -> None:
    good = architectures.summary(Case('SPAN', Net, ('body.#', )), {
        f'{loss}/{role}': {'result': 'ok', 'taps': {'student': ['body.1', 'body.2']}, 'reentry': 0.0}
        for loss in architectures.LOSSES for role in architectures.ROLES})
    bad = architectures.summary(Case('SPAN-s', Net, ('block_#', )), {}, 'its process ended')
    lines = list(table({'a/SPAN': good, 'a/SPAN-s': bad}))
    assert '| SPAN | extra | `body.1` `body.2` | yes | ok | ok | ok | 0.0 | – |' in lines
    assert '| SPAN-s | extra | none | no: `block_#` | 1 / 1 / 1 | 1 / 1 / 1 | 1 / 1 / 1 | – | – |' in lines
    assert '1. its process ended' in lines
    assert '| MiPKD | 1 | 1 | 1 | 1 | 1 |' in lines
    assert passes(good, 'MiPKD')
    assert not any('Another image' in line for line in lines)
    assert any('1e-06: a/SPAN.' in line for line in table({'a/SPAN': {**good, 'reentry': 0.1}}))
    wrong = {**good, 'right': False}
    assert not passes(wrong, 'MiPKD')
    assert list(changes({'a/SPAN': bad}, {'a/SPAN': good}))[:2] == [
        "a/SPAN: taps [] → ['body.1', 'body.2']", 'a/SPAN, FitNets/student: its process ended → ok']
    assert list(changes({'a/SPAN': good}, {'a/SPAN': good})) == []


def test_command_with_an_extra_file(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, 'all_cases', lambda: ([], ['spandrel is not installed']))
    extra = tmp_path / 'mine.py'
    extra.write_text("from stand_ins import Net\nCASES = [('Mine', Net, ('body.#', ))]\n")
    out = tmp_path / 'found.json'
    architectures.main(['--extra', str(extra), '--json', str(out)])
    printed = capsys.readouterr().out
    assert '| Mine | extra | `body.0` `body.2` `body.3` | yes | ok | ok | ok | 0.0 | ' in printed
    assert 'Skipped: spandrel is not installed' in printed
    assert json.loads(out.read_text())['architectures']['extra/Mine']['results']['MiPKD/both'] == 'ok'
    architectures.main(['--extra', str(extra), '--compare', str(out)])
    assert '→' not in capsys.readouterr().out
