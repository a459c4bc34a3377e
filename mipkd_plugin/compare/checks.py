"""The keys of the block ``compare``, and checks of its methods, seeds and test sets."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mipkd_plugin.compare.methods import METHOD, OTHER_TEACHER, SHARED_TEACHER, has_settings, init_of, is_plain
from mipkd_plugin.config.aggregate import NOT_BESIDE
from mipkd_plugin.config.examples import DISTILLATION_LOSS
from mipkd_plugin.config.keys import ANYTHING, INIT, MAPPING, TEXT, Key, is_whole
from mipkd_plugin.config.problems import Context, block
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.sections import check_keys, check_numbers
from mipkd_plugin.config.suggestions import other_value, suggestion
from mipkd_plugin.config.teachers import are_named, teachers_of

CONTROL = 'none'
"""The method without distillation. Every comparison has it and trains it with BasicSR's own model."""

EQUAL_TIME = 'none (equal time)'
"""The control, trained for as long as another method takes for its iterations: with more iterations."""

EQUAL_TIME_SLUG = 'none-equal-time'
"""What the folders of its runs are called."""

COMPARE = {'seeds': Key(ANYTHING), 'methods': Key(ANYTHING), 'init': Key(INIT), 'ablate': Key(MAPPING),
           'equal_time': Key(ANYTHING)}
ABLATE = {'method': Key(TEXT), 'options': Key(MAPPING)}

EXAMPLE: dict[str, Any] = {'seeds': [0, 1, 2], 'methods': {'logits': DISTILLATION_LOSS}}
"""A comparison that works."""

_NAME = re.compile(r'[A-Za-z0-9][\w.+-]*')
_MOST = 2**31
_METRICS = ('calculate_psnr', 'calculate_ssim')


def metric_names(opt: Mapping[str, Any]) -> list[str | None]:
    """Names of PSNR and SSIM in ``val.metrics``; None for a missing metric."""
    metrics = block(opt, 'val', 'metrics')
    return [next((str(name) for name, options in metrics.items()
                  if isinstance(options, Mapping) and options.get('type') == kind), None) for kind in _METRICS]


def testsets_of(opt: Mapping[str, Any]) -> list[str]:
    """Names of the validation sets, in the order of the option file."""
    return [str(options.get('name')) for phase, options in block(opt, 'datasets').items()
            if str(phase).split('_')[0] == 'val' and isinstance(options, Mapping)]


def check_block(ctx: Context) -> dict[str, Any]:
    """Check the block ``compare``.

    Returns:
        Losses by method, with the control.
    """
    check_keys(ctx, 'compare', ctx.section('compare'), COMPARE, strict=True)
    check_numbers(ctx, ctx.section('compare'), 'compare')
    known: dict[str, Any] = {CONTROL: []}
    methods = ctx.section('compare').get('methods')
    if not MAPPING.fits(methods) or not methods:
        what = 'is missing' if methods is None else f'must be a block of methods, not {methods!r}'
        ctx.add('compare.methods', what, fix={'compare.methods': EXAMPLE['methods']})
        return known
    for name, losses in methods.items():
        where = f'compare.methods.{name}'
        if name == CONTROL:
            ctx.add(where, 'is the control without a loss, which every comparison has', 'remove it', {where: REMOVE})
        elif name in (EQUAL_TIME, EQUAL_TIME_SLUG):
            ctx.add(where, 'is the control of equal time, which compare.equal_time asks for', 'remove it, or rename it',
                    {where: REMOVE})
        elif not isinstance(name, str) or not _NAME.fullmatch(name):
            ctx.add(where, 'is not a usable name', 'use only letters, digits and . _ + -',
                    {where: REMOVE, f'compare.methods.{_usable(name, methods)}': losses})
        elif has_settings(losses) and not _check_method(ctx, where, losses):
            continue
        elif not isinstance(losses, (Mapping, list)) or not losses:
            ctx.add(where, f'must be one loss (a block with type) or a list of them, not {losses!r}',
                    fix={where: DISTILLATION_LOSS})
        else:
            known[name] = losses
    return known


def check_train(ctx: Context) -> None:
    """Refuse in ``train`` what methods differ in: the rows of a method would not tell that it has this, too."""
    for key, own in (('distill_opt', 'losses'), ('eco', 'eco'), ('init', 'init')):
        where = f'train.{key}'
        if ctx.section('train').get(key) is not None:
            ctx.add(where, f'belongs to the methods of a comparison, each of which has its own {own}', 'remove it, and '
                    f'write {own} where it is wanted: compare.methods.NAME.{own}' + ', or compare.init for all' * (
                        key == 'init'), {where: REMOVE})


def _usable(name: Any, taken: Mapping[str, Any]) -> str:
    """A name for a method like this one that is free."""
    found = re.sub(r'[^A-Za-z0-9_+-]+', '_', str(name)).strip('_+-') or 'method'
    return next(free for free in (found, *(f'{found}_{n}' for n in range(2, len(taken) + 3))) if free not in taken)


def _check_method(ctx: Context, where: str, method: Mapping[str, Any]) -> bool:
    """Check the keys of a method with further settings; return whether they can be used."""
    check_keys(ctx, where, method, METHOD, strict=True)
    if ctx.clean(where) and _is_second_control(method, ctx.section('compare').get('init')):
        ctx.add(where, f'has neither losses nor eco, and starts from what {CONTROL} starts from: it would be '
                f'the control {CONTROL} again', 'remove it, or write losses, eco or another init', {where: REMOVE})
        return False
    teacher, several = method.get('teacher'), method.get('teachers')
    _check_shared(ctx, f'{where}.teacher', teacher)
    if isinstance(teacher, Mapping) and OTHER_TEACHER not in teacher and are_named(ctx.opt):
        ctx.add(f'{where}.teacher', 'is for one teacher, and this file has several', 'write teachers: {NAME: '
                '{…}}, with the name of one of them', {f'{where}.teacher': REMOVE})
    for name, entries in several.items() if isinstance(several, Mapping) else ():
        names = [each.name for each in teachers_of(ctx.opt) if each.name]
        if name not in names:
            ctx.add(f'{where}.teachers.{name}', f'there is no teacher {name!r}',
                    f'remove it; {suggestion(name, names)}' if names else '', {f'{where}.teachers.{name}': REMOVE})
        elif not isinstance(entries, Mapping):
            ctx.add(f'{where}.teachers.{name}', f'must be {MAPPING.name}, not {entries!r}', 'write further '
                    f'entries of this teacher, as in {name}: {{dtype: bfloat16}}; or remove it',
                    {f'{where}.teachers.{name}': REMOVE})
        else:
            _check_shared(ctx, f'{where}.teachers.{name}', entries)
    _check_own_cache(ctx, where, teacher)
    for key in ('distill', 'teacher', 'teachers'):
        if key in method and is_plain(method) and ctx.clean(f'{where}.losses'):
            ctx.add(f'{where}.{key}', 'is for a method with losses, and this one has none',
                    'remove it, or add losses', {f'{where}.{key}': REMOVE})
    return ctx.clean(where)


def _is_second_control(method: Mapping[str, Any], shared_init: Any) -> bool:
    """Whether a method trains what ``none`` trains: on the same data, from the same weights, without a teacher."""
    return is_plain(method) and 'crops' not in method and init_of(method, shared_init) == init_of([], shared_init)


def _check_own_cache(ctx: Context, where: str, teacher: Any) -> None:
    """Refuse a teacher of its own that would keep its answers in the LMDB of the others' teacher."""
    shared = ctx.section('teacher').get('cache')
    if (isinstance(teacher, Mapping) and OTHER_TEACHER in teacher and isinstance(shared, str)
            and shared.endswith('.lmdb') and teacher.get('cache', shared) == shared):
        name = where.removeprefix('compare.methods.')
        ctx.add(f'{where}.teacher.cache', f'is {"" if "cache" in teacher else "not written, and by default it is "}'
                f'{shared}, which keeps the answers of the block teacher',
                fix={f'{where}.teacher.cache': f'{shared[:-5]}_{name}.lmdb'})


def _check_shared(ctx: Context, where: str, entries: Any) -> None:
    """Refuse what a method may not change about a teacher; and what the file of one of its own says already."""
    of_list = where.split('.')[-2] == 'teachers'
    is_own = not of_list and isinstance(entries, Mapping) and OTHER_TEACHER in entries
    for key in entries if isinstance(entries, Mapping) else ():
        if is_own:
            if key in NOT_BESIDE:
                ctx.add(f'{where}.{key}', f'stands in the file that {OTHER_TEACHER} names, with the teachers behind it',
                        fix={f'{where}.{key}': REMOVE})
        elif key in SHARED_TEACHER or of_list and key in ('name', OTHER_TEACHER):
            ctx.add(f'{where}.{key}', 'is the same for all methods of a comparison', 'remove it: the block '
                    f'{"teacher" if where.endswith(".teacher") else "teachers"} of the file is for all; another '
                    'teacher is another comparison', {f'{where}.{key}': REMOVE})


def check_seeds(ctx: Context, given: Sequence[int] | None) -> list[int]:
    """The seeds: ``given`` on the command line, or ``compare.seeds``."""
    where, seeds = '--seeds', None if given is None else list(given)
    if seeds is None:
        where, seeds = 'compare.seeds', ctx.section('compare').get('seeds')
    remedy = 'write --seeds 0 1 2' if given is not None else 'write seeds: [0, 1, 2], or --seeds 0 1 2'
    better: list[int] = [0, 1, 2]
    if seeds is None:
        what = 'is missing'
    elif not isinstance(seeds, list) or not seeds:
        what = f'must be a list of seeds, not {seeds!r}'
    elif not all(is_whole(seed) and isinstance(seed, int) and 0 <= seed < _MOST for seed in seeds):
        what = f'must be whole numbers from 0 to {_MOST - 1}, not {seeds!r}'
    elif len(set(seeds)) < len(seeds):
        what, better = f'names a seed twice: {seeds!r}', list(dict.fromkeys(seeds))
        remedy = 'name each seed once: a repeated run is not a new measurement'
    else:
        return seeds
    ctx.add(where, what, remedy, {where: better} if given is None else {})
    return []


def choose(ctx: Context, known: Mapping[str, Any], methods: Sequence[str] | None) -> list[str]:
    """Names of the methods to train, the control first; ``methods=None`` takes all of them."""
    wanted = list(known) if methods is None else list(dict.fromkeys([CONTROL, *methods]))
    broken = block(ctx.opt, 'compare', 'methods')  # have their own problem already
    for name in wanted:
        if name not in known and name not in broken and name != EQUAL_TIME:
            ctx.add('--methods', f'compare.methods has no method {name!r}', suggestion(name, known))
    return [name for name in wanted if name in known]


def check_equal_time(ctx: Context, known: Mapping[str, Any], methods: Sequence[str] | None) -> bool | str:
    """Check ``compare.equal_time``.

    Args:
        ctx: Options, and where problems go.
        known: Losses by method.
        methods: The methods of ``--methods``, or None.

    Returns:
        Whether the control of equal time takes part; or the method whose time it has to match.
    """
    where, setting = 'compare.equal_time', ctx.section('compare').get('equal_time', True)
    choice = [name for name in known if name != CONTROL]
    if not isinstance(setting, (bool, str)):
        ctx.add(where, f'must be true, false or the name of a method, not {setting!r}',
                f'write true, which takes the costliest method; false; or one of {", ".join(choice)}', {where: True})
    elif isinstance(setting, str) and setting not in {*choice, *block(ctx.opt, 'compare', 'methods')}:
        if ctx.clean(where):
            remedy, fix = other_value(where, setting, choice)
            ctx.add(where, f'compare.methods has no method {setting!r}', remedy, fix or {where: True})
    elif setting is False and methods is not None and EQUAL_TIME in methods:
        ctx.add('--methods', f'names {EQUAL_TIME!r}, but compare.equal_time is false', f'write {where}: true',
                {where: True})
    elif methods is None or set(methods) - {CONTROL}:
        return setting
    return False


def check_measuring(ctx: Context) -> None:
    """Check that each run has a validation, at iterations that the log shows."""
    found: Any = ctx.section('logger').get('print_freq')
    every = int(found) if is_whole(found) and found > 0 else 1
    if not isinstance(ctx.opt.get('val'), Mapping):
        ctx.add('val', 'is missing: without validation there is nothing to compare',
                fix={'val': {'val_freq': 5000 - 5000 % every or every, 'save_img': False,
                             'metrics': {kind[10:]: _metric(ctx, kind) for kind in _METRICS}}})
    else:
        for kind, found in zip(_METRICS, metric_names(ctx.opt)):
            if found is None:
                ctx.add('val.metrics', f'has no metric of type {kind}, and the table needs one',
                        fix={f'val.metrics.{kind[10:]}': _metric(ctx, kind)})
    names = testsets_of(ctx.opt)
    if not names:
        ctx.add('datasets', 'has no val set: there is nothing to measure on', 'add one, as in options/train_*.yml')
    val: Any = ctx.section('val').get('val_freq')
    if is_whole(val) and val % every:
        fix = {'logger.print_freq': math.gcd(int(val), every)}
        ctx.add('logger.print_freq', f'{every:g} does not divide val.val_freq, {val:g}: the log would not show the '
                'iteration of a validation', f'write a divisor of {val:g}, such as {in_words(fix)[6:]}', fix)


def _metric(ctx: Context, kind: str) -> dict[str, Any]:
    return {'type': kind, 'crop_border': ctx.scale or 4, 'test_y_channel': True}
