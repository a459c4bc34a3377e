"""Features of a pair of taps that differ in height and width: the views in which they are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.losses.examination import BindProblem, Paths
from mipkd_plugin.networks.step import NetPair
from mipkd_plugin.networks.views import LARGEST_FACTOR, fitting


def fitted(pairs: Paths, nets: NetPair, loss: DistillationLoss) -> tuple[Paths, list[BindProblem]]:
    """Views of the taps of a loss in which both sides of a pair have the same size, and what is wrong.

    Args:
        pairs: Its pairs (student tap, teacher tap).
        nets: Student and teacher; a probe run has looked at the taps.
        loss: The loss.

    Returns:
        The pairs with views in the place of the finer feature, and the problems.
    """
    shown: Paths = []
    wrong: dict[BindProblem, list[str]] = {}
    for s, t in pairs:
        a, b = nets.student.infos[s], nets.teacher.infos[t]
        pair = f'[{s}, {t}]'
        if not a.problem and not b.problem and (a.height, a.width) != (b.height, b.width):
            is_finer = a.height * a.width > b.height * b.width
            role, finer, coarser = ('student', a, b) if is_finer else ('teacher', b, a)
            view = fitting(finer, coarser, loss.resample)
            if view is None:
                problem = _other_sizes(f'the student has {a.height}×{a.width}, the teacher {b.height}×{b.width}', loss,
                                       role, fitting(finer, coarser, 'area') is not None)
                wrong.setdefault(problem, []).append(pair)
            elif view.loses and _reenters(loss, role):
                wrong.setdefault(_no_way_back(loss, role), []).append(pair)
            s, t = (str(view), t) if view is not None and is_finer else (s, str(view) if view is not None else t)
        shown.append((s, t))
    return shown, [replace(problem, what=f'tap pair{"s" * (len(found) > 1)} {", ".join(found)}: {problem.what}')
                    for problem, found in wrong.items()]


def _reenters(loss: DistillationLoss, role: str) -> bool:
    return loss.reenters_network and role in loss.reentered


def _other_sizes(what: str, loss: DistillationLoss, role: str, resamples: bool) -> BindProblem:
    """A pair whose sizes have no whole ratio."""
    choose = ('choose modules whose features have the same height and width, or one a whole multiple of the other, up '
              f'to {LARGEST_FACTOR}')
    can_reenter = not _reenters(loss, role) or bool(loss.without_reentry)
    if not resamples or loss.resample or not can_reenter or 'resample' not in signature(type(loss)).parameters:
        return BindProblem(f'{what}; {choose}')
    options = {'resample': 'area', **(loss.without_reentry if _reenters(loss, role) else {})}
    return BindProblem(what, f'write {_written(options)}, to compare the finer feature in the size of the coarser one; '
                       f'or {choose}', options=tuple(options.items()))


def _no_way_back(loss: DistillationLoss, role: str) -> BindProblem:
    """A resampled feature that would re-enter."""
    options = loss.without_reentry
    remedy = f'write {_written(options)}, with which none re-enters, or ' if options else ''
    return BindProblem(
        f'{type(loss).__name__} lets features re-enter the {role} there, and resample: {loss.resample} loses what such '
        'a feature needs', f'{remedy}choose modules whose features have the same height and width',
        options=tuple(options.items()))


def _written(options: Mapping[str, Any]) -> str:
    return ' and '.join(f'{name}: {value}' for name, value in options.items())
