"""Weights that are not finite: whose they are, and in which file."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers import STUDENTS

from faults.harness import BadInput
from basicsr.archs import build_network


def _teacher(value: float, factor: float = 1.0) -> object:
    def spoil(folder: Path) -> None:
        content = torch.load(folder / 'teacher.pth')
        content['params'] = {name: tensor * factor for name, tensor in content['params'].items()}
        content['params']['body.1.conv1.weight'][0, 0, 0, 0] = value
        torch.save(content, folder / 'teacher.pth')

    return spoil


def _student(value: float, factor: float = 1.0) -> object:
    def spoil(folder: Path) -> None:
        state = {name: tensor * factor for name, tensor in build_network(STUDENTS['EDSR']).state_dict().items()}
        state['conv_last.bias'][0] = value
        torch.save({'params': state}, folder / 'student.pth')

    return spoil


NAN, INF = float('nan'), float('inf')
STUDENT = {'path.pretrain_network_g': 'student.pth'}
OF_STUDENT = ('the training that saved them has diverged: give the file of an earlier iteration, or write '
              'pretrain_network_g: ~ for random weights', )

CASES = [
    BadInput('teacher with one NaN', 'teacher.weights',
             ("the teacher's weights in ", 'teacher.pth are not finite: 1 of 28 tensors hold NaN or infinity, the '
              'first is body.1.conv1.weight', 'the training of this teacher has diverged, or the file is damaged'),
             spoil=_teacher(NAN), remedy=False),
    BadInput('teacher with one infinity', 'teacher.weights', ('are not finite: 1 of 28 tensors', ),
             spoil=_teacher(-INF), remedy=False),
    BadInput('teacher whose images overflow', 'teacher.weights',
             ('the teacher makes images that are not finite from images in [0, 1]', 'give other weights'),
             spoil=_teacher(0.0, 1e12), remedy=False),
    BadInput('student with one NaN', 'path.pretrain_network_g',
             ("the student's weights in ", 'student.pth are not finite: 1 of ', 'the first is conv_last.bias',
              *OF_STUDENT), STUDENT, _student(NAN)),
    BadInput('student whose images overflow', 'path.pretrain_network_g',
             ('the student makes images that are not finite', *OF_STUDENT), STUDENT, _student(0.0, 1e12)),
    BadInput('test of weights with one NaN', 'path.pretrain_network_g',
             ('teacher.pth are not finite', 'give the file of an earlier iteration'), spoil=_teacher(NAN),
             command='test', remedy=False),
    BadInput('test of weights whose images overflow', 'path.pretrain_network_g',
             ('the student makes images that are not finite', ), spoil=_teacher(0.0, 1e12), command='test',
             remedy=False),
]
