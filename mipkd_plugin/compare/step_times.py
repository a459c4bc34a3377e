"""Measure what a training step costs: a method and the control in turn, in one process."""

from __future__ import annotations

import copy
import logging
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from basicsr.models import build_model
from torch import Tensor

from mipkd_plugin import config
from mipkd_plugin.compare.parts import BLOCK, Options, caching, new_crops, parts_of, turns_of
from mipkd_plugin.config.data_set_tables import gives_kernels
from mipkd_plugin.config.trial_batches import noise_of

_ROUNDS = 9
_FEWEST = 3
_PATIENCE = 30  # seconds for one method, after its fewest rounds


class StepTime(NamedTuple):
    """What an iteration of a run costs.

    Attributes:
        distilling: What an iteration costs while the run distills or blends images: its time, divided by the control's.
        until: Share of the run that does either.
        memory: Peak memory in MB; None without a GPU.
    """

    distilling: float
    until: float
    memory: int | None

    @property
    def time(self) -> float:
        """What the whole run costs: its time, divided by the control's."""
        return self.until * self.distilling + 1 - self.until


def measure(control: Options, options: Options) -> StepTime:
    """Measure how many times as long as the control's a run's ``optimize_parameters`` takes.

    Each round takes a block of iterations of the control and one of the run, which gives a ratio: what else the machine
    does then slows both down. The first round is not counted; the result is the median of the others. A block holds
    distilling iterations from the first on, as many as what happens in each n-th of them takes to repeat; the others
    cost what those of the control cost. Where ECO and losses end at different iterations, each part has a block, and
    the mean counts. The images are random, of the size of the training's, and there is no data loader. A cache meets as
    many new crops as in the mean of the run. On the CPU there is one thread, as in the runs of a comparison, and its
    own time is measured: waiting for a core does not count.

    Args:
        control: The options of the control.
        options: The options of the run; they may be those of the control.

    Returns:
        What an iteration costs.
    """
    parts = parts_of(options)
    until = sum(part.share for part in parts)
    with quietly(1), tempfile.TemporaryDirectory() as folder:
        base = Bench(control, folder)
        base.run(1)  # now its optimizer has its memory, which must not count for the run
        own = base if options is control else Bench(options, folder)
        ratios, begin = [], time.perf_counter()
        for turn in range(_ROUNDS + 1):
            seconds = base.run(turns_of(control, BLOCK))
            found = [(own.run(part.size, part.every, part.first) / seconds + part.every - 1) / part.every
                     for part in parts]
            mean = sum(part.share * one for part, one in zip(parts, found)) / until if until else found[0]
            ratios += [mean] if turn else []
            if turn >= _FEWEST and time.perf_counter() - begin > _PATIENCE:
                break
    return StepTime(1.0 if own is base else round(statistics.median(ratios), 3), until, own.memory)


class Bench:
    """A model of BasicSR that trains on the same random images again and again.

    Args:
        options: The options of a run.
        folder: An empty folder for what the model might write.
    """

    def __init__(self, options: Options, folder: str) -> None:
        opt = _parsed(options, folder)
        self.cuda = opt['num_gpu'] > 0
        self.before = torch.cuda.memory_allocated() if self.cuda else 0
        self.model = build_model(opt)
        self.model.feed_data(random_batch(options))
        self.memory: int | None = None
        self.new_crops, self.due = new_crops(options), 0.0

    def run(self, iterations: int, every: int = 1, first: int = 0) -> float:
        """Train for so many iterations, ``every`` apart.

        Args:
            iterations: How many.
            every: From one number to the next.
            first: What the first number is so far behind.

        Returns:
            The seconds of one.
        """
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        # without a GPU the one thread does all the work: what it spends does not depend on who else wants its core
        clock = time.perf_counter if self.cuda else time.thread_time
        begin = clock()
        for iteration in range(first + every, first + every * iterations + 1, every):
            self._renew_crops(iteration)
            self.model.optimize_parameters(iteration)
        if self.cuda:
            torch.cuda.synchronize()
            self.memory = max(self.memory or 0, (torch.cuda.max_memory_allocated() - self.before) // 10**6)
        return (clock() - begin) / iterations

    def _renew_crops(self, iteration: int) -> None:
        """Change as many crops as are new to the cache in an iteration; the teacher runs on those again."""
        blends = self.new_crops and self.model.eco is not None and self.model.eco.blends(iteration)
        if self.new_crops and (blends or self.model.schedule.distills(iteration)):
            self.due += self.new_crops
            count, self.due = int(self.due), self.due % 1
            self.model.lq[:count] = 1 - self.model.lq[:count]


def random_batch(options: Options) -> dict[str, Tensor]:
    """A training batch of random images.

    Args:
        options: The options of a run.

    Returns:
        ``lq`` (N, C, H, W) and ``gt`` (N, C, sH, sW), in [0, 1]; of a pool of crops also ``crop`` (N,), their numbers;
        for a model that makes LR images ``gt`` and kernels.
    """
    train, scale = options['datasets']['train'], options['scale']
    size, (channels, height, width) = train['batch_size_per_gpu'], config.probe_shape(options)
    if gives_kernels(options):
        return noise_of(options, size, height)
    data = {'lq': torch.rand(size, channels, height, width),
            'gt': torch.rand(size, channels, scale * height, scale * width)}
    if train.get('type') == 'CropPoolDataset':
        data['crop'] = torch.arange(size)
    return data


def _parsed(options: Options, folder: str) -> dict[str, Any]:
    """The options as BasicSR's ``parse_options`` leaves them for a training run, with all paths in ``folder``."""
    opt: dict[str, Any] = copy.deepcopy(dict(options))
    gpus = torch.cuda.device_count()
    opt.update(is_train=True, dist=False, rank=0, world_size=1, auto_resume=False, root_path=folder,
               num_gpu=min(gpus if opt['num_gpu'] == 'auto' else opt['num_gpu'], 1))
    names = ('experiments_root', 'models', 'training_states', 'log', 'visualization')
    opt['path'] = {**opt.get('path', {}), **dict.fromkeys(names, folder)}
    cached = caching(opt)
    for teacher in cached:
        teacher['cache'] = 'memory'  # a small one, whatever the run does
    if cached:
        opt['datasets']['train']['crops'] = opt['datasets']['train']['batch_size_per_gpu']
    opt['train'].update({'net_d_init_iters': 0} if 'net_d_init_iters' in opt['train'] else {})  # all there is acts
    for phase, dataset in opt['datasets'].items():
        dataset.update(phase=phase.split('_')[0], scale=opt['scale'])
    return opt


@contextmanager
def quietly(num_threads: int) -> Iterator[None]:
    """Inside the block, so many CPU threads, BasicSR's setting of cuDNN, and no log; random numbers go on as before.

    Args:
        num_threads: CPU threads; 0 leaves them as they are.
    """
    threads, logged, tuned = torch.get_num_threads(), logging.root.manager.disable, torch.backends.cudnn.benchmark
    try:
        with torch.random.fork_rng():
            torch.set_num_threads(num_threads or threads)
            torch.backends.cudnn.benchmark = True
            logging.disable(logging.CRITICAL)
            yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = tuned
        logging.disable(logged)
