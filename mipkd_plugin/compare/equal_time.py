"""The step times of a comparison, and the length of the control of equal time that follows from them."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME
from mipkd_plugin.compare.results import Row
from mipkd_plugin.compare.run_folders import EXPERIMENTS, code_version, hardware, started_length
from mipkd_plugin.compare.step_times import measure
from mipkd_plugin.compare.times import TIMES, MethodTime, Times, read_times, still_true, write_times
from mipkd_plugin.compare.trials import Comparison, with_equal_time
from mipkd_plugin.utils.errors import FOREIGN_ERRORS


def timed(comparison: Comparison, folder: Path, rows: Sequence[Row]) -> tuple[Comparison, list[MethodTime], list[str]]:
    """Measure the step times that ``times.csv`` lacks, and add the control of equal time.

    Times that were measured before stay, because the length of a run follows from them. The length stays too, once
    there is a run or a row of it.

    Args:
        comparison: The comparison.
        folder: Folder of the comparison.
        rows: Rows of its ``results.csv``.

    Returns:
        The comparison with the control of equal time, the lines of ``times.csv``, and what the user has to know.
    """
    path = folder / TIMES
    before = read_times(path)
    known = {name: found for name, found in before.items() if _fits(found, comparison)}
    notes: list[str] = []
    fixed = _fixed_length(comparison, known, rows)
    wanted = _wanted(comparison, fixed is not None)
    known.update(_measure([name for name in wanted if name not in known], comparison, notes))
    factor = _length(comparison, known, fixed, notes)
    if factor is not None:
        control = known.get(CONTROL)
        known[EQUAL_TIME] = MethodTime(
            EQUAL_TIME, 1.0, 0.0, factor, control.memory if control else None,
            control.hardware if control else hardware(comparison.one_each[0]),
            control.commit if control else code_version(), comparison.protocol_hash, comparison.losses[CONTROL])
        comparison = with_equal_time(comparison, factor)
    here = hardware(comparison.one_each[0])
    elsewhere = sorted({found.hardware for found in known.values()} - {here})
    if elsewhere:
        notes.append(f'{path} is of {", ".join(elsewhere)}, and this is {here}: move it away to measure here')
    order = list(dict.fromkeys([*comparison.losses, *known]))
    times = sorted(known.values(), key=lambda found: order.index(found.method))
    if times != list(before.values()):
        write_times(path, times)
    return comparison, times, notes


def expected_length(comparison: Comparison) -> int | None:
    """Number of iterations of the control of equal time, as far as ``times.csv`` says; None if it does not."""
    found = read_times(EXPERIMENTS / comparison.name / TIMES).get(EQUAL_TIME)
    if found is None or not _fits(found, comparison):
        return None
    return with_equal_time(comparison, found.time).iterations_of(EQUAL_TIME)


def _fits(found: MethodTime, comparison: Comparison) -> bool:
    """Whether a time was measured with the losses and the protocol of now; those of other methods stay."""
    losses = comparison.losses.get(found.method, found.losses)
    return still_true(found, losses, comparison.protocol_hash)


def _wanted(comparison: Comparison, is_fixed: bool) -> list[str]:
    """The methods to measure: those that are trained now, and all those that the length to find depends on."""
    names = [trial.method for trial in comparison.one_each]
    if isinstance(comparison.equal_time, str):
        return [name for name in names if name in (*comparison.methods, comparison.equal_time)]
    if comparison.equal_time and not is_fixed:
        return names
    return comparison.methods if len(comparison.methods) > 1 else []


def _measure(names: Sequence[str], comparison: Comparison, notes: list[str]) -> dict[str, MethodTime]:
    trials, times = {trial.method: trial for trial in comparison.one_each}, dict[str, MethodTime]()
    if not names:
        return times
    control, commit = trials[CONTROL].options, code_version()
    with tqdm(names, desc='step times', disable=None, leave=False) as bar:
        for name in bar:
            bar.set_postfix_str(name)
            trial = trials[name]
            try:
                found = measure(control, trial.options)
            except FOREIGN_ERRORS as error:
                notes.append(f'the step time of {name!r} cannot be measured ({type(error).__name__}: {error}); it does '
                             f'not count for the length of {EQUAL_TIME!r}')
                continue
            times[name] = MethodTime(name, found.distilling, round(found.until, 6), round(found.time, 3), found.memory,
                                     hardware(trial), commit, comparison.protocol_hash, trial.losses)
    return times


def _fixed_length(comparison: Comparison, known: Times, rows: Sequence[Row]) -> float | None:
    """Factor of the control of equal time if a run or a row of it exists; None if there is neither."""
    lengths = [row.iterations for row in rows if row.method == EQUAL_TIME]
    found = known.get(EQUAL_TIME)
    name = with_equal_time(comparison, 1.0).trials[1].name
    folders = EXPERIMENTS.glob(f'{glob.escape(name.rpartition("_seed")[0])}_seed*')
    lengths += [total for folder in sorted(folders) for total in [started_length(folder)] if total is not None]
    if found is None:  # the file was lost
        return lengths[0] / comparison.iterations if lengths else None
    return found.time if lengths else None


def _length(comparison: Comparison, known: Times, fixed: float | None, notes: list[str]) -> float | None:
    """Factor of the control of equal time; None if it does not take part, or nothing could be measured."""
    chosen = comparison.equal_time
    if chosen is False:
        return None
    costs = {name: found.time for name, found in known.items()
             if name in comparison.losses and name not in (CONTROL, EQUAL_TIME) and chosen in (True, name)}
    if not costs:
        return fixed
    costliest = max(costs, key=lambda name: costs[name])
    needed = max(costs[costliest], 1.0)
    if fixed is None:
        return needed
    if needed > 1.05 * fixed or chosen is not True and needed < 0.95 * fixed:  # else it is the noise of measuring
        notes.append(f'{EQUAL_TIME!r} keeps its length of {fixed:.4g} times that of {CONTROL}, with which it was '
                     f'started; {costliest!r} takes {costs[costliest]:.4g} times as long. To train it anew, move its '
                     f'line in {TIMES}, its rows in results.csv and its run folders away')
    return fixed
