"""The commands ``mipkd compare`` and ``mipkd ablate``."""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tqdm import tqdm

from mipkd_plugin.compare.logs import read_history
from mipkd_plugin.compare.report import write_report
from mipkd_plugin.compare.results import (
    ResultsError,
    Row,
    read_rows,
    refuse_other_protocol,
    rows_of,
    write_rows,
)
from mipkd_plugin.compare.runs import (
    EXPERIMENTS,
    InterruptedRunError,
    RunError,
    Runner,
    commit_of,
    hardware,
    refuse_other_options,
    run_folder,
)
from mipkd_plugin.config import Comparison, Options, Trial, read_comparison, read_options, results_folder

RESULTS = 'results.csv'


class UsageError(ValueError):
    """The command cannot be carried out as it was typed."""


def add_compare(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd compare``."""
    parser.add_argument('--methods', nargs='+', metavar='NAME', help='of compare.methods; all of them by default. The '
                        'control, none, is always there')
    _add_common(parser)


def add_ablate(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd ablate``."""
    parser.add_argument('--method', metavar='NAME', help='of compare.methods; compare.ablate.method by default')
    parser.add_argument('--vary', nargs='+', action='append', default=[], metavar='OPTION VALUE',
                        help='an option of one of its losses and the values to try, one at a time; can be given '
                        'several times; compare.ablate.options by default')
    _add_common(parser)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('-opt', metavar='FILE.yml', help='option file with a block compare')
    parser.add_argument('--force_yml', nargs='+', metavar='A:B=VALUE', help='change entries of it')
    parser.add_argument('--seeds', nargs='+', type=int, metavar='N', help='compare.seeds by default')
    parser.add_argument('--jobs', type=int, default=1, metavar='N', help='runs at the same time')
    parser.add_argument('--report', action='store_true', help='train nothing: make table and figure of results.csv')
    parser.add_argument('--results', type=Path, metavar='FILE.csv', help='results.csv to report on, without -opt')
    parser.add_argument('--into', type=Path, metavar='FILE.md', help='also put the table between the marks '
                        '<!-- NAME --> and <!-- /NAME --> of this file, NAME being the folder of results.csv')


def run_compare(args: argparse.Namespace) -> int:
    """Carry out ``mipkd compare``."""
    return _run(args, lambda opt: read_comparison(opt, args.methods, args.seeds), lambda opt: None)


def run_ablate(args: argparse.Namespace) -> int:
    """Carry out ``mipkd ablate``."""
    vary = {entry[0]: [_value(text) for text in entry[1:]] for entry in args.vary}
    empty = [option for option, values in vary.items() if not values]
    if empty:
        raise UsageError(f'--vary {empty[0]}: no values to try; write --vary {empty[0]} VALUE VALUE …')
    return _run(args, lambda opt: read_comparison(opt, None, args.seeds, ablate=(args.method, vary)),
                lambda opt: args.method or _ablated_method(opt))


def _ablated_method(opt: Mapping[str, Any]) -> str | None:
    compare = opt.get('compare')
    ablate = compare.get('ablate') if isinstance(compare, Mapping) else None
    return str(ablate.get('method')) if isinstance(ablate, Mapping) else None


def _value(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f'--vary: {text!r} cannot be read as a value: {error}') from error


def _run(args: argparse.Namespace, read: Any, ablated: Any) -> int:
    if args.jobs < 1:
        raise UsageError(f'--jobs must be 1 or more, got {args.jobs}')
    if args.report:
        return _report(args, ablated)
    if args.opt is None or args.results is not None:
        raise UsageError('-opt FILE.yml is missing' if args.opt is None else '--results goes with --report')
    comparison = read(read_options(args.opt, args.force_yml))
    folder = EXPERIMENTS / comparison.name
    rows = read_rows(folder / RESULTS)
    refuse_other_protocol(folder / RESULTS, rows, comparison)
    for trial in comparison.trials:
        refuse_other_options(trial)
    with _only_one(folder):
        failures = _Campaign(comparison, folder, rows).run(args.jobs)
    if any(row.testset for row in read_rows(folder / RESULTS)):
        _show(write_report(read_rows(folder / RESULTS), folder), folder, args.into)
    for failure in failures:
        sys.stderr.write(f'{failure}\n')
    return 1 if failures else 0


def _report(args: argparse.Namespace, ablated: Any) -> int:
    if (args.opt is None) == (args.results is None):
        raise UsageError('--report needs either -opt FILE.yml or --results FILE.csv')
    path = args.results
    if path is None:
        opt: Options = read_options(args.opt, args.force_yml)
        path = EXPERIMENTS / results_folder(opt, ablated(opt)) / RESULTS
    rows = read_rows(path)
    if not rows:
        raise ResultsError(f'{path} {"holds no rows" if path.exists() else "does not exist"}; run the command without '
                           '--report first')
    _show(write_report(rows, path.parent), path.parent, args.into)
    return 0


def _show(table: str, folder: Path, into: Path | None) -> None:
    sys.stdout.write(f'\n{table}\nWritten to {folder}: {RESULTS}, table.md, table.tex, figure.png\n')
    if into is not None:
        _put_into(into, folder.name, table)


def _put_into(path: Path, name: str, table: str) -> None:
    begin, end = f'<!-- {name} -->\n', f'<!-- /{name} -->'
    text = path.read_text(encoding='utf-8') if path.is_file() else ''
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise UsageError(f'{path} has no pair of lines {begin.strip()} and {end} to put the table between')
    start = text.index(begin) + len(begin)
    temporary = path.with_name(f'{path.name}.part')
    temporary.write_text(text[:start] + table + text[text.index(end):], encoding='utf-8')
    os.replace(temporary, path)


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two comparisons in one folder would train the same runs twice; the lock ends with the process."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(f'another mipkd is at work in {folder}; wait for it, or stop it') from error
        yield


class _Campaign:
    """All runs of a comparison, some at a time."""

    def __init__(self, comparison: Comparison, folder: Path, rows: Sequence[Row]) -> None:
        self.comparison = comparison
        self.folder = folder
        self.rows = list(rows)
        self.runner = Runner(folder)

    def run(self, jobs: int) -> list[RunError]:
        """Train what is not there yet; write ``results.csv`` after each run.

        Returns:
            Why runs failed.

        Raises:
            KeyboardInterrupt: After all runs have been stopped.
        """
        failures = []
        todo = [trial for trial in self.comparison.trials if not self._is_there(trial)]
        done = len(self.comparison.trials) - len(todo)
        if done:
            tqdm.write(f'{done} of {len(self.comparison.trials)} runs are in {self.folder / RESULTS}')
        with ThreadPoolExecutor(jobs) as pool:
            try:
                futures = {pool.submit(self._measure, trial): trial for trial in todo}
                for future in as_completed(futures):
                    failures += self._take(future, futures[future])
            except BaseException:
                self.runner.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return failures

    def _is_there(self, trial: Trial) -> bool:
        found = {row.testset for row in self.rows if (row.method, row.seed) == (trial.method, trial.seed)}
        return found >= set(self.comparison.testsets)

    def _measure(self, trial: Trial) -> list[Row]:
        """Train a run unless it is finished, and read its results from the log."""
        rows = self._collect(trial)
        if rows:
            return rows
        with tqdm(desc=f'{trial.method} seed {trial.seed}', total=self.comparison.iterations, unit='it', disable=None,
                  leave=False) as bar:
            self.runner.train(trial, lambda iteration: bar.update(iteration - bar.n))
        rows = self._collect(trial)
        if not rows:
            raise RunError(f'{trial.name} has ended, but its log in {run_folder(trial)} has no validation at iteration '
                           f'{self.comparison.iterations} on {", ".join(self.comparison.testsets)}')
        return rows

    def _collect(self, trial: Trial) -> list[Row]:
        history = read_history(run_folder(trial), self.comparison.iterations)
        return rows_of(trial, self.comparison, history, commit_of(trial), hardware(trial))

    def _take(self, future: Future[list[Row]], trial: Trial) -> list[RunError]:
        try:
            rows = future.result()
        except RunError as error:
            tqdm.write(f'{trial.method} seed {trial.seed}: failed')
            return [error]
        except InterruptedRunError:
            return []
        self.rows = [row for row in self.rows if (row.method, row.seed) != (trial.method, trial.seed)] + rows
        write_rows(self.folder / RESULTS, self.rows, self.comparison)
        measured = ', '.join(f'{row.testset} {row.psnr:.3f} dB' for row in rows)
        tqdm.write(f'{trial.method} seed {trial.seed}: {measured}, {rows[0].seconds:.0f} s')
        return []
