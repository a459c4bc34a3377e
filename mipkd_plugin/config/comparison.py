"""Comparisons: one option file, many runs that differ in nothing but the losses and the seed."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.config.checks import run_checks
from mipkd_plugin.config.components import lookup
from mipkd_plugin.config.keys import COMPARE, COUNT
from mipkd_plugin.config.problems import Context, OptionError, Options, Problem, block, located, suggestion
from mipkd_plugin.config.sections import check_keys, check_numbers
from mipkd_plugin.config.weights import teacher_fingerprint

CONTROL = 'none'
"""The method without distillation: in every comparison, trained with the toolbox's own model."""

_NAME = re.compile(r'[A-Za-z0-9][\w.+-]*')
_NOT_PROTOCOL = ('name', 'manual_seed', 'logger', 'num_gpu', 'compare')


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        method: Its name in the table.
        seed: ``manual_seed``.
        options: The whole option file of the run.
    """

    method: str
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of the run and of its folder."""
        return str(self.options['name'])

    @property
    def losses(self) -> str:
        """What distills, as JSON."""
        return losses_text(self.options['train'].get('distill_opt', []))


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Attributes:
        name: Of the comparison and of its folder.
        trials: All runs, seed by seed.
        methods: In the order of the table.
        testsets: In the order of the option file.
        metrics: Names of PSNR and of SSIM in ``val.metrics``.
        iterations: Of each run.
        protocol: Digest of all that the runs have in common.
    """

    name: str
    trials: list[Trial]
    methods: list[str]
    testsets: list[str]
    metrics: tuple[str, str]
    iterations: int
    protocol: str


def losses_text(losses: Any) -> str:
    """One loss or a list of them as a line of JSON, to be compared with another."""
    return json.dumps(losses if isinstance(losses, list) else [losses], sort_keys=True)


def results_folder(opt: Mapping[str, Any], ablated: str | None = None) -> str:
    """Name of the folder under ``experiments/`` for tables and figures of a comparison, or of an ablation."""
    return f'{opt.get("name")}_ablate_{ablated}' if ablated else str(opt.get('name'))


def read_comparison(opt: Options, methods: Sequence[str] | None, seeds: Sequence[int] | None,
                    ablate: tuple[str | None, Mapping[str, Sequence[Any]]] | None = None) -> Comparison:
    """Check a comparison and everything that it would run. Nothing is written.

    Args:
        opt: The option file.
        methods: Names under ``compare.methods``; None: all of them. The control is always added.
        seeds: ``manual_seed`` of the runs; None: ``compare.seeds``.
        ablate: (method, option → values) to compare variants of one method; None for what the file says.

    Raises:
        OptionError: With all problems.
    """
    problems = list(opt.problems)
    ctx = Context(opt, is_train=True)
    settings = block(opt, 'compare')
    if not settings:
        ctx.add('compare', 'is missing', 'write compare: {seeds: [0, 1, 2], methods: {NAME: {type: LOSS, …}}}')
    check_keys(ctx, 'compare', settings, COMPARE, strict=True)
    check_numbers(ctx, settings, 'compare')
    _check_validation(ctx)
    known = _known_methods(ctx)
    seeds = _check_seeds(ctx, settings.get('seeds') if seeds is None else list(seeds), seeds is not None)
    if ablate is not None:
        known, methods = _variants(ctx, known, *ablate)
    chosen = _choose(ctx, known, methods)
    if problems + ctx.problems:
        raise OptionError(located(problems + ctx.problems, opt), opt.source)
    trials = [Trial(method, seed, _derive(opt, method, known[method], seed)) for seed in seeds for method in chosen]
    protocol = _check_trials(opt, trials[:len(chosen)], known if ablate is None else {})
    psnr, ssim = map(str, _metric_names(opt))
    return Comparison(results_folder(opt, _ablated(opt, ablate)), trials, chosen, _testsets(opt), (psnr, ssim),
                      int(opt['train']['total_iter']), protocol)


def _ablated(opt: Options, ablate: tuple[str | None, Any] | None) -> str | None:
    return None if ablate is None else ablate[0] or block(opt, 'compare', 'ablate').get('method')


def _check_validation(ctx: Context) -> None:
    if not isinstance(ctx.opt.get('val'), Mapping):
        ctx.add('val', 'is missing: without validation there is nothing to compare',
                'write val: {val_freq: …, save_img: false, metrics: {psnr: …, ssim: …}}')
        return
    for kind, found in zip(('calculate_psnr', 'calculate_ssim'), _metric_names(ctx.opt)):
        if found is None:
            ctx.add('val.metrics', f'has no metric of type {kind}, and the table needs it',
                    f'write {kind[10:]}: {{type: {kind}, crop_border: …, test_y_channel: true}}')
    if not _testsets(ctx.opt):
        ctx.add('datasets', 'has no val set: there is nothing to measure on', 'write val: {name: Kodak24, …}')
    twice = {name for name in _testsets(ctx.opt) if _testsets(ctx.opt).count(name) > 1}
    if twice:
        ctx.add('datasets', f'two val sets have the name {", ".join(sorted(twice))}', 'name each of them differently')
    val, every = ctx.section('val').get('val_freq'), ctx.section('logger').get('print_freq')
    if isinstance(val, (int, float)) and isinstance(every, (int, float)) and every > 0 and val % every:
        ctx.add('logger.print_freq', f'{every} does not divide val.val_freq {val:g}: the log would not tell at which '
                'iteration a validation was', 'write a divisor')
    if ctx.section('datasets', 'train').get('persistent_workers'):
        ctx.add('datasets.train.persistent_workers', 'rules out resuming a run exactly', 'take it out')


def _metric_names(opt: Mapping[str, Any]) -> list[str | None]:
    metrics = block(opt, 'val', 'metrics')
    return [next((str(name) for name, options in metrics.items()
                  if isinstance(options, Mapping) and options.get('type') == kind), None)
            for kind in ('calculate_psnr', 'calculate_ssim')]


def _testsets(opt: Mapping[str, Any]) -> list[str]:
    return [str(options.get('name')) for phase, options in block(opt, 'datasets').items()
            if str(phase).split('_')[0] == 'val' and isinstance(options, Mapping)]


def _known_methods(ctx: Context) -> dict[str, Any]:
    """Name → losses, of the file's methods and the control."""
    known: dict[str, Any] = {CONTROL: []}
    for name, losses in ctx.section('compare', 'methods').items():
        where = f'compare.methods.{name}'
        if name == CONTROL:
            ctx.add(where, 'is the control without any loss, which is there by itself', 'take it out')
        elif not isinstance(name, str) or not _NAME.fullmatch(name):
            ctx.add(where, 'is no usable name', 'write letters, digits and . _ + - only')
        elif not isinstance(losses, (Mapping, list)) or not losses:
            ctx.add(where, f'must be one loss (a block with type) or a list of them, not {losses!r}')
        else:
            known[name] = losses
    return known


def _check_seeds(ctx: Context, seeds: Any, given: bool) -> list[int]:
    where = '--seeds' if given else 'compare.seeds'
    if not isinstance(seeds, list) or not seeds or not all(COUNT.fits(s) and isinstance(s, int) for s in seeds):
        ctx.add(where, f'must be a list of whole numbers, 0 or more, not {seeds!r}', 'write 0 1 2' if given else
                'write seeds: [0, 1, 2]')
        return []
    if len(set(seeds)) < len(seeds):
        ctx.add(where, f'names a seed twice: {seeds}', 'name each once: a repeated run is no further measurement')
    return seeds


def _choose(ctx: Context, known: Mapping[str, Any], methods: Sequence[str] | None) -> list[str]:
    wanted = list(known) if methods is None else list(dict.fromkeys([CONTROL, *methods]))
    for name in wanted:
        if name not in known:
            ctx.add('--methods', f'{name!r} is no method of compare.methods', suggestion(name, known))
    return [name for name in wanted if name in known]


def _variants(ctx: Context, known: Mapping[str, Any], method: str | None,
              options: Mapping[str, Sequence[Any]]) -> tuple[dict[str, Any], list[str]]:
    """The control, one method, and that method with one option changed at a time."""
    ablate = ctx.section('compare', 'ablate')
    method, options = str(method or ablate.get('method')), options or block(ablate, 'options')
    if method not in known or method == CONTROL:
        ctx.add('--method', f'{method!r} is no method of compare.methods that could be varied',
                suggestion(method, [name for name in known if name != CONTROL]))
        return {}, []
    if not options:
        ctx.add('--vary', 'names no option', 'write --vary mask_ratio 0.25 0.75, or compare.ablate.options')
    found = {CONTROL: [], method: known[method]}
    entries = known[method] if isinstance(known[method], list) else [known[method]]
    for option, values in options.items():
        first = next((i for i, loss in enumerate(entries) if _takes(loss, option)), None)
        if first is None:
            ctx.add('--vary', f'no loss of {method!r} has an option {option!r}',
                    suggestion(option, sorted({name for loss in entries for name in _arguments(loss)})))
            continue
        for value in values if isinstance(values, list) else [values]:
            if _current(entries[first], option) != value:
                changed = [{**loss, option: value} if i == first else loss for i, loss in enumerate(entries)]
                found[f'{method} {option}={value}'] = changed
    return found, list(found)


def _arguments(loss: Any) -> dict[str, Any]:
    """Option → default of a loss's class."""
    import inspect

    from basicsr.utils.registry import LOSS_REGISTRY
    cls = lookup(LOSS_REGISTRY, loss.get('type')) if isinstance(loss, Mapping) else None
    return {} if cls is None else {name: p.default for name, p in inspect.signature(cls).parameters.items()}


def _takes(loss: Any, option: str) -> bool:
    return option in _arguments(loss)


def _current(loss: Mapping[str, Any], option: str) -> Any:
    return loss.get(option, _arguments(loss)[option])


def _derive(opt: Mapping[str, Any], method: str, losses: Any, seed: int) -> dict[str, Any]:
    """The option file of one run."""
    own = copy.deepcopy({key: value for key, value in opt.items() if key != 'compare'})
    slug = re.sub(r'[^A-Za-z0-9._+]+', '-', method)
    own.update(name=f'{opt["name"]}_{slug}_seed{seed}', manual_seed=seed)
    own['train']['exact_resume'] = True
    own['train'].pop('distill_opt', None)
    if losses:
        own['train']['distill_opt'] = copy.deepcopy(losses)
    else:
        own['model_type'] = _plain_model(str(opt.get('model_type')))
        own.pop('teacher', None)
    return own


def _plain_model(model_type: str) -> str:
    """The model class that a distilling one was made of by ``DistillMixin``."""
    bases = getattr(lookup(MODEL_REGISTRY, model_type), '__mro__', ())
    names = [base.__name__ for base in bases]
    behind = names[names.index('DistillMixin') + 1:] if 'DistillMixin' in names else []
    return next((name for name in behind if lookup(MODEL_REGISTRY, name) is not None), model_type)


def _check_trials(opt: Options, trials: Sequence[Trial], known: Mapping[str, Any]) -> str:
    """Check the option file of each method; return the protocol.

    Raises:
        OptionError: With all problems, at the places where they stand in the comparison's own file.
    """
    problems: list[Problem] = []
    teacher, images = '', {}
    for trial in trials:
        report = run_checks(trial.options, is_train=True)
        home = f'compare.methods.{trial.method}' if trial.method in known else 'compare'
        problems += [replace(problem, where=problem.where.replace('train.distill_opt', home))
                     if problem.where.startswith('train.distill_opt') else problem for problem in report.problems]
        images = report.images
        if report.built.teacher is not None:
            teacher = teacher_fingerprint(report.built.teacher)
    if problems:
        raise OptionError(located(problems, opt), opt.source)
    shared = {key: value for key, value in opt.items() if key not in _NOT_PROTOCOL}
    shared['train'] = {key: value for key, value in opt['train'].items() if key != 'distill_opt'}
    text = json.dumps([shared, teacher, images], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
