"""How strongly each term pulls at the student before the training begins, on a few batches of training images."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from basicsr.models import build_model
from basicsr.utils.logger import initialized_logger
from torch import Tensor, nn

from mipkd_plugin import config
from mipkd_plugin.config.problems import block
from mipkd_plugin.config.trial_batches import TrialBatches, trial_batches
from mipkd_plugin.inference.cost import cost
from mipkd_plugin.losses.gradients import Pull, over_batches, pulls
from mipkd_plugin.models.distill_model import DistillMixin
from mipkd_plugin.models.eco import ECO_A
from mipkd_plugin.models.gradients import common_period
from mipkd_plugin.models.host_step import has_own_step
from mipkd_plugin.models.terms import free_name
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored

_WORK = 10**11
"""Multiply-accumulates for all batches together: a few seconds on one core."""
_MOST_BATCHES = 4
_FEW_IMAGES = 4
_BACKWARDS = 6  # about as many as there are terms


@dataclass(frozen=True)
class GradientCheck:
    """The gradients of all terms at the start weights of the student.

    Attributes:
        pulls: Mean over the batches, by name of the term.
        owners: YAML path of the loss, by name of the term; the terms of BasicSR have none.
        silent: YAML paths of losses that have no term in that iteration.
        itself: What losses log of their own training (``meta_rec``): it acts on their parameters, not on the student.
        iteration: Number of the iteration that was tried: one in which all terms act.
        images: The batches.
        patch: (N, H, W) of a batch of LR images.
        pretrained: What the student starts from, a file or a slice, unless it has random weights.
        seconds: How long it took.
    """

    pulls: dict[str, Pull]
    owners: dict[str, str]
    silent: list[str]
    itself: list[str]
    iteration: int
    images: TrialBatches
    patch: tuple[int, int, int]
    pretrained: str | None
    seconds: float


def check_gradients(opt: Mapping[str, Any], distillation: config.Distillation | None = None,
                    pairs: int = 0, start_weights: Mapping[str, Tensor] | None = None) -> GradientCheck | None:
    """Build the model as the training does, and measure the gradient of each term. Writes nothing.

    Args:
        opt: Checked options of a training.
        distillation: Teacher and bound losses, if a check has built them. They are changed: do not train with them.
        pairs: Number of pairs of training images, if it is known.
        start_weights: What the file of ``path.pretrain_network_g`` will hold, if it is not there yet.

    Returns:
        The gradients; None for a model that does not distill.
    """
    start, pretrained = time.perf_counter(), block(opt, 'path').get('pretrain_network_g')
    if not config.teachers_of(opt) or not config.distillation_entries(opt):
        return None
    parsed = _parsed(opt)
    if config.starts_from_slice(opt):
        pretrained = config.start_in_words(opt)
    if start_weights is not None:
        parsed['path']['pretrain_network_g'] = None
    distillation = distillation or config.build_distillation(opt)
    uncompiled = distillation.uncompiled()
    with random_numbers_restored(range(torch.cuda.device_count())), _silent(), config.prepared(parsed, uncompiled):
        torch.manual_seed(parsed.get('manual_seed') or 0)
        model = build_model(parsed)
        if not isinstance(model, DistillMixin):
            return None
        if start_weights is not None:
            model.get_bare_model(model.net_g).load_state_dict(start_weights)
        size, count, side = _affordable(model, parsed)
        images = trial_batches(opt, size, count, side, pairs=pairs)
        iterations = _iterations(model)
        found, owners, itself = [], dict[str, int](), dict[str, None]()
        for batch in images.batches:
            for iteration in iterations:
                each, prepared = _measured(model, batch, iteration, owners)
                found.append(each)
                itself.update(dict.fromkeys(name for name in prepared if name != ECO_A))
        model.teaching.close()
    paths = [where for where, _ in config.distillation_entries(opt)]
    return GradientCheck(
        over_batches(found), owners={name: paths[number] for name, number in owners.items()},
        silent=[path for number, path in enumerate(paths) if number not in owners.values()], itself=list(itself),
        iteration=iterations[0], images=images, patch=(len(model.lq), *model.lq.shape[2:]),
        pretrained=pretrained, seconds=time.perf_counter() - start)


def _measured(model: Any, batch: dict[str, Any], iteration: int,
              owners: dict[str, int]) -> tuple[dict[str, Pull], list[str]]:
    """The gradients on one batch; ``owners`` gets the number of the loss of each term."""
    made: list[tuple[int, list[str]]] = []
    handles = [loss.register_forward_hook(lambda module, step, terms, number=number: made.append((number, list(terms))))
               for number, loss in enumerate(model.losses)]
    model.feed_data(batch)
    student = model.get_bare_model(model.net_g)
    try:
        if has_own_step(super(DistillMixin, model).optimize_parameters):
            terms, prepared, found = _of_host(model, iteration, student)
        else:
            terms, prepared = model.training_terms(iteration)
            found = pulls(terms, student, model.losses)
    finally:
        for handle in handles:
            handle.remove()
    own = {name for _, names in made for name in names}
    taken = {name: value for name, value in terms.items() if name not in own and name.rstrip('_0123456789') not in own}
    for number, names in made:
        for name in names:
            free = free_name(name, taken)
            taken[free] = terms[free]
            owners[free] = number
    return found, list(prepared)


def _of_host(model: Any, iteration: int, student: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor],
                                                                       dict[str, Pull]]:
    """Terms, what losses log of their own training, and gradients, in a step of a class that has its own."""
    found: list[tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Pull]]] = []
    model.see_terms = lambda terms, prepared: found.append((terms, prepared, pulls(terms, student, model.losses)))
    for optimizer in model.optimizers:
        optimizer.step = lambda *args, **kwargs: None  # the batches that follow see the same weights
    model.optimize_parameters(iteration)
    return found[0] if found else ({}, {}, {})


def _iterations(model: DistillMixin) -> list[int]:
    """The iteration in which all terms act; where the training is too short for one, several."""
    losses, schedule = model.distillation_losses(), model.schedule
    generator, alone = config.generator_period(model.opt), config.iterations_alone(model.opt)
    together = common_period(schedule, losses, generator)
    periods = [together]
    if not all(together % loss.due_every == 0 for loss in losses):
        periods = [math.lcm(schedule.every, generator, loss.due_every) for loss in losses]
    return list(dict.fromkeys(period * (alone // period + 1) for period in periods))


def _affordable(model: Any, opt: Mapping[str, Any]) -> tuple[int, int, int]:
    """(Images in a batch, number of batches, side of the LR images): as in the training, as far as time allows."""
    channels, side, _ = config.probe_shape(opt)
    unit, share = config.window_size(opt), model.schedule.share
    needed = math.ceil(max(loss.min_batch_size for loss in model.distillation_losses()) / share)
    size = max(opt['datasets']['train'].get('batch_size_per_gpu') or _FEW_IMAGES, needed)
    fewest = min(size, max(_FEW_IMAGES, needed))
    student, teaching = model.get_bare_model(model.net_g), model.teaching
    reentered = {name for loss, name in zip(model.distillation_losses(), teaching.chosen) if loss.reenters_network}
    work = _work(student, channels, side, unit) * (2 + 2 * _BACKWARDS) + sum(
        _work(teacher, channels, side, unit) * (5 if name in reentered else 1)
        for name, teacher in teaching.teachers.items())
    while size * work > _WORK / 2 and size > fewest:
        size = max(size // 2, fewest)
    while size * work > _WORK / 2 and side // 2 >= max(unit, 8) and side // 2 % unit == 0:
        side, work = side // 2, work / 4
    most = _MOST_BATCHES * max(1, _FEW_IMAGES // size)
    return size, max(1, min(most, int(_WORK / max(size * work, 1)))), side


def _work(net: nn.Module, channels: int, side: int, unit: int) -> float:
    """Multiply-accumulates for one image, counted on a small one; without a count each weight works once a pixel."""
    small = min(side, math.lcm(8, unit))
    try:
        return cost(net, (channels, small, small)).macs * (side / small) ** 2
    except FOREIGN_ERRORS:
        return float(sum(p.numel() for p in net.parameters())) * side * side


def _parsed(opt: Mapping[str, Any]) -> dict[str, Any]:
    """The options as BasicSR hands them to a model, for one process, with nothing that a model would write to."""
    parsed: dict[str, Any] = copy.deepcopy(dict(opt))
    parsed.update(is_train=True, dist=False, rank=0, world_size=1, auto_resume=False, root_path=str(Path.cwd()),
                  num_gpu=min(torch.cuda.device_count(), 1) if parsed.get('num_gpu') != 0 else 0)
    for teacher in config.teachers_of(parsed):
        for key in teacher.options.keys() & {'cache', 'compile'}:
            cast(dict[str, Any], teacher.options).pop(key)
    folder = Path.cwd() / 'experiments' / str(parsed.get('name'))
    parsed['path'] = {**(parsed.get('path') or {}), 'experiments_root': str(folder), 'models': str(folder / 'models'),
                      'training_states': str(folder / 'training_states'), 'log': str(folder),
                      'visualization': str(folder / 'visualization')}
    for phase, dataset in parsed['datasets'].items():
        dataset.update(phase=phase, scale=parsed.get('scale', 1))
    return parsed


@contextmanager
def _silent() -> Iterator[None]:
    """Inside the block BasicSR's logger says nothing; afterwards it has not been started."""
    log, started = logging.getLogger('basicsr'), 'basicsr' in initialized_logger
    before = list(log.handlers), log.propagate, log.level
    initialized_logger['basicsr'] = True
    log.handlers[:], log.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before[0], before[1]
        log.setLevel(before[2])
        if not started:
            initialized_logger.pop('basicsr', None)
