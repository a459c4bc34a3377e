"""Check the keys: unknown keys, missing keys, wrong types, numbers written as text, and the number of GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.config.degradation_keys import model_keys
from mipkd_plugin.config.examples import DISTILLATION_LOSS, MEANINGS, example, may_be_removed
from mipkd_plugin.config.keys import (
    LARGEST_SCALE,
    MAPPING,
    NOT_A_NUMBER,
    SECTIONS,
    TEXTS,
    TOP,
    Key,
    is_number,
    number_in,
    teacher_keys,
)
from mipkd_plugin.config.model_classes import is_known
from mipkd_plugin.config.problems import Context, Options, block
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.suggestions import meant, nearest, other_key, shortened
from mipkd_plugin.config.teacher_list import check_teachers
from mipkd_plugin.config.teachers import context_of, networks_of, teachers_of
from mipkd_plugin.utils.words import gigabytes

_BYTES_OF_NUMBER = 44  # in a tensor, and as a number of Python in a list


def check_sections(ctx: Context) -> None:
    """Check the top level and the sections that every option file has."""
    strict = knows_all_keys(ctx)
    own = model_keys(ctx)
    top = {**TOP, **own.get('', {})}
    networks = [key for key in ctx.opt if str(key).startswith('network_')]
    if not strict:
        top.update({key: Key(TOP['network_g'].kind) for key in networks})
    misplaced = {'network_t', 'network_teacher'} & set(networks) if ctx.distills else set()
    for key in sorted(misplaced):
        ctx.add(key, 'the teacher has a block of its own: on resume BasicSR changes the weight paths of networks at '
                'this level', 'write it as teacher: {network: {type: …}, weights: ….pth, param_key: params}',
                {key: REMOVE, 'teacher.network': ctx.opt[key]})
    if 'compare' in ctx.opt and (strict or ctx.distills):
        source = getattr(ctx.opt, 'source', None) or 'FILE.yml'
        ctx.add('compare', 'is read by mipkd compare and mipkd ablate, not by basicsr',
                f'run: mipkd compare -opt {source}; or remove it, and write one method as train.distill_opt')
        misplaced.add('compare')
    check_keys(ctx, '', {k: v for k, v in ctx.opt.items() if k not in misplaced}, top, strict)
    adversary = {'network_d'} if ctx.inherits('SRGANModel') else set()
    for path, keys in _with_networks(sorted({*networks, *adversary})).items():
        section, keys = ctx.section(*path.split('.')), {**keys, **own.get(path, {})}
        if not section and path not in ('train', 'path', 'val', 'logger'):
            continue
        if path in ('train', 'val', 'logger') and not isinstance(ctx.opt.get(path), Mapping):
            continue
        check_keys(ctx, path, _without_teacher(ctx, path, section), keys, strict)
    _check_backends(ctx)
    _check_sizes_of_networks(ctx)
    val = ctx.section('val')
    if not ctx.is_train and val.get('save_img') is True and 'suffix' not in val:
        ctx.add('val.suffix', 'is missing, and BasicSR needs it to save images', fix={'val.suffix': None})
    if strict or ctx.reads_teachers:
        check_teachers(ctx)
        for teacher in teachers_of(ctx.opt):
            own = {key: value for key, value in teacher.options.items() if key != 'name' or not teacher.name}
            check_keys(context_of(ctx, teacher), 'teacher', own, teacher_keys(own), strict=True)
    _check_which_model_distills(ctx, strict)


def check_keys(ctx: Context, path: str, section: Mapping[str, Any], keys: Mapping[str, Key],
               strict: bool) -> None:
    """Check one section against its table.

    Args:
        ctx: Where problems go.
        path: YAML path of the section.
        section: The section itself.
        keys: The allowed keys.
        strict: Whether to refuse every unknown key; if not, refuse only those that look like a misspelled known key.
    """
    prefix = f'{path}.' if path else ''
    misspelled = set()
    for key, value in section.items():
        where = f'{prefix}{key}'
        if key not in keys:
            if strict or nearest(key, keys, cutoff=0.8) and not _extends(str(key), keys, ctx.own_script):
                is_forced = where in getattr(ctx.opt, 'forced', ())
                ctx.add(where, 'unknown key: nothing reads it', *other_key(path, key, section, keys, is_forced))
                misspelled.add(meant(key, section, keys))
        elif not (kind := keys[key].kind).fits(value) and not ((number := number_in(value)) is not None
                                                               and kind.fits(number)):
            ctx.take_back(where, NOT_A_NUMBER)  # a number would not fit either
            close = nearest(value, kind.words) if isinstance(value, str) else None
            better = example(ctx, where, kind) if close is None else close
            known = better is not REMOVE or may_be_removed(ctx, where, keys[key].needed)
            ctx.add(where, f'must be {kind.name}, not {shortened(value)}', '' if known else f'write {kind.name} here',
                    fix={where: better} if known else {})
    when: tuple[str, ...] = ('always', 'train' if ctx.is_train else 'test')
    if path.startswith('datasets.') and not path.startswith('datasets.train'):
        when = ('always', )
    if ctx.own_script and path != 'teacher':
        return  # a script of somebody else needs what it needs
    for key, entry in keys.items():
        if entry.needed in when and key not in section and key not in misspelled:
            _add_missing(ctx, f'{prefix}{key}', entry)


def _add_missing(ctx: Context, where: str, entry: Key) -> None:
    key, better = where.rpartition('.')[2], example(ctx, where, entry.kind)
    if better is REMOVE:
        ctx.add(where, 'is missing', f'add {key}{f": {MEANINGS[key]}" if key in MEANINGS else f", {entry.kind.name}"}')
    else:
        fix = {where: better}
        ctx.add(where, 'is missing', f'{in_words(fix)} ({entry.kind.name})', fix)


def _check_backends(ctx: Context) -> None:
    """Refuse the backend that imports Python code from a folder that the option file names."""
    for phase, options in ctx.section('datasets').items():
        where = f'datasets.{phase}.io_backend'
        if block(options, 'io_backend').get('type') == 'memcached':
            ctx.add(f'{where}.type', "'memcached' is not supported: BasicSR runs the file mc.py of the folder sys_path "
                    'for it', fix={where: {'type': 'disk'}})


def _check_sizes_of_networks(ctx: Context) -> None:
    """Refuse scale factors at which a network cannot even be tried."""
    networks = {str(key): block(ctx.opt, key) for key in ctx.opt if str(key).startswith('network_')}
    for where, options in {**networks, **networks_of(ctx.opt)}.items():
        for key in ('upscale', 'scale'):
            value = options.get(key)
            if isinstance(value, (int, float)) and abs(value) > LARGEST_SCALE:
                ctx.add(f'{where}.{key}', f'{value} is more than {LARGEST_SCALE}, the largest scale factor',
                        fix={f'{where}.{key}': ctx.scale or 2})


def check_epoch(ctx: Context, where: str, images: float) -> bool:
    """Check that BasicSR can put the images of an epoch in order: it keeps the numbers of all of them in memory."""
    size, free = _BYTES_OF_NUMBER * images, psutil.virtual_memory().available
    if size > free:
        ctx.add(f'{where}.dataset_enlarge_ratio', f'makes an epoch of {images:.3g} images, and BasicSR would need '
                f'{size / 1e9:.3g} GB of memory to put them in order; {gigabytes(free)} are free',
                fix={f'{where}.dataset_enlarge_ratio': 1000})
    return bool(size <= free)


def _extends(key: str, keys: Mapping[str, Key], own_script: bool) -> bool:
    """Whether a key is one of ours with more behind it, as optim_e or pixel_opt2, and so not misspelled."""
    if not own_script:  # a model class of others: its option files name further networks, which it may lack
        return key.rpartition('_')[0] in ('optim', 'pretrain_network', 'param_key', 'strict_load') and key[-1] in 'de'
    stems = [known.removesuffix('_g') for known in keys]
    rests = [key.removeprefix(stem) for stem in stems if key.startswith(stem)]
    return any(rest.startswith('_') or rest.isdigit() for rest in rests)


def knows_all_keys(ctx: Context) -> bool:
    """Whether our tables hold every key that the model class reads."""
    return (not ctx.own_script and ctx.model_class is not None
            and all(is_known(c) for c in ctx.model_class.__mro__))


def distilling_model(model_type: Any) -> str:
    """The model class of ours to write instead of one that does not distill."""
    name = f'{str(model_type).removesuffix("Model")}DistillModel'
    if lookup(MODEL_REGISTRY, name) is not None:
        return name
    return 'SwinIRDistillModel' if 'SwinIR' in str(model_type) else 'DistillModel'


def check_numbers(ctx: Context, value: Any = None, path: str = '') -> None:
    """Refuse texts such as ``1e-4``, which YAML and ``--force_yml`` do not read as numbers."""
    value = ctx.opt if not path else value
    if isinstance(value, (Mapping, list)):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, child in entries:
            inner = f'{path}[{key}]' if isinstance(value, list) else f'{path}.{key}' if path else str(key)
            if key not in TEXTS and not str(key).startswith(('param_key', 'dataroot')):
                check_numbers(ctx, child, inner)
    elif (number := number_in(value)) is not None:
        if isinstance(ctx.opt, Options) and path in ctx.opt.forced:
            remedy = f'write --force_yml {path.replace(".", ":")}=!!float{value}'
        else:
            remedy = f'write {value} without quotes' if value.strip().isdigit() else f'write !!float {value}'
        ctx.add(path, f'{value!r} {NOT_A_NUMBER}', remedy, {path: number} if is_number(number) else {})


def _with_networks(networks: list[str]) -> dict[str, dict[str, Key]]:
    """The key tables, extended by the keys of further networks such as ``network_d`` of a GAN."""
    sections = {path: dict(keys) for path, keys in SECTIONS.items()}
    for label in (network.removeprefix('network_') for network in networks):
        for key in ('pretrain_network', 'param_key', 'strict_load'):
            sections['path'][f'{key}_{label}'] = SECTIONS['path'][f'{key}_g']
        sections['train'][f'optim_{label}'] = Key(SECTIONS['train']['optim_g'].kind)
    sections['train']['optim_g'] = SECTIONS['train']['optim_g']
    return sections


def _without_teacher(ctx: Context, path: str, section: dict[str, Any]) -> dict[str, Any]:
    """Refuse keys for a teacher in the section ``path``; return the section without them."""
    if path != 'path' or not ctx.distills:
        return section
    for key in sorted(key for key in section if str(key).endswith(('network_t', 'param_key_t', 'load_t'))):
        own = {'pretrain_network_t': 'teacher.weights', 'param_key_t': 'teacher.param_key'}.get(key)
        ctx.add(f'path.{key}', "the teacher's weights belong in its own block: on resume BasicSR changes the weight "
                'paths of this section', 'write them as teacher: {weights: ….pth, param_key: params}',
                {f'path.{key}': REMOVE, **({own: section[key]} if own else {})})
        del section[key]
    return section


def _check_which_model_distills(ctx: Context, strict: bool) -> None:
    if ctx.distills and ctx.is_train:
        for where, section in (('teacher', ctx.opt), ('train.distill_opt', ctx.section('train'))):
            key = where.rpartition('.')[2]
            elsewhere = {'compare'} if key == 'distill_opt' else {'network_t', 'network_teacher', 'teachers'}
            eco = ctx.section('train').get('eco') is not None
            if key == 'distill_opt' and eco:
                continue  # ECO needs no loss
            if key not in section and not elsewhere & set(ctx.opt) and MAPPING.fits(ctx.opt.get('train', {})):
                fix: dict[str, Any] = {where: DISTILLATION_LOSS} if key == 'distill_opt' else {}
                remedy = f'{in_words(fix)}, or another loss' if fix else 'see options/train_MiPKD_*.yml'
                if not fix and eco and 'distill_opt' not in ctx.section('train'):
                    fix = {'train.eco': REMOVE, 'model_type': 'AnySRModel'}
                    remedy += f'; or, to train without one, {in_words(fix)}'
                user = 'train.eco' if key == 'teacher' and eco else ctx.opt.get('model_type', 'a model that distills')
                ctx.add(where, f'is missing, and {user} needs it', remedy, fix)
    elif strict and not ctx.distills and ctx.is_train:
        name = distilling_model(ctx.opt['model_type'])
        for where, section in (('teacher', ctx.opt), ('teachers', ctx.opt),
                               ('train.distill_opt', ctx.section('train')), ('train.distill', ctx.section('train')),
                               ('train.eco', ctx.section('train')), ('train.init', ctx.section('train'))):
            if where.rpartition('.')[2] in section and not (ctx.reads_teachers and section is ctx.opt):
                whole = bool({'teacher', 'teachers'} & set(ctx.opt)
                             and {'distill_opt', 'eco'} & set(ctx.section('train')))
                fix = {'model_type': name} if whole and not ctx.reads_teachers else {where: REMOVE}
                other = 'remove it' if where not in fix else f'write model_type: {name}'
                ctx.add(where, f'{ctx.opt["model_type"]} does not distill and would ignore it',
                        f'{in_words(fix)}' + f', or {other}' * (not ctx.reads_teachers), fix)
