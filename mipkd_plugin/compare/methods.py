"""A method of a comparison: its losses, and what it changes in the training besides."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY

from mipkd_plugin.config.eco import EcoSchedule
from mipkd_plugin.config.keys import INIT, INTEGER, LOSSES, MAPPING, RANDOM, Key, optional
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.teachers import are_named, distillation_entries, used_teachers

METHOD = {'losses': Key(LOSSES), 'distill': Key(MAPPING), 'eco': Key(optional(MAPPING)), 'teacher': Key(MAPPING),
          'teachers': Key(MAPPING), 'crops': Key(INTEGER), 'init': Key(INIT)}
"""The keys of a method that is more than its losses; each goes to one place of the option file of a run."""

SHARED_TEACHER = ('network', 'weights', 'param_key')
"""What a method may not change about the teacher of the file."""

OTHER_TEACHER = 'aggregate'
"""With this key, the block ``teacher`` of a method is a teacher of its own."""

_PLACES = {'losses': 'train.distill_opt', 'distill': 'train.distill', 'eco': 'train.eco', 'teacher': 'teacher',
           'crops': 'datasets.train.crops'}

_ECO = {name: parameter.default for name, parameter in inspect.signature(EcoSchedule).parameters.items()
        if parameter.default is not parameter.empty}


def has_settings(method: Any) -> bool:
    """Whether a method is a block with ``losses``, ``eco`` or ``init``, not just one loss or a list of them."""
    return isinstance(method, Mapping) and bool({'losses', 'eco', 'init'} & set(method))


def has_own_teacher(method: Any) -> bool:
    """Whether a method learns from a teacher of its own: an aggregator of several."""
    return has_settings(method) and MAPPING.fits(method.get('teacher')) and OTHER_TEACHER in method['teacher']


def losses_of(method: Any) -> Any:
    """The losses of a method, as in ``train.distill_opt``; an empty list for ECO alone, and for a control."""
    return method.get('losses', []) if has_settings(method) else method


def is_plain(method: Any) -> bool:
    """Whether a method trains without a teacher: a control."""
    return not losses_of(method) and not blends(method)


def blends(method: Any) -> bool:
    """Whether a method has a block ``eco`` of its own."""
    return has_settings(method) and method.get('eco') is not None


def crops_of(method: Any) -> int:
    """How many crops a method draws once and trains on; 0: new ones in each iteration."""
    return int(method.get('crops') or 0) if has_settings(method) else 0


def init_of(method: Any, shared: Any = None) -> str:
    """What the student of a method starts from.

    Args:
        method: The method.
        shared: ``compare.init``, for methods that do not say.

    Returns:
        ``random`` or ``teacher_slice``.
    """
    own = method.get('init') if has_settings(method) else None
    return str(own or shared or RANDOM)


def with_losses(method: Any, losses: Any) -> Any:
    """The same method with other losses."""
    return {**method, 'losses': losses} if has_settings(method) else losses


def place(where: str, method: Any, home: str) -> str | None:
    """The place in the option file of a comparison for a place in the option file of a run.

    Args:
        where: YAML path in the option file of the run.
        method: The method.
        home: YAML path of the method.

    Returns:
        The YAML path; None if the entry does not come from the method.
    """
    if not has_settings(method):
        return home + where.removeprefix('train.distill_opt') if where.startswith('train.distill_opt') else None
    for key, target in _PLACES.items():
        inner = where.removeprefix(target)
        if key in method and where.startswith(target) and inner[:1] in ('', '.', '['):
            if key == 'teacher' and inner[1:].partition('.')[0] not in method[key]:
                continue
            return f'{home}.{key}{inner}'
    return None


def place_of(where: str, opt: Mapping[str, Any], method: str) -> str:
    """The place in the option file of a comparison for a place in the options of a run of one of its methods.

    Args:
        where: YAML path in the options of the run.
        opt: The options of the comparison.
        method: Name of the method.

    Returns:
        The YAML path.
    """
    return place(where, opt['compare']['methods'][method], f'compare.methods.{method}') or where


def apply(own: dict[str, Any], method: Any) -> None:
    """Write a method into the options of a run."""
    losses = losses_of(method)
    if losses:
        own['train']['distill_opt'] = copy.deepcopy(losses)
    else:
        own['train'].pop('distill', None)  # it is for losses
    if has_settings(method) and 'eco' in method:
        own['train']['eco'] = None if method['eco'] is None else dict(method['eco'])
    if are_named(own):
        own['teachers'] = _needed(own)  # ECO learns from one, too
    if not has_settings(method):
        return
    if MAPPING.fits(method.get('teachers')) and are_named(own):
        own['teachers'] = [{**entry, **(method['teachers'].get(entry['name']) or {})} for entry in own['teachers']]
    if method.get('distill') is not None:
        own['train']['distill'] = dict(method['distill'])
    if method.get('teacher'):
        shared = own.get('teacher', {})
        if has_own_teacher(method):  # it takes the place of the teachers of the file
            own.pop('teachers', None)
            shared = {key: value for key, value in shared.items() if key not in (*SHARED_TEACHER, 'output', 'files')}
        own['teacher'] = {**shared, **method['teacher']}
    if method.get('crops'):
        own['datasets']['train'].update(type='CropPoolDataset', crops=method['crops'])


def _needed(own: Mapping[str, Any]) -> list[Any]:
    """The teachers that a loss of a run, or ECO, learns from: a method need not use all that are there for the others.

    Returns:
        Their blocks; all of them where a loss names one that is not there: the message then lists all names.
    """
    names, wanted = [entry['name'] for entry in own['teachers']], used_teachers(own)
    named = [loss['teacher'] for _, loss in distillation_entries(own) if MAPPING.fits(loss) and 'teacher' in loss]
    return [entry for entry in own['teachers'] if entry['name'] in wanted or any(name not in names for name in named)]


def arguments_of(loss: Any) -> dict[str, Any]:
    """Default values of a loss class by option."""
    cls = lookup(LOSS_REGISTRY, loss.get('type')) if isinstance(loss, Mapping) else None
    return {} if cls is None else {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def method_text(method: Any, shared_init: Any = None) -> str:
    """A method as one line of JSON, to compare it with another line.

    The line also holds the defaults of omitted options of its losses and of ECO, because a later version may change a
    default.

    Args:
        method: The method, as under ``compare.methods``.
        shared_init: ``compare.init``.

    Returns:
        The JSON text: a list of losses, or an object for a method with further settings.
    """
    losses = losses_of(method)
    entries = losses if isinstance(losses, list) else [losses]
    full: Any = [{**arguments_of(loss), **loss} if isinstance(loss, Mapping) else loss for loss in entries]
    init = init_of(method, shared_init)
    settings = {key: value for key, value in method.items() if key != 'init'} if has_settings(method) else {}
    if init != RANDOM or settings and not {'losses', 'eco'} & set(settings):  # without one of the three it is a loss
        settings['init'] = init
    if isinstance(settings.get('eco'), Mapping):
        settings['eco'] = {**_ECO, **settings['eco']}
    if set(settings) - {'losses'}:  # a block of losses alone is the same as the losses
        full = {**settings, **({'losses': full} if full else {})}
    return json.dumps(full, sort_keys=True, default=str)


def uses_teacher(text: str) -> bool:
    """Whether a method of a text of :func:`method_text` looks at the teacher: a control does not."""
    method = json.loads(text)
    classes = [lookup(LOSS_REGISTRY, loss.get('type')) for loss in losses_of(method)]
    return blends(method) or any(getattr(cls, 'uses_teacher', True) for cls in classes)


def same_method(one: str, other: str) -> bool:
    """Whether two texts mean the same method. An option that a text lacks came later; then its default counts."""
    return method_text(json.loads(one)) == method_text(json.loads(other))
