"""Check before a resume that the files of a checkpoint hold what the run itself would save."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.checkpoints.distill_state import Taught, changed_options, loading_fault, other_teachers
from mipkd_plugin.checkpoints.distill_state import in_words as in_words_of
from mipkd_plugin.checkpoints.files import distill_state_path, random_state_path, student_path
from mipkd_plugin.checkpoints.proof import LEARNED, Summary, distill_fault, random_fault
from mipkd_plugin.checkpoints.trial import training_fault
from mipkd_plugin.config.aggregate import has_aggregate
from mipkd_plugin.config.built import Built
from mipkd_plugin.config.checkpoints import needed_files, run_folder, saved_hyperparameters
from mipkd_plugin.config.components import construct
from mipkd_plugin.config.distillation import joint_fingerprint
from mipkd_plugin.config.finite import check_weights
from mipkd_plugin.config.model_classes import owner
from mipkd_plugin.config.problems import Context
from mipkd_plugin.config.remedies import in_words
from mipkd_plugin.config.resume_changes import hyperparameters
from mipkd_plugin.config.teachers import LIST, ONE
from mipkd_plugin.config.weights import misfit, read_file, select_state

AS_STARTED = 'resume with the option file the run was started with'


def check_files(ctx: Context, where: str, state: Path, summary: Summary, built: Built, remedy: str) -> None:
    """Check the training state, and the files beside it.

    Args:
        ctx: Options, and where problems go.
        where: What names the checkpoint: ``--auto_resume`` or ``path.resume_state``.
        state: The training state.
        summary: What is known of it.
        built: Student, teacher and losses of these options.
        remedy: What to do about a file that cannot be used.
    """
    before, iteration = len(ctx.problems), summary.iteration
    models = run_folder(ctx) / 'models'
    random = random_state_path(models, iteration)
    for name, path in needed_files(ctx, iteration):
        if not os.path.lexists(path):
            fix = {'train.exact_resume': False} if path == random else {}
            ctx.add(where, f'the checkpoint {state} has no {name}', f'{in_words(fix)}, or restore the file' if fix else
                    f'{AS_STARTED}; if it is this one, {remedy}', fix)
        elif path == student_path(models, iteration):
            _check_network(ctx, where, path, built.student, 'network_g', remedy, summary)
        elif path == random:
            _check_random_numbers(ctx, where, path)
        elif path == distill_state_path(models, iteration):
            fits = not any(str(student_path(models, iteration)) in problem.what for problem in ctx.problems[before:])
            _check_distillation_state(ctx, where, path, built, remedy, fits)
        else:
            key = f'network_{name[len("net_"):-len(f"_{iteration}.pth")]}'
            network = construct(ctx, key, ctx.section(key), ARCH_REGISTRY) if ctx.clean(key) else None
            _check_network(ctx, where, path, network, key, remedy)
    if len(ctx.problems) == before:
        _check_optimizer(ctx, where, state, summary, built, remedy)


def _check_network(ctx: Context, where: str, path: Path, net: nn.Module | None, key: str, remedy: str,
                   summary: Summary | None = None) -> None:
    """Check the weights of a network as BasicSR resumes it: strictly, and their moving average if there is one."""
    content = read_file(ctx, where, path, remedy, remedy)
    if content is None:
        return
    keys = ['params']
    if summary is not None and _is_above_0(ctx.section('train').get('ema_decay')):
        saved = summary.record.get('hyperparameters')
        averaged = (isinstance(saved, Mapping) and _is_above_0(saved.get('ema_decay'))
                    and owner(ctx.model_class, 'save') == 'SRModel')
        keys += ['params_ema'] if averaged or isinstance(content, Mapping) and 'params_ema' in content else []
    for name in keys:
        weights = select_state(ctx, where, where, path, content, name)
        if weights is None:
            ctx.problems[-1] = replace(ctx.problems[-1], remedy=remedy)
            return
        problem = misfit(net, weights, key) if net is not None else None
        if problem:
            own = '' if name == 'params' else f', under {name!r},'
            ctx.add(where, f'{path}{own} {problem[0]}', f'{AS_STARTED}; if it is this one, {remedy}')
            return
        if key == 'network_g' and not check_weights(ctx, where, path, weights, net):
            return


def _is_above_0(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 0


def _check_random_numbers(ctx: Context, where: str, path: Path) -> None:
    hint, fix = 'restore the file, or remove train.exact_resume', {'train.exact_resume': False}
    before = len(ctx.problems)
    content = read_file(ctx, where, path, hint, hint)
    fault = None if len(ctx.problems) > before else random_fault(content)
    if fault is not None:
        ctx.add(where, f'{path} holds no random numbers: {fault}', hint, fix=fix)
    elif len(ctx.problems) > before:
        ctx.problems[-1] = replace(ctx.problems[-1], fix=fix)


def _check_optimizer(ctx: Context, where: str, state: Path, summary: Summary, built: Built, remedy: str) -> None:
    """Compare the optimizer with the saved one, and try a step, in a model with the usual optimizer."""
    setup = getattr(getattr(ctx.model_class, 'setup_optimizers', None), '__qualname__', '')
    if built.student is None or not setup.startswith(('SRModel.', 'SRGANModel.', 'DistillMixin.')):
        return
    adversarial = ctx.inherits('SRGANModel')
    if len(summary.groups) != 1 + adversarial:
        ctx.add(where, f'{state} holds {len(summary.groups)} optimizer{"s" * (len(summary.groups) != 1)}, and '
                f'{ctx.opt["model_type"]} has {"two" if adversarial else "one"}',
                f'{AS_STARTED}; if it is this one, {remedy}')
        return
    trained = [[parameter.shape for parameter in built.student.parameters()
                if parameter.requires_grad or setup.startswith('SRGANModel.')]]
    plain = not setup.startswith('DistillMixin.')
    if not plain and built.distillation is not None:
        losses = built.distillation.losses.values()
        own = {id(parameter) for loss in losses for parameter in loss.self_trained_parameters()}
        further = {id(p): p.shape for loss in losses for p in loss.parameters() if p.requires_grad and id(p) not in own}
        trained += [list(further.values())] if further else []
    saved, found = summary.groups[0], [len(group) for group in trained]
    if saved[:1] != found[:1] or (plain or built.distillation is not None) and saved != found:
        now = ' + '.join(map(str, found)) + ('' if plain or built.distillation is not None else ' and those of its '
                                             'losses')
        ctx.add(where, f'{state} holds an optimizer for {" + ".join(map(str, saved))} tensors, and this model trains '
                f'{now}', f'{AS_STARTED}; if it is this one, {remedy}')
    elif not adversarial and saved == found and all(
            owner(ctx.model_class, method) for method in ('get_optimizer', 'setup_schedulers')):
        content = read_file(ctx, where, state, remedy, remedy)
        options = saved_hyperparameters(ctx, summary) or hyperparameters(ctx.opt)
        fault = None if content is None else training_fault(content, trained, options)
        if fault is not None:
            ctx.add(where, f'{state} cannot be used: {fault}', remedy)


def _check_distillation_state(ctx: Context, where: str, path: Path, built: Built, remedy: str,
                              student_fits: bool) -> None:
    before = len(ctx.problems)
    saved = read_file(ctx, where, path, remedy, remedy)
    fault = None if len(ctx.problems) > before else distill_fault(saved)
    if fault is not None:
        ctx.add(where, f'{path} holds no distillation state: {fault}', remedy)
    if len(ctx.problems) > before:
        return
    _check_teachers(ctx, path, saved, built)
    types = [type(loss).__name__ for loss in built.losses.values()]
    if ctx.clean('train.distill_opt') and saved['types'] != types:
        ctx.add('train.distill_opt', f'asks for {types}, but {path} holds {list(saved["types"])}', AS_STARTED)
    elif ctx.clean('train.distill_opt') and set(built.pairs) == set(built.losses) and student_fits:
        _check_loss_state(ctx, where, path, saved, built, remedy)


def _check_teachers(ctx: Context, path: Path, saved: Mapping[str, Any], built: Built) -> None:
    """Check that each loss learns from the weights that it learned from before."""
    now, several = built.fingerprints, LIST in ctx.opt
    if not now or not ctx.clean('teacher') or not ctx.clean(LIST):
        return
    if not several and LEARNED not in saved:
        key = 'aggregate' if has_aggregate(ctx.section('teacher')) else 'weights'
        weights, own = ctx.section('teacher').get(key), now['']
        if saved['teacher'] != own:
            ctx.add(f'teacher.{key}', f'{weights} (sha256 {own[:12]}…) is not the teacher that {path} was trained '
                    f'with (sha256 {str(saved["teacher"])[:12]}…)',
                    'name the old teacher, or start a new run under another name')
        return
    learned = [(name, now[name]) for name in built.chosen.values() if name in now]
    if len(learned) != len(saved['types']):
        return  # other losses, which has its own message
    if built.eco is not None:
        learned.append(next(iter(now.items())))
    for number, old, new in other_teachers(saved, joint_fingerprint(now), learned):
        there = next((name for name, digest in now.items() if digest == old[1] and name), None)
        if number == len(built.chosen):
            _add_other_eco(ctx, path, old, new, there)
            continue
        where = list(built.chosen)[number]
        ctx.add(f'{where}.teacher' if several else 'teacher.weights',
                f'{saved["types"][number]} learned from {in_words_of(old)} up to {path}, and now from '
                f'{in_words_of(new)}', '' if there else 'name the old teachers and their weights, or start a new run '
                'under another name', {f'{where}.teacher': there} if there else {})


def _add_other_eco(ctx: Context, path: Path, old: Taught, new: Taught, there: str | None) -> None:
    """Note that ECO goes on with another teacher: it takes the first of the list."""
    entries: list[Any] = ctx.opt.get(LIST, [])
    first = [entry for entry in entries if entry['name'] == there]
    ctx.add(LIST if entries else ONE, f'ECO takes the first teacher: it learned from {in_words_of(old)} up to {path}, '
            f'and now from {in_words_of(new)}', f'write teacher {there!r} first' if first else
            'name the old teachers and their weights, or start a new run under another name',
            {LIST: [*first, *(entry for entry in entries if entry not in first)]} if first else {})


def _check_loss_state(ctx: Context, where: str, path: Path, saved: Mapping[str, Any], built: Built,
                      remedy: str) -> None:
    """Compare taps and tensor sizes of the losses with the saved ones, and try to load them."""
    pairs = [[list(pair.paths) for pair in built.pairs[place]] for place in built.losses]
    if saved['pairs'] != pairs:
        ctx.add('train.distill_opt', f'has the taps {pairs}, but {path} was trained with {saved["pairs"]}', AS_STARTED)
        return
    losses = nn.ModuleList(built.losses.values())
    changed = changed_options(saved, losses)
    for number, name, then, now in changed:
        home = f'{list(built.losses)[number]}.{name}'
        ctx.add(home, f'is {now}, and {path} was saved with {then}: what it holds cannot go on with another value',
                f'write {name}: {then}, or start a new run under another name', {home: then})
    if changed:
        return
    problem = misfit(losses, saved['losses'], 'train.distill_opt')
    if problem:
        ctx.add('train.distill_opt', f'{path} {problem[0].replace("ModuleList", "the losses")}', AS_STARTED)
        return
    fault = loading_fault(saved, losses)
    if fault is not None:
        ctx.add(where, f'{path} holds no distillation state: {fault}', remedy)
