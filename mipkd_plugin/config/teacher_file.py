"""A teacher whose network is not written: it is recognized from its weights file, and stands in the options then."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.config.aggregate import filled_aggregate, has_aggregate
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.teachers import teachers_of
from mipkd_plugin.recognition.errors import RecognitionError
from mipkd_plugin.recognition.recognize import SEARCH, recognize
from mipkd_plugin.recognition.recognized import Recognized

_filled: dict[str, Recognized] = {}  # by the weights as written: what this process has put into options
_read: dict[tuple[Any, ...], Recognized] = {}  # the last file, with its weights


def recognized(path: Path, param_key: str | None = SEARCH) -> Recognized:
    """Recognize the network of a file; the last file is not read twice.

    Args:
        path: The file.
        param_key: See :func:`~mipkd_plugin.recognition.recognize.recognize`.

    Returns:
        The network.

    Raises:
        RecognitionError: The file cannot be read, or no network is recognized in it.
    """
    try:
        status = path.stat()
    except OSError:
        return recognize(path, param_key)  # says what is wrong with it
    key = (str(path.absolute()), status.st_mtime_ns, status.st_size, param_key)
    if key not in _read:
        found = recognize(path, param_key)
        _read.clear()
        _read[key] = found
    return _read[key]


def fill_teacher(opt: dict[str, Any], root: Path | None = None, always: bool = False) -> None:
    """Write ``teacher.network`` and ``teacher.param_key`` into options that lack a network.

    Where the file cannot be recognized, the options stay as they are, and the check says why.

    Args:
        opt: The options.
        root: Folder that relative paths start from; default: the working directory.
        always: Whether to do so for any ``model_type``; if not, only for those that distill: models of others may
            have a block ``teacher`` of their own.
    """
    if not any(_is_to_fill(teacher.options) for teacher in teachers_of(opt)) or not (always or _distills(opt)):
        return
    if isinstance(opt.get('teachers'), list):
        opt['teachers'] = [_filled_block(entry, root) for entry in opt['teachers']]
    else:
        opt['teacher'] = _filled_block(opt['teacher'], root)


def _filled_block(teacher: Any, root: Path | None) -> Any:
    """The block of a teacher with its network and key; the same where it has one, or none is recognized."""
    if not isinstance(teacher, Mapping) or not _is_to_fill(teacher):
        return teacher
    if has_aggregate(teacher):
        return filled_aggregate(teacher, root)
    try:
        found = _of(teacher, root)
    except RecognitionError:
        return teacher
    _filled[teacher['weights']] = replace(found, path=Path(teacher['weights']), state={})
    return {'network': copy.deepcopy(found.network), **teacher, 'param_key': found.param_key}


def forget_weights() -> None:
    """Free the weights of the last file that was recognized."""
    _read.clear()


def with_teacher(opt: Mapping[str, Any], root: Path | None = None, always: bool = True) -> Mapping[str, Any]:
    """The options with a recognized teacher written out.

    Args:
        opt: The options; they are left as they are.
        root: Folder that relative paths start from; default: the working directory.
        always: See :func:`fill_teacher`.

    Returns:
        The same options, or a copy with ``teacher.network``.
    """
    if not any(_is_to_fill(teacher.options) for teacher in teachers_of(opt)):
        return opt
    own = copy.copy(opt) if isinstance(opt, dict) else dict(opt)
    fill_teacher(own, root, always)
    return own


def filled_teacher(opt: Mapping[str, Any]) -> Recognized | None:
    """What was recognized, if this process has written it into these options; without the weights.

    Args:
        opt: The options.

    Returns:
        The network, or None.
    """
    teacher = block(opt, 'teacher')
    weights = teacher.get('weights')
    found = _filled.get(weights) if isinstance(weights, str) else None
    return found if found is not None and teacher.get('network') == found.network else None


def recognition_in_words(opt: Mapping[str, Any]) -> list[str]:
    """What was recognized, in lines for people; none if the network was written.

    Args:
        opt: The options.

    Returns:
        The lines: where from, the YAML that would say it, and what was assumed.
    """
    lines = []
    for teacher in teachers_of(opt):
        found = filled_teacher({'teacher': teacher.options})
        if found is not None:
            written = found.as_yaml().splitlines()
            if teacher.name:
                written[0] = f'- name: {teacher.name}'
            lines += [f'recognized in {found.path} (layout: {found.source}), as if the option file said:', *written,
                      *(f'note: {note}' for note in found.notes)]
    return lines


def check_recognized(ctx: Context) -> None:
    """Check a teacher without ``network``: its file is recognized, and it enlarges by the ``scale`` of the data."""
    teacher = ctx.section('teacher')
    if _lacks_network(teacher) and (ctx.files or ctx.always_distills):
        try:
            _of(teacher, ctx.root)
        except RecognitionError as error:
            _add_problem(ctx, teacher, error)
    found = filled_teacher(ctx.opt)
    if found is not None and ctx.scale is not None and found.scale != ctx.scale and ctx.clean('teacher.weights'):
        ctx.add('teacher.weights', f'{found.path} holds a teacher for x{found.scale} ({found.network["type"]}), and '
                f'scale is {ctx.scale}', f'give a teacher for x{ctx.scale}, or write scale: {found.scale} and give '
                'data and a student for it')


def _add_problem(ctx: Context, teacher: Mapping[str, Any], error: RecognitionError) -> None:
    """Note that a file is not recognized; where another key would do, say so."""
    if 'param_key' in teacher:
        try:
            other = _of({'weights': teacher['weights']}, ctx.root)
        except RecognitionError:
            pass
        else:
            ctx.add('teacher.param_key', f'{error.path} {error.what}', fix={'teacher.param_key': other.param_key})
            return
    ctx.add('teacher.weights', f'{error.path} {error.what}', error.remedy)


def _distills(opt: Mapping[str, Any]) -> bool:
    import basicsr.models  # noqa: F401  (registers BasicSR's models)

    model = lookup(MODEL_REGISTRY, opt.get('model_type'))
    return any(base.__name__ in ('DistillMixin', 'AggregateModel') for base in getattr(model, '__mro__', ()))


def _is_to_fill(teacher: Mapping[str, Any]) -> bool:
    return has_aggregate(teacher) or _lacks_network(teacher)


def _lacks_network(teacher: Mapping[str, Any]) -> bool:
    weights, key = teacher.get('weights'), teacher.get('param_key')
    return 'network' not in teacher and isinstance(weights, str) and weights != '' and (
        key is None or isinstance(key, str))


def _of(teacher: Mapping[str, Any], root: Path | None) -> Recognized:
    place = Context({}, is_train=True, root=root or Path.cwd())
    return recognized(place.path(teacher['weights']), teacher.get('param_key', SEARCH))
