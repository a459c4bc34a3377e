"""The options of ``teacher`` that make it cheaper, from the option file to the training and back from a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import as_parsed, batch, make_pair
from torch import nn

from mipkd_plugin import DistillationLoss, DistillModel, Execution, bind, config
from mipkd_plugin.commands import check as check_command
from mipkd_plugin.config import teacher_run
from mipkd_plugin.networks.execution import PLAIN

Make = Callable[..., dict[str, Any]]
LOSSES = sorted(name for name, cls in LOSS_REGISTRY
                if issubclass(cls, DistillationLoss) and cls.__module__.startswith('mipkd_plugin.'))
BF16 = Execution(torch.bfloat16, channels_last=True)
CHEAP = {'dtype': 'bfloat16', 'channels_last': True}


@pytest.fixture(autouse=True)
def _compile_is_tried_anew() -> Iterator[None]:
    tried = teacher_run._compile_problem
    tried.cache_clear()
    yield
    tried.cache_clear()


def with_teacher(opt: dict[str, Any], **options: Any) -> dict[str, Any]:
    opt['teacher'].update(options)
    return opt


def problems_of(opt: dict[str, Any]) -> list[str]:
    return [str(problem) for problem in config.check_options(opt, is_train=True, probe='full').problems]


def trained(opt: dict[str, Any], root: Path, iterations: int = 2) -> DistillModel:
    torch.manual_seed(0)
    model: DistillModel = build_model(as_parsed(opt, root))
    for iteration in range(1, iterations + 1):
        model.feed_data(dict(zip(('lq', 'gt'), batch('EDSR', seed=iteration))))
        model.optimize_parameters(iteration)
    return model


# --------------------------------------------------------------------------------------------------------- the losses
@pytest.mark.parametrize('name', LOSSES)
def test_every_loss_takes_a_step_like_that_with_a_float32_teacher(name: str, vgg_weights: str) -> None:
    options = {'MiPKDLoss': {'taps': 3, 'latent_channels': 8, 'route_probability': 0.0}, 'KRNetLoss': {'taps': 3},
               'FAKDLoss': {'positions': 30}, 'CSDLoss': {'weights': vgg_weights},
               'DCKDLoss': {'taps': 2}}.get(name, {})
    found = []
    for execution in (PLAIN, BF16):
        student, teacher = make_pair('EDSR')
        torch.manual_seed(7)
        loss: DistillationLoss = LOSS_REGISTRY.get(name)(**options)
        loss.seed(3)
        lq, gt = batch('EDSR', samples=4)
        nets = bind([loss], student, teacher, lq[:1], execution=execution)
        plan = nets.plan(lq, gt, torch.optim.Adam(student.parameters(), 1e-4), nn.functional.l1_loss)
        prepared = loss.prepare(plan) if loss.self_trained_parameters() else {}
        terms = loss(plan.run())
        sum(terms.values()).backward()
        assert all(value.dtype == torch.float32 for value in terms.values())
        assert {p.grad.dtype for p in student.parameters() if p.grad is not None} == {torch.float32}
        assert all(p.grad is None for p in teacher.parameters())
        found.append({**terms, **prepared, 'gradient': student.conv_first.weight.grad})
        nets.close()
    for term, value in found[0].items():
        assert (found[1][term] - value).norm() <= 0.15 * value.norm(), term
        has_no_teacher = term == 'l_zoom_out' or not loss.uses_teacher
        assert torch.equal(found[1][term], value) is has_no_teacher, term


# ------------------------------------------------------------------------------------------------------- the training
def test_the_teacher_is_cast_in_training_and_its_fingerprint_is_that_of_its_file(
        train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    monkeypatch.setattr('mipkd_plugin.models.distill_model.get_root_logger',
                        lambda: type('Log', (), {'info': staticmethod(lines.append)}))
    plain = trained(train_options(), tmp_path)
    assert not any('another way' in line for line in lines)
    cheap = trained(with_teacher(train_options(), **CHEAP), tmp_path)
    assert any('The teacher runs in another way: bfloat16, channels_last' in line for line in lines)
    assert {p.dtype for p in cheap.teacher.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in plain.teacher.parameters()} == {torch.float32}
    assert {p.dtype for p in cheap.net_g.parameters()} == {torch.float32}
    assert cheap.teacher_fingerprint == plain.teacher_fingerprint
    assert cheap.teacher_fingerprint != config.teacher_fingerprint(cheap.teacher)
    for name, value in plain.get_current_log().items():
        assert cheap.get_current_log()[name] == pytest.approx(value, rel=0.05)
    assert cheap.get_current_log() != plain.get_current_log()


def test_the_default_written_out_trains_the_same_student(train_options: Make, tmp_path: Path) -> None:
    written = with_teacher(train_options(), dtype='float32', channels_last=False, compile=False)
    first, second = (trained(opt, tmp_path).net_g.state_dict() for opt in (train_options(), written))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_resumes_with_a_cheap_teacher_and_with_another_dtype(train_options: Make, tmp_path: Path) -> None:
    """Allowed: it is the same teacher, and its fingerprint says so."""
    cheap = with_teacher(train_options(), **CHEAP)
    trained(cheap, tmp_path, 1).save(0, 1)
    folder = tmp_path / 'experiments' / 'tiny'
    for opt in (cheap, train_options()):
        resumed = copy.deepcopy(opt)
        resumed['path']['resume_state'] = str(folder / 'training_states/1.state')
        assert config.check_options(resumed, is_train=True, root=tmp_path).problems == []
        model = build_model(as_parsed(opt, tmp_path))
        model.resume_training(torch.load(folder / 'training_states/1.state'))


# ---------------------------------------------------------------------------------------------------------- the check
def test_the_check_measures_on_a_copy(train_options: Make) -> None:
    plain, cheap = (config.check_options(with_teacher(train_options(), **options), is_train=True, probe='full').built
                    for options in ({}, CHEAP))
    assert plain.difference is None
    assert plain.execution == PLAIN
    assert cheap.execution == BF16
    assert 0 < cheap.difference.output_max < 0.02
    assert list(cheap.difference.features) == [pair.teacher.path for pair in cheap.pairs['train.distill_opt']]
    assert {p.dtype for p in cheap.teacher.parameters()} == {torch.float32}
    assert cheap.fingerprint == plain.fingerprint
    nets = cheap.distillation.attach(cheap.student)
    assert {p.dtype for p in cheap.teacher.parameters()} == {torch.bfloat16}
    assert cheap.fingerprint == plain.fingerprint
    nets.close()


@pytest.mark.parametrize(('options', 'line'), [
    (CHEAP, 'teacher  bfloat16, channels_last: output differs from float32 by up to 0.00'),
    ({'channels_last': True}, 'teacher  channels_last: output differs from float32 by up to '),
    ({'compile': True}, 'teacher  compiled: the training compiles it in its first iterations; not measured here'),
], ids=str)
def test_mipkd_check_says_what_it_costs(options: dict[str, Any], line: str, train_options: Make,
                                        capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_run, '_compile_problem', lambda device: '')
    check_command._show_networks(config.check_options(with_teacher(train_options(), **options), is_train=True,
                                                      probe='full'))
    out = capsys.readouterr().out
    assert line in out
    assert out.count('float32') == ('compile' not in options)
    assert ('measured uncompiled on one patch of random noise' in out) is ('compile' not in options)


@pytest.mark.parametrize(('key', 'value', 'kind'), [
    ('dtype', 'bf16', 'float32, bfloat16 or float16'), ('dtype', ['float16'], 'float32, bfloat16 or float16'),
    ('dtype', True, 'float32, bfloat16 or float16'),
    ('channels_last', 'yes', 'true or false'), ('compile', 1, 'true or false')])
def test_values_of_a_wrong_kind(key: str, value: Any, kind: str, train_options: Make) -> None:
    problem, = problems_of(with_teacher(train_options(), **{key: value}))
    assert problem.startswith(f'teacher.{key}: must be {kind}')
    assert repr(value) in problem


def test_a_misspelled_option(train_options: Make) -> None:
    problem, = problems_of(with_teacher(train_options(), chanels_last=True))
    assert "teacher.chanels_last: unknown key" in problem
    assert "did you mean 'channels_last'" in problem


def overflowing(opt: dict[str, Any], size: float) -> dict[str, Any]:
    """The same options; the teacher's features are too large for a type."""
    content = torch.load(opt['teacher']['weights'])
    for name in ('body.0.conv2.weight', 'body.0.conv2.bias'):
        content['params'][name] = content['params'][name] * size + size
    torch.save(content, opt['teacher']['weights'])
    return opt


def test_numbers_too_large_for_float16(train_options: Make) -> None:
    opt = overflowing(with_teacher(train_options(), dtype='float16'), 1e5)
    problem, = problems_of(opt)
    assert problem.startswith("teacher.dtype: in float16 the teacher's output or features are not finite on random "
                              'images\n   -> write dtype: bfloat16 or float32')
    assert problems_of(with_teacher(opt, dtype='float32')) == []


def test_a_device_that_cannot_run_the_type(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    real = nn.Conv2d.forward

    def forward(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.float16:
            raise RuntimeError('"slow_conv2d_cpu" not implemented for \'Half\'\nand more')
        return real(self, x)

    monkeypatch.setattr(nn.Conv2d, 'forward', forward)
    problem, = problems_of(with_teacher(train_options(), dtype='float16'))
    assert problem == ('teacher.dtype: the teacher cannot run in float16 on this device (cpu): RuntimeError: '
                       '"slow_conv2d_cpu" not implemented for \'Half\'\n   -> write dtype: bfloat16 or float32')


def test_a_loss_that_fails_only_with_this_teacher(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr('mipkd_plugin.config.builder.trial_problem', lambda loss, nets, *args: (
        'too large' if nets.teacher.execution != PLAIN else ''))
    problem, = problems_of(with_teacher(train_options(), **CHEAP))
    assert problem == ('teacher.dtype: MiPKDLoss fails in a trial step with this teacher: too large\n'
                       '   -> write dtype: float32')


def test_a_gpu_without_bfloat16(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher_run, '_training_device', lambda ctx, here: torch.device('cuda', 0))
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation: False)
    monkeypatch.setattr(torch.cuda, 'get_device_name', lambda device: 'Old Card')
    problem, = problems_of(with_teacher(train_options(), dtype='bfloat16'))
    assert problem == ('teacher.dtype: this GPU cannot compute in bfloat16 (Old Card)\n'
                       '   -> write dtype: float16 or float32')


def test_no_compiler_here(train_options: Make) -> None:
    inductor = pytest.importorskip('torch._inductor.config')
    with inductor.patch({'cpp.cxx': ('no-such-compiler', )}):
        problem, = problems_of(with_teacher(train_options(), compile=True))
    assert problem.startswith('teacher.compile: torch.compile does not work here: ')
    assert 'no-such-compiler' in problem
    assert problem.endswith('\n   -> write compile: false')


def test_a_platform_without_dynamo(train_options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(function: Any) -> Any:
        raise RuntimeError('Dynamo is not supported on this Python')

    monkeypatch.setattr(torch, 'compile', unsupported)
    problem, = problems_of(with_teacher(train_options(), compile=True, **CHEAP))
    assert problem == ('teacher.compile: torch.compile does not work here: RuntimeError: Dynamo is not supported on '
                       'this Python\n   -> write compile: false')


def test_the_command_refuses_before_it_writes(train_options: Make, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import yaml

    from mipkd_plugin.cli import basicsr_main
    (tmp_path / 'empty').mkdir()
    monkeypatch.chdir(tmp_path / 'empty')
    file = tmp_path / 'x.yml'
    file.write_text(yaml.safe_dump(with_teacher(train_options(), dtype='half'), sort_keys=False))
    assert basicsr_main(['train', '-opt', str(file)]) == 2
    assert "teacher.dtype (line " in capsys.readouterr().err
    assert list((tmp_path / 'empty').iterdir()) == []
