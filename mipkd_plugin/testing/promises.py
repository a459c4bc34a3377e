"""What a distillation loss promises, and how each promise is checked: on every architecture, or on the first one."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mipkd_plugin.losses.base import BatchError, DistillationLoss
from mipkd_plugin.losses.trial_step import terms_problem
from mipkd_plugin.testing.bench import Bench

_SEEDS = 8

Finding = tuple[str, str]
"""(What was seen, how to fix it)."""


@dataclass(frozen=True)
class BrokenPromise:
    """A promise that a loss does not keep.

    Attributes:
        promise: Which.
        seen: What was seen.
        remedy: How to fix it.
        error: What the loss raised, if it did.
    """

    promise: str
    seen: str
    remedy: str
    error: BaseException | None = field(default=None, compare=False)


class Promise(NamedTuple):
    """A promise, and the check that looks for what breaks it.

    Attributes:
        text: The promise.
        check: Yields what breaks it.
        needs_terms: Whether the check works only with terms that are in order.
    """

    text: str
    check: Callable[[Bench], Iterator[Finding]]
    needs_terms: bool = True


BUILT = 'can be built with these options, and bound to student and teacher'
TERMS = 'forward(step) returns finite scalars named l_*, each with a gradient'


def _student_is_left_alone(bench: Bench) -> Iterator[Finding]:
    """The student before and after one ``prepare`` and one ``forward``."""
    weights = copy.deepcopy(bench.student.state_dict())
    bench.student.zero_grad()
    for call in ('prepare(plan)', 'forward(step)'):
        modes = [module.training for module in bench.student.modules()]
        if call.startswith('prepare'):
            bench.prepare(0)
        else:
            bench.terms()
        changed = [name for name, value in bench.student.state_dict().items() if not torch.equal(weights[name], value)]
        if changed:
            yield (f'{call} changed {", ".join(changed[:3])} of the student',
                   'compute a term and return it; the optimizer moves the student')
        if any(p.grad is not None for p in bench.student.parameters()):
            yield (f'{call} left gradients in the student', 'return the term without backward(); in prepare(plan) use '
                   'torch.autograd.grad')
        if modes != [module.training for module in bench.student.modules()]:
            yield f'{call} changed the mode of the student', 'leave train() and eval() alone'
        bench.student.load_state_dict(weights)
        bench.student.zero_grad()
        bench.student.train()


def _teacher_is_left_alone(bench: Bench) -> Iterator[Finding]:
    bench.prepare(0)
    bench.terms()
    before, after = bench.teacher_before, bench.teacher.state_dict()
    changed = [name for name in before if name not in after or not torch.equal(before[name], after[name])]
    if changed:
        yield (f'a step changed {", ".join(changed[:3])} of the teacher',
               'change copies: step.teacher.features[path].clone()')
    if any(module.training for module in bench.teacher.modules()):
        yield 'a step put the teacher into training mode', 'leave train() and eval() alone'
    if any(p.requires_grad or p.grad is not None for p in bench.teacher.parameters()):
        yield 'a step gave gradients to the weights of the teacher', 'leave requires_grad of the teacher alone'


def _step_is_left_alone(bench: Bench) -> Iterator[Finding]:
    """Other losses see the same step: its images and features must not change in place."""
    step = bench.step()
    shown = {'step.lq': step.lq, 'step.gt': step.gt}
    for role, net_pass in (('student', step.student), ('teacher', step.teacher)):
        shown[f'step.{role}.output'] = net_pass.output
        shown |= {f'step.{role}.features[{path!r}]': feature for path, feature in net_pass.features.items()}
    before = {name: value._version for name, value in shown.items()}
    bench.loss(step)
    changed = [name for name, value in shown.items() if value._version != before[name]]
    if changed:
        yield f'forward(step) changed {", ".join(changed[:3])} in place', 'change copies: step.lq.clone()'


def _random_numbers_are_left_alone(bench: Bench) -> Iterator[Finding]:
    bench.student.eval()  # SwinIR's drop-path draws global random numbers
    remedy = 'derive from RandomizedLoss, and draw from self._generator'
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(20190709)  # so that a loss that seeds them, too, changes them
    for call in ('prepare(plan)', 'forward(step)'):
        step = bench.step()
        before = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
        if call.startswith('prepare'):
            bench.prepare(0)
        else:
            bench.loss(step)
        after = torch.get_rng_state(), repr(np.random.get_state()), random.getstate()
        if not torch.equal(before[0], after[0]):
            yield f'{call} drew from or seeded the random numbers of torch', remedy
        for name, old, new in zip(('NumPy', 'Python'), before[1:], after[1:]):
            if old != new:
                yield f'{call} drew from or seeded the random numbers of {name}', remedy
    bench.student.train()


def _terms_train(bench: Bench) -> Iterator[Finding]:
    """Gradients of the sum of the terms, over some seeds: into the student's first layer and all that they train."""
    path, first = next((path, module.weight) for path, module in bench.student.named_modules()
                       if isinstance(module, nn.Conv2d))
    names = {'': first, **bench.trained_by_terms()}
    missing = set(names)
    for seed in range(_SEEDS):
        total = torch.stack(list(bench.terms(seed).values())).sum()
        try:
            gradients = torch.autograd.grad(total, list(names.values()), allow_unused=True)
        except RuntimeError as error:  # the trial step has gone well
            yield (f'the backward pass of a later step fails: {str(error).splitlines()[0]}',
                   'detach() what the loss keeps from step to step, and change nothing in place')
            return
        missing -= {name for name, gradient in zip(names, gradients) if gradient is not None and gradient.any()}
        if not missing and seed:  # two steps at least: the graph of the first is gone in the second
            break
    if '' in missing:
        yield (f'no term has a gradient at {path}, the first convolution of the student',
               'compute it from step.student.features or step.student.output, without detach(), item() or no_grad()')
    starved = [name for name in names if name and name in missing]
    if starved:
        yield (f'no gradient reaches {", ".join(starved)}', 'use them in forward(step), name them in '
               'self_trained_parameters(), or set requires_grad_(False)')


def _trains_itself(bench: Bench) -> Iterator[Finding]:
    """``prepare`` and ``self_trained_parameters`` belong together; the terms leave these parameters alone."""
    own, named = bench.own(), bench.loss.self_trained_parameters()
    defined = type(bench.loss).prepare is not DistillationLoss.prepare
    if defined and not named:
        yield 'prepare(plan) is never called, as self_trained_parameters() is empty', 'name there what it trains'
    if named and not defined:
        yield 'nothing trains the parameters of self_trained_parameters()', 'define prepare(plan), which trains them'
    if len(own) < len({id(p) for p in named}):
        yield ('self_trained_parameters() names parameters that are none of the loss',
               'name those of its own modules; keep the modules as attributes of the loss')
    trainable = [p for p in own.values() if p.requires_grad]
    if trainable:
        total = torch.stack(list(bench.terms().values())).sum()
        gradients = torch.autograd.grad(total, trainable, allow_unused=True)
        if any(g is not None and g.any() for g in gradients):
            yield ('forward(step) has a gradient into what the loss trains itself: nobody would clear it',
                   'detach these parameters in forward(step)')
    if own and defined:
        yield from _what_prepare_does(bench, own)


def _what_prepare_does(bench: Bench, own: dict[str, nn.Parameter]) -> Iterator[Finding]:
    before, unmoved = {name: p.detach().clone() for name, p in own.items()}, list(own)
    for iteration in range(11):
        values = bench.prepare(iteration)
        if not isinstance(values, dict) or any(not isinstance(v, Tensor) or v.requires_grad for v in values.values()):
            yield 'prepare(plan) returns no dict of detached scalars', 'return {name: value.detach()}'
            break
        unmoved = [name for name, p in own.items() if torch.equal(before[name], p)]
        if not unmoved:
            break
    if unmoved:
        yield (f'eleven calls of prepare(plan) did not move {", ".join(unmoved)}',
               'train them there, or take them out of self_trained_parameters()')


def _takes_batches(bench: Bench) -> Iterator[Finding]:
    least = bench.loss.min_batch_size
    for samples in dict.fromkeys((least, bench.samples, bench.samples + 3)):
        problem = terms_problem(bench.terms(samples=samples))
        if problem:
            yield f'a batch of {samples} images: {problem}', 'set min_batch_size to what the loss needs'
    if least < 2:
        return
    if not bench.loss.min_batch_reason:
        yield f'min_batch_size is {least}, and min_batch_reason is empty', 'say there why it needs so many images'
    try:
        bench.terms(samples=least - 1)
    except BatchError:
        return
    yield (f'min_batch_size is {least}, and a batch of {least - 1} is not refused',
           'leave __call__ of DistillationLoss as it is')


ON_EVERY_ARCHITECTURE = (
    Promise('the student is moved by its optimizer alone', _student_is_left_alone, needs_terms=False),
    Promise('the teacher stays as it is', _teacher_is_left_alone, needs_terms=False),
    Promise('the images and features of a step stay as they are', _step_is_left_alone),
    Promise('the random numbers of the process are left alone', _random_numbers_are_left_alone, needs_terms=False),
    Promise('the terms train the whole student and all parameters of the loss', _terms_train),
    Promise('what the loss trains itself moves in prepare(plan) alone', _trains_itself),
    Promise('batches of min_batch_size images and more are taken, smaller ones refused', _takes_batches),
)
