"""Read and write the csv files of a comparison; a damaged file is refused with its line."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.files import write_text


def read_csv(path: Path, columns: Sequence[str], take: Callable[[dict[str, str]], object], error: type[MipkdError],
             of_file: str, of_line: str) -> None:
    """Read a file line by line.

    Args:
        path: The file; nothing is read if it does not exist.
        columns: Its columns, in any order.
        take: Gets each line, text by column; a ValueError says what is wrong with it.
        error: Error to raise.
        of_file: What to do about a damaged file.
        of_line: What to do about a damaged line.

    Raises:
        MipkdError: Of the type ``error``: the file is damaged, or has other columns.
    """
    if not os.path.exists(path):
        return
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding='utf-8')))
        header, lines = list(reader.fieldnames or ()), [(reader.line_num, line) for line in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as cause:
        raise error(f'{path} cannot be read: {cause}; {of_file}') from cause
    if sorted(header) != sorted(columns):
        raise error(f'{path}, line 1: the columns must be {",".join(columns)}, not {",".join(header)}; {of_file}')
    for number, line in lines:
        try:
            take(_complete(line, columns))
        except ValueError as cause:
            raise error(f'{path}, line {number}: {cause}; {of_line}') from cause


def _complete(line: Mapping[str | None, Any], columns: Sequence[str]) -> dict[str, str]:
    """The line; csv puts surplus columns under None, and gives None for those that are missing."""
    if set(line) != set(columns) or None in line.values():
        found = sum(value is not None for key, value in line.items() if key is not None) + len(line.get(None) or ())
        raise ValueError(f'has {found} of {len(columns)} columns')
    return {str(key): value for key, value in line.items()}


def write_csv(path: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a file with these columns; ``lines`` hold the values by column."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text.getvalue())
