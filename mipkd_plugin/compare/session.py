"""Run a comparison: train the missing runs, then make table and figure; or only make table and figure."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mipkd_plugin.compare.checks import EQUAL_TIME
from mipkd_plugin.compare.equal_time import timed
from mipkd_plugin.compare.report import write_report
from mipkd_plugin.compare.results import RESULTS, ResultsError, Row, read_rows, refuse_other_protocol
from mipkd_plugin.compare.run_folders import EXPERIMENTS, refuse_other_options
from mipkd_plugin.compare.runner import ComparisonRunner
from mipkd_plugin.compare.times import TIMES, read_times, time_table
from mipkd_plugin.compare.trials import Comparison
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.files import write_atomically
from mipkd_plugin.utils.locks import TakenError, alone


def train(comparison: Comparison, jobs: int, into: Path | None) -> int:
    """Train the missing runs, and make table and figure.

    Args:
        comparison: The comparison.
        jobs: Number of runs at the same time.
        into: File to put the table into, or None.

    Returns:
        Exit code: 1 if a run failed, else 0.

    Raises:
        MipkdError: Results or folders have another protocol; nothing was written.
        UsageError: Another process works on this comparison, or ``into`` cannot take the table.
    """
    folder = EXPERIMENTS / comparison.name
    if into is not None:
        _split(into, comparison.name)
    _refuse_others(folder, comparison)
    with _alone_in(folder):
        _write_start(comparison)
        comparison, _, notes = timed(comparison, folder, _refuse_others(folder, comparison))
        sys.stdout.writelines(f'{note}\n' for note in notes)
        failures = ComparisonRunner(comparison, folder, _refuse_others(folder, comparison)).run(jobs)
    rows = read_rows(folder / RESULTS)
    if rows:
        _show(rows, folder, into)
    for failure in failures:
        sys.stderr.write(f'\n{failure}\n')
    return 1 if failures else 0


def measure_times(comparison: Comparison) -> int:
    """Measure the step times that ``times.csv`` lacks, and show all of them. Trains nothing.

    Args:
        comparison: The comparison.

    Returns:
        Exit code: 1 if a method could not be measured, else 0.

    Raises:
        MipkdError: The files of the comparison have another protocol, or cannot be used.
    """
    folder = EXPERIMENTS / comparison.name
    _refuse_others(folder, comparison)
    with _alone_in(folder):
        _write_start(comparison)
        comparison, times, notes = timed(comparison, folder, _refuse_others(folder, comparison))
    sys.stdout.write(f'{time_table(times)}\nWritten to {folder / TIMES}\n')
    length = comparison.iterations_of(EQUAL_TIME)
    if length is not None:
        sys.stdout.write(f'{EQUAL_TIME}: {length:,} iterations, the others {comparison.iterations:,}\n')
    sys.stderr.writelines(f'{note}\n' for note in notes)
    return 1 if set(comparison.methods) - {found.method for found in times} else 0


def report(path: Path, into: Path | None) -> int:
    """Make table and figure of a ``results.csv``.

    Args:
        path: ``results.csv``.
        into: File to put the table into, or None.

    Returns:
        Exit code 0.

    Raises:
        ResultsError: The file has no rows, or is damaged.
        TimesError: ``times.csv`` is damaged.
        UsageError: A file cannot be written.
    """
    rows = read_rows(path)
    if not rows:
        raise ResultsError(f'{path} {"holds no rows" if os.path.exists(path) else "does not exist"}; run the command '
                           'without --report first')
    if into is not None:
        _split(into, path.resolve().parent.name)
    _show(rows, path.parent, into)
    return 0


def results_path(name: str) -> Path:
    """``results.csv`` of a comparison."""
    return EXPERIMENTS / name / RESULTS


def _refuse_others(folder: Path, comparison: Comparison) -> list[Row]:
    """Refuse rows, times and run folders that do not belong to the comparison; return its rows."""
    rows = read_rows(folder / RESULTS)
    refuse_other_protocol(folder / RESULTS, rows, comparison)
    read_times(folder / TIMES)
    for trial in comparison.trials:
        refuse_other_options(trial, comparison.protocol_hash)
    return rows


def _write_start(comparison: Comparison) -> None:
    if comparison.start is not None:
        comparison.start.write()


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    try:
        with alone(folder / 'lock'):
            yield
    except TakenError as error:
        raise UsageError(f'another mipkd is working in {folder}; wait for it, or stop it') from error


def _show(rows: Sequence[Row], folder: Path, into: Path | None) -> None:
    try:
        table = write_report(rows, read_times(folder / TIMES), folder)
    except OSError as error:
        raise UsageError(f'{error.filename or folder} cannot be written ({error.strerror}); change its permissions, or '
                         f'copy {RESULTS} elsewhere and name it with --report --results') from error
    sys.stdout.write(f'\n{table}\nWritten to {folder}: {RESULTS}, table.md, table.tex, figure.png\n')
    if into is not None:
        _put(into, folder.resolve().name, table)


def _put(into: Path, name: str, table: str) -> None:
    """Put a table between its marks in a file; the file keeps its permissions."""
    before, after = _split(into, name)
    target = into.resolve()

    def write(part: Path) -> None:
        part.write_text(before + table + after, encoding='utf-8')
        shutil.copymode(target, part)

    try:
        write_atomically(target, write)
    except OSError as error:
        raise UsageError(f'--into {into} cannot be written: {error.strerror}') from error


def _split(path: Path, name: str) -> tuple[str, str]:
    """Split a file at the place for the table.

    Args:
        path: The file.
        name: Name of the table in the two marks.

    Returns:
        The text up to the first mark, with it, and the text from the second mark on.

    Raises:
        UsageError: The file cannot be read, or does not hold each mark exactly once.
    """
    begin, end = f'<!-- {name} -->\n', f'<!-- /{name} -->'
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'--into {path} cannot be read: {getattr(error, "strerror", None) or error}') from error
    start = text.find(begin) + len(begin)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < start:
        raise UsageError(f'--into {path} needs a line {begin.strip()} and below it a line {end}, each exactly once; '
                         'the table goes between them')
    return text[:start], text[text.index(end):]
