"""Problems of an option file, and the error that lists all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mipkd_plugin.config.keys import SCALE
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.utils.errors import MipkdError

_LONGEST_PATH = 2000  # characters; Linux takes 4,096 bytes


@dataclass(frozen=True)
class Problem:
    """One thing to fix.

    Attributes:
        where: YAML path such as ``train.distill_opt.taps``, or a file.
        what: What is wrong, with the offending value.
        remedy: What to write or run instead.
        place: ``line 12`` of the option file, or ``--force_yml``; '' if unknown.
        fix: The remedy as data, where it consists of entries to write or remove: value by YAML path.
    """

    where: str
    what: str
    remedy: str = ''
    place: str = ''
    fix: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        place = f' ({self.place})' if self.place else ''
        remedy = f'\n   -> {self.remedy}' if self.remedy else ''
        return f'{self.where}{place}: {self.what}{remedy}'


class OptionError(MipkdError):
    """An option file has problems; the message lists all of them.

    Args:
        problems: All problems.
        origin: The options, which give each problem its line, or only their file.

    Attributes:
        problems: All problems.
    """

    def __init__(self, problems: Sequence[Problem], origin: Mapping[str, Any] | Path | str | None = None) -> None:
        self.problems, source = list(problems), origin
        if isinstance(origin, Mapping):
            self.problems, source = located(problems, origin), getattr(origin, 'source', None)
        count = f'{len(self.problems)} problem{"s" if len(self.problems) > 1 else ""}'
        lines = [f'{source}: {count}' if source else count]
        lines += [f'{number}. {problem}' for number, problem in enumerate(self.problems, 1)]
        super().__init__('\n'.join(lines))


class Options(dict[str, Any]):
    """The content of an option file, and the origin of each entry.

    Attributes:
        source: The file.
        text: Its text.
        lines: Line number by YAML path.
        forced: Text given with ``--force_yml``, by YAML path.
        problems: Problems found while reading the file.
    """

    def __init__(self, content: Mapping[str, Any], source: Path | None = None) -> None:
        super().__init__(content)
        self.source = source
        self.text = ''
        self.lines: dict[str, int] = {}
        self.forced: dict[str, str] = {}
        self.problems: list[Problem] = []


def block(options: Any, *keys: str) -> dict[str, Any]:
    """The block at a path of keys; empty if there is none."""
    for key in keys:
        options = _entry(options, key)
    return dict(options) if isinstance(options, Mapping) else {}


def _entry(options: Any, key: str) -> Any:
    """The entry of a block at a key, or at a place in a list below it, as ``teachers[1]``."""
    if not isinstance(options, Mapping) or key in options or not key.endswith(']'):
        return options.get(key) if isinstance(options, Mapping) else None
    name, _, number = key[:-1].rpartition('[')
    listed = options.get(name)
    return listed[int(number)] if isinstance(listed, list) and number.isdigit() and int(number) < len(listed) else None


@dataclass
class Context:
    """One check of one option file.

    Attributes:
        opt: The options; never changed.
        is_train: Whether the options are for ``basicsr train``; if not, they are for ``basicsr test``.
        launcher: ``none``, ``pytorch`` or ``slurm``.
        auto_resume: Whether ``--auto_resume`` is given.
        root: Folder that relative paths start from.
        files: Whether to look at data and weights on disk.
        model_class: Class of ``model_type``, if it is registered.
        problems: The problems found so far.
        always_distills: Whether to check the options for distillation, whatever ``model_type`` says.
        own_script: Whether somebody's own script reads the options: it may have further keys, and lack some of ours.
        notes: What the user should know and need not fix.
    """

    opt: Mapping[str, Any]
    is_train: bool
    launcher: str = 'none'
    auto_resume: bool = False
    root: Path = field(default_factory=Path.cwd)
    files: bool = True
    model_class: type | None = None
    problems: list[Problem] = field(default_factory=list)
    always_distills: bool = False
    own_script: bool = False
    notes: list[str] = field(default_factory=list)

    def add(self, where: str, what: str, remedy: str = '', fix: Mapping[str, Any] | None = None) -> None:
        """Record a problem; the text of a remedy is made from ``fix`` if there is none."""
        self.problems.append(Problem(where, what, remedy or in_words(fix or {}), fix=fix or {}))

    def take_back(self, where: str, ending: str) -> None:
        """Take back the problems of a place whose text ends like this: another one says it better."""
        self.problems[:] = [problem for problem in self.problems
                            if problem.where != where or not problem.what.endswith(ending)]

    def placed(self, path: str) -> str:
        """The YAML path of an entry in the file: another one only in the context of one of several teachers."""
        return path

    def section(self, *keys: str) -> dict[str, Any]:
        """The block at a path of keys; empty if there is none."""
        return block(self.opt, *keys)

    def clean(self, where: str) -> bool:
        """Whether there is no problem at this path or below it."""
        return not any(problem.where == where or problem.where.startswith((f'{where}.', f'{where}['))
                       for problem in self.problems)

    def path(self, text: str) -> Path:
        """A path of the option file, as BasicSR resolves it; what no system can have is cut."""
        parts = os.path.expanduser(text).replace('\0', '?').split('/')
        return self.root / '/'.join(part if len(os.fsencode(part)) <= 255 else f'{part[:40]}… ({len(part)} characters)'
                                    for part in parts)[-_LONGEST_PATH:]

    @property
    def distills(self) -> bool:
        """Whether the model trains with a teacher. Asks by name, because ``config`` must not import ``models``."""
        return self.always_distills or self.inherits('DistillMixin')

    @property
    def reads_teachers(self) -> bool:
        """Whether the model reads the blocks of teachers, with losses that learn from them or without."""
        return self.distills or self.inherits('AggregateModel')

    def inherits(self, name: str) -> bool:
        """Whether the model class or one of its bases has this name."""
        classes = self.model_class.__mro__ if self.model_class is not None else ()
        return any(c.__name__ == name for c in classes)

    @property
    def scale(self) -> int | None:
        """Scale factor, or None if it is not usable."""
        scale = self.opt.get('scale')
        return scale if isinstance(scale, int) and SCALE.fits(scale) else None


def located(problems: Iterable[Problem], opt: Mapping[str, Any]) -> list[Problem]:
    """Add its line to each problem, sort them by line, and drop duplicates."""
    if not isinstance(opt, Options):
        return list(dict.fromkeys(problems))
    found = []
    for problem in problems:
        if any(f'{problem.where}.'.startswith((f'{path}.', f'{path}[')) for path in opt.forced):
            found.append((0, replace(problem, place='--force_yml')))
            continue
        path = problem.where
        while path and path not in opt.lines:
            path = path[:max(path.rfind('.'), path.rfind('['), 0)]
        line = opt.lines.get(path, 0)
        if line and not problem.place:
            problem = replace(problem, place=f'line {line}')
        found.append((line, problem))
    return list(dict.fromkeys(problem for _, problem in sorted(found, key=lambda pair: pair[0])))


def require_clean(problems: Sequence[Problem], opt: Mapping[str, Any]) -> None:
    """Raise if there are problems.

    Args:
        problems: The problems found in these options.
        opt: The options.

    Raises:
        OptionError: There are problems; the message lists all of them.
    """
    if problems:
        raise OptionError(problems, opt)
