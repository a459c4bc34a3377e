"""What binding refuses, and that it names all problems at once."""

from __future__ import annotations

import pytest
import torch
from basicsr.archs import build_network
from helpers import STUDENTS, TEACHERS, make_pair

from mipkd_plugin import BindError, LogitsKDLoss, MiPKDLoss, bind

PROBE = torch.zeros(1, 3, 8, 8)


def problems(losses: list, student: torch.nn.Module, teacher: torch.nn.Module) -> list[str]:
    with pytest.raises(BindError) as caught:
        bind(losses, student, teacher, PROBE)
    for net in (student, teacher):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules()), 'hooks left behind'
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_at_once() -> None:
    student = build_network(STUDENTS['EDSR'])
    teacher = build_network({**TEACHERS['EDSR'], 'upscale': 4})
    taps = [['body.0', 'body.0'], ['conv_after_body', 'body.1'], ['body.2', 'body.4']]
    found = problems([MiPKDLoss(taps=taps, latent_channels=4)], student, teacher)
    assert any("'conv_after_body' of the student EDSR: its output is changed in place" in p for p in found)
    assert any('(3, 16, 16) and (3, 32, 32); use a teacher of the same scale' in p for p in found)


def test_problems_of_several_losses_are_joined() -> None:
    student, teacher = make_pair('EDSR')
    found = problems([MiPKDLoss(taps=9), MiPKDLoss(taps=[['body.0', 'bodi.0']])], student, teacher)
    assert len(found) == 3
    assert 'taps: 9 is not between 1 and 3' in found[0]
    assert 'taps: 9 is not between 1 and 5' in found[1]
    assert "'bodi.0' does not exist in the teacher" in found[2]


def test_taps_must_run_from_shallow_to_deep() -> None:
    found = problems([MiPKDLoss(taps=[['body.1', 'body.1'], ['body.0', 'body.3']])], *make_pair('EDSR'))
    assert found == ['taps of the student are not shallow to deep: body.1, body.0; '
                     'MiPKDLoss follows them in this order']


def test_another_number_of_channels() -> None:
    found = problems([LogitsKDLoss()], build_network(STUDENTS['RRDBNet']),
                     build_network({**TEACHERS['RRDBNet'], 'num_out_ch': 1}))
    assert '(3, 32, 32) and (1, 32, 32)' in found[0]


def test_binding_twice_builds_the_mixers_once() -> None:
    loss = MiPKDLoss(taps=2, latent_channels=4)
    for _ in range(2):
        bind([loss], *make_pair('EDSR'), PROBE)
    assert len(loss.mixers) == 2


def test_blocks_that_are_added_up_at_the_end_can_be_reentered() -> None:
    student, teacher = make_pair('EDSR')

    class Fusion(type(teacher)):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            outputs = [self.conv_first(x)]
            for block in self.body:
                outputs.append(torch.relu(block(outputs[-1])))
            return self.conv_last(self.upsample(sum(outputs)))

    teacher.__class__ = Fusion
    loss = MiPKDLoss(taps=2, latent_channels=4)
    nets = bind([loss], student, teacher, PROBE)
    lq = torch.rand(2, 3, 8, 8)
    run = nets.teacher(lq)
    assert [path for _, path in loss.pairs] == ['body.2', 'body.4']
    for path in nets.teacher.taps:
        assert nets.teacher.finish(lq, path, run.features[path]).equal(run.output)
    assert nets.teacher.segment(run.features['body.2'], 'body.2', 'body.4', lq).equal(run.features['body.4'])
    nets.close()


def test_a_network_is_not_its_own_teacher() -> None:
    student, _ = make_pair('EDSR')
    with pytest.raises(BindError, match='student and teacher are the same object, and binding would freeze it'):
        bind([LogitsKDLoss()], student, student, PROBE)
    assert all(p.requires_grad for p in student.parameters())


def test_an_unbound_loss_says_so() -> None:
    step = bind([LogitsKDLoss()], *make_pair('EDSR'), PROBE).step(PROBE, torch.zeros(1, 3, 16, 16))
    with pytest.raises(RuntimeError, match='MiPKDLoss knows no networks yet: bind it'):
        MiPKDLoss(taps=2)(step)


@pytest.mark.parametrize('losses', [LogitsKDLoss(), [torch.nn.L1Loss()]], ids=['no list', 'another loss'])
def test_only_a_list_of_distillation_losses_is_bound(losses: object) -> None:
    with pytest.raises(TypeError, match='bind takes a list of distillation losses, got '):
        bind(losses, *make_pair('EDSR'), PROBE)
