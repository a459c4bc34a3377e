"""``results.csv``: one row per method, seed and test set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from mipkd_plugin.compare.csv_file import read_csv, write_csv
from mipkd_plugin.compare.logs import History
from mipkd_plugin.compare.methods import same_method
from mipkd_plugin.compare.trials import Comparison, Trial
from mipkd_plugin.utils.errors import MipkdError

RESULTS = 'results.csv'


class ResultsError(MipkdError):
    """``results.csv`` cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Row:
    """One line of ``results.csv``.

    Attributes:
        method: Name of the method.
        seed: ``manual_seed``.
        testset: Name of the test set.
        psnr: PSNR at the end of training, in dB.
        ssim: SSIM at the end of training.
        iterations: Number of iterations.
        seconds: Seconds of training, without validation and saving.
        parameters: Number of parameters of the student.
        training_parameters: Number of parameters of the losses.
        curve: ``iteration:PSNR`` of each validation, separated by spaces.
        curve_seconds: Seconds of training up to each validation, separated by spaces.
        commit: Version of the code.
        hardware: ``CPU``, or the name of the GPU.
        protocol_hash: Digest of everything that the runs share; its column is named ``protocol``.
        losses: The losses, as JSON.
    """

    method: str
    seed: int
    testset: str
    psnr: float
    ssim: float
    iterations: int
    seconds: float
    parameters: int
    training_parameters: int
    curve: str
    curve_seconds: str
    commit: str
    hardware: str
    protocol_hash: str
    losses: str

    def points(self) -> list[tuple[int, float, float]]:
        """(iteration, seconds, PSNR) of each validation."""
        pairs = [point.split(':') for point in self.curve.split()]
        return [(int(at), float(seconds), float(psnr))
                for (at, psnr), seconds in zip(pairs, self.curve_seconds.split(), strict=True)]


_COLUMN_OF = {'protocol_hash': 'protocol'}
_KINDS = {field.name: {'int': int, 'float': float}.get(str(field.type), str) for field in fields(Row)}
COLUMNS = tuple(_COLUMN_OF.get(name, name) for name in _KINDS)


def rows_of(trial: Trial, comparison: Comparison, history: History, commit: str, hardware: str) -> list[Row]:
    """The rows of a finished run; none if the final validation is missing on a test set."""
    total, (psnr, ssim) = trial.iterations, comparison.metrics
    rows = []
    for testset in comparison.testsets:
        last = history.metrics.get((total, testset), {})
        if psnr not in last or ssim not in last:
            return []
        curve = sorted((at, found[psnr]) for (at, name), found in history.metrics.items() if name == testset)
        rows.append(Row(
            trial.method, trial.seed, testset, last[psnr], last[ssim], total, round(history.seconds_until(total), 1),
            history.parameters, history.training_parameters, ' '.join(f'{at}:{value:.4f}' for at, value in curve),
            ' '.join(f'{history.seconds_until(at):.1f}' for at, _ in curve), commit, hardware,
            comparison.protocol_hash, trial.losses))
    return rows


def read_rows(path: Path) -> list[Row]:
    """Read ``results.csv``.

    Args:
        path: The file.

    Returns:
        The rows; none if the file does not exist.

    Raises:
        ResultsError: The file is damaged or has other columns.
    """
    rows: dict[tuple[str, int, str], Row] = {}

    def take(line: Mapping[str, str]) -> None:
        row = _row(line)
        if (row.method, row.seed, row.testset) in rows:
            raise ValueError(f'another line also holds {row.method!r}, seed {row.seed}, on {row.testset!r}')
        rows[row.method, row.seed, row.testset] = row

    read_csv(path, COLUMNS, take, ResultsError, 'restore the file, or move it away to start a new one',
             'restore the file, or delete this line to repeat the run')
    return list(rows.values())


def _row(line: Mapping[str, str]) -> Row:
    """Read one line of the file, text by column; a ValueError says what is wrong."""
    values: dict[str, Any] = {}
    for column, (name, kind) in zip(COLUMNS, _KINDS.items()):
        try:
            values[name] = kind(line[column])
        except ValueError as error:
            raise ValueError(f'{column} is {line[column]!r}, not a number') from error
    row = Row(**values)
    try:
        row.points()
    except ValueError as error:
        raise ValueError(f'curve {row.curve!r} and curve_seconds {row.curve_seconds!r} do not match') from error
    try:
        json.loads(row.losses)
    except ValueError as error:
        raise ValueError(f'losses is {row.losses!r}, not JSON') from error
    return row


def write_rows(path: Path, rows: Iterable[Row], comparison: Comparison) -> None:
    """Write ``results.csv``, sorted by method, seed and test set in the order of the option file.

    Methods that the option file does not name (any more) come last, in the order of ``rows``.
    """
    rows = list(rows)
    methods = list(dict.fromkeys([*comparison.losses, *(row.method for row in rows)]))
    testsets = list(dict.fromkeys([*comparison.testsets, *(row.testset for row in rows)]))

    def place(row: Row) -> tuple[int, int, int]:
        return methods.index(row.method), row.seed, testsets.index(row.testset)

    write_csv(path, COLUMNS, ({_COLUMN_OF.get(name, name): value for name, value in asdict(row).items()}
                              for row in sorted(rows, key=place)))


def refuse_other_protocol(path: Path, rows: Sequence[Row], comparison: Comparison) -> None:
    """Refuse to mix new rows with rows that were measured with other options.

    Args:
        path: ``results.csv``.
        rows: Its rows.
        comparison: The comparison to run.

    Raises:
        ResultsError: A row was measured with other options.
    """
    remedy = f'restore the option file, write another name, or move {path} and the folders of its runs away'
    for row in rows:
        now = comparison.protocol_hash, comparison.iterations_of(row.method) or row.iterations
        if (row.protocol_hash, row.iterations) != now:
            raise ResultsError(f'{path} holds {row.method!r}, seed {row.seed}, from another protocol '
                               f'({row.protocol_hash}, {row.iterations} iterations; now {now[0]}, {now[1]}): data, '
                               f'networks, teacher or training have changed; {remedy}')
        losses = comparison.losses.get(row.method)
        if losses is not None and not same_method(row.losses, losses):
            raise ResultsError(f'{path} holds {row.method!r} with other losses or settings: {row.losses}, now '
                               f'{losses}; {remedy}')
