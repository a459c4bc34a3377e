"""Entries of an option file that cannot be meant."""

from faults.harness import BadInput

CASES = [
    BadInput('gt_size that the scale does not divide', 'datasets.train.gt_size',
             ('15 is not a multiple of the scale, 2', 'write gt_size: 14'), {'datasets.train.gt_size': 15}),
]
