"""The block ``compare``: one option file, many runs that differ only in losses and seed."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from mipkd_plugin.compare.ablation import ablated_method, variants
from mipkd_plugin.compare.checks import (
    CONTROL,
    EQUAL_TIME,
    EXAMPLE,
    check_block,
    check_equal_time,
    check_measuring,
    check_seeds,
    check_train,
    choose,
    metric_names,
    testsets_of,
)
from mipkd_plugin.compare.methods import has_own_teacher, init_of, is_plain, method_text
from mipkd_plugin.compare.starts import find_start
from mipkd_plugin.compare.teachers import check_shared_teachers, home_of, with_digest
from mipkd_plugin.compare.trials import Comparison, Trial, derive
from mipkd_plugin.config.check import Report, check_options
from mipkd_plugin.config.components import check_teacher_network, find_model
from mipkd_plugin.config.distillation import joint_fingerprint
from mipkd_plugin.config.examples import example
from mipkd_plugin.config.keys import MAPPING, RANDOM, TEXT
from mipkd_plugin.config.names import check_names, run_name_problem, safe_name
from mipkd_plugin.config.patches import probe_shape
from mipkd_plugin.config.plugins import absolute_imports
from mipkd_plugin.config.problems import Context, OptionError, Options, Problem, require_clean
from mipkd_plugin.config.rehearsal import rehearsed_once
from mipkd_plugin.config.sections import distilling_model, knows_all_keys
from mipkd_plugin.config.teacher_file import fill_teacher
from mipkd_plugin.config.teacher_weights import load_teachers
from mipkd_plugin.config.teachers import teachers_of
from mipkd_plugin.config.weights import teacher_fingerprint
from mipkd_plugin.config.which_model import how_to_distill
from mipkd_plugin.networks.padding import needed_multiple

_NOT_PROTOCOL = ('name', 'manual_seed', 'logger', 'num_gpu', 'compare', 'imports')


def results_folder(opt: Mapping[str, Any], ablated: str | None = None) -> str:
    """Folder name under ``experiments/`` for table and figure of a comparison or an ablation.

    Args:
        opt: The options of the comparison.
        ablated: The method that is varied, for an ablation.

    Returns:
        The name.

    Raises:
        OptionError: No folder can have this name.
    """
    name = str(opt.get('name'))
    problem = run_name_problem(name)
    if problem:
        raise OptionError([
            Problem('name', problem, f'write name: {safe_name(name)}', fix={'name': safe_name(name)})], opt)
    return f'{name}_ablate_{ablated}' if ablated else name


def read_comparison(opt: Options, methods: Sequence[str] | None = None, seeds: Sequence[int] | None = None,
                    ablate: tuple[str | None, Mapping[str, Sequence[Any]]] | None = None, *, files: bool = True,
                    probe: str = 'small') -> Comparison:
    """Check a comparison and all of its runs. Writes nothing.

    Args:
        opt: The options.
        methods: Names under ``compare.methods``; None takes all of them. The control is always added, and
            with another method the control of equal time.
        seeds: ``manual_seed`` of the runs; None takes ``compare.seeds``.
        ablate: (method, values by option) to compare variants of one method. A None or empty part takes the entry of
            the option file. Without this argument there is no ablation.
        files: Whether to look at data and weights on disk; without them the protocol hash is not the one of the runs.
        probe: See :func:`~mipkd_plugin.config.check.check_options`.

    Returns:
        The comparison.

    Raises:
        OptionError: There are problems; the message lists all of them.
    """
    fill_teacher(opt)
    ctx = Context(opt, is_train=True, files=files)
    ctx.problems += opt.problems
    if not isinstance(opt.get('compare'), Mapping):
        what = f'must be a block of keys, not {opt["compare"]!r}' if 'compare' in opt else 'is missing'
        ctx.add('compare', what, fix={'compare': EXAMPLE})
        raise OptionError(ctx.problems, opt)
    known = check_block(ctx)
    check_shared_teachers(ctx, known)
    homes = {name: f'compare.methods.{name}' for name in known}
    seeds = check_seeds(ctx, seeds)
    check_measuring(ctx)
    _check_rest(ctx)
    if ablate is not None:
        known, homes = variants(ctx, known, *ablate)
    equal_time = check_equal_time(ctx, known, methods) if ablate is None else False
    chosen = choose(ctx, known, methods)
    protocol_hash, trials, one_each, start, shared = '', [], [], None, ctx.section('compare').get('init')
    losses = {name: method_text(with_digest(ctx, method), shared) for name, method in known.items()}
    if ctx.clean('model_type') and ctx.clean('name') and MAPPING.fits(opt.get('train')):
        def make(name: str, seed: int) -> Trial:
            return Trial(name, seed, derive(opt, name, known[name], seed), losses[name])

        seeds = seeds or [0]
        trials = [make(name, seed) for seed in seeds for name in chosen]
        one_each = [make(name, seeds[0]) for name in known]
        _check_names(ctx, trials)
        with rehearsed_once():
            protocol_hash = _check_trials(ctx, trials[:len(chosen)], [*trials, *one_each], known, homes, probe)
        sliced = {name for name in known if init_of(known[name], shared) != RANDOM}
        start = find_start(ctx, [f'{homes.get(name, "")}.init' if 'init' in known[name] else 'compare.init'
                                 for name in known if name in sliced])
        for trial in [*trials, *one_each]:
            if start is not None and trial.method in sliced:
                start.set_in(trial.options)
    require_clean(ctx.problems, opt)
    psnr, ssim = map(str, metric_names(opt))
    folder = results_folder(opt, None if ablate is None else ablated_method(opt, ablate[0]))
    if ablate is None:
        losses = {CONTROL: losses[CONTROL], EQUAL_TIME: losses[CONTROL], **losses}
    return Comparison(folder, trials, chosen, losses, testsets_of(opt), (psnr, ssim), int(opt['train']['total_iter']),
                      protocol_hash, equal_time, one_each, start)


def _check_rest(ctx: Context) -> None:
    """Check the keys that the option files of the runs depend on."""
    for key, kind in (('name', TEXT), ('model_type', TEXT), ('train', MAPPING)):
        if not kind.fits(ctx.opt.get(key)):
            what = f'must be {kind.name}, not {ctx.opt[key]!r}' if key in ctx.opt else 'is missing'
            fix = {} if key == 'train' else {key: example(ctx, key, kind)}
            ctx.add(key, what, '' if fix else 'see options/train_*.yml', fix)
    check_names(ctx, resumes=True)  # the folder of a comparison is no run
    check_train(ctx)
    find_model(ctx)
    if ctx.model_class is not None and ctx.clean('model_type') and not ctx.distills:
        remedy, fix = how_to_distill(ctx)
        if knows_all_keys(ctx) or fix and 'model_type' not in fix:
            remedy, fix = '', {'model_type': distilling_model(ctx.opt['model_type'])}
        ctx.add('model_type', f'{ctx.opt["model_type"]} does not distill; only the control trains without a teacher, '
                'and it gets its model by itself', remedy, fix)


def _check_names(ctx: Context, trials: Sequence[Trial]) -> None:
    """Check that no two methods train in the same folder."""
    count = Counter(trial.name for trial in trials)
    for name in (name for name, times in count.items() if times > 1):
        methods = list(dict.fromkeys(trial.method for trial in trials if trial.name == name))
        ctx.add('compare', f'{" and ".join(map(repr, methods))} would both train in experiments/{name}',
                'rename one of them, or try their values one after the other')


def _check_trials(ctx: Context, trials: Sequence[Trial], all_trials: Sequence[Trial], known: Mapping[str, Any],
                  homes: Mapping[str, str], probe: str) -> str:
    """Check the options of each method.

    Args:
        ctx: Where problems go, with their places in the option file of the comparison.
        trials: One run of each method, the control first.
        all_trials: All runs; the control gets a model that pads images where the student needs it.
        known: The methods.
        homes: YAML path of each method.
        probe: See :func:`~mipkd_plugin.config.check.check_options`.

    Returns:
        The protocol hash.
    """
    teacher, images = '', dict[str, int]()
    for trial in trials:
        moved = partial(home_of, opt=ctx.opt, run=trial.options, method=known[trial.method],
                        home=homes.get(trial.method, ''))
        without_teacher = is_plain(known[trial.method])
        report = check_options(trial.options, is_train=True, files=ctx.files, probe=probe)
        if without_teacher and _needs_padding(trial, report):
            for control in all_trials:
                if control.method == trial.method:
                    control.options['model_type'] = 'AnySRModel'
            report = check_options(trial.options, is_train=True, files=ctx.files, probe=probe)
        home, said = homes.get(trial.method, ''), {problem.what for problem in ctx.problems}
        for problem in report.problems:
            if problem.where == 'model_type' and without_teacher and len(trials) > 1:
                continue  # the methods have the same problem, and the control takes its model from them
            where = moved(problem.where)
            if where is None:
                ctx.problems.append(problem)
            elif home.startswith('compare.methods'):
                ctx.problems.append(replace(problem, where=where, fix={
                    moved(path) or path: value for path, value in problem.fix.items()}))
            elif problem.what not in said:  # the variant has it, but its method does not
                ctx.problems.append(replace(problem, where=home, fix={}))
        images = images or report.images
        if not has_own_teacher(known[trial.method]):
            teacher = report.built.fingerprint or teacher
    if not teacher or 'teachers' in ctx.opt:  # of which a method has only those that it needs
        teacher = _fingerprint_of_teacher(ctx)
    shared = {key: value for key, value in ctx.opt.items() if key not in _NOT_PROTOCOL}
    shared['train'] = {key: value for key, value in ctx.section('train').items()
                       if key != 'distill_opt'}
    digests = [*_digests_of_start(ctx), *_digests_of_imports(ctx)]
    text = json.dumps([shared, teacher, images, *digests], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _needs_padding(trial: Trial, report: Report) -> bool:
    """Whether the student takes only some image sizes, and the model of the control does not pad."""
    net, scale = report.built.student, trial.options.get('scale')
    channels = probe_shape(trial.options)[0]
    return (net is not None and trial.options.get('model_type') == 'SRModel' and isinstance(scale, int)
            and needed_multiple(net, channels, scale) > 1)


def _digests_of_start(ctx: Context) -> list[str]:
    """Digest of the file that all students start from; empty without such a file."""
    start = ctx.section('path').get('pretrain_network_g')
    if not start or not ctx.files or not ctx.clean('path'):
        return []
    return [hashlib.sha256(ctx.path(start).read_bytes()).hexdigest()]


def _digests_of_imports(ctx: Context) -> list[str]:
    """Digests of the files named in ``imports``: rows of two versions of a method do not belong together."""
    files = [Path(entry) for entry in absolute_imports(ctx.opt)] if isinstance(ctx.opt, Options) else []
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files if os.path.isfile(path)]


def _fingerprint_of_teacher(ctx: Context) -> str:
    """Fingerprint of the teacher if no method of this call has built it; the control shares the protocol."""
    check_teacher_network(ctx)
    nets = load_teachers(ctx)
    return joint_fingerprint({teacher.name: teacher_fingerprint(nets[teacher.place])
                              for teacher in teachers_of(ctx.opt) if teacher.place in nets}) if nets else ''
