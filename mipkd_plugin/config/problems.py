"""What is wrong with an option file: records, and the error that lists them all."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mipkd_plugin.utils.errors import FOREIGN_ERRORS as FOREIGN_ERRORS  # for the checks, which import it from here
from mipkd_plugin.utils.errors import MipkdError


@dataclass(frozen=True)
class Problem:
    """One thing to fix.

    Attributes:
        where: YAML path such as ``train.distill_opt.taps``, or a file.
        what: What is wrong, with the offending value.
        remedy: What to write or to run instead.
        place: Where that stands: ``line 12`` of the option file, or ``--force_yml``; '' if unknown.
    """

    where: str
    what: str
    remedy: str = ''
    place: str = ''

    def __str__(self) -> str:
        place = f' ({self.place})' if self.place else ''
        remedy = f'\n   -> {self.remedy}' if self.remedy else ''
        return f'{self.where}{place}: {self.what}{remedy}'


class OptionError(MipkdError):
    """An option file cannot be used as it is.

    Args:
        problems: All of them.
        source: The option file, for the headline.

    Attributes:
        problems: All of them.
    """

    def __init__(self, problems: Sequence[Problem], source: Path | str | None = None) -> None:
        self.problems = list(problems)
        count = f'{len(self.problems)} problem{"s" if len(self.problems) > 1 else ""}'
        lines = [f'{source}: {count}' if source else count]
        lines += [f'{number}. {problem}' for number, problem in enumerate(self.problems, 1)]
        super().__init__('\n'.join(lines))


class Options(dict):  # type: ignore[type-arg]
    """The content of an option file, and where each entry of it came from.

    Attributes:
        source: The file.
        lines: YAML path → line number.
        forced: YAML path → text given for it with ``--force_yml``.
        problems: What was found wrong while reading.
    """

    def __init__(self, content: Mapping[str, Any], source: Path | None = None) -> None:
        super().__init__(content)
        self.source = source
        self.lines: dict[str, int] = {}
        self.forced: dict[str, str] = {}
        self.problems: list[Problem] = []

    def require_clean(self) -> Options:
        """The options themselves, if they could be read without a problem.

        Raises:
            OptionError: With all problems.
        """
        if self.problems:
            raise OptionError(self.problems, self.source)
        return self


def block(options: Any, *keys: str) -> dict[str, Any]:
    """The mapping at a path of keys, or an empty one where there is none."""
    for key in keys:
        options = options.get(key) if isinstance(options, Mapping) else None
    return dict(options) if isinstance(options, Mapping) else {}


@dataclass
class Context:
    """One check of one option file.

    Attributes:
        opt: The options; never changed.
        is_train: Whether for ``basicsr train`` (or ``basicsr test``).
        launcher: ``none``, ``pytorch`` or ``slurm``.
        auto_resume: Whether ``--auto_resume`` was given.
        root: The folder that relative paths start from.
        files: Whether to look at data and weights on disk.
        model_class: Class of ``model_type``, if it is registered.
        problems: Found so far.
        always_distills: Whether the options are for distillation, whatever ``model_type`` says.
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

    def add(self, where: str, what: str, remedy: str = '') -> None:
        """Record a problem."""
        self.problems.append(Problem(where, what, remedy))

    def section(self, *keys: str) -> dict[str, Any]:
        """The mapping at a path of keys; empty where there is none."""
        return block(self.opt, *keys)

    def clean(self, where: str) -> bool:
        """Whether nothing has been found wrong at this path or beneath it."""
        return not any(problem.where == where or problem.where.startswith((f'{where}.', f'{where}['))
                       for problem in self.problems)

    def path(self, text: str) -> Path:
        """A path of the option file as the toolbox will see it."""
        return self.root / Path(text).expanduser()

    @property
    def distills(self) -> bool:
        """Whether the model trains with a teacher. (``models`` lies above ``config``, hence by name.)"""
        return self.always_distills or self.inherits('DistillMixin')

    def inherits(self, name: str) -> bool:
        """Whether the model class is, or has among its bases, one of this name."""
        classes = self.model_class.__mro__ if self.model_class is not None else ()
        return any(c.__name__ == name for c in classes)

    @property
    def scale(self) -> int | None:
        """Scale factor, if it is a usable one."""
        scale = self.opt.get('scale')
        return scale if isinstance(scale, int) and not isinstance(scale, bool) and scale > 0 else None


def located(problems: Iterable[Problem], opt: Mapping[str, Any]) -> list[Problem]:
    """The problems with the line of each added, in the order of the file; each of them once."""
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


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.6) -> str | None:
    """The valid name that ``name`` is probably meant to be, whatever its case, or None."""
    lowered, wanted = {v.lower(): v for v in valid}, str(name).lower()
    matches = difflib.get_close_matches(wanted, list(lowered), n=3, cutoff=cutoff)
    swapped = [match for match in matches if sorted(match) == sorted(wanted)]  # EDRS is EDSR rather than EDVR
    longer = [v for v in lowered if len(wanted) > 3 and v.startswith(wanted)]  # latent is latent_channels
    return next((lowered[match] for match in swapped + matches + longer), None)


def suggestion(name: str, valid: Iterable[str]) -> str:
    """A remedy: the nearest valid name, or all of them."""
    names = list(valid)
    near = nearest(name, names)
    return f'did you mean {near!r}?' if near else f'valid here: {", ".join(sorted(names))}'
