"""The contract tests of a distillation loss, for everybody's own: one call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.testing.bench import Bench
from mipkd_plugin.testing.promises import BUILT, ON_EVERY_ARCHITECTURE, TERMS, BrokenPromise, Promise
from mipkd_plugin.testing.restarts import ON_THE_FIRST_ARCHITECTURE
from mipkd_plugin.testing.tiny import ARCHITECTURES
from mipkd_plugin.utils.errors import FOREIGN_ERRORS, MipkdError, crash
from mipkd_plugin.utils.random_numbers import random_numbers_restored


class ContractError(MipkdError, AssertionError):
    """A loss breaks promises; the message lists all of them: where, what was seen, how to fix it.

    Args:
        name: The class and its options.
        broken: Broken promise → the architectures on which it is broken; () if it concerns none of them.

    Attributes:
        broken: The same.
    """

    def __init__(self, name: str, broken: Mapping[BrokenPromise, Sequence[str]]) -> None:
        self.broken = {each: tuple(where) for each, where in broken.items()}
        count = f'{len(self.broken)} promise{"s" if len(self.broken) > 1 else ""}'
        lines = [f'{name} breaks {count} of a distillation loss']
        for number, (each, where) in enumerate(self.broken.items(), 1):
            lines += [f'{number}. {each.promise}', f'   {", ".join(where)}{": " if where else ""}{each.seen}',
                      f'   -> {each.remedy}']
        super().__init__('\n'.join(lines))


def check_loss(cls: type[DistillationLoss], *, architectures: Sequence[str] = ARCHITECTURES, **options: Any) -> None:
    """Check that a loss keeps what the trainer, the checkpoints and the comparisons rely on. Takes seconds, on the CPU.

    In a file ``test_spkd.py``, for pytest::

        from mipkd_plugin.testing import check_loss
        from spkd import SPKDLoss

        def test_spkd() -> None:
            check_loss(SPKDLoss, taps=2)

    The loss trains tiny networks with trunks of 3 blocks (student) and 4 or 5 (teacher), of 8 and 12 channels.
    Seeds, checkpoints, weights and options are tried on the first architecture alone. The random numbers of the
    process are left alone.

    Args:
        cls: The class of the loss.
        architectures: Some of ``EDSR``, ``RCAN``, ``SwinIR`` and ``RRDBNet``, for a loss that does not take all of them
            or has taps by name.
        options: The options of the loss, as in an option file.

    Raises:
        ContractError: The loss breaks promises; all of them are named.
        ValueError: ``architectures`` is empty, or one of them is unknown.
    """
    unknown = [arch for arch in architectures if arch not in ARCHITECTURES]
    if unknown or not architectures:
        raise ValueError(f'architectures must be some of {", ".join(ARCHITECTURES)}, got {architectures!r}')
    broken: dict[BrokenPromise, list[str]] = {}
    if not isinstance(cls, type) or not issubclass(cls, DistillationLoss):
        given = cls.__name__ if isinstance(cls, type) else f'an object of the class {type(cls).__name__}'
        broken[BrokenPromise('is a DistillationLoss', f'{given} is not one', 'write class MyLoss(DistillationLoss), '
                             'and give the class itself')] = []
    else:
        with random_numbers_restored(range(torch.cuda.device_count())):
            for number, arch in enumerate(architectures):
                for each in _broken_on(cls, options, arch, is_first=number == 0):
                    broken.setdefault(each, []).append(arch)
    if broken:
        given = ', '.join(f'{name}={value!r}' for name, value in options.items())
        cause = next((each.error for each in broken if each.error is not None), None)
        raise ContractError(f'{getattr(cls, "__name__", type(cls).__name__)}({given})', broken) from cause


def _broken_on(cls: type[DistillationLoss], options: Mapping[str, Any], arch: str,
               is_first: bool) -> Iterator[BrokenPromise]:
    """The promises that are broken on one architecture. Skips checks that would only fail for the same reason."""
    try:
        bench = Bench(cls, options, arch)
    except FOREIGN_ERRORS as error:
        yield BrokenPromise(BUILT, crash(error, cls), 'give options that fit the tiny networks, such as taps=2, or '
                            'name those that they fit: architectures=[…]; or fix __init__ or build(pairs)', error)
        return
    try:
        problem = bench.trial()
    except FOREIGN_ERRORS as error:
        yield BrokenPromise(TERMS, crash(error, cls), 'fix forward(step), or what it calls', error)
        return
    if problem:
        yield BrokenPromise(TERMS, problem, 'fix forward(step)')
    for promise in (*ON_EVERY_ARCHITECTURE, *(ON_THE_FIRST_ARCHITECTURE if is_first else ())):
        if not problem or not promise.needs_terms:
            yield from _checked(promise, bench)


def _checked(promise: Promise, bench: Bench) -> Iterator[BrokenPromise]:
    try:
        for seen, remedy in promise.check(bench):
            yield BrokenPromise(promise.text, seen, remedy)
    except FOREIGN_ERRORS as error:
        yield BrokenPromise(promise.text, crash(error, bench.cls), 'fix what the error names', error)

