"""Pictures of a validation that nobody would draw."""

from __future__ import annotations

from faults.harness import BadInput
from mipkd_plugin.config.remedies import REMOVE

WHERE = 'logger.val_pictures'
CASES = [
    *(BadInput(f'{value} pictures', WHERE, ('must be a whole number from 0 to 100',), {WHERE: value})
      for value in (-1, 101, 2.5, 'all', True, [2])),
    BadInput('misspelled pictures', 'logger.val_picture', ('unknown key', 'val_pictures'), {'logger.val_picture': 2}),
    BadInput('pictures without a validation', WHERE, ('a block val is missing', ), {WHERE: 2, 'val': REMOVE}),
    BadInput('pictures of no data set', WHERE, ('a data set val in datasets is missing', ),
             {WHERE: 2, 'datasets.val': REMOVE, 'val.metrics': REMOVE}),
    BadInput('pictures of a plain model', WHERE, ('SRModel draws no pictures', 'model_type: AnySRModel'),
             {WHERE: 2, 'model_type': 'SRModel', 'teacher': REMOVE, 'train.distill_opt': REMOVE}),
]
