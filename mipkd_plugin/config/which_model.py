"""Which model class distills: what to write instead of one that does not, though the options ask for it."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any

from basicsr.utils.registry import LOSS_REGISTRY, MODEL_REGISTRY

from mipkd_plugin.config.degradation_keys import TABLES
from mipkd_plugin.config.keys import MAPPING, PARTS
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup
from mipkd_plugin.config.remedies import REMOVE, in_words
from mipkd_plugin.config.sections import knows_all_keys
from mipkd_plugin.config.teachers import distillation_entries, networks_of
from mipkd_plugin.losses.base import DistillationLoss

_OF_TRAINING = ('__init__', 'init_training_settings', 'setup_optimizers', 'get_optimizer', 'setup_schedulers',
                'feed_data', 'optimize_parameters', 'model_ema', 'save', 'resume_training')
_PLAIN = ('SRModel', 'BaseModel', 'object')
"""Classes that all others extend: a class that distills and extends one of them is no reason to name it."""
_OWN_KEYS = ('distill_opt', 'teacher', 'teachers')


def check_foreign_model(ctx: Context) -> None:
    """Refuse a model class of somebody else that would train without the teacher that the options describe.

    A class whose own code reads such options is left alone.

    Args:
        ctx: Options, and where problems go.
    """
    model = ctx.model_class
    written = [key for key in ('teacher', 'teachers', 'train.distill_opt', 'train.eco') if _has(ctx, key)]
    if model is None or not ctx.is_train or ctx.distills or knows_all_keys(ctx) or not _asks(ctx) or _reads_them(model):
        return
    remedy, fix = how_to_distill(ctx)
    ctx.add('model_type', f'{ctx.opt["model_type"]} does not distill: it would ignore {" and ".join(written)}, and '
            'train without a teacher', remedy, fix)


def how_to_distill(ctx: Context) -> tuple[str, dict[str, Any]]:
    """What to write so that a training distills as ``model_type`` trains: in words, and as data if that can be."""
    model, name = ctx.model_class or object, str(ctx.opt.get('model_type'))
    ready = [found for found, cls in MODEL_REGISTRY if isinstance(cls, type) and issubclass(cls, model)
             and any(base.__name__ == 'DistillMixin' for base in cls.__mro__)] if model.__name__ not in _PLAIN else []
    if ready:
        fix: dict[str, Any] = {'model_type': min(ready, key=len)}
        return in_words(fix), fix
    if not ctx.inherits('SRModel') or ctx.inherits('VideoBaseModel'):
        fix = {key: REMOVE for key in ('teacher', 'teachers', 'train.distill_opt', 'train.distill', 'train.eco')
               if _has(ctx, key)}
        return f'remove {" and ".join(fix)}: only model classes that train on images can distill', fix
    own = f'{name.removesuffix("Model")}DistillModel'
    own_file = getattr(sys.modules.get(model.__module__), '__file__', None)
    file = Path(own_file).name if own_file and not model.__module__.startswith('basicsr.') else 'a file of yours'
    lines = f'@MODEL_REGISTRY.register() and class {own}(DistillMixin, {model.__name__}): pass'
    if all(_is_basicsrs(model, method) for method in _OF_TRAINING):
        fix = {'model_type': 'DistillModel'}
        return (f'{in_words(fix)}, which trains in the same way and pads images by itself; or, to keep the test() of '
                f'{name}, write {lines} in {file}, and model_type: {own}'), fix
    return f'write {lines} in {file} (from mipkd_plugin import DistillMixin), and model_type: {own}', {}


def _has(ctx: Context, key: str) -> bool:
    *above, last = key.split('.')
    return last in (ctx.section(*above) if above else ctx.opt)


def _asks(ctx: Context) -> bool:
    """Whether the options ask for distillation as this package does it."""
    losses = [lookup(LOSS_REGISTRY, options.get('type')) for _, options in distillation_entries(ctx.opt)
              if MAPPING.fits(options)]
    return (any(isinstance(loss, type) and issubclass(loss, DistillationLoss) for loss in losses)
            or any(networks_of(ctx.opt).values()) and (_has(ctx, 'train.distill_opt') or _has(ctx, 'train.eco')))


def _reads_them(model: type) -> bool:
    """Whether the code of a class, or of a base that is not BasicSR's, names our keys: then it has its own use."""
    for cls in model.__mro__:
        if cls.__module__.startswith(('basicsr.', 'mipkd_plugin.', 'builtins')):
            continue
        try:
            source = inspect.getsource(cls)
        except (OSError, TypeError):  # made at run time
            continue
        if any(f"'{key}'" in source or f'"{key}"' in source for key in _OWN_KEYS):
            return True
    return False


def _is_basicsrs(model: type, method: str) -> bool:
    """Whether a class has a method from BasicSR's SRModel or what that extends."""
    cls = next((c for c in model.__mro__ if method in vars(c)), object)
    return cls.__name__ in PARTS and cls.__name__ not in (*TABLES, 'ESRGANModel')
