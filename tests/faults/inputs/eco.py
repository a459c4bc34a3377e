"""ECO without what it needs, or with options that it does not have."""

from __future__ import annotations

from typing import Any

from faults.harness import BadInput
from mipkd_plugin.config.remedies import REMOVE

WHERE = 'train.eco'
ALONE: dict[str, Any] = {'train.distill_opt': REMOVE, WHERE: {}}
PLAIN = {**ALONE, 'model_type': 'SRModel'}


def odd(name: str, key: str, value: Any, *says: str, **more: Any) -> BadInput:
    """An odd value of one of its options."""
    return BadInput(name, f'{WHERE}.{key}', says, {WHERE: {key: value}, **more})


CASES = [
    *(odd(f'eco that ends at {value}', 'end_ratio', value, what, 'write end_ratio: 0.75') for value, what in (
        (0, 'must be above 0, got 0'), (-0.5, 'must be above 0, got -0.5'), (1.01, 'must be at most 1, got 1.01'),
        ([1], 'must be a number, got [1]'), (True, 'must be a number, got True'))),
    odd('eco that ends at a text', 'end_ratio', '0.75', "'0.75' is a string, not a number"),
    odd('eco of another mode', 'mode', 'lr_only', "must be 'full' or 'hr_only', got 'lr_only'", 'write mode: full'),
    odd('misspelled option of eco', 'endratio', 0.5, 'is not an option of eco', 'end_ratio'),
    odd('eco with a length of its own', 'total_iter', 5, 'is not an option of eco', 'valid here: end_ratio, mode'),
    odd('option of eco that is unlike all', 'zzz', 5, 'is not an option of eco', 'valid here: end_ratio, mode'),
    BadInput('eco that is true', WHERE, ('must be a block of keys, or ~, not True', 'write eco: {end_ratio: 0.75}'),
             {WHERE: True}),
    BadInput('eco that is a ratio', WHERE, ('must be a block of keys, or ~, not 0.75', ), {WHERE: 0.75}),
    BadInput('misspelled eco', 'train.ecco', ('unknown key', 'did you mean'), {'train.ecco': {}}),
    BadInput('eco without a teacher', 'teacher', (
        'is missing, and train.eco needs it', 'to train without one, remove eco, and write model_type: AnySRModel'),
             {**ALONE, 'teacher': REMOVE}),
    BadInput('eco and a loss without a teacher', 'teacher', ('is missing, and train.eco needs it', ),
             {WHERE: {}, 'teacher': REMOVE}, remedy=False),
    BadInput('eco in a model that does not distill', WHERE, (
        'SRModel does not distill and would ignore it', 'remove eco, or write model_type: DistillModel'),
             {**PLAIN, 'teacher': REMOVE}),
    BadInput('eco switched off, and no loss', 'train.distill_opt', ('is missing, and DistillModel needs it', ),
             {**ALONE, WHERE: None}),
    BadInput('schedule of losses that are not there', 'train.distill', (
        'is for the losses of train.distill_opt, and there are none; train.eco ends with its own end_ratio',
        'remove it'), {**ALONE, 'train.distill': {'until': 0.5}}),
]
