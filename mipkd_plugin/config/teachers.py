"""The teachers of an option file: the block ``teacher``, or several in the list ``teachers``, and who learns from whom.

Each check of a teacher asks for the block ``teacher``. For one of several it gets a context of its own, in which that
block is the entry of the list, and whose problems have the place in the list: see :func:`context_of`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.config.keys import TEACHER_SLICE, WORD
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE
from mipkd_plugin.config.suggestions import other_value, shortened

LIST = 'teachers'
ONE = 'teacher'


class Teacher(NamedTuple):
    """A teacher as the options describe it.

    Attributes:
        place: YAML path of its block: ``teacher``, or ``teachers[1]``.
        name: Its name; '' for the block ``teacher``, which has none.
        options: The block.
    """

    place: str
    name: str
    options: Mapping[str, Any]

    @property
    def role(self) -> str:
        """What people call it: ``teacher``, or ``teacher 'big'``."""
        return f'teacher {self.name!r}' if self.name else 'teacher'


def teachers_of(opt: Mapping[str, Any]) -> list[Teacher]:
    """The teachers of an option file, in its order; entries that are no blocks are left out.

    Args:
        opt: The options.

    Returns:
        One for the block ``teacher``; one for each entry of ``teachers``; none without either.
    """
    listed = opt.get(LIST)
    if isinstance(listed, list):
        return [Teacher(f'{LIST}[{number}]', str(entry.get('name', '')), entry)
                for number, entry in enumerate(listed) if isinstance(entry, Mapping)]
    return [Teacher(ONE, '', opt[ONE])] if isinstance(opt.get(ONE), Mapping) else []


def networks_of(opt: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The networks of all teachers by YAML path; a block that a teacher lacks is empty."""
    return {f'{teacher.place}.network': block(teacher.options, 'network') for teacher in teachers_of(opt)}


@dataclass
class _OneOfSeveral(Context):
    """The context of one teacher of the list: its block is ``teacher`` here, and problems get its place."""

    place: str = ONE

    def placed(self, path: str) -> str:
        """The place of an entry of this teacher in the list."""
        rest = path.removeprefix(ONE)
        return self.place + rest if path.startswith(ONE) and rest[:1] in ('', '.', '[') else path

    def add(self, where: str, what: str, remedy: str = '', fix: Mapping[str, Any] | None = None) -> None:
        """Record a problem at the place of the teacher."""
        super().add(self.placed(where), what, remedy,
                    {self.placed(path): value for path, value in (fix or {}).items()})

    def take_back(self, where: str, ending: str) -> None:
        """Take back the problems of a place whose text ends like this."""
        super().take_back(self.placed(where), ending)

    def clean(self, where: str) -> bool:
        """Whether there is no problem at this path or below it."""
        return super().clean(self.placed(where))


def context_of(ctx: Context, teacher: Teacher) -> Context:
    """A context in which one teacher is the block ``teacher``.

    Args:
        ctx: The context of the whole option file.
        teacher: The teacher.

    Returns:
        The same context for the block ``teacher``; for one of several a view of it, which shares problems and notes.
    """
    if teacher.place == ONE:
        return ctx
    opt = {**{key: value for key, value in ctx.opt.items() if key != LIST}, ONE: dict(teacher.options)}
    own = {each.name: getattr(ctx, each.name) for each in fields(Context)}
    return _OneOfSeveral(**{**own, 'opt': opt}, place=teacher.place)


def distillation_entries(opt: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """(YAML path, options) of each loss in ``train.distill_opt``, which holds one loss or a list of them."""
    train = opt.get('train')
    found = train.get('distill_opt') if isinstance(train, Mapping) else None
    if isinstance(found, list):
        return [(f'train.distill_opt[{index}]', entry) for index, entry in enumerate(found)]
    return [('train.distill_opt', found)] if isinstance(found, Mapping) else []


def reads_teacher_itself(options: Mapping[str, Any]) -> bool:
    """Whether a loss class has an argument ``teacher`` of its own, or takes arguments that it does not name."""
    cls = lookup(LOSS_REGISTRY, options.get('type'))
    parameters = inspect.signature(cls).parameters if callable(cls) else {}
    return ONE in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def of_class(opt: Mapping[str, Any], options: Any) -> Any:
    """The options of a loss without ``teacher``, which is not for its class.

    With one block ``teacher``, a class that has such an argument keeps it.

    Args:
        opt: The options of the whole file.
        options: An entry of ``train.distill_opt``.

    Returns:
        The same entry, or a copy.
    """
    if not isinstance(options, Mapping) or ONE not in options or LIST not in opt and reads_teacher_itself(options):
        return options
    return {key: value for key, value in options.items() if key != ONE}


def number_of_teacher(opt: Mapping[str, Any], options: Any) -> int:
    """Which teacher a loss learns from.

    Args:
        opt: The options of the whole file.
        options: An entry of ``train.distill_opt``.

    Returns:
        The number in :func:`teachers_of`; 0, the first or only one, where the entry names none that is there.
    """
    name = options.get(ONE) if isinstance(options, Mapping) and LIST in opt else None
    return next((number for number, teacher in enumerate(teachers_of(opt)) if name == teacher.name), 0)


def are_named(opt: Mapping[str, Any]) -> bool:
    """Whether the options have a list of teachers whose names all differ."""
    names = [teacher.options.get('name') for teacher in teachers_of(opt)]
    return bool(names) and len(names) == len(opt.get(LIST) or ()) and all(map(WORD.fits, names)) and (
        len(set(names)) == len(names))


def used_teachers(opt: Mapping[str, Any]) -> list[str]:
    """The teachers that something needs: losses, or the first one ECO or ``train.init: teacher_slice``.

    Args:
        opt: The options.

    Returns:
        Their names, in the order of the list.
    """
    teachers = teachers_of(opt)
    used = {number_of_teacher(opt, options) for _, options in distillation_entries(opt)}
    if block(opt, 'train').get('eco') is not None or block(opt, 'train').get('init') == TEACHER_SLICE:
        used.add(0)
    return [teacher.name for number, teacher in enumerate(teachers) if number in used]


def check_who_teaches(ctx: Context) -> None:
    """Check the option ``teacher`` of each loss, and that some loss learns from each teacher."""
    entries, teachers = distillation_entries(ctx.opt), teachers_of(ctx.opt)
    names, named = [teacher.name for teacher in teachers], are_named(ctx.opt)
    for where, options in entries:
        if not isinstance(options, Mapping) or ONE not in options:
            continue
        name, own, place = options[ONE], reads_teacher_itself(options), f'{where}.{ONE}'
        if LIST not in ctx.opt and not own:
            ctx.add(place, f'names {shortened(name)}, and there are no teachers with names: the block teacher is for '
                    'all losses', 'remove it; or write several teachers: teachers: [{name: …, weights: …}, …]',
                    {place: REMOVE})
        elif LIST in ctx.opt and own:
            ctx.add(place, f'says which of the teachers is meant, and {options["type"]} has an argument of that name, '
                    'or takes any', 'rename the argument of the class, and let it name its arguments; or leave this '
                    'out: the loss then learns from the first teacher')
        elif named and name not in names:
            ctx.add(place, f'there is no teacher {shortened(name)}', *_other_name(place, name, names))
    if not named or not used_teachers(ctx.opt) or not all(ctx.clean(f'{where}.{ONE}') for where, _ in entries):
        return
    used = used_teachers(ctx.opt)
    for teacher in teachers:
        if teacher.name not in used and ctx.clean(teacher.place):
            ctx.add(teacher.place, f'no loss learns from {teacher.name!r}', f'write teacher: {teacher.name} in a loss '
                    'of train.distill_opt, or remove this teacher', {teacher.place: REMOVE})


def _other_name(where: str, name: Any, names: list[str]) -> tuple[str, dict[str, Any]]:
    """The remedy for a name that no teacher has; where none is near, the first."""
    remedy, fix = other_value(where, name, names)
    return remedy, fix or {where: names[0]}

