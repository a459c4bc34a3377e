"""What a training shows on a terminal, and in a file."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from mipkd_plugin.recipes import progress
from mipkd_plugin.recipes.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def model() -> Any:
    """A stand-in for a model that BasicSR has built."""
    found = SimpleNamespace(log_dict={}, metric_results={'psnr': 31.234, 'ssim': 0.91234})

    def optimize_parameters(current_iter: int) -> None:
        found.log_dict = {'l_pix': 0.5 / current_iter, 'l_feat': 2.0}

    found.optimize_parameters, found.resume_training = optimize_parameters, lambda state: None
    found.validation = lambda *args: None
    return found


def trained(shown: Progress, first: int = 1) -> str:
    followed = model()
    shown.attach(followed)
    if first > 1:
        followed.resume_training({'iter': first - 1})
    loader = SimpleNamespace(dataset=SimpleNamespace(opt={'name': 'Set5'}))
    for iteration in range(first, shown.total + 1):
        followed.optimize_parameters(iteration)
    followed.validation(loader, shown.total)
    followed.validation(loader, shown.total + 2)  # BasicSR's last one
    shown.bar.close()
    return shown.stream.getvalue()


def test_a_terminal_has_one_moving_line() -> None:
    said = trained(Progress(4, 8, stream=Terminal()))
    last = [line for line in said.split('\r') if '4/4' in line][-1]
    assert '100% |' in last
    for what in ('l_pix 0.125', 'l_feat 2', 'images/s', 'GB', '0 s left'):
        assert what in last, what
    assert said.count('after 4: Set5 PSNR 31.23 dB, SSIM 0.9123') == 1


def test_a_file_has_a_line_every_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    said = trained(Progress(300, 8, stream=io.StringIO()))
    assert said.splitlines()[0].startswith('300/300, l_pix 0.00167 l_feat 2, ')
    monkeypatch.setattr(progress, '_EVERY', 0)
    assert trained(Progress(3, 8, stream=io.StringIO())).count('left\n') == 3


def test_a_resumed_training_counts_on() -> None:
    said = trained(Progress(4, 8, stream=io.StringIO()), first=3)
    assert said.startswith('resumed after iteration 2 of 4\n')
    assert '4/4' in said
