"""``logger.gradient_freq``: what pulls at the student is logged, and the training does not change by a bit."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.models import build_model
from basicsr.utils.dist_util import get_dist_info, init_dist
from helpers import STUDENTS, as_parsed, batch
from stand_ins import CheckpointedReentrant
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from training import train, train_until, two_ranks, write_options

from mipkd_plugin import DistillModel, config
from mipkd_plugin.config import DistillSchedule, check_options
from mipkd_plugin.losses.gradients import Pull, over_batches, pulls, shares
from mipkd_plugin.models.gradients import GradientLog, in_words, scalars

Make = Callable[..., dict[str, Any]]
LOSSES = [{'type': 'MiPKDLoss', 'taps': 2, 'latent_channels': 4}, {'type': 'LogitsKDLoss'},
          {'type': 'KRNetLoss', 'taps': 2, 'hidden_channels': 8, 'meta_every': 2}]
LINE = re.compile(r'Gradients at iteration (\d+): (.*)')


@pytest.fixture(autouse=True)
def _no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.delenv('RANK', raising=False)


# ------------------------------------------------------------------------------------------- the gradient of a term
class Weights(nn.Module):
    """A student of three weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.tensor([value])) for value in (1.0, 2.0, 3.0))


def test_norm_share_and_cosine_by_hand() -> None:
    net, own = Weights(), nn.Linear(1, 1)
    terms = {'l_pix': 3 * net.a + 4 * net.b, 'l_same': 6 * net.a + 8 * net.b, 'l_against': -net.a + 7 * net.c,
             'l_across': 4 * net.a - 3 * net.b, 'l_own': own.weight, 'l_cut': (2 * net.a).detach()}
    terms = {name: value.sum() for name, value in terms.items()}
    found = pulls(terms, net, [own])
    assert {name: pull.norm for name, pull in found.items()} == pytest.approx(
        {'l_pix': 5, 'l_same': 10, 'l_against': math.sqrt(50), 'l_across': 5, 'l_own': 0, 'l_cut': 0})
    cosines = {name: pull.cosine for name, pull in found.items()}
    # over the parameters that both reach: of l_against that is a alone
    assert cosines == {'l_pix': pytest.approx(1), 'l_same': pytest.approx(1), 'l_against': pytest.approx(-1),
                       'l_across': pytest.approx(0), 'l_own': None, 'l_cut': None}
    assert [name for name, pull in found.items() if pull.trains_itself] == ['l_own']
    assert sum(shares(found).values()) == pytest.approx(1)
    assert shares(found)['l_same'] == pytest.approx(10 / (20 + math.sqrt(50)))
    assert all(p.grad is None for p in (*net.parameters(), *own.parameters()))
    torch.stack(list(terms.values())).sum().backward()  # the graph is still there


def test_frozen_weights_and_missing_pixel_loss() -> None:
    net = Weights()
    net.a.requires_grad_(False)
    found = pulls({'l_x': (net.a * net.b).sum()}, net)
    assert found == {'l_x': Pull(1.0, None)}
    assert shares({'l_x': Pull(0.0)}) == {'l_x': 0.0}
    assert pulls({}, net) == {}


def test_a_gradient_that_is_not_finite_is_shown_as_such() -> None:
    net = Weights()
    found = pulls({'l_pix': net.a.sum(), 'l_x': (net.a / 0).sum()}, net)
    assert found['l_x'].norm == math.inf
    assert 'nan' in in_words(found)


def test_mean_over_batches() -> None:
    found = over_batches([{'l_x': Pull(1.0, 0.5), 'l_y': Pull(2.0, None)}, {'l_x': Pull(3.0, None)}])
    assert found == {'l_x': Pull(2.0, 0.5), 'l_y': Pull(2.0, None)}


# ------------------------------------------------------------------------------------------------ which iterations
@pytest.mark.parametrize(('every', 'schedule', 'due', 'logged'), [
    (4, {}, [1], [4, 8, 12]),
    (1, {}, [1], list(range(1, 13))),
    (4, {'every': 3}, [1], [6, 9, 12]),  # the first that distills from 4, 8 and 12 on
    (4, {'every': 2}, [3], [6, 12]),
    (5, {'until': 0.5}, [1], [5]),
    (4, {}, [50], [4, 8, 12]),  # an iteration of all terms never comes
])
def test_iterations_that_are_logged(every: int, schedule: dict[str, Any], due: list[int], logged: list[int]) -> None:
    losses = [nn.Module() for _ in due]
    for loss, number in zip(losses, due):
        loss.due_every = number
    log = GradientLog(every, DistillSchedule(12, **schedule), losses)
    assert [iteration for iteration in range(1, 13) if log.is_due(iteration)] == logged


# ---------------------------------------------------------------------------------------------------- the training
def options(make: Make, **logger: Any) -> dict[str, Any]:
    opt = make()
    opt['datasets']['train'].update(dataset_enlarge_ratio=3)
    opt['network_g'] = {**STUDENTS['SwinIR'], 'drop_path_rate': 0.5}  # draws random numbers in each forward pass
    opt['model_type'] = 'SwinIRDistillModel'
    opt['train'].update(total_iter=8, exact_resume=True, distill_opt=LOSSES, distill={'fade': 'linear', 'share': 1.0})
    opt['val']['val_freq'] = 8
    opt['logger'].update(save_checkpoint_freq=4, **logger)
    return opt


def saved(folder: Path, iteration: int) -> list[Any]:
    run = folder / 'experiments/tiny'
    return [torch.load(run / name, weights_only=False) for name in (
        f'models/net_g_{iteration}.pth', f'models/distill_{iteration}.pth', f'training_states/{iteration}.state')]


def assert_identical(a: Any, b: Any) -> None:
    if isinstance(a, Tensor):
        assert torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_identical(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            assert_identical(x, y)
    else:
        assert a == b or a is b


def logged(folder: Path) -> dict[int, str]:
    text = ''.join(path.read_text(encoding='utf-8') for path in sorted((folder / 'experiments/tiny').glob('*.log')))
    return {int(number): line for number, line in LINE.findall(text)}


def test_the_training_stays_the_same_to_the_last_bit_and_resumes(
        train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {}
    for name, freq in (('without', None), ('with', 2), ('resumed', 2)):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        path = write_options(options(train_options, gradient_freq=freq, use_tb_logger=name == 'with'), Path('o.yml'))
        if name == 'resumed':
            train_until(path, 'trained', 6)
            assert train(path, '--auto_resume') == 0
        else:
            assert train(path) == 0
        ends[name] = saved(folder, 8)
    for name in ('with', 'resumed'):
        for plain, other in zip(ends['without'], ends[name]):
            assert_identical(plain, other)
    assert logged(tmp_path / 'without') == {}
    lines = logged(tmp_path / 'with')
    assert list(lines) == [2, 4, 6, 8]
    assert logged(tmp_path / 'resumed') == lines
    names = ['l_pix', 'l_feat', 'l_ae', 'l_logits', 'l_block', 'l_logits_2', 'l_kr']
    assert re.findall(r'(l_\w+) [\d.e+-]+ %', lines[8]) == names
    assert 'l_ae 0 % (norm 0)' in lines[2]  # it trains the mixers alone
    assert sum(map(float, re.findall(r'([\d.e+-]+) %', lines[2]))) == pytest.approx(100, abs=1)
    assert not re.search(r'l_\w+: ', lines[2]), 'readers of logs would take it for the value of a term'
    events = EventAccumulator(str(tmp_path / 'with/tb_logger/tiny')).Reload()
    assert len(list((tmp_path / 'with/tb_logger/tiny').iterdir())) == 1, 'one file, as TensorBoard expects'
    assert [e.step for e in events.Scalars('gradients/share_l_kr')] == [2, 4, 6, 8]
    assert sum(events.Scalars(f'gradients/share_{n}')[0].value for n in names) == pytest.approx(1)
    assert {'gradients/norm_l_pix', 'gradients/cosine_l_kr'} <= set(events.Tags()['scalars'])
    assert 'gradients/cosine_l_pix' not in events.Tags()['scalars']
    shutil.rmtree(tmp_path / 'without')


def test_the_logged_norm_is_that_of_the_step(train_options: Make, tmp_path: Path,
                                             caplog: pytest.LogCaptureFixture) -> None:
    """With the distillation terms weighted to nothing, l_pix's norm is the norm of what the optimizer gets."""
    opt = train_options()
    opt['logger']['gradient_freq'] = 1
    opt['train']['distill_opt'] = {'type': 'LogitsKDLoss', 'loss_weight': 1e-9}
    model: DistillModel = build_model(as_parsed(opt, tmp_path))
    lq, gt = batch('EDSR')
    model.feed_data({'lq': lq, 'gt': gt})
    seen = {}
    model.log_gradients.is_due = lambda iteration: True

    class Log:
        def is_due(self, iteration: int) -> bool:
            return True

        def __call__(self, iteration: int, terms: dict[str, Tensor], student: nn.Module) -> None:
            seen.update(pulls(terms, student))

    model.log_gradients = Log()
    model.optimize_parameters(1)
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.net_g.parameters()))
    assert seen['l_pix'].norm == pytest.approx(norm, rel=1e-5)
    assert scalars(seen)['gradients/share_l_pix'] == pytest.approx(1, abs=1e-6)


def test_a_student_whose_gradients_cannot_be_had_trains_on(train_options: Make, tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    """Reentrant gradient checkpoints have no torch.autograd.grad: one line says so, and the training goes on."""
    opt = train_options()
    opt['logger']['gradient_freq'] = 1
    said: list[str] = []
    model: DistillModel = build_model(as_parsed(opt, tmp_path))
    monkeypatch.setattr('mipkd_plugin.models.gradients.get_root_logger', lambda: type('Log', (), {
        'warning': said.append, 'info': said.append}))
    net = CheckpointedReentrant().train()
    output = net(batch('EDSR')[0].requires_grad_())
    model.log_gradients(1, {'l_pix': output.mean()}, net)
    assert len(said) == 1
    assert said[0].startswith('Gradients cannot be logged with this student, and logger.gradient_freq is off: ')
    assert not model.log_gradients.is_due(2)


def write_pulls_and_ends(arguments: list[str]) -> int:
    """What one rank does: the pulls of two terms by hand, and two steps without and with the log of gradients."""
    init_dist('pytorch')
    rank, ranks = get_dist_info()
    logging.getLogger('basicsr').setLevel(logging.INFO)  # as a run with a log file; on other ranks BasicSR changes it
    net = nn.Linear(2, 1, bias=False)
    # on one rank the term does not reach the weights at all
    terms = {'l_pix': (net.weight * torch.tensor([[3.0, 8.0 * rank]])).sum(),
             'l_x': net.weight.sum() if rank else torch.zeros((), requires_grad=True).sum()}
    found, ends = pulls(terms, net), []
    for freq in (None, 1):
        opt = json.loads(Path('opt.json').read_text())
        opt['logger']['gradient_freq'] = freq
        torch.manual_seed(0)
        model = build_model(as_parsed(opt, Path.cwd(), rank, ranks))
        for iteration in (1, 2):
            lq, gt = batch('EDSR', seed=10 * iteration + rank)
            model.feed_data({'lq': lq, 'gt': gt})
            model.optimize_parameters(iteration)
        ends.append({**model.net_g.state_dict(), **{k: v for k, v in model.losses.state_dict().items()
                                                    if isinstance(v, Tensor)}})
    equal = all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    Path(f'{rank}.json').write_text(json.dumps([found['l_pix'].norm, found['l_x'].norm, found['l_x'].cosine, equal]))
    return 0


def test_two_processes(train_options: Make, tmp_path: Path) -> None:
    """The gradient is the mean over the ranks, and what DDP trains does not change by a bit."""
    opt = train_options()
    opt['train']['distill_opt'] = LOSSES
    (tmp_path / 'opt.json').write_text(json.dumps(opt))
    results = two_ranks(write_pulls_and_ends, cwd=tmp_path)
    assert [result.returncode for result in results] == [0, 0], results[0].stderr[-3000:]
    both = [json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1)]
    assert both[0] == both[1]
    # mean of (3, 0) and (3, 8) is (3, 4); of nothing and (1, 1) it is (0.5, 0.5)
    assert both[0] == [pytest.approx(5), pytest.approx(math.sqrt(0.5)), pytest.approx(7 / 5 / math.sqrt(2)), True]
    said = ''.join(result.stdout + result.stderr for result in results)
    assert said.count('Gradients at iteration 2: ') == 1, 'the first rank alone logs'


# ------------------------------------------------------------------------------------------------------- the check
@pytest.mark.parametrize(('value', 'says'), [
    (0, 'must be a whole number, 1 or more, or ~, not 0'), ('often', "not 'often'"), (2.5, 'not 2.5'),
    (True, 'not True')])
def test_values_that_are_refused_have_a_remedy(train_options: Make, value: Any, says: str) -> None:
    opt = train_options()
    opt['logger']['gradient_freq'] = value
    problem, = check_options(config.Options(opt), is_train=True, files=False, probe='none').problems
    assert problem.where == 'logger.gradient_freq'
    assert says in problem.what
    assert problem.fix == {'logger.gradient_freq': None}


def test_a_model_that_does_not_distill_gets_a_note(train_options: Make) -> None:
    opt = train_options(model_type='SRModel')
    for key in ('teacher', ):
        del opt[key]
    del opt['train']['distill_opt']
    opt['logger']['gradient_freq'] = 5
    report = check_options(opt, is_train=True, probe='none')
    assert not report.problems
    assert report.notes == ['logger.gradient_freq is for models that distill; SRModel does not read it']
