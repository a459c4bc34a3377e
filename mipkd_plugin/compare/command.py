"""The commands ``mipkd compare`` and ``mipkd ablate``."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from mipkd_plugin.compare.campaign import Campaign
from mipkd_plugin.compare.locks import TakenError, alone
from mipkd_plugin.compare.report import write_report
from mipkd_plugin.compare.results import RESULTS, ResultsError, Row, read_rows, refuse_other_protocol
from mipkd_plugin.compare.runs import EXPERIMENTS, refuse_other_options
from mipkd_plugin.config import (
    Comparison,
    Options,
    ablated_method,
    read_comparison,
    read_options,
    results_folder,
)

_EXPONENT = re.compile(r'[+-]?\d+\.?\d*[eE][+-]?\d+')


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
    if args.report and (args.methods or args.seeds):
        raise UsageError('--report shows all rows of results.csv; leave out --methods and --seeds')
    if args.report:
        return _report(args, lambda opt: results_folder(opt))
    return _run(args, lambda opt: read_comparison(opt, args.methods, args.seeds))


def run_ablate(args: argparse.Namespace) -> int:
    """Carry out ``mipkd ablate``."""
    vary: dict[str, list[Any]] = {}
    for option, *texts in args.vary:
        vary.setdefault(option, []).extend(_value(text) for text in texts)
    empty = [option for option, values in vary.items() if not values]
    if empty:
        raise UsageError(f'--vary {empty[0]}: no values to try; write --vary {empty[0]} VALUE VALUE …')
    if args.report and (vary or args.seeds):
        raise UsageError('--report shows all rows of results.csv; leave out --vary and --seeds')
    if args.report:
        return _report(args, lambda opt: results_folder(opt, _ablated(opt, args.method)))
    return _run(args, lambda opt: read_comparison(opt, None, args.seeds, ablate=(args.method, vary)))


def _ablated(opt: Options, method: str | None) -> str:
    found = ablated_method(opt, method)
    if found is None:
        raise UsageError(f'{opt.source} has no compare.ablate.method; name the method with --method')
    return found


def _value(text: str) -> Any:
    """What an option file would hold; 1e-4 is a number here."""
    try:
        value = yaml.safe_load(text)
        return float(value) if _EXPONENT.fullmatch(str(value)) else value
    except yaml.YAMLError as error:
        raise UsageError(f'--vary: {text!r} cannot be read as a value: {error}') from error


def _run(args: argparse.Namespace, read: Callable[[Options], Comparison]) -> int:
    if args.jobs < 1:
        raise UsageError(f'--jobs must be 1 or more, got {args.jobs}')
    if args.opt is None or args.results is not None:
        raise UsageError('-opt FILE.yml is missing' if args.opt is None else '--results goes with --report')
    comparison = read(read_options(args.opt, args.force_yml))
    folder = EXPERIMENTS / comparison.name
    if args.into is not None:
        _split(args.into, comparison.name)
    _read_own_rows(folder, comparison)
    for trial in comparison.trials:
        refuse_other_options(trial, comparison.protocol)
    try:
        with alone(folder / 'lock'):
            failures = Campaign(comparison, folder, _read_own_rows(folder, comparison)).run(args.jobs)
    except TakenError as error:
        raise UsageError(f'another mipkd is at work in {folder}; wait for it, or stop it') from error
    rows = read_rows(folder / RESULTS)
    if rows:
        _show(rows, folder, args.into)
    for failure in failures:
        sys.stderr.write(f'\n{failure}\n')
    return 1 if failures else 0


def _read_own_rows(folder: Path, comparison: Comparison) -> list[Row]:
    rows = read_rows(folder / RESULTS)
    refuse_other_protocol(folder / RESULTS, rows, comparison)
    return rows


def _report(args: argparse.Namespace, folder_of: Callable[[Options], str]) -> int:
    if (args.opt is None) == (args.results is None):
        raise UsageError('--report needs either -opt FILE.yml or --results FILE.csv')
    path = args.results
    if path is None:
        path = EXPERIMENTS / folder_of(read_options(args.opt, args.force_yml)) / RESULTS
    rows = read_rows(path)
    if not rows:
        raise ResultsError(f'{path} {"holds no rows" if path.exists() else "does not exist"}; run the command without '
                           '--report first')
    if args.into is not None:
        _split(args.into, path.resolve().parent.name)
    _show(rows, path.parent, args.into)
    return 0


def _show(rows: Sequence[Row], folder: Path, into: Path | None) -> None:
    try:
        table = write_report(rows, folder)
    except OSError as error:
        raise UsageError(f'{error.filename or folder} cannot be written ({error.strerror}); mend its rights, or copy '
                         f'{RESULTS} elsewhere and name it with --report --results') from error
    sys.stdout.write(f'\n{table}\nWritten to {folder}: {RESULTS}, table.md, table.tex, figure.png\n')
    if into is not None:
        before, after = _split(into, folder.resolve().name)
        try:
            target = into.resolve()
            temporary = target.with_name(f'{target.name}.part')
            temporary.write_text(before + table + after, encoding='utf-8')
            shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except OSError as error:
            raise UsageError(f'--into {into} cannot be written: {error.strerror}') from error


def _split(path: Path, name: str) -> tuple[str, str]:
    """A text before and after the place for the table.

    Raises:
        UsageError: There is no such place, or more than one.
    """
    begin, end = f'<!-- {name} -->\n', f'<!-- /{name} -->'
    try:
        text = path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f'--into {path} cannot be read: {getattr(error, "strerror", None) or error}') from error
    start = text.find(begin) + len(begin)
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(end) < start:
        raise UsageError(f'--into {path} needs a line {begin.strip()} and below it a line {end}, once each, to put the '
                         'table between')
    return text[:start], text[text.index(end):]
