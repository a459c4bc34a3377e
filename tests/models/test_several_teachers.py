"""Several teachers: one student pass for all, each loss with the step of its teacher; saved, resumed, on two ranks."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import distributed_worker
import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.registry import LOSS_REGISTRY
from helpers import REPO, TEACHERS, as_parsed, batch, several_teachers
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from training import train, two_ranks, write_options

from mipkd_plugin import DistillModel, LogitsKDLoss, bind, config
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.binding import BindError, bind_several
from mipkd_plugin.models.teaching import Teaching
from mipkd_plugin.networks.tapped_net import TappedNet
from basicsr.archs import build_network

Make = Callable[..., dict[str, Any]]
LOGITS, RUN = {'type': 'LogitsKDLoss'}, Path('experiments/tiny')
MIPKD = {'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}
KRNET = {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 8, 'meta_every': 1}
FITNET = {'type': 'FitNetLoss', 'taps': 2}
MIXED = [LOGITS, {**FITNET, 'teacher': 'swinir'}, {**MIPKD, 'teacher': 'edsr'}, {**KRNET, 'teacher': 'swinir'},
         {**LOGITS, 'teacher': 'swinir'}]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)
    monkeypatch.chdir(tmp_path)


def options(make: Make, losses: Any, folder: Path, **train_options: Any) -> dict[str, Any]:
    opt = make()
    del opt['teacher']
    opt['teachers'] = several_teachers(folder)
    opt['train'].update(distill_opt=losses, **train_options)
    opt['logger']['use_tb_logger'] = False
    return opt


def model_of(opt: dict[str, Any], folder: Path) -> Any:
    torch.manual_seed(0)
    return build_model(as_parsed(opt, folder))


def step(model: Any, iteration: int = 1) -> tuple[Tensor, Tensor]:
    lq, gt = batch('EDSR', seed=iteration)
    model.feed_data({'lq': lq, 'gt': gt})
    model.optimize_parameters(iteration)
    return lq, gt


def weights(folder: Path = RUN) -> dict[str, Tensor]:
    state = torch.load(folder / 'models' / 'net_g_latest.pth')
    return {f'{part}.{name}': value for part in ('params', 'params_ema') for name, value in state[part].items()}


def assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert len(one) > 10
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


# ---------------------------------------------------------------------------------------------------------- the step
def test_each_loss_compares_with_its_teacher_and_the_student_runs_once(train_options: Make, tmp_path: Path) -> None:
    model = model_of(options(train_options, [LOGITS, {**LOGITS, 'teacher': 'swinir', 'loss_weight': 0.5}], tmp_path),
                     tmp_path)
    runs = []
    model.net_g.register_forward_hook(lambda module, args, output: runs.append(output.detach()))
    lq, _ = step(model)
    assert len(runs) == 1
    log, nets = model.get_current_log(), model.teaching.teachers
    for name, teacher, weight in (('l_logits', 'edsr', 1), ('l_logits_2', 'swinir', 0.5)):
        with torch.no_grad():
            wanted = weight * (runs[0] - nets[teacher](lq)).abs().mean()
        assert log[name] == pytest.approx(float(wanted), rel=1e-5), name
    assert abs(log['l_logits'] - 2 * log['l_logits_2']) > 1e-4, 'the two teachers differ'


def test_teachers_are_frozen_and_stay_as_they_are(train_options: Make, tmp_path: Path) -> None:
    model = model_of(options(train_options, MIXED, tmp_path), tmp_path)
    nets = model.teaching.teachers
    assert [type(net).__name__ for net in nets.values()] == ['EDSR', 'SwinIR']
    assert len({id(pair.student) for pair in model.teaching.nets.values()}) == 1
    before = {name: config.teacher_fingerprint(net) for name, net in nets.items()}
    for iteration in (1, 2):
        for net in nets.values():
            net.train()  # as a trainer may; drop-path of SwinIR would act
        step(model, iteration)
    trained = {id(p) for group in model.optimizer_g.param_groups for p in group['params']}
    for name, net in nets.items():
        assert not any(module.training for module in net.modules())
        assert not any(p.requires_grad or p.grad is not None or id(p) in trained for p in net.parameters())
        assert config.teacher_fingerprint(net) == before[name]
    assert {'l_logits', 'l_fitnet', 'l_block', 'l_kr', 'l_logits_2', 'meta_rec'} <= set(model.get_current_log())


def test_each_teacher_is_tapped_for_its_losses_alone(train_options: Make, tmp_path: Path) -> None:
    model = model_of(options(train_options, [MIPKD, {**FITNET, 'teacher': 'swinir',
                                                     'taps': [['body.0', 'layers.1'], ['body.1', 'layers.3']]}],
                             tmp_path), tmp_path)
    pairs = [loss.pairs for loss in model.losses]
    nets = model.teaching.nets
    assert list(nets['edsr'].teacher.taps) == [t for _, t in pairs[0]]
    assert list(nets['swinir'].teacher.taps) == ['layers.1', 'layers.3']
    assert list(model.nets.student.taps) == list(dict.fromkeys(s for own in pairs for s, _ in own))


def test_a_list_of_one_is_the_block_to_the_last_bit(train_options: Make, tmp_path: Path) -> None:
    one = train_options()
    one['train']['distill_opt'] = [MIPKD, KRNET]
    assert train(write_options(one, Path('one.yml'))) == 0
    listed = options(train_options, [MIPKD, {**KRNET, 'teacher': 'edsr'}], tmp_path)
    listed.update(name='listed', teachers=listed['teachers'][:1])
    assert train(write_options(listed, Path('listed.yml'))) == 0
    assert_equal(weights(), weights(Path('experiments/listed')))


def test_losses_draw_their_weights_in_the_order_of_the_file(train_options: Make, tmp_path: Path) -> None:
    """Not teacher by teacher: to give a loss another teacher of equal widths leaves the other losses alone."""
    def drawn(second: str) -> list[dict[str, Tensor]]:
        opt = options(train_options, [FITNET, {**FITNET, 'teacher': second}, FITNET], tmp_path)
        opt['teachers'] = [entry for entry in opt['teachers'] if second == 'swinir' or entry['name'] == 'edsr']
        return [loss.state_dict() for loss in config.build_distillation(opt).losses.values()]

    for one, other in zip(drawn('edsr'), drawn('swinir')):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_schedule_dismisses_all_teachers(train_options: Make, tmp_path: Path,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    opt = options(train_options, MIXED, tmp_path, distill={'until': 0.5}, total_iter=4)
    opt['logger'].update(use_tb_logger=True, val_pictures=1, gradient_freq=2)
    runs: dict[str, int] = {}

    def counted(self: TappedNet, *args: Any, **kwargs: Any) -> Any:
        runs[type(self.net).__name__ + str(self.frozen)] = runs.get(type(self.net).__name__ + str(self.frozen), 0) + 1
        return call(self, *args, **kwargs)

    call = TappedNet.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TappedNet, '__call__', counted)
        assert train(write_options(opt, Path('x.yml'))) == 0
    log = max(RUN.glob('*.log')).read_text()
    assert 'teacher edsr 20,283, teacher swinir 15,142' in log
    assert 'FitNetLoss from teacher swinir: body.1 <- layers.1' in log
    assert 'goes on without the teachers.' in log
    assert 'Gradients at iteration 2: l_pix ' in log
    last = log[log.index('iter:       3'):]
    assert 'l_logits' not in last
    file, = Path('tb_logger').rglob('events.out.*')
    assert EventAccumulator(str(file), size_guidance={'images': 0}).Reload().Tags()['images'] == ['pictures/val/0']


def test_each_teacher_has_its_own_cache_and_execution(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, [LOGITS, {**FITNET, 'teacher': 'swinir'}], tmp_path)
    opt['datasets']['train'].update(type='CropPoolDataset', crops=6)
    opt['teachers'][0]['cache'] = 'memory'
    opt['teachers'][1]['dtype'] = 'bfloat16'
    report = config.check_options(opt, is_train=True, probe='full')
    assert not report.problems
    assert report.built.runs['edsr'].cache.startswith('6 crops × ')
    assert report.built.runs['swinir'].cache is None
    assert report.built.runs['edsr'].difference is None
    assert report.built.runs['swinir'].difference.output_max > 0
    model, (lq, gt) = model_of(opt, tmp_path), batch('EDSR')
    assert list(model.teaching.caches) == ['edsr']
    runs = dict.fromkeys(model.teaching.teachers, 0)
    for name, net in model.teaching.teachers.items():
        net.register_forward_hook(lambda *args, name=name: runs.update({name: runs[name] + 1}))
    for iteration in (1, 2):
        model.feed_data({'lq': lq, 'gt': gt, 'crop': torch.tensor([3, 5])})
        model.optimize_parameters(iteration)
    assert runs == {'edsr': 2, 'swinir': 2}, 'two crops once, two batches'
    assert {p.dtype for p in model.teaching.teachers['swinir'].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.teaching.teachers['edsr'].parameters()} == {torch.float32}


# ------------------------------------------------------------------------------------------------- saving and resuming
def test_a_resumed_run_ends_like_one_without_a_stop(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, MIXED, tmp_path, exact_resume=True)
    path = write_options(opt, Path('x.yml'))
    assert train(path) == 0
    expected = weights()
    for name in ('models', 'training_states'):
        for file in (RUN / name).iterdir():
            if '2' not in file.stem:
                file.unlink()
    assert train(path, '--auto_resume') == 0
    assert_equal(expected, weights())


def changed(opt: dict[str, Any], what: str) -> None:
    """What is written differently when a run resumes."""
    teachers, losses = opt['teachers'], opt['train']['distill_opt']
    if what == 'another order':
        teachers.reverse()
        losses[0] = {**losses[0], 'teacher': 'edsr'}
    elif what == 'another name':
        teachers[1]['name'] = losses[1]['teacher'] = 'second'
    elif what == 'other weights':
        torch.manual_seed(9)
        torch.save({'params': build_network(TEACHERS['SwinIR']).state_dict()}, 'other.pth')
        teachers[1]['weights'] = 'other.pth'
    elif what == 'exchanged':
        teachers.reverse()
        losses[0]['teacher'], losses[1]['teacher'] = 'swinir', 'edsr'
    elif what == 'one alone':
        del opt['teachers'], losses[1]['teacher']
        opt['teacher'] = {key: value for key, value in teachers[0].items() if key != 'name'}


@pytest.mark.parametrize(('what', 'says'), [
    ('another order', ()), ('another name', ()),
    ('other weights', ('train.distill_opt[1].teacher', "LogitsKDLoss learned from teacher 'swinir' (sha256 ",
                       'name the old teachers and their weights')),
    ('exchanged', ('train.distill_opt[0].teacher', "and now from teacher 'swinir'", 'write teacher: edsr',
                   'write teacher: swinir')),
    ('one alone', ('teacher.weights', "LogitsKDLoss learned from teacher 'swinir'",
                   'now from the teacher with sha256'))])
def test_a_resume_goes_on_with_the_same_teachers_alone(train_options: Make, tmp_path: Path, what: str,
                                                       says: tuple[str, ...],
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    opt = options(train_options, [dict(LOGITS), {**LOGITS, 'teacher': 'swinir'}], tmp_path, total_iter=2,
                  exact_resume=what == 'another order')
    del opt['val']
    assert train(write_options(opt, Path('x.yml'))) == 0
    opt['train']['total_iter'] = 3
    changed(opt, what)
    before = sorted(path.name for path in RUN.rglob('*'))
    capsys.readouterr()
    code, said = train(write_options(opt, Path('x.yml')), '--auto_resume'), capsys.readouterr().err
    assert code == (2 if says else 0), said
    for text in says:
        assert text in said
    if says:
        assert sorted(path.name for path in RUN.rglob('*')) == before


@pytest.mark.parametrize(('what', 'says'), [
    ('another name', ()),
    ('another order', ('teachers (line ', "ECO takes the first teacher: it learned from teacher 'edsr' (sha256 ",
                       "now from teacher 'swinir'", "write teacher 'edsr' first")),
    ('other weights of the first', ('teachers (line ', "now from teacher 'edsr' (sha256 ", 'name the old teachers'))])
@pytest.mark.parametrize('exact', [False, True])
def test_a_resume_goes_on_with_the_teacher_of_eco(train_options: Make, tmp_path: Path, what: str, says: tuple[str, ...],
                                                  exact: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where no loss learns from it."""
    if exact and what == 'another name':
        pytest.skip('an exact resume wants the same names, too')
    first = 'edsr' if what == 'another order' else 'swinir'
    losses = [{**LOGITS, 'teacher': first}, {**LOGITS, 'teacher': 'swinir'}]
    opt = options(train_options, losses, tmp_path, total_iter=4, exact_resume=exact, eco={'mode': 'hr_only'})
    opt['logger']['save_checkpoint_freq'] = 2
    del opt['val']
    assert train(write_options(opt, Path('x.yml'))) == 0
    for file in RUN.glob('*/*4.*'):
        file.unlink()
    if what == 'another order':
        opt['teachers'].reverse()
    elif what == 'other weights of the first':
        torch.save({'params': build_network(TEACHERS['EDSR']).state_dict()}, 'other.pth')
        opt['teachers'][0]['weights'] = 'other.pth'
    else:
        opt['teachers'][0]['name'] = 'another'
    capsys.readouterr()
    code, said = train(write_options(opt, Path('x.yml')), '--auto_resume'), capsys.readouterr().err
    assert code == (2 if says else 0), said
    for text in says:
        assert text in said
    if what == 'another order':
        opt['teachers'].reverse()
        assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 0


@pytest.mark.parametrize('before', ['block', 'list'])
def test_block_and_list_of_the_same_weights_resume_each_other(train_options: Make, tmp_path: Path,
                                                              before: str) -> None:
    one = train_options()
    one['train'].update(distill_opt=FITNET, total_iter=2)
    one['logger']['use_tb_logger'] = False
    listed = options(train_options, FITNET, tmp_path, total_iter=2)
    listed['teachers'] = listed['teachers'][:1]
    first, second = (one, listed) if before == 'block' else (listed, one)
    assert train(write_options(first, Path('x.yml'))) == 0
    saved = torch.load(RUN / 'models' / 'distill_2.pth')
    assert ('learned_from' in saved) == (before == 'list'), 'the state of one teacher is as it always was'
    second['train']['total_iter'] = 3
    assert train(write_options(second, Path('y.yml')), '--auto_resume') == 0


def test_a_model_of_ones_own_refuses_to_resume_with_other_teachers(train_options: Make, tmp_path: Path) -> None:
    losses = [LOGITS, {**LOGITS, 'teacher': 'swinir'}]
    opt = options(train_options, losses, tmp_path)
    model = model_of(opt, tmp_path)
    step(model)
    model.save(0, 1)
    state = torch.load(RUN / 'training_states' / '1.state', weights_only=False)
    changed(opt, 'other weights')
    other = model_of(opt, tmp_path)
    with pytest.raises(ValueError, match=r"loss 2, LogitsKDLoss, learned from teacher 'swinir' \(sha256 .*, and now "
                       r"from teacher 'swinir' \(sha256 "):
        DistillModel.resume_training(other, state)


@pytest.mark.parametrize('learned', [[['edsr', 'x']], 'edsr', [['edsr'], ['swinir']], [['a', 1], ['b', 2]]])
def test_a_damaged_list_of_teachers_is_found(train_options: Make, tmp_path: Path, learned: Any,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    opt = options(train_options, [LOGITS, {**LOGITS, 'teacher': 'swinir'}], tmp_path, total_iter=2)
    del opt['val']
    assert train(write_options(opt, Path('x.yml'))) == 0
    path = RUN / 'models' / 'distill_2.pth'
    torch.save({**torch.load(path), 'learned_from': learned}, path)
    opt['train']['total_iter'] = 3
    opt['path']['resume_state'] = str(RUN / 'training_states' / '2.state')
    capsys.readouterr()
    assert train(write_options(opt, Path('x.yml'))) == 2
    assert "its 'learned_from' does not name a teacher for each loss" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- two processes
def test_gradients_are_equal_on_both_ranks(train_options: Make, tmp_path: Path) -> None:
    """With ECO, too: each rank blends its own batch."""
    (tmp_path / 'opt.json').write_text(json.dumps(options(
        train_options, [{**MIPKD, 'teacher': 'swinir'}, LOGITS, FITNET, {**KRNET, 'teacher': 'swinir'}], tmp_path,
        eco={'mode': 'full'})))
    for result in two_ranks(lambda paths: distributed_worker.main(*paths) or 0, str(tmp_path / 'opt.json'),
                            str(tmp_path), cwd=REPO):
        assert result.returncode == 0, result.stderr
    first, second = (torch.load(tmp_path / f'rank{rank}.pth') for rank in (0, 1))
    assert first['wrapped'] == ['DistributedDataParallel', 'DistributedDataParallel', 'LogitsKDLoss',
                                'DistributedDataParallel', 'DistributedDataParallel', 'EDSR'], 'the teacher is bare'
    assert not torch.equal(first['random'], second['random'])
    for part in ('student', 'losses', 'weights'):
        for name, value in first[part].items():
            other = second[part][name]
            assert (value is None and other is None) or torch.equal(value, other), f'{part} {name} differs'
    saved = torch.load(tmp_path / 'experiments/tiny/models/distill_2.pth')
    assert [name for name, _ in saved['learned_from']] == ['swinir', 'edsr', 'edsr', 'swinir', 'edsr']  # the last: ECO


# ------------------------------------------------------------------------------------------------- in Python
def test_binding_names_the_teacher(tmp_path: Path) -> None:
    student = build_network({**TEACHERS['EDSR'], 'num_feat': 8})
    teachers = {'right': build_network(TEACHERS['EDSR']), 'wrong': build_network({**TEACHERS['EDSR'], 'upscale': 3})}
    with pytest.raises(BindError, match=r"student and teacher 'wrong' make images of different"):
        bind_several([LogitsKDLoss(), LogitsKDLoss()], ['right', 'wrong'], student, teachers,
                     torch.rand(1, 3, 8, 8), [])
    with pytest.raises(BindError, match='are the same object'):
        bind_several([LogitsKDLoss()], ['a'], student, {'a': student}, torch.rand(1, 3, 8, 8), [])
    assert not student.body[0].conv1._forward_hooks


def test_binding_one_teacher_is_binding_a_list_of_one() -> None:
    nets = []
    for several in (False, True):
        torch.manual_seed(0)
        student, teacher = build_network({**TEACHERS['EDSR'], 'num_feat': 8}), build_network(TEACHERS['EDSR'])
        loss = LOSS_REGISTRY.get('MiPKDLoss')(taps=2, latent_channels=4)
        probe = torch.rand(1, 3, 8, 8)
        pair = (bind_several([loss], ['a'], student, {'a': teacher}, probe, [])['a'] if several
                else bind([loss], student, teacher, probe))
        nets.append(loss(pair.step(*batch('EDSR'))))
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])


def test_no_loss_of_ours_has_an_argument_of_that_name() -> None:
    losses = {name: loss for name, loss in LOSS_REGISTRY if isinstance(loss, type) and issubclass(
        loss, DistillationLoss) and loss.__module__.startswith('mipkd_plugin.')}
    assert len(losses) > 8
    for name, loss in losses.items():
        parameters = inspect.signature(loss).parameters
        assert 'teacher' not in parameters, name
        assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values()), name


def test_a_class_with_such_an_argument_keeps_it(train_options: Make, tmp_path: Path) -> None:
    class OwnTeacherLoss(LogitsKDLoss):
        """A loss of somebody else, written before there were several teachers.

        Args:
            teacher: What it pleases.
        """

        def __init__(self, teacher: str = 'x') -> None:
            super().__init__()
            self.own = teacher

    LOSS_REGISTRY._obj_map['OwnTeacherLoss'] = OwnTeacherLoss
    try:
        opt = train_options()
        opt['train']['distill_opt'] = {'type': 'OwnTeacherLoss', 'teacher': 'mine'}
        assert config.build_distillation(opt).losses['train.distill_opt'].own == 'mine'
        opt = options(train_options, [{'type': 'OwnTeacherLoss', 'teacher': 'edsr'}, {**LOGITS, 'teacher': 'swinir'}],
                      tmp_path)
        problem, = config.check_options(opt, is_train=True).problems
        assert problem.where == 'train.distill_opt[0].teacher'
        assert 'OwnTeacherLoss has an argument of that name' in problem.what
        del opt['train']['distill_opt'][0]['teacher']
        assert config.check_options(opt, is_train=True).problems == []
    finally:
        del LOSS_REGISTRY._obj_map['OwnTeacherLoss']


def test_a_teacher_that_only_eco_needs_runs_for_no_loss() -> None:
    teaching = Teaching.__new__(Teaching)
    teaching.caches, teaching.chosen = {}, ['second']
    teaching.nets = {name: SimpleNamespace(plan=lambda *_, name=name: name) for name in ('first', 'second')}
    assert teaching.plans(*(None, ) * 6) == {'second': 'second'}


def test_the_first_teacher_is_used_where_eco_is(train_options: Make, tmp_path: Path) -> None:
    opt = options(train_options, {**LOGITS, 'teacher': 'swinir'}, tmp_path)
    assert [teacher['name'] for teacher in opt['teachers']] == ['edsr', 'swinir']
    problem, = config.check_options(opt, is_train=True, files=False, probe='none').problems
    assert problem.what == "no loss learns from 'edsr'"
    opt['train']['eco'] = {'mode': 'full'}
    assert config.check_options(opt, is_train=True, files=False, probe='none').problems == []
