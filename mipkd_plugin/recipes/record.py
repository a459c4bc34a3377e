"""What a run of ``mipkd distill`` was asked for: typed again, the same line goes on with it, and another is refused."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mipkd_plugin.config.suggestions import nearest
from mipkd_plugin.utils.errors import UsageError
from mipkd_plugin.utils.files import write_text

RECORD = 'distill.json'
LOCK = 'distill.lock'
_BEFORE = {'init': 'random', 'encoders': 'separate'}
"""What the runs of older versions had, which did not choose it."""
FOLDERS = ('hr', 'lr', 'val', 'val_lr')


@dataclass
class Record:
    """What a folder of results was made for.

    Attributes:
        command: The line that began it.
        given: What that line gave, by name of the option.
        teacher: SHA-256 of the teacher's file.
        values: All settings that were chosen, once they were.
    """

    command: str
    given: dict[str, Any]
    teacher: str
    values: dict[str, Any] = field(default_factory=dict)

    def save(self, out: Path) -> None:
        """Write it.

        Raises:
            OSError: The file cannot be written.
        """
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / RECORD, json.dumps(asdict(self), indent=1) + '\n')


def read(out: Path) -> Record | None:
    """Read the record of a folder.

    Args:
        out: Folder of results.

    Returns:
        The record; None for a folder that is new or empty.

    Raises:
        UsageError: The folder holds something else, or the record is damaged.
    """
    path = out / RECORD
    if os.path.isfile(path):
        try:
            return TypeAdapter(Record).validate_json(path.read_text(encoding='utf-8'))
        except (ValidationError, UnicodeDecodeError) as error:
            raise UsageError(f'{path}: is damaged, so it does not say which run this is.\n   -> Write another folder: '
                             f'--out {free_name(out)}') from error
    if os.path.exists(out) and (not os.path.isdir(out) or any(entry.name != LOCK for entry in out.iterdir())):
        what = 'is not empty, and no mipkd distill has filled it' if os.path.isdir(out) else 'is a file'
        raise UsageError(f'--out {out}: {what}.\n   -> Write another folder: --out {free_name(out)}')
    return None


def free_name(out: Path) -> Path:
    """A folder beside this one that does not exist, and whose name no run has."""
    for number in range(2, 10_000):
        found = out.with_name(f'{out.name}_{number}')
        if not found.exists() and not Path('experiments', found.name).exists():
            return found
    return out.with_name(f'{out.name}_new')


def refuse_other(saved: Record, now: Record, out: Path) -> None:
    """Refuse to go on with a run that was begun with other options.

    A value that the run has chosen by itself may be given too.

    Args:
        saved: What the run was begun with.
        now: What is asked for.
        out: Folder of results.

    Raises:
        UsageError: The options differ; the message names each.
    """
    different = []
    if saved.teacher != now.teacher:
        different.append(f'--teacher: {saved.given["teacher"]} there had other content than {now.given["teacher"]} '
                         'here')
    for name in [*saved.given, *(name for name in now.given if name not in saved.given)]:
        old, new = saved.given.get(name, saved.values.get(name, _BEFORE.get(name))), now.given.get(name)
        if name == 'teacher' or old == new:
            continue
        different.append(f'--{name.replace("_", "-")}: {_text(old)} there, {_text(new)} here')
    if different:
        listed = '\n'.join(f'   {line}' for line in different)
        back = '' if saved.teacher == now.teacher else f'put the old {saved.given["teacher"]} back, and '
        raise UsageError(f'{out}: holds a run with other options:\n{listed}\n   -> Train in another folder: --out '
                         f'{free_name(out)}; or {back}go on with that run: {saved.command}')


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ' '.join(map(str, value))
    return 'not given' if value is None else str(value)


def request(given: Mapping[str, Any], command: str) -> Record:
    """What is asked for.

    Args:
        given: What the user gave, by name of the option; folders as typed.
        command: The line.

    Returns:
        A record without settings; folders are absolute.

    Raises:
        UsageError: The teacher's file is not there.
    """
    own = {name: str(Path(value).expanduser().resolve()) if name in FOLDERS else value for name, value in given.items()}
    path = Path(given['teacher']).expanduser()
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        missing = not os.path.exists(path)
        what = 'there is no such file' if missing else error.strerror or str(error)
        remedy = 'Name a weights file'
        if missing and path.parent.is_dir():
            beside = nearest(path.name, [file.name for file in path.parent.iterdir() if file.is_file()])
            remedy = remedy if beside is None else f'Did you mean {path.with_name(beside)}?'
        raise UsageError(f'--teacher {path}: {what} (looked in {Path.cwd()}).\n   -> {remedy}') from error
    return Record(command, own, digest)


def default_out(teacher: str, student: str) -> Path:
    """Folder of results for a teacher and a student, where none is named."""
    own = Path(student).stem if student.endswith(('.yml', '.yaml')) else student
    return Path(re.sub(r'[^\w.-]+', '-', f'{Path(teacher).stem}_to_{own}').strip('-.'))


def command_line(arguments: list[str]) -> str:
    """The line to type."""
    return shlex.join(['mipkd', 'distill', *arguments])
