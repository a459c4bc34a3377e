"""What the benchmark of step times compares: methods on one pair, over plain training of its student."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmarks import step_time
from helpers import STUDENTS, tiny_options

from mipkd_plugin import config


@pytest.mark.parametrize(('model_type', 'arch', 'plain'), [
    ('DistillModel', 'EDSR', 'SRModel'), ('SwinIRDistillModel', 'SwinIR', 'SwinIRModel')])
def test_every_run_of_the_benchmark_can_be_trained(tmp_path: Path, model_type: str, arch: str, plain: str) -> None:
    opt = tiny_options(tmp_path, model_type=model_type, network_g=dict(STUDENTS[arch]), compare={'methods': {}})
    opt['teacher']['weights'] = 'nobody has them'
    runs = step_time.methods(opt, 2, str(tmp_path))
    assert list(runs) == ['none', 'logits', 'fitnet', 'mipkd', 'krnet']
    assert runs['none']['model_type'] == plain
    assert 'teacher' not in runs['none']
    assert 'distill_opt' not in runs['none']['train']
    for name, own in runs.items():
        found = config.check_options(config.Options(own, None), is_train=True, files=False)
        assert [str(problem) for problem in found.problems] == [], name
    assert 'distill_opt' in opt['train']
    assert 'compare' in opt


def test_the_runs_with_eco_blend_to_their_end(tmp_path: Path) -> None:
    opt = tiny_options(tmp_path, compare={'methods': {}})
    runs = step_time.with_eco(opt, str(tmp_path))
    assert list(runs) == ['logits', 'logits + eco, full', 'eco, full', 'logits + eco, hr_only', 'eco, hr_only']
    for name, own in runs.items():
        found = config.check_options(config.Options(own, None), is_train=True, files=False)
        assert [str(problem) for problem in found.problems] == [], name
        assert (found.built.eco is not None) == ('eco' in name)
        assert bool(found.built.losses) == ('logits' in name)
