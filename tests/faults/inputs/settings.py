"""Entries of an option file that cannot be meant."""

from __future__ import annotations

from typing import Any

from faults.harness import BadInput


def odd(name: str, where: str, value: Any, *says: str, remedy: bool = True) -> BadInput:
    """An odd value of one entry."""
    return BadInput(name, where, says, {where: value}, remedy=remedy)


CASES = [
    BadInput('gt_size that the scale does not divide', 'datasets.train.gt_size',
             ('15 is not a multiple of the scale, 2', 'write gt_size: 14'), {'datasets.train.gt_size': 15}),
    odd('workers as a float', 'datasets.train.num_worker_per_gpu', 2.0,
        'must be a whole number from 0 to 512, not 2.0', 'write num_worker_per_gpu: 0'),
    odd('batch of true', 'datasets.train.batch_size_per_gpu', True, 'must be a whole number, 1 or more, not True'),
    odd('queue of nothing', 'datasets.train.num_prefetch_queue', 0, 'must be a whole number, 1 or more, not 0'),
    odd('memory pinned by a number', 'datasets.train.pin_memory', 1, 'must be true or false, not 1'),
    odd('list of images that is a number', 'datasets.train.meta_info_file', 5, 'must be a string, or ~, not 5'),
    odd('epoch that no memory holds', 'datasets.train.dataset_enlarge_ratio', 10**12,
        'makes an epoch of 4e+12 images', 'GB of memory to put them in order'),
    odd('seed above 32 bits', 'manual_seed', 2**32, 'must be a whole number from 0 to 4e9, or ~, not 4294967296'),
    odd('training without an end', 'train.total_iter', 1e300, 'must be a whole number from 1 to 1e12, not 1e+300'),
    odd('moving average that is a text', 'train.ema_decay', 'yes', "not 'yes'", 'write ema_decay: 0.999'),
    odd('learning rate beyond float32', 'train.optim_g.lr', 1e300, 'must be a number above 0, up to 1e+30'),
    odd('negative weight decay', 'train.optim_g.weight_decay', -1, 'must be a number from 0 to 1e30, not -1'),
    odd('eps of 0', 'train.optim_g.eps', 0, 'must be a number above 0, up to 1, not 0'),
    odd('amsgrad as a text', 'train.optim_g.amsgrad', 'x', "must be true or false, not 'x'", 'write amsgrad: false'),
    odd('capturable as a text', 'train.optim_g.capturable', 'x', "must be true or false, not 'x'"),
    BadInput('capturable without a GPU', 'train.optim_g', ('Adam refuses it: If capturable=True', ),
             {'train.optim_g.capturable': True}, remedy=False),
    odd('differentiable Adam', 'train.optim_g.differentiable', True, 'must be false, not True'),
    BadInput('betas out of range', 'train.optim_g', ('Adam refuses it: Invalid beta parameter', ),
             {'train.optim_g.betas': [0.9, 1.5]}, remedy=False),
    odd('decay of the rate beyond float32', 'train.scheduler.gamma', 1e300, 'must be a number above 0, up to 1e+06'),
    odd('validation that is a list', 'val.pbar', [], 'must be true or false, not []', 'write pbar: false'),
    odd('log that is a text', 'logger.use_tb_logger', 'no', "must be true or false, not 'no'"),
]
