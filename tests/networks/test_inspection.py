"""Networks that behave oddly are named at bind; what can be used all the same is said."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from basicsr.archs import build_network
from faults import stand_ins  # noqa: F401  (registers them)
from helpers import STUDENTS, TEACHERS
from stand_ins import Checkpointed, CheckpointedReentrant
from torch import Tensor, nn

from mipkd_plugin import BindError, FitNetLoss, KRNetLoss, LogitsKDLoss, MiPKDLoss, bind
from mipkd_plugin.networks import conduct as conduct_module
from mipkd_plugin.networks.conduct import Conduct, conduct_of, in_training, patches_of, training
from mipkd_plugin.networks.inspection import reentry_problem, settle
from mipkd_plugin.networks.probing import calmed_down
from mipkd_plugin.networks.tapped_net import TappedNet
from mipkd_plugin.networks.trace import Trace
from mipkd_plugin.networks.trunk import TapError, trunk_of

PROBE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
TAPS = [['body.0', 'body.0'], ['body.2', 'body.2']]
MIXED = 'depends on the batch: its result for an image changes by up to '


def pair(role: str, kind: str, **options: Any) -> tuple[nn.Module, nn.Module]:
    """A stand-in as student or teacher, and an EDSR as the other."""
    torch.manual_seed(0)
    wide = {} if role == 'student' else {'num_feat': 16}
    odd = build_network({'type': kind, **wide, **options})
    return (odd, build_network(TEACHERS['EDSR'])) if role == 'student' else (build_network(STUDENTS['EDSR']), odd)


def mipkd(taps: Any = TAPS) -> MiPKDLoss:
    return MiPKDLoss(taps=taps, latent_channels=4)


def notes_of(nets: tuple[nn.Module, nn.Module], loss: nn.Module) -> list[str]:
    notes: list[str] = []
    bind([loss], *nets, PROBE, notes=notes).close()
    return notes


def problems_of(nets: tuple[nn.Module, nn.Module], loss: nn.Module) -> list[str]:
    with pytest.raises(BindError) as caught:
        bind([loss], *nets, PROBE)
    return [str(problem) for problem in caught.value.problems]


def refused(nets: tuple[nn.Module, nn.Module], loss: nn.Module) -> str:
    problem, = problems_of(nets, loss)
    return problem


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_network_that_mixes_a_batch_takes_no_features_back(role: str) -> None:
    nets = pair(role, 'OverBatch')
    said = refused(nets, mipkd())
    assert said.startswith(f'the {role} OverBatch {MIXED}')
    assert said.endswith('so no feature can re-enter it; normalize each image by itself, as nn.GroupNorm and '
                         'nn.LayerNorm do, or with statistics that are kept from training, as nn.BatchNorm2d does; or '
                         'take a loss that only compares, as FitNetLoss and LogitsKDLoss do')
    for loss in (FitNetLoss(taps=TAPS), LogitsKDLoss()):
        note, = notes_of(nets, loss)
        assert note.startswith(f'the {role} OverBatch {MIXED}')
        assert 'a batch of training gives other images than a test' in note


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_random_network_is_said_to_be_random(role: str) -> None:
    nets = pair(role, 'Drops')
    for loss in (mipkd(), FitNetLoss(taps=TAPS), LogitsKDLoss()):
        note, = notes_of(nets, loss)
        assert note.startswith(f'the {role} Drops is random: two runs over the same images differ by up to ')
        assert note.endswith('draw random numbers in training mode alone, as F.dropout(x, p, self.training) does')


def test_a_generator_of_its_own_is_random_too() -> None:
    student, teacher = pair('teacher', 'Odd')
    generator = torch.Generator().manual_seed(0)
    teacher.extra.register_forward_hook(lambda m, args, y: y + torch.rand(y.shape, generator=generator))
    teacher.blocks = lambda x: teacher.body(x + teacher.extra(x))
    assert len(notes_of((student, teacher), LogitsKDLoss())) == 1


@pytest.mark.parametrize('draw', [random.random, np.random.rand, lambda: float(torch.rand(()))],
                         ids=['Python', 'NumPy', 'torch'])
def test_any_random_numbers_are_seen(draw: Any) -> None:
    """However little they change, and where the two batches agree."""
    student, teacher = pair('teacher', 'Odd')
    student.register_forward_hook(lambda m, args, y: y * (1 + 1e-5 * draw()))
    with TappedNet(student, frozen=True) as tapped:
        assert 0 < conduct_of(tapped, PROBE).tested < 1e-4
    teacher.register_forward_hook(lambda m, args, y: y + 0 * draw())
    assert in_training(teacher, PROBE, []).draws
    assert not in_training(build_network(STUDENTS['EDSR']), PROBE, []).draws


def test_random_numbers_without_effect_are_none() -> None:
    student, teacher = pair('teacher', 'Odd')
    teacher.extra.register_forward_hook(lambda m, args, y: torch.rand_like(y))
    teacher.blocks = lambda x: teacher.body(x + 0 * teacher.extra(x))
    assert notes_of((student, teacher), LogitsKDLoss()) == []


def test_dropout_in_training_is_said_where_features_reenter() -> None:
    note, = notes_of(pair('student', 'Drops', always=False), mipkd())
    assert note.startswith('the student Drops draws random numbers in training: features that re-enter it meet other ')
    note, = notes_of((build_network(STUDENTS['SwinIR']), build_network(TEACHERS['EDSR'])), mipkd(2))
    assert note.startswith('the student SwinIR draws random numbers in training (DropPath): ')
    assert notes_of(pair('student', 'Drops', always=False), FitNetLoss(taps=TAPS)) == []
    assert notes_of(pair('teacher', 'Drops', always=False), mipkd()) == []


def test_statistics_of_the_batch_in_training_alone_are_the_students_business() -> None:
    student, teacher = pair('student', 'Odd')
    student.blocks = lambda x: student.body(nn.functional.batch_norm(
        x, torch.zeros(8), torch.ones(8), training=student.training))
    assert notes_of((student, teacher), mipkd()) == []


@pytest.mark.parametrize('make', [lambda: mipkd(), lambda: FitNetLoss(taps=TAPS), LogitsKDLoss])
def test_a_student_that_cannot_train_is_named(make: Any) -> None:
    said = refused(pair('student', 'WritesInTraining'), make())
    assert said.startswith('the student WritesInTraining fails in a training step on two images: RuntimeError: one of '
                           'the variables needed for gradient computation has been modified by an inplace operation')
    assert said.endswith('; fix its forward()')
    assert notes_of(pair('teacher', 'WritesInTraining'), FitNetLoss(taps=TAPS)) == []


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_network_that_takes_one_image_is_named(role: str) -> None:
    for loss in (LogitsKDLoss(), FitNetLoss(taps=3), FitNetLoss(taps=TAPS)):
        said = refused(pair(role, 'OneByOne'), loss)
        assert said.startswith(f'the {role} OneByOne takes one image at a time, and fails on two: RuntimeError: shape ')
        assert said.endswith('; fix its forward(), so that it takes a batch')


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_network_that_cannot_run_is_named(role: str) -> None:
    nets = pair(role, 'Odd')
    (nets[0] if role == 'student' else nets[1]).blocks = lambda x: x.no_such_thing
    for loss in (LogitsKDLoss(), FitNetLoss(taps=3)):
        said = refused(nets, loss)
        assert said.startswith(f'the {role} Odd cannot run on patches of 3×8×8: AttributeError: ')
        assert said.endswith('; fix the argument that the message is about, or its forward()')


@pytest.mark.parametrize('role', ['student', 'teacher'])
@pytest.mark.parametrize(('change', 'says'), [
    (lambda y: (y, y), 'a tuple of 2: 0: 2×3×16×16, 1: 2×3×16×16'), (lambda y: {'sr': y}, "a dict of 'sr': 2×3×16×16"),
    (lambda y: y[:1], 'a tensor of 1×3×16×16'), (lambda y: y.mean((2, 3)), 'a tensor of 2×3')])
def test_what_is_no_batch_of_images_is_named(role: str, change: Any, says: str) -> None:
    nets = pair(role, 'Odd')
    (nets[0] if role == 'student' else nets[1]).register_forward_hook(lambda m, args, y: change(y))
    for loss in (LogitsKDLoss(), FitNetLoss(taps=TAPS)):
        assert refused(nets, loss) == (
            f'the {role} Odd returns {says} for two images, and not two images; let its forward() return the images '
            'alone, or choose them: output: 0 in an option file, select_output(net, 0) in Python')


def test_a_student_without_a_gradient_is_named() -> None:
    student, teacher = pair('student', 'Odd')
    student.register_forward_hook(lambda m, args, y: y.detach())
    assert refused((student, teacher), LogitsKDLoss()) == (
        'the student Odd makes images without a gradient in training mode, so nothing can train it; fix its forward()')
    assert notes_of((student.requires_grad_(False), teacher), LogitsKDLoss()) == []


def test_features_that_cannot_be_looked_at_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TappedNet, *args: Any) -> Any:
        raise StopIteration

    monkeypatch.setattr(TappedNet, 'probe', broken)
    said = problems_of(pair('teacher', 'Odd'), FitNetLoss(taps=TAPS))
    assert said[1] == (
        'the features of the teacher Odd cannot be looked at: StopIteration; take a loss without taps, such as '
        'LogitsKDLoss; or let its modules run in the same way each time')


@pytest.mark.parametrize('role', ['student', 'teacher'])
def test_a_gradient_comes_back_to_every_tap(role: str) -> None:
    taps = [[f'body.{i}'] * 2 for i in range(3)]
    said = refused(pair(role, 'CutOff'), mipkd(taps))
    assert said == ("CutOff: no gradient comes back from the image to 'body.0', so a feature that re-enters there has "
                    'no effect')
    assert notes_of(pair(role, 'CutOff'), mipkd(taps[1:])) == []


def test_a_segment_without_gradient_is_refused() -> None:
    _, teacher = pair('teacher', 'Odd')

    def cut_off(self: TappedNet, *args: Any) -> torch.Tensor:
        return segment(self, *args).detach()

    segment = TappedNet.segment
    with TappedNet(teacher, ['body.0', 'body.2'], frozen=True) as tapped:
        tapped.segment = cut_off.__get__(tapped)
        assert settle(tapped, PROBE, tapped.taps) == (
            "Odd: no gradient comes back from 'body.2' to 'body.0', so a feature that re-enters there has no effect")
        tapped.segment = lambda *args: (lambda y: y * torch.ones(()) / y.detach().sign().clamp_max(0))(
            segment(tapped, *args))
        assert "'body.0', gives another result (by " in settle(tapped, PROBE, tapped.taps)


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    _, teacher = pair('teacher', 'Odd')
    blocks = teacher.body
    teacher.blocks = lambda x: (lambda y: y + (y - y).square().sum(1, keepdim=True).sqrt())(blocks(x))
    with TappedNet(teacher, ['body.0'], frozen=True) as tapped:
        assert settle(tapped, PROBE, tapped.taps) == (
            "Odd: the gradient that comes back from the image to 'body.0' is not finite")


def test_what_grad_mode_computes_a_little_differently_is_right() -> None:
    student, teacher = pair('teacher', 'Odd')
    blocks, factor = teacher.body, [1 + 5e-6]
    teacher.blocks = lambda x: blocks(x) * (factor[0] if torch.is_grad_enabled() else 1)
    assert notes_of((student, teacher), mipkd()) == []
    factor[0] = 1 + 1e-3
    assert "own feature, put in place at 'body.0', gives another result (by " in refused((student, teacher), mipkd())


def test_a_random_network_whose_features_do_not_show_is_refused() -> None:
    _, teacher = pair('teacher', 'Odd')
    teacher.blocks = lambda x: teacher.body[1:](1e-6 * teacher.body[0](x) + 0.1 * torch.rand_like(x))
    with TappedNet(teacher, ['body.0'], frozen=True) as tapped:
        assert settle(tapped, PROBE, tapped.taps).startswith("Odd: noise at 'body.0' does not show in the image")


def test_a_student_is_also_entered_in_training_mode() -> None:
    student, _ = pair('student', 'Odd')

    def blocks(x: torch.Tensor) -> torch.Tensor:
        x = student.body(x)
        return x.detach() if not student.extra.training or student.body[0].conv1.weight.requires_grad else x

    student.blocks = blocks
    with TappedNet(student, ['body.0']) as tapped:
        assert 'no gradient' in settle(tapped, PROBE, tapped.taps)
    drop = nn.Dropout(0.)
    student.blocks = lambda x: student.body(x).detach() if drop.training else student.body(x)
    student.drop = drop
    with TappedNet(student, ['body.0']) as tapped:
        assert settle(tapped, PROBE, tapped.taps) == (
            "Odd: in training mode no gradient comes back from the image to 'body.0'")


@pytest.mark.parametrize(('in_training_alone', 'role', 'says'), [
    (False, 'student', 'its module runs in eval mode alone, and never in training'),
    (True, 'teacher', 'its module runs in training mode alone, and a teacher runs in eval mode')])
def test_a_tap_that_runs_in_the_other_mode(in_training_alone: bool, role: str, says: str) -> None:
    nets = pair(role, 'InOneMode', in_training=in_training_alone)
    said = refused(nets, FitNetLoss(taps=[['extra', 'body.0'] if role == 'student' else ['body.0', 'extra']]))
    assert said == f"tap 'extra' of the {role} InOneMode: {says}"


def test_a_tap_that_never_runs() -> None:
    said = refused(pair('teacher', 'Odd'), FitNetLoss(taps=[['body.0', 'extra']]))
    assert said == "tap 'extra' of the teacher Odd: its module never runs"


def test_a_tap_that_runs_more_often_in_training() -> None:
    student, teacher = pair('student', 'Odd')
    drop = student.drop = nn.Dropout(0.)
    student.blocks = lambda x: student.extra(student.extra(x) if drop.training else student.body(x))
    assert refused((student, teacher), FitNetLoss(taps=[['extra', 'body.0']])) == (
        "tap 'extra' of the student Odd: its module runs 2 times in one forward pass in training mode, not once")


def test_a_tap_beside_the_image() -> None:
    said = refused(pair('student', 'Beside'), mipkd([['extra', 'body.0']]))
    assert said == ("Beside: no gradient comes back from the image to 'extra', so a feature that re-enters there has "
                    'no effect')
    note, = notes_of(pair('student', 'Beside'), FitNetLoss(taps=[['extra', 'body.0']]))
    assert note.startswith("tap 'extra' of the student Beside: the image does not depend on its feature, so the loss ")


def test_a_trunk_in_doubt_is_said_once() -> None:
    student, teacher = pair('student', 'Around')
    chain = trunk_of(student, PROBE)
    assert chain.doubt
    notes: list[str] = []
    bind([FitNetLoss(taps=2), FitNetLoss(taps=2)], student, teacher, PROBE, notes=notes).close()
    assert notes == [f'the trunk {chain.name!r} of the student Around is in doubt: {chain.doubt}; taps: 2 took '
                     f'{", ".join(chain.spaced(2))}. If these are not its blocks, give pairs, taps: [[student module, '
                     'teacher module], …]; mipkd taps -opt FILE.yml lists the modules']
    assert notes_of((student, teacher), FitNetLoss(taps=[['layers.0', 'body.0']])) == []


def test_notes_are_warnings_where_nobody_takes_them() -> None:
    with pytest.warns(UserWarning, match='the teacher Drops is random') as caught:
        bind([LogitsKDLoss()], *pair('teacher', 'Drops'), PROBE).close()
    assert caught[0].filename == __file__


def test_objects_between_modules_are_one_problem_or_none() -> None:
    assert notes_of(pair('teacher', 'Hides'), mipkd()) == []
    said = refused(pair('teacher', 'Hides'), mipkd([['body.0', 'wraps']]))
    assert said == "tap 'wraps' of the teacher Hides: its module returns Wrapped, not a tensor"


def test_any_crash_of_reentry_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TappedNet, *args: Any) -> Any:
        raise AttributeError('no attribute shape')

    monkeypatch.setattr(TappedNet, 'finish', broken)
    problems = problems_of(pair('teacher', 'Odd'), mipkd())
    assert [p.partition(',')[0] for p in problems] == ['no feature can re-enter EDSR', 'no feature can re-enter Odd']
    assert all(p.endswith('AttributeError: no attribute shape') for p in problems)
    monkeypatch.undo()
    monkeypatch.setattr(Trace, 'follows', broken)
    problems = problems_of(pair('teacher', 'Odd'), mipkd())
    assert problems == ['no feature can re-enter the student EDSR: AttributeError: no attribute shape',
                        'no feature can re-enter the teacher Odd: AttributeError: no attribute shape']


def test_a_trunk_that_cannot_be_traced_is_one_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise TypeError('no dispatch')

    monkeypatch.setattr('mipkd_plugin.losses.doubts.trunk_of', broken)
    assert refused(pair('teacher', 'Odd'), FitNetLoss(taps=2)) == (
        'no trunk can be found for taps: 2: TypeError: no dispatch')


@pytest.mark.parametrize('use_reentrant', [True, False])
def test_gradient_checkpoints_are_no_second_run(use_reentrant: bool) -> None:
    net = (CheckpointedReentrant if use_reentrant else Checkpointed)()
    assert in_training(net, PROBE, ['body.0', 'body.3']).counts == {'body.0': 1, 'body.3': 1}
    assert notes_of((net, pair('teacher', 'Odd')[1]), KRNetLoss(taps=2)) == []


def test_bind_leaves_the_student_as_it_is() -> None:
    student, teacher = pair('student', 'Odd')
    student.norm = nn.BatchNorm2d(8)
    student.blocks = lambda x: student.norm(student.body(x))
    student.eval()
    student.body.train()
    weight = student.conv_first.weight
    weight.grad = torch.ones_like(weight)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        bind([LogitsKDLoss()], student, teacher, PROBE).close()
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in student.state_dict().items())
    assert weight.grad.equal(torch.ones_like(weight))
    assert [p for p in student.parameters() if p.grad is not None] == [weight]
    assert not student.training
    assert student.body.training


def test_the_network_trains_inside_and_is_as_before() -> None:
    net = nn.Sequential(nn.BatchNorm2d(3)).eval()
    with training(net, PROBE.device):
        assert net[0].training
        net(PROBE)
    assert net[0].num_batches_tracked == 0
    assert not net[0].training


def test_patches_to_try() -> None:
    sizes = {side: [tuple(patch.shape[2:]) for patch in patches_of(torch.empty(1, 3, side, side + 8))]
             for side in (8, 31, 32, 48, 64, 100)}
    assert sizes == {8: [(8, 16)], 31: [(31, 39)], 32: [(16, 16), (32, 40)], 48: [(16, 16), (48, 56)],
                     64: [(32, 32), (64, 72)], 100: [(48, 48), (100, 108)]}


@pytest.mark.parametrize('smallest', [0, 20])
def test_small_patches_are_tried_first(smallest: int) -> None:
    """A network that takes small patches is looked at on these; one that does not, on the patch itself."""
    student, teacher = pair('teacher', 'OverBatch')
    sizes = []

    def blocks(x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] < smallest:
            raise RuntimeError('too small')
        sizes.append(x.shape[2])
        return teacher.body(x - x.mean((0, 2, 3), keepdim=True))

    teacher.blocks = blocks
    lq = torch.rand(1, 3, 32, 32)
    with TappedNet(teacher, ['body.0'], frozen=True) as tapped:
        tapped.probe(lq)
        infos = dict(tapped.infos)
        sizes.clear()
        assert conduct_of(tapped, lq).mixed > 0.01
        assert set(sizes) == {32 if smallest else 16}
        prepared, prepare = [], tapped.prepare
        tapped.prepare = lambda images, paths: (prepared.append(images.shape[2]), prepare(images, paths))
        assert settle(tapped, lq, ['body.0']) == ''
        assert prepared[-1] == 32
        assert len(prepared) == 2
        assert tapped.infos == infos
        sizes.clear()
        in_training(teacher, lq, [])
        assert sizes == [32 if smallest else 16]


def test_what_depends_on_the_first_image_alone_mixes() -> None:
    net = nn.Conv2d(3, 3, 1)
    net.register_forward_hook(lambda m, args, y: y[:1].expand_as(y))
    with TappedNet(net, frozen=True) as tapped:
        assert conduct_of(tapped, PROBE).mixed > 0.1


def test_rounding_is_no_mixing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the place in the batch alone changes the result, as kernels of a GPU do, that is rounding."""
    place = torch.tensor([1., 1 + 3e-4]).view(2, 1, 1, 1)
    net = nn.Conv2d(3, 3, 1)
    net.register_forward_hook(lambda m, args, y: y * place)
    with TappedNet(net, frozen=True) as tapped:
        assert conduct_of(tapped, PROBE) == Conduct()
        monkeypatch.setattr(conduct_module, '_NOISE', 0.5)
        assert conduct_of(tapped, PROBE).mixed > 0


def test_layouts_without_a_batch_in_front_are_not_compared() -> None:
    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(2).permute(2, 0, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rows = Rows()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.rows(x).permute(1, 2, 0).reshape(x.shape)

    net = Net()
    with TappedNet(net, ['rows'], frozen=True) as tapped:
        assert conduct_of(tapped, PROBE) == Conduct()


def test_reentry_is_measured_without_a_known_conduct() -> None:
    _, teacher = pair('teacher', 'Drops')
    with TappedNet(teacher, ['body.0', 'body.2'], frozen=True) as tapped:
        assert reentry_problem(tapped, PROBE, tapped.taps) == ''
        assert "'body.0', gives another result (by " in reentry_problem(tapped, PROBE, tapped.taps, Conduct())


def test_layers_that_begin_at_zero_hide_no_tap() -> None:
    student, teacher = pair('student', 'Odd')
    for layer in (student.conv_last, student.conv_after_body):
        nn.init.zeros_(layer.weight)
    assert notes_of((student, teacher), mipkd()) == []


def test_a_tap_whose_way_is_cut_off_is_refused_all_the_same() -> None:
    student, teacher = pair('student', 'Odd')
    nn.init.zeros_(student.conv_last.weight)
    student.body[1].forward = lambda x: x.detach() + 1
    assert 'no gradient comes back' in refused((student, teacher), mipkd())


class Learning(nn.Module):
    """Keeps a mean of what it has seen in training mode; fails on two images in eval mode."""

    def __init__(self, fails: bool) -> None:
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
        self.fails = fails

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.seen.lerp_(x.detach().mean(), 0.1)
        elif self.fails and len(x) > 1:
            raise RuntimeError('one image at a time')
        return x


@pytest.mark.parametrize('fails', [False, True])
def test_a_teacher_that_learns_in_training_mode_is_not_put_into_it(fails: bool) -> None:
    student, teacher = pair('teacher', 'Odd')
    teacher.body[1].add_module('learning', Learning(fails))
    forward = teacher.body[1].forward
    teacher.body[1].forward = lambda x: teacher.body[1].learning(forward(x))
    if fails:
        assert 'one image at a time' in refused((student, teacher), mipkd())
    else:
        assert notes_of((student, teacher), mipkd()) == []
    assert teacher.body[1].learning.seen == 0
    assert not teacher.training
    with TappedNet(teacher, ['body.0'], frozen=True) as tapped, pytest.raises(
            TapError, match=r"changes its buffer 'body.1.learning.seen' in training mode, and a teacher must stay"):
        calmed_down(tapped, PROBE)
    assert teacher.body[1].learning.seen == 0


def test_buffers_that_a_student_learns_do_not_disturb_the_check() -> None:
    student, teacher = pair('student', 'Odd')
    student.body[1].add_module('learning', Learning(False))
    forward = student.body[1].forward
    student.body[1].forward = lambda x: student.body[1].learning(forward(x)) * (1 + 100 * student.body[1].learning.seen)
    assert notes_of((student, teacher), mipkd()) == []
    assert student.body[1].learning.seen == 0
