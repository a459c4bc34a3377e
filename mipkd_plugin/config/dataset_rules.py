"""Rules for entries of a data set that BasicSR takes without a word: paths, value ranges, names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from basicsr.utils.registry import DATASET_REGISTRY

from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE

_EXPANDED = ('dataroot_gt', 'dataroot_lq')
"""Keys of a data set in which BasicSR replaces a leading ``~``; in all others it does not."""
_NEUTRAL = {'mean': 0, 'std': 1}


def check_paths(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    """Refuse paths that mean something else to BasicSR: a leading ``~``, and a slash behind an LMDB.

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options.
    """
    if not _is_known(options):
        return
    backend = options.get('io_backend')
    as_lmdb = isinstance(backend, Mapping) and backend.get('type') == 'lmdb'
    for key, value in options.items():
        if not isinstance(value, str) or not str(key).startswith(('dataroot', 'meta_info')):
            continue
        place = f'{where}.{key}'
        if value.startswith('~') and key not in _EXPANDED:
            ctx.add(place, 'BasicSR does not replace ~ in this path', fix={place: os.path.expanduser(value)})
        elif as_lmdb and value != value.rstrip('/') and value.rstrip('/').endswith('.lmdb'):
            ctx.add(place, f'{value} must end in .lmdb for BasicSR, without a slash',
                    fix={place: value.rstrip('/')})


def _is_known(options: Mapping[str, Any]) -> bool:
    """Whether the class is BasicSR's or ours; somebody else's may read its options in its own way."""
    found = lookup(DATASET_REGISTRY, options.get('type'))
    return str(getattr(found, '__module__', '')).startswith(('basicsr.', 'mipkd_plugin.'))


def check_range(ctx: Context, where: str, options: Mapping[str, Any]) -> None:
    """Refuse ``mean`` and ``std`` where they change the images that the networks see.

    BasicSR's models cut the outputs to [0, 1] before they measure and save them, and do not undo ``mean`` and ``std``;
    and a teacher has learned images in [0, 1].

    Args:
        ctx: Where problems go.
        where: YAML path of the data set.
        options: Its options.
    """
    given = {key: options[key] for key in _NEUTRAL if options.get(key) is not None}
    if not given or not _is_known(options) or not measures_as_basicsr(ctx):
        return
    if len(given) == 2 and all(_is_neutral(value, _NEUTRAL[key]) for key, value in given.items()):
        return
    if where == 'datasets.train':
        what = ('the student would train on values outside of [0, 1], ' +
                ('which the teacher has not learned, and ' if ctx.distills else '') +
                'validation measures and saves images in [0, 1]')
    else:
        what = ('the network would see values outside of [0, 1], and BasicSR measures and saves its output without '
                'undoing it: the results would be wrong')
    place = f'{where}.{next(iter(given))}'
    if ctx.clean(f'{where}.mean') and ctx.clean(f'{where}.std'):
        ctx.add(place, f'{" and ".join(given)} change{"s" if len(given) == 1 else ""} the range of the images: {what}',
                fix={f'{where}.{key}': REMOVE for key in given})


def _is_neutral(value: Any, number: int) -> bool:
    return isinstance(value, list) and len(value) in (1, 3) and all(entry == number for entry in value)


def measures_as_basicsr(ctx: Context) -> bool:
    """Whether the model class takes batches and measures its results as BasicSR's ``SRModel`` does."""
    methods = ('feed_data', 'validation', 'dist_validation', 'nondist_validation', 'get_current_visuals')
    return ctx.inherits('SRModel') and all(owner(ctx.model_class, method) for method in methods)


def check_names(ctx: Context, phases: Mapping[str, Any]) -> None:
    """Refuse two validation or test sets of one name: they would share results and a folder of images.

    Args:
        ctx: Where problems go.
        phases: The data sets by phase.
    """
    kind, taken = 'val' if ctx.is_train else 'test', set[str]()
    for phase, options in phases.items():
        name = options.get('name') if isinstance(options, Mapping) else None
        if phase == 'train' or not isinstance(name, str):
            continue
        if name in taken:
            number = next(n for n in range(2, len(phases) + 3) if f'{name}_{n}' not in taken)
            ctx.add(f'datasets.{phase}.name', 'BasicSR keeps results and images under this name, and the file has two '
                    f'{kind} sets with the name {name}', 'give each set its own name',
                    {f'datasets.{phase}.name': f'{name}_{number}'})
        taken.add(name)
