"""Check components that are built by name: networks, losses, metrics, data sets."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)
from torch import nn

from mipkd_plugin.config.aggregate import check_aggregate
from mipkd_plugin.config.failures import failed_build, other_argument
from mipkd_plugin.config.keys import ARGUMENTS, NOT_A_NUMBER, number_in
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.registered import lookup, missing_package, names_in
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.config.suggestions import meant, nearest, other_key, other_value, shortened
from mipkd_plugin.config.teacher_file import check_recognized
from mipkd_plugin.config.teachers import check_who_teaches, context_of, distillation_entries, of_class, teachers_of
from mipkd_plugin.losses.base import DistillationLoss
from mipkd_plugin.utils.bounds import build_bounded
from mipkd_plugin.utils.errors import FOREIGN_ERRORS
from mipkd_plugin.utils.random_numbers import random_numbers_restored
from mipkd_plugin.utils.ranges import ArgumentError
from mipkd_plugin.utils.weight_files import only_tensors

_HWC_METRICS = ('calculate_psnr', 'calculate_ssim', 'calculate_niqe')
_KINDS = {'arch': 'network', 'loss': 'loss', 'metric': 'metric', 'model': 'model', 'dataset': 'data set'}


def find_model(ctx: Context) -> None:
    """Look up ``model_type``."""
    import basicsr.models  # noqa: F401  (registers BasicSR's models)

    if isinstance(ctx.opt.get('model_type'), str):
        ctx.model_class = lookup(MODEL_REGISTRY, ctx.opt['model_type'])
        if ctx.model_class is None:
            ctx.model_class = _meant(ctx, 'model_type', ctx.opt['model_type'], MODEL_REGISTRY)


def check_components(ctx: Context) -> None:
    """Check types and arguments of all networks, metrics and distillation losses."""
    for key, options in ctx.opt.items():
        if str(key).startswith('network_') and isinstance(options, Mapping) and ctx.clean(str(key)):
            check_component(ctx, key, options, ARCH_REGISTRY)
            _check_checkpointing(ctx, str(key), options)
    _check_window_is_named(ctx)
    for name, options in ctx.section('val', 'metrics').items():
        check_component(ctx, f'val.metrics.{name}', options, METRIC_REGISTRY, ('img', 'img2'), ('better', ))
        check_values(ctx, f'val.metrics.{name}', options)
        _check_metric(ctx, f'val.metrics.{name}', options)
    if ctx.reads_teachers and (ctx.is_train or not ctx.distills):
        check_teacher_network(ctx)
    if ctx.is_train and ctx.distills:
        check_distillation_losses(ctx)


def _check_metric(ctx: Context, where: str, options: Any) -> None:
    """Check ``better``, and the order of axes of BasicSR's own metrics: its models hand them images as HWC."""
    if not isinstance(options, Mapping):
        return
    better, order = options.get('better', 'higher'), options.get('input_order', 'HWC')
    right = 'lower' if options.get('type') == 'calculate_niqe' else 'higher'
    if better not in ('higher', 'lower') and ctx.clean(f'{where}.better'):
        ctx.add(f'{where}.better', f'must be higher or lower, not {better!r}', fix={f'{where}.better': right})
    elif options.get('type') == 'calculate_niqe' and better != right and ctx.is_train and ctx.clean(where):
        said = 'is higher' if 'better' in options else 'is missing, so BasicSR takes higher for better'
        ctx.add(f'{where}.better', f'{said}: it would call the worst value the best', fix={f'{where}.better': right})
    if options.get('type') in _HWC_METRICS and order != 'HWC' and ctx.clean(f'{where}.input_order'):
        ctx.add(f'{where}.input_order', f'must be HWC, not {order!r}: in this order BasicSR hands images to a metric',
                fix={f'{where}.input_order': 'HWC'})


def check_teacher_network(ctx: Context) -> None:
    """Check type and arguments of ``network`` of each teacher, or that it is recognized."""
    for teacher in teachers_of(ctx.opt):
        own, network = context_of(ctx, teacher), teacher.options.get('network')
        check_recognized(own)
        check_aggregate(own)
        if isinstance(network, Mapping):
            check_component(own, 'teacher.network', network, ARCH_REGISTRY)
            _check_checkpointing(own, 'teacher.network', network)


def _check_checkpointing(ctx: Context, where: str, network: Mapping[str, Any]) -> None:
    """Refuse gradient checkpointing in BasicSR's SwinIR, which does not work there (no BasicSR issue known)."""
    module = getattr(lookup(ARCH_REGISTRY, network.get('type')), '__module__', '')
    if module == 'basicsr.archs.swinir_arch' and network.get('use_checkpoint'):
        ctx.add(f'{where}.use_checkpoint', 'does not work in BasicSR 1.4.2: BasicLayer.forward() of its '
                'swinir_arch.py does not hand on x_size; this is a bug of BasicSR, not of your file',
                fix={f'{where}.use_checkpoint': False})


def check_distillation_losses(ctx: Context) -> None:
    """Check types and arguments of ``train.distill_opt``."""
    check_who_teaches(ctx)
    for where, options in distillation_entries(ctx.opt):
        if check_component(ctx, where, of_class(ctx.opt, options), LOSS_REGISTRY):
            found = lookup(LOSS_REGISTRY, options['type'])
            if not (isinstance(found, type) and issubclass(found, DistillationLoss)):
                valid = [name for name, entry in LOSS_REGISTRY
                         if isinstance(entry, type) and issubclass(entry, DistillationLoss)]
                ctx.add(f'{where}.type', f'{options["type"]} is not a distillation loss',
                        f'valid here: {", ".join(valid)}', {where: {'type': 'LogitsKDLoss'}})


def check_component(ctx: Context, where: str, options: Any, registry: Registry, given: Iterable[str] = (),
                    also: Iterable[str] = ()) -> bool:
    """Check that ``options['type']`` is registered and takes the other options as arguments.

    Args:
        ctx: Where problems go.
        where: YAML path of the options.
        options: The options.
        registry: The registry that must know ``type``.
        given: Arguments that BasicSR passes itself.
        also: Further allowed keys, which the signature does not name.

    Returns:
        Whether type and arguments are valid.
    """
    kind = _KINDS[registry._name]
    if not isinstance(options, Mapping) or not isinstance(options.get('type'), str):
        ctx.add(f'{where}.type' if isinstance(options, Mapping) else where, f'does not name a {kind}',
                f'name a {kind}, then its arguments: {{type: NAME, …}}')
        return False
    name, arguments = options['type'], {key: value for key, value in options.items() if key != 'type'}
    found = lookup(registry, name)
    if found is not None:
        return check_arguments(ctx, where, name, found, arguments, given, also)
    meant = _meant(ctx, f'{where}.type', name, registry)
    if meant is not None:
        check_arguments(ctx, where, meant.__name__, meant, arguments, given, also)
    return False


def check_arguments(ctx: Context, where: str, name: str, function: Callable[..., Any],
                    arguments: Mapping[str, Any], given: Iterable[str] = (),
                    also: Iterable[str] = ()) -> bool:
    """Check arguments against a signature; ``**kwargs`` beside others takes more in networks of others alone."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters
             if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given]
    names = [p.name for p in named]
    unknown = [key for key in arguments if key not in names and key not in also]
    if takes_unknown(function, given):
        unknown = [key for key in unknown if nearest(str(key), names, cutoff=0.8) is not None]
    for key in unknown:
        ctx.add(f'{where}.{key}', f'{name} has no argument {key!r}', *other_key(where, key, arguments, names))
    given_as = {meant(key, arguments, names) for key in unknown}
    missing = [p.name for p in named if p.default is p.empty and p.name not in arguments and p.name not in given_as]
    for key in missing:
        ctx.add(f'{where}.{key}', f'is missing, and {name} needs it', f'{name} takes: {", ".join(names)}')
    return not unknown and not missing


def takes_unknown(function: Callable[..., Any], given: Iterable[str] = ()) -> bool:
    """Whether a constructor takes arguments that it does not name: published files give networks keys nobody reads."""
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in given]
    ours = ('mipkd_plugin.', 'basicsr.archs.swinir_arch')
    is_network = isinstance(function, type) and issubclass(function, nn.Module)
    return any(p.kind is p.VAR_KEYWORD for p in parameters) and (
        not named or is_network and not function.__module__.startswith(ours))


def check_values(ctx: Context, where: str, arguments: Any) -> None:
    """Check arguments that have the same meaning everywhere in BasicSR, such as ``lr``."""
    for key, kind in ARGUMENTS.items():
        if not isinstance(arguments, Mapping) or key not in arguments or kind.fits(arguments[key]):
            continue
        number = number_in(arguments[key])
        if number is not None and not kind.fits(number):  # it would not help to write it without quotes
            ctx.take_back(f'{where}.{key}', NOT_A_NUMBER)
        if ctx.clean(f'{where}.{key}'):
            better = [ctx.section('train').get('total_iter')] if key == 'periods' else kind.example
            ctx.add(f'{where}.{key}', f'must be {kind.name}, not {shortened(arguments[key])}',
                    fix={f'{where}.{key}': better})


def construct(ctx: Context, where: str, options: Mapping[str, Any], registry: Registry) -> Any:
    """Build a checked component; leave the options and torch's random numbers unchanged.

    Does not use ``build_network``, which would start BasicSR's logger before its log file exists.

    Args:
        ctx: Where problems go.
        where: YAML path of the options.
        options: ``type`` and the arguments.
        registry: The registry that knows ``type``.

    Returns:
        The component, or None with a problem noted.
    """
    arguments = {key: value for key, value in options.items() if key != 'type'}
    files: list[str] = []
    try:
        with random_numbers_restored(), only_tensors() as files:
            return build_bounded(lookup(registry, options['type']), arguments)
    except ArgumentError as error:
        for name, what in error.mistakes.items():
            remedy, fix = other_argument(where, name, what, options, lookup(registry, options['type']))
            ctx.add(f'{where}.{name}', what, remedy, fix)
    except FOREIGN_ERRORS as error:
        ctx.add(*failed_build(where, options, error, files, lookup(registry, options['type'])))
    return None


def check_dataset_type(ctx: Context, where: str, options: Mapping[str, Any]) -> Any:
    """The class of a data set. For an unknown name: note a problem, return the closest class or None."""
    import basicsr.data  # noqa: F401  (registers BasicSR's data sets)

    found = lookup(DATASET_REGISTRY, options.get('type'))
    if found is None and isinstance(options.get('type'), str):
        return _meant(ctx, f'{where}.type', options['type'], DATASET_REGISTRY)
    return found


def _meant(ctx: Context, where: str, name: str, registry: Registry) -> Any:
    """Note that there is no such class; return the one probably meant, to look for further problems."""
    names, kind, elsewhere = names_in(registry), _KINDS[registry._name], missing_package(registry, name)
    if elsewhere is not None:
        what, remedy = elsewhere
        ctx.add(where, what, remedy)
        return None
    hint, fix = other_value(where, name, names, 0.8 if kind == 'model' else 0.6)  # models of others have long names
    ctx.add(where, f'there is no {kind} {name!r}', f'{hint}{"" if hint.endswith("?") else "."} Your own {kind}: write '
            f'@{registry._name.upper()}_REGISTRY.register() above its class and name its file or module, as in '
            'imports: [my_method.py], or with --import my_method.py', fix)
    return lookup(registry, nearest(name, names, cutoff=0.8))


def _check_window_is_named(ctx: Context) -> None:
    """Check for ``window_size``: SwinIRModel reads it from the option file and ignores the network's default."""
    network = ctx.section('network_g')
    if not ctx.inherits('SwinIRModel') or not network or 'window_size' in network:
        return
    found = lookup(ARCH_REGISTRY, network.get('type'))
    own = inspect.signature(found).parameters.get('window_size') if found is not None else None
    plain = 'DistillModel' if ctx.distills else 'SRModel'
    fix: dict[str, Any] = {'network_g.window_size': own.default} if own is not None and isinstance(
        own.default, int) else {'model_type': plain}
    ctx.add('network_g.window_size', f'is missing, and {ctx.opt["model_type"]} pads images to a multiple of it',
            in_words(fix) + (f', or model_type: {plain} for a network without windows' if 'model_type' not in fix else
                             f', as {network.get("type")} has no windows'), fix)
