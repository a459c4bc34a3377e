"""Promises that need a second loss of the same class: seeds, checkpoints, weights, options."""

from __future__ import annotations

import inspect
import io
import pickle
from collections.abc import Iterator
from typing import Any

import torch

from mipkd_plugin.testing.bench import Bench, Terms
from mipkd_plugin.testing.promises import Finding, Promise

_BAD_OPTIONS: dict[str, tuple[Any, ...]] = {'taps': (0, 'all'), 'loss_weight': ('1e3', float('nan'))}


def _another(bench: Bench, draw: int = 7, **options: Any) -> Bench:
    """A new loss of the same class on new networks, whose terms draw no global random numbers."""
    other = Bench(bench.cls, {**bench.options, **options}, bench.arch, draw)
    other.student.eval()  # SwinIR's drop-path draws global random numbers
    return other


def _same_terms(first: Terms, second: Terms) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _same_seed_same_terms(bench: Bench) -> Iterator[Finding]:
    runs = []
    for number in range(2):
        other = _another(bench)
        torch.manual_seed(number)  # they must not matter
        runs.append([other.terms(), other.terms()])
    if not all(_same_terms(first, second) for first, second in zip(*runs)):
        yield ('two losses that are built alike and get the same seed(3) differ in their terms',
               'derive from RandomizedLoss, and draw from self._generator; keep nothing in the class')


def _checkpoint_restores(bench: Bench) -> Iterator[Finding]:
    """Save a loss that has run, load it into one that has drawn other weights: both go on alike."""
    remedy = ('keep what changes or is drawn in parameters, buffers (register_buffer) or the extra state '
              '(get_extra_state, set_extra_state), as tensors and plain values')
    old, new = _another(bench), _another(bench, draw=8)
    old.terms()
    old.prepare(0)
    new.loss.seed(99)
    file = io.BytesIO()
    torch.save(old.loss.state_dict(), file)
    file.seek(0)
    try:
        new.loss.load_state_dict(torch.load(file, weights_only=True))
    except (pickle.UnpicklingError, RuntimeError) as error:
        line = str(error).splitlines()[-1 if isinstance(error, RuntimeError) else 0]
        yield f'its state_dict() cannot be loaded again: {line.strip()}', remedy
        return
    for each in (old, new):
        each.prepare(10)
    if not _same_terms(old.terms(1), new.terms(1)):
        yield 'a loss that loads the state_dict() of another goes on with other terms than that one', remedy


def _weight_counts_once(bench: Bench) -> Iterator[Finding]:
    if 'loss_weight' not in inspect.signature(bench.cls).parameters:
        return
    single, double = (_another(bench, loss_weight=weight).terms() for weight in (0.25, 0.5))
    for name, value in single.items():
        if name not in double or not torch.allclose(double[name], 2 * value, rtol=1e-5):
            seen = f'{double[name].item():.4g}' if name in double else 'no longer there'
            yield (f'{name} is {value.item():.4g} with loss_weight = 0.25 and {seen} with 0.5',
                   'multiply each term by self.loss_weight, once, in forward(step)')


def _refuses_bad_options(bench: Bench) -> Iterator[Finding]:
    for name in inspect.signature(bench.cls).parameters:
        for value in _BAD_OPTIONS.get(name, ()):
            try:
                bench.cls(**{**bench.options, name: value})
            except (TypeError, ValueError):
                continue
            yield (f'{name} = {value!r} is taken', 'write @checked above __init__ and a type from '
                   'mipkd_plugin.utils.ranges in its signature, such as loss_weight: PositiveFloat')


ON_THE_FIRST_ARCHITECTURE = (
    Promise('the same seed gives the same terms', _same_seed_same_terms),
    Promise('state_dict() holds all that the next terms depend on', _checkpoint_restores),
    Promise('loss_weight scales every term once', _weight_counts_once),
    Promise('options out of range are refused', _refuses_bad_options, needs_terms=False),
)
