"""The BasicSR model: groups, EMA, saving, resuming, and what is refused."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models import build_model
from basicsr.models.sr_model import SRModel
from basicsr.utils.registry import MODEL_REGISTRY
from helpers import STUDENTS, TEACHERS, as_parsed, batch

from mipkd_plugin import DistillMixin, DistillModel, config
from mipkd_plugin.checkpoints.distill_state import StateError, load_state

Make = Callable[..., dict[str, Any]]


def model_of(opt: dict[str, Any], root: Path) -> DistillModel:
    torch.manual_seed(0)
    return build_model(as_parsed(opt, root))


def train(model: DistillModel, iterations: range) -> None:
    for iteration in iterations:
        lq, gt = batch('EDSR', seed=iteration)
        model.update_learning_rate(iteration)
        model.feed_data({'lq': lq, 'gt': gt})
        model.optimize_parameters(iteration)


def everything(model: DistillModel) -> dict[str, Any]:
    return {'net_g': model.net_g.state_dict(), 'ema': model.net_g_ema.state_dict(),
            'losses': model.losses.state_dict(), 'optimizer': model.optimizer_g.state_dict(),
            'schedulers': [s.state_dict() for s in model.schedulers]}


def after_one_step(opt: dict[str, Any], root: Path) -> dict[str, Any]:
    """Train one iteration, save, and return the training state as BasicSR would load it."""
    model = model_of(opt, root)
    train(model, range(1, 2))
    model.save(0, 1)
    return torch.load(root / 'experiments/tiny/training_states/1.state')


def assert_identical(a: Any, b: Any, where: str = '') -> None:
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_identical(a[key], b[key], f'{where}.{key}')
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b)):
            assert_identical(x, y, f'{where}.{index}')
    else:
        assert a == b, where


def swinir(opt: dict[str, Any], root: Path) -> dict[str, Any]:
    """The same run with a SwinIR student whose drop-path draws random numbers."""
    opt['model_type'] = 'SwinIRDistillModel'
    opt['network_g'] = {**STUDENTS['SwinIR'], 'drop_path_rate': 0.5}
    opt['datasets']['train']['gt_size'] = 16
    return opt


def test_terms_are_logged_and_the_student_learns(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    before = copy.deepcopy(model.net_g.state_dict())
    train(model, range(1, 3))
    assert list(model.get_current_log()) == ['l_pix', 'l_feat', 'l_ae', 'l_logits', 'l_block']
    assert all(value > 0 for value in model.get_current_log().values())
    assert not any(torch.equal(before[key], value) for key, value in model.net_g.state_dict().items())


def test_optimizer_has_a_group_for_the_student_and_one_for_the_losses(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    groups = model.optimizer_g.param_groups
    assert [len(group['params']) for group in groups] == [len(list(model.net_g.parameters())),
                                                           len(list(model.losses.parameters()))]
    teacher = {id(p) for p in model.teacher.parameters()}
    assert not any(id(p) in teacher for group in groups for p in group['params'])
    train(model, range(1, 5))
    assert [group['lr'] for group in groups] == [0.0005, 0.0005]  # the scheduler moves both


def test_what_krnets_train_themselves_is_not_the_students_optimizers(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = copy.deepcopy([*KRNETS, opt['train']['distill_opt']])
    model = model_of(opt, tmp_path)
    own = {id(p) for p in model.losses[0].self_trained_parameters()}
    groups = [{id(p) for p in group['params']} for group in model.optimizer_g.param_groups]
    assert own
    assert not own & (groups[0] | groups[1])
    assert own | groups[1] == {id(p) for p in model.losses.parameters()}
    train(model, range(1, 3))
    assert list(model.get_current_log()) == ['l_pix', 'l_kr', 'l_logits', 'l_feat', 'l_ae', 'l_logits_2', 'l_block',
                                             'meta_rec']
    train(model, range(3, 4))
    assert 'meta_rec' not in model.get_current_log(), 'no meta step was due'


def test_each_krnet_loss_logs_under_its_own_name(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'LogitsKDLoss'}, KRNETS[0], {**KRNETS[0], 'meta_every': 3}]
    model, logged = model_of(opt, tmp_path), []
    for iteration in (2, 3, 6):
        train(model, range(iteration, iteration + 1))
        logged.append([name for name in model.get_current_log() if name.startswith('meta')])
    assert logged == [['meta_rec'], ['meta_rec_2'], ['meta_rec', 'meta_rec_2']]


def test_the_meta_step_sees_the_perceptual_loss_too(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{**KRNETS[0], 'meta_every': 1}]
    model = model_of(opt, tmp_path)
    model.cri_perceptual = lambda output, gt: (output.mean() * 0 + 3, None)
    train(model, range(1, 2))
    assert 3 < model.get_current_log()['meta_rec'] < 4


@pytest.mark.parametrize('form', [{}, {'first_order': True}, {'inner': 'sgd'}], ids=str)
def test_the_meta_step_changes_the_students_first_step_only_through_the_kernels(
        form: dict[str, Any], train_options: Make, tmp_path: Path) -> None:
    """With a learning rate of nearly 0 for the generators, a run with meta steps is the run without, bit by bit."""
    states = []
    for change in ({'meta_every': 0}, {'meta_every': 1, 'meta_lr': 1e-30, **form}):
        opt = swinir(train_options(), tmp_path)
        opt['train']['distill_opt'] = [{**KRNETS[0], **change}, KRNETS[1]]
        model = model_of(opt, tmp_path)
        train(model, range(1, 4))
        states.append([model.net_g.state_dict(), model.net_g_ema.state_dict(), model.optimizer_g.state_dict()])
    assert_identical(*states)


def test_the_running_feature_scale_moves_during_training(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = copy.deepcopy([opt['train']['distill_opt'], KRNETS[0]])
    model = model_of(opt, tmp_path)
    train(model, range(1, 3))
    for network in (*model.losses[0].mixers, *model.losses[1].networks):
        assert network.num_batches == 2
        assert network.scale != 1


def test_two_losses_draw_different_random_numbers(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [opt['train']['distill_opt'], dict(opt['train']['distill_opt'])]
    first, second = model_of(opt, tmp_path).losses
    assert not torch.equal(first.get_extra_state(), second.get_extra_state())


def test_an_interrupted_save_leaves_the_old_file(train_options: Make, tmp_path: Path,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(train_options(), tmp_path)
    model.save(0, 1)
    path = tmp_path / 'experiments/tiny/models/distill_1.pth'
    before = path.read_bytes()

    def interrupted(state: object, target: Any) -> None:
        target.write(b'half')
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, 'save', interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.save(0, 1)
    assert path.read_bytes() == before
    assert not list(path.parent.glob('.*'))


def test_perceptual_terms_keep_their_names(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    model.cri_perceptual = lambda output, gt: (output.mean() * 0 + 3, output.mean() * 0 + 5)
    train(model, range(1, 2))
    log = model.get_current_log()
    assert (log['l_percep'], log['l_style']) == (3, 5)


def test_a_model_without_an_optimizer_of_net_g_is_refused(train_options: Make, tmp_path: Path) -> None:
    class OtherName(SRModel):
        def setup_optimizers(self) -> None:
            super().setup_optimizers()
            del self.optimizer_g

    class Mixed(DistillMixin, OtherName):
        pass

    with pytest.raises(ValueError, match='Mixed has no optimizer_g, and DistillMixin adds'):
        Mixed(as_parsed(train_options(), tmp_path))


def test_a_loss_without_parameters_adds_no_group(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss'}
    assert len(model_of(opt, tmp_path).optimizer_g.param_groups) == 1


def test_an_iteration_is_one_step_of_the_optimizer(train_options: Make, tmp_path: Path) -> None:
    """With the gradients of this iteration alone: nothing is left over from the one before."""
    opt = train_options()
    opt['train']['distill_opt'] = [{'type': 'DUKDLoss'}, {'type': 'LogitsKDLoss'}]
    model = model_of(opt, tmp_path)
    model.optimizer_g = torch.optim.SGD(model.net_g.parameters(), 0.5)
    for iteration in (1, 2):
        lq, gt = batch('EDSR', seed=iteration)
        model.feed_data({'lq': lq, 'gt': gt})
        before = {name: p.detach().clone() for name, p in model.net_g.named_parameters()}
        state = {i: loss.get_extra_state() for i, loss in enumerate(model.losses) if hasattr(loss, '_generator')}
        terms, _ = model.training_terms(iteration)
        gradients = torch.autograd.grad(sum(terms.values()), list(model.net_g.parameters()))
        for i, found in state.items():
            model.losses[i].set_extra_state(found)
        model.optimize_parameters(iteration)
        for (name, parameter), gradient in zip(model.net_g.named_parameters(), gradients, strict=True):
            torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * gradient, msg=name)


def test_ema_moves(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    start = copy.deepcopy(model.net_g_ema.state_dict())
    train(model, range(1, 2))
    for key, value in model.net_g_ema.state_dict().items():
        torch.testing.assert_close(value, 0.9 * start[key] + 0.1 * model.net_g.state_dict()[key])


KRNETS = [{'type': 'KRNetLoss', 'taps': 3, 'hidden_channels': 8, 'meta_every': 2}, {'type': 'LogitsKDLoss'}]


@pytest.mark.parametrize('losses', [None, KRNETS, [{**KRNETS[0], 'first_order': True}, *KRNETS[1:]]],
                         ids=['MiPKD', 'KRNets', 'KRNets of first order'])
@pytest.mark.parametrize('student', ['EDSR', 'SwinIR'])
def test_resume_is_bit_identical(student: str, losses: Any, train_options: Make, tmp_path: Path) -> None:
    opt = train_options() if student == 'EDSR' else swinir(train_options(), tmp_path)
    if losses is not None:
        opt['train']['distill_opt'] = copy.deepcopy(losses)
    straight = model_of(opt, tmp_path)
    train(straight, range(1, 3))
    straight.save(0, 2)
    train(straight, range(3, 5))

    folder = tmp_path / 'experiments' / 'tiny'
    opt['path']['pretrain_network_g'] = str(folder / 'models' / 'net_g_2.pth')  # as BasicSR's check_resume sets it
    resumed = model_of(opt, tmp_path)
    resumed.resume_training(torch.load(folder / 'training_states' / '2.state'))
    train(resumed, range(3, 5))
    assert_identical(everything(straight), everything(resumed))


def test_resume_without_distillation_state_would_differ(train_options: Make, tmp_path: Path) -> None:
    """The state that is saved beside the student matters: masks, routes and mixers come from it."""
    opt = train_options()
    straight = model_of(opt, tmp_path)
    train(straight, range(1, 3))
    straight.save(0, 2)
    folder = tmp_path / 'experiments' / 'tiny'
    state = torch.load(folder / 'models' / 'distill_2.pth')
    fresh = model_of(opt, tmp_path)
    assert any(not torch.equal(value, state['losses'][key]) for key, value in fresh.losses.state_dict().items())


def test_files_of_a_checkpoint(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    train(model, range(1, 2))
    model.save(0, 1)
    model.save(-1, -1)
    models = tmp_path / 'experiments' / 'tiny' / 'models'
    assert sorted(p.name for p in models.iterdir()) == [
        'distill_1.pth', 'distill_latest.pth', 'net_g_1.pth', 'net_g_latest.pth']
    saved = torch.load(models / 'net_g_1.pth', weights_only=True)
    assert saved.keys() == {'params', 'params_ema'}
    assert saved['params'].keys() == model.net_g.state_dict().keys()


def test_students_file_loads_in_a_plain_srmodel_without_this_package(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    model = model_of(opt, tmp_path)
    train(model, range(1, 2))
    model.save(0, 1)
    weights = str(tmp_path / 'experiments/tiny/models/net_g_1.pth')
    code = f'''
import sys, types
from torchvision.transforms import functional
shim = types.ModuleType('functional_tensor'); shim.rgb_to_grayscale = functional.rgb_to_grayscale
sys.modules['torchvision.transforms.functional_tensor'] = shim
from basicsr.models import build_model
for key in ('params', 'params_ema'):
    model = build_model({{
        'model_type': 'SRModel', 'num_gpu': 0, 'is_train': False, 'dist': False, 'scale': 2,
        'network_g': {opt['network_g']!r},
        'path': {{'pretrain_network_g': {weights!r}, 'strict_load_g': True, 'param_key_g': key}}}})
assert not any(name.startswith('mipkd') for name in sys.modules), 'the package was imported'
print('loaded', sum(p.numel() for p in model.net_g.parameters()))
'''
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert f'loaded {sum(p.numel() for p in model.net_g.parameters())}' in result.stdout


def test_same_seed_gives_the_control_the_same_initial_student(train_options: Make, tmp_path: Path) -> None:
    """The teacher and the mixers draw no number that the student or the data would have drawn."""
    opt = train_options()
    distilled = model_of(opt, tmp_path)
    after = torch.get_rng_state()
    plain_opt = copy.deepcopy(opt)
    plain_opt['model_type'] = 'SRModel'
    del plain_opt['teacher'], plain_opt['train']['distill_opt']
    plain = model_of(plain_opt, tmp_path)
    assert_identical(dict(distilled.net_g.state_dict()), dict(plain.net_g.state_dict()))
    assert torch.equal(after, torch.get_rng_state())


def test_another_teacher_is_refused_on_resume(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    state = after_one_step(opt, tmp_path)
    other = torch.load(opt['teacher']['weights'])
    other['params']['conv_first.bias'] += 1
    torch.save(other, opt['teacher']['weights'])
    with pytest.raises(StateError, match='was trained with another teacher'):
        model_of(opt, tmp_path).resume_training(state)


def test_other_losses_or_a_lost_file_are_refused_on_resume(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    state = after_one_step(opt, tmp_path)
    wider = copy.deepcopy(opt)
    wider['train']['distill_opt']['latent_channels'] = 9
    with pytest.raises(StateError, match='distill_1.pth does not fit train.distill_opt'):
        model_of(wider, tmp_path).resume_training(state)
    logits = copy.deepcopy(opt)
    logits['train']['distill_opt'] = {'type': 'MiPKDLoss', 'taps': 3}, {'type': 'LogitsKDLoss'}
    logits['train']['distill_opt'] = list(logits['train']['distill_opt'])
    with pytest.raises(StateError, match=r"asks for \['MiPKDLoss', 'LogitsKDLoss'\]"):
        model_of(logits, tmp_path).resume_training(state)
    moved = copy.deepcopy(opt)
    moved['train']['distill_opt']['taps'] = [[f'body.{i}', f'body.{i}'] for i in range(3)]
    with pytest.raises(StateError, match=r"was trained with the taps \[\[\['body.0', 'body.1'\]"):
        model_of(moved, tmp_path).resume_training(state)
    (tmp_path / 'experiments/tiny/models/distill_1.pth').unlink()
    with pytest.raises(StateError, match='distill_1.pth is missing'):
        model_of(opt, tmp_path).resume_training(state)


def test_terms_of_two_losses_do_not_hide_each_other(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [opt['train']['distill_opt'], {'type': 'LogitsKDLoss', 'loss_weight': 2.0}]
    model = model_of(opt, tmp_path)
    train(model, range(1, 2))
    log = model.get_current_log()
    assert log['l_logits_2'] == pytest.approx(2 * log['l_logits'])


def test_training_stops_at_a_loss_that_is_not_finite(train_options: Make, tmp_path: Path) -> None:
    model = model_of(train_options(), tmp_path)
    weights = copy.deepcopy(model.net_g.state_dict())
    lq, gt = batch('EDSR')
    gt[0, 0, 0, 0] = float('nan')
    model.feed_data({'lq': lq, 'gt': gt})
    with pytest.raises(FloatingPointError, match='iteration 7: the loss is not finite .l_pix = nan'):
        model.optimize_parameters(7)
    assert_identical(dict(weights), dict(model.net_g.state_dict()))


def test_teacher_survives_train_mode(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['teacher']['network'] = {**TEACHERS['SwinIR'], 'drop_path_rate': 0.9}
    torch.manual_seed(1)
    from basicsr.archs import build_network
    torch.save({'params': build_network(opt['teacher']['network']).state_dict()}, opt['teacher']['weights'])
    model = model_of(opt, tmp_path)
    model.teacher.train()
    lq = batch('EDSR')[0]
    first, second = model.nets.teacher(lq).output, model.nets.teacher(lq).output
    assert torch.equal(first, second)
    train(model, range(1, 2))
    assert not any(module.training for module in model.teacher.modules())


@pytest.mark.parametrize('model_type', ['DistillModel', 'SwinIRDistillModel'])
def test_inert_in_test(model_type: str, train_options: Make, tmp_path: Path) -> None:
    opt = train_options() if model_type == 'DistillModel' else swinir(train_options(), tmp_path)
    model = model_of(opt, tmp_path)
    plain_class = MODEL_REGISTRY.get(model_type).__bases__[1]
    assert plain_class is (SRModel if model_type == 'DistillModel' else MODEL_REGISTRY.get('SwinIRModel'))
    model.feed_data({'lq': torch.rand(1, 3, 10, 9)})
    model.test()
    assert model.output.shape == (1, 3, 20, 18)
    assert model.nets.student._watch.seen is None
    assert model.nets.teacher._watch.seen is None


def test_a_strangers_model_class_costs_two_lines(train_options: Make, tmp_path: Path) -> None:
    class StrangersModel(SRModel):
        def test(self) -> None:
            self.tested = True
            super().test()

    class StrangersDistillModel(DistillMixin, StrangersModel):
        pass

    torch.manual_seed(0)
    model = StrangersDistillModel(as_parsed(train_options(), tmp_path))
    train(model, range(1, 2))
    model.test()
    assert model.tested
    assert 'l_block' in model.get_current_log()


def test_data_parallel_is_refused_with_the_line_to_type(train_options: Make, tmp_path: Path) -> None:
    opt = as_parsed(train_options(), tmp_path)
    model = build_model(opt)
    model.net_g = torch.nn.DataParallel(model.net_g)
    model.opt['num_gpu'] = 4
    with pytest.raises(ValueError, match='torchrun --nproc_per_node=4 -m mipkd_plugin train'):
        model.init_training_settings()


def test_every_rank_resumes_with_its_own_random_numbers(train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    after_one_step(opt, tmp_path)
    path = tmp_path / 'experiments/tiny/models/distill_1.pth'
    saved = torch.load(path)
    generator = torch.Generator().manual_seed(77)
    second = {**saved['random'][0], 'losses': {'0._extra_state': generator.get_state()}}
    torch.save({**saved, 'random': [saved['random'][0], second]}, path)
    model = model_of(opt, tmp_path)
    load_state(path, model.losses, model.teacher_fingerprint, rank=1)
    assert torch.equal(model.losses[0].get_extra_state(), generator.get_state())
    model.losses[0].seed(5)
    own = model.losses[0].get_extra_state()
    load_state(path, model.losses, model.teacher_fingerprint, rank=2)  # was not there before
    assert torch.equal(model.losses[0].get_extra_state(), own)


@pytest.mark.parametrize(('change', 'message'), [
    (lambda opt: None, None),
    (lambda opt: opt['train']['distill_opt'].update(latent_channels=9), 'of another shape'),
    (lambda opt: opt['train']['distill_opt'].update(taps=[['body.0', 'body.0'], ['body.1', 'body.1'],
                                                          ['body.2', 'body.2']]), 'was trained with'),
    (lambda opt: opt['train'].update(distill_opt={'type': 'LogitsKDLoss'}), "asks for ['LogitsKDLoss']"),
    (lambda opt: opt['network_g'].update(num_feat=9), 'does not fit EDSR'),
])
def test_the_check_compares_a_checkpoint_with_the_options(change: Callable[[dict[str, Any]], None], message: str | None,
                                                          train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    after_one_step(opt, tmp_path)
    change(opt)
    problems = config.check_options(opt, is_train=True, auto_resume=True, root=tmp_path).problems
    assert any(message in str(problem) for problem in problems) if message else problems == []


@pytest.mark.parametrize(('change', 'message'), [({}, None), ({'meta_lr': 1e-3, 'meta_every': 3}, None),
                                                 ({'num_kernels': 5}, 'of another shape')], ids=str)
def test_the_check_compares_krnets_with_a_checkpoint(change: dict[str, Any], message: str | None,
                                                     train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    opt['train']['distill_opt'] = [{**KRNETS[0], 'meta_every': 1}, KRNETS[1]]
    after_one_step(opt, tmp_path)
    opt['train']['distill_opt'][0].update(change)
    problems = config.check_options(opt, is_train=True, auto_resume=True, root=tmp_path).problems
    assert [message in str(problem) for problem in problems] == ([True] if message else [])


@pytest.mark.parametrize('name', ['training_states/1.state', 'models/net_g_1.pth', 'models/distill_1.pth'])
def test_a_save_cut_short_is_named_with_a_way_out(name: str, train_options: Make, tmp_path: Path) -> None:
    opt = train_options()
    after_one_step(opt, tmp_path)
    path = tmp_path / 'experiments/tiny' / name
    path.write_bytes(path.read_bytes()[:100])
    problem, = config.check_options(opt, is_train=True, auto_resume=True, root=tmp_path).problems
    assert f'{path} is damaged' in str(problem)
    assert 'or leave out --auto_resume: the run then starts anew' in str(problem)
