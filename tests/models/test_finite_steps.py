"""Steps that are not finite are not applied, weights that are not finite are not saved, and a run says so and stops."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from basicsr.archs.edsr_arch import EDSR
from basicsr.models.sr_model import SRModel
from helpers import STUDENTS
from torch import Tensor, nn
from training import train, write_options

from mipkd_plugin.models import DistillModel
from mipkd_plugin.models.guard import Guard
from mipkd_plugin.models.finite_steps import MOST_IN_A_ROW, FiniteSteps
from mipkd_plugin.utils.finite import bad_weights, gradients_are_bad, is_finite, scalars_are_bad
from mipkd_plugin.utils.stopping import Stop

Make = Callable[..., dict[str, Any]]
MODELS = pytest.mark.parametrize('model', ['SRModel', 'DistillModel'])


@pytest.fixture
def options(train_options: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, Any]]:
    monkeypatch.chdir(tmp_path)

    def make(model: str) -> dict[str, Any]:
        opt = train_options(model_type=model)
        opt['logger']['use_tb_logger'] = False
        opt['val']['val_freq'] = 100
        opt['train']['total_iter'] = 8
        if model == 'SRModel':
            del opt['teacher'], opt['train']['distill_opt']
        return opt

    return make


def run(opt: dict[str, Any]) -> int:
    return train(write_options(opt, Path('x.yml')))


def files() -> list[str]:
    return sorted(path.name for path in Path('experiments/tiny').rglob('*') if path.suffix in ('.pth', '.state'))


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[int], bool]], None]:
    """Spoil the ground truth of chosen iterations."""
    def spoil(chosen: Callable[[int], bool]) -> None:
        feed_data, count = SRModel.feed_data, iter(range(1, 10_000))

        def feed(self: Any, data: dict[str, Any]) -> None:
            feed_data(self, data)
            if self.net_g.training and chosen(next(count)):
                self.gt[0, 0, 0, 0] = float('nan')

        monkeypatch.setattr(SRModel, 'feed_data', feed)

    return spoil


@MODELS
def test_a_learning_rate_that_is_far_too_high(options: Any, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    opt = options(model)
    opt['train']['optim_g']['lr'] = 1e10
    opt['train']['total_iter'] = 20
    assert run(opt) == 3
    message = capsys.readouterr().err[-700:]
    assert f'the loss or its gradient is not finite, {MOST_IN_A_ROW} steps in a row (l_pix = nan' in message
    assert 'There is no checkpoint of this run yet. Start again with a lower train.optim_g.lr (now 1e+10)' in message
    assert 'Traceback' not in message
    assert files() == []


@MODELS
def test_a_run_that_ends_before_so_many_steps(options: Any, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    opt = options(model)
    opt['train']['optim_g']['lr'] = 1e10
    assert run(opt) == 3
    message = capsys.readouterr().err
    assert 'iteration 8: the training has ended, but its last 7 steps were not finite and were not applied' in message
    assert 'The network gives images that are not finite, and its weights are not saved' in message
    assert files() == []


def test_a_run_whose_last_steps_are_bad_keeps_its_weights_and_says_so(options: Any, spoiled: Any,
                                                                      capsys: pytest.CaptureFixture[str]) -> None:
    spoiled(lambda iteration: iteration > 5)
    assert run(options('SRModel')) == 3
    message = capsys.readouterr().err
    assert 'its last 3 steps were not finite and were not applied. net_g_latest.pth holds the weights from' in message
    assert files() == ['2.state', '4.state', '6.state', 'net_g_2.pth', 'net_g_4.pth', 'net_g_6.pth',
                       'net_g_latest.pth'], 'none of iteration 8: a run that resumed there would forget what was wrong'


@MODELS
def test_a_single_bad_batch_moves_nothing(options: Any, model: str, spoiled: Any,
                                          monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Tensor]] = []
    optimize = (DistillModel if model == 'DistillModel' else SRModel).optimize_parameters

    def look(self: Any, current_iter: int) -> None:
        optimize(self, current_iter)
        seen.append(copy.deepcopy({**self.net_g.state_dict(), 'moment': self.optimizer_g.state[
            next(self.net_g.parameters())]['exp_avg']}))

    monkeypatch.setattr(DistillModel if model == 'DistillModel' else SRModel, 'optimize_parameters', look)
    spoiled(lambda iteration: iteration == 4)
    assert run(options(model)) == 0
    same = [all(torch.equal(a[key], b[key]) for key in a) for a, b in zip(seen, seen[1:])]
    assert same == [False, False, True, False, False, False, False]  # the fourth step left all as the third had
    assert '4.state' in files(), 'the network is as good as before: it is saved'
    log = next(Path('experiments/tiny').glob('*.log')).read_text()
    assert 'Iteration 4: the loss or its gradient is not finite (l_pix = nan' in log
    assert log.count('WARNING') == 1


def test_the_last_good_checkpoint_is_left_as_it_was(options: Any, spoiled: Any,
                                                    capsys: pytest.CaptureFixture[str]) -> None:
    opt = options('SRModel')
    opt['train']['total_iter'] = 30
    spoiled(lambda iteration: iteration > 6)
    assert run(opt) == 3
    message = capsys.readouterr().err
    assert 'iteration 16: the loss' in message
    assert 'experiments/tiny/training_states/4.state, train.resume_hyperparameters: new and a lower train.optim_g.lr ' \
        '(now 0.001); or start a new run' in message, message[-900:]
    assert message.endswith('experiments/tiny/models/net_g_4.pth\n')
    net = EDSR(**{key: value for key, value in STUDENTS['EDSR'].items() if key != 'type'})
    net.load_state_dict(torch.load('experiments/tiny/models/net_g_6.pth')['params'])
    assert not bad_weights(net)


def test_adam_that_divides_by_zero(options: Any, monkeypatch: pytest.MonkeyPatch,
                                   capsys: pytest.CaptureFixture[str]) -> None:
    """A unit that is off has no gradient, and Adam's 0 / 0 is NaN: the gradients are finite, the weights are not."""
    step = torch.optim.Adam.step

    def with_a_zero(self: torch.optim.Adam, closure: Any = None) -> Any:
        if self.param_groups[0]['params'][0].dim() == 4:  # a convolution; the check tries a step of its own
            self.param_groups[0]['eps'] = 0
            self.param_groups[0]['params'][0].grad.zero_()
        return step(self, closure)

    monkeypatch.setattr(torch.optim.Adam, 'step', with_a_zero)
    opt = options('SRModel')
    opt['logger']['save_checkpoint_freq'] = 1
    assert run(opt) == 3
    message = capsys.readouterr().err
    assert 'iteration 1: the weights of net_g are not finite: 1 tensors, the first is conv_first.weight' in message
    assert 'They are not saved.' in message
    assert files() == []


def test_an_image_of_the_validation_that_is_not_finite(options: Any, monkeypatch: pytest.MonkeyPatch,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    test = SRModel.test

    def spoil(self: Any) -> None:
        test(self)
        if hasattr(self, 'optimizers'):  # the check makes a model without
            self.output[0, 0, 0, 0] = float('inf')

    opt = options('SRModel')
    opt['val']['val_freq'] = 4
    monkeypatch.setattr(SRModel, 'test', spoil)
    assert run(opt) == 3
    message = capsys.readouterr().err
    assert re.search(r'validation after iteration 4 on val, \d\.png: the network gives an image that is not finite',
                     message)
    assert 'psnr' not in message.partition('Start training')[2]


def test_a_checkpoint_that_is_not_finite_is_not_resumed(options: Any, capsys: pytest.CaptureFixture[str]) -> None:
    opt = options('SRModel')
    assert run({**opt, 'train': {**opt['train'], 'total_iter': 2}}) == 0
    path = Path('experiments/tiny/models/net_g_2.pth')
    content = torch.load(path)
    content['params']['conv_last.bias'][0] = float('nan')
    torch.save(content, path)
    capsys.readouterr()
    assert train(write_options(opt, Path('x.yml')), '--auto_resume') == 2
    message = capsys.readouterr().err
    assert "--auto_resume: the student's weights in " in message
    assert 'the run cannot go on from here: start a new one, under another name' in message


def test_a_model_with_other_methods_is_guarded_too() -> None:
    model = _Model()
    Guard(Stop(), '').attach(model)
    assert not hasattr(model, 'test')


class _Model:
    """What a model with two optimizers has: a GAN of somebody else."""

    def __init__(self) -> None:
        self.opt: dict[str, Any] = {'train': {}, 'is_train': True, 'dist': False}
        self.device = torch.device('cpu')
        self.net_g, self.net_d, self.cri_gan = nn.Linear(2, 2), nn.Linear(2, 1), nn.BCEWithLogitsLoss()
        self.optimizers = [torch.optim.Adam(net.parameters()) for net in (self.net_g, self.net_d)]
        self.log_dict: dict[str, float] = {}
        self.is_train = True

    def validation(self) -> None:
        """Look at nothing."""

    feed_data = optimize_parameters = save = validation


def test_only_the_optimizer_with_the_bad_gradient_stands_still() -> None:
    model = _Model()
    steps = FiniteSteps(model, lambda: 15)
    before = copy.deepcopy((model.net_g.state_dict(), model.net_d.state_dict()))
    steps.begin()
    for net, optimizer, bad in zip((model.net_g, model.net_d), model.optimizers, (True, False)):
        net(torch.ones(1, 2)).sum().backward()
        if bad:
            net.bias.grad[0] = float('inf')
        optimizer.step()
    steps.end(1)
    assert steps.in_a_row == 1
    assert steps.agreed_wish == 15
    assert all(torch.equal(before[0][key], value) for key, value in model.net_g.state_dict().items())
    assert not any(torch.equal(before[1][key], value) for key, value in model.net_d.state_dict().items())


def test_a_bad_loss_with_good_gradients_counts() -> None:
    model = _Model()
    steps = FiniteSteps(model, lambda: 0)
    steps.begin()
    loss = model.cri_gan(model.net_d(torch.ones(1, 2)), torch.ones(1, 1))
    loss.backward()
    steps.see([torch.tensor(float('nan'))])
    model.optimizers[1].step()
    steps.end(1)
    assert steps.in_a_row == 1


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -float('inf')])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_finding_a_value(value: float, dtype: torch.dtype) -> None:
    tensors = [torch.full((3, 4), 3e38 if dtype != torch.float16 else 6e4, dtype=dtype), torch.zeros(0, dtype=dtype)]
    assert not gradients_are_bad(tensors)
    assert not scalars_are_bad(tensors)
    assert is_finite(tensors[0]), 'its sum overflows, its values do not'
    tensors[0][2, 3] = value
    assert gradients_are_bad(tensors)
    assert scalars_are_bad(tensors)
    assert not is_finite(tensors[0])


def test_a_mask_may_be_infinite() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer('mask', torch.tensor([0.0, -float('inf')]))
    assert bad_weights(net) == []
    net.mask[0] = float('nan')
    net.bias.data[0] = float('inf')
    assert bad_weights(net) == ['bias', 'mask']


class _RemembersSettings(nn.Linear):
    """A network with state that is no tensor, as the KRNets model and mixers keep it."""

    def get_extra_state(self) -> dict[str, int]:
        return {'version': 1}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {'version': 1}


def test_state_that_is_no_tensor_is_no_weight() -> None:
    net = _RemembersSettings(2, 2)
    assert bad_weights(net) == []
    net.bias.data[0] = float('nan')
    assert bad_weights(net) == ['bias']
