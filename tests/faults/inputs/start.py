"""A start that the student cannot have."""

from __future__ import annotations

from typing import Any

from helpers import STUDENTS

from faults.harness import BadInput
from faults.inputs.remedies_compare import student
from mipkd_plugin.config.remedies import REMOVE

WHERE = 'train.init'
SLICE: dict[str, Any] = {WHERE: 'teacher_slice'}
OTHERWISE = 'or write init: random'

CASES = [
    BadInput('start that nobody knows', WHERE, ("must be teacher_slice or random, or ~, not 'slice'",
                                               'write init: teacher_slice'),
             {WHERE: 'slice'}),
    BadInput('start with a misspelled name', WHERE, ("not 'techer_slice'", 'write init: teacher_slice'),
             {WHERE: 'techer_slice'}),
    BadInput('misspelled start', 'train.inti', ('unknown key', "did you mean 'init'?"),
             {'train.inti': 'teacher_slice'}),
    BadInput('slice of a narrower teacher', WHERE, (
        'is teacher_slice, but the student has 99 channels where the teacher has 12', OTHERWISE),
             {**SLICE, 'network_g.num_feat': 99}),
    BadInput('slice of a shallower teacher', WHERE, (
        'is teacher_slice, but the student has 9 blocks in body, and the teacher 5', OTHERWISE),
             {**SLICE, 'network_g.num_block': 9}),
    BadInput('slice of another architecture', WHERE, (
        'is teacher_slice, but the student is of the class SwinIR and the teacher of EDSR', OTHERWISE),
             {**SLICE, 'network_g': dict(STUDENTS['SwinIR'])}),
    BadInput('slice of a teacher of other settings', WHERE, ('is teacher_slice, but img_range is 1.0', OTHERWISE),
             {**SLICE, 'network_g.img_range': 1.0}),
    BadInput('slice and a file to start from', WHERE, (
        'is teacher_slice, but path.pretrain_network_g names another start, student.pth',
        'write path.pretrain_network_g: ~'), {**SLICE, 'path.pretrain_network_g': 'student.pth'}, student),
    BadInput('slice in a model that does not distill', WHERE, (
        'SRModel does not distill and would ignore it', 'remove init, or write model_type: DistillModel'),
             {**SLICE, 'model_type': 'SRModel', 'teacher': REMOVE, 'train.distill_opt': REMOVE}),
]
