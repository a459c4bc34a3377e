"""``mipkd check``: check an option file and show its networks, losses and data."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from mipkd_plugin.commands.check.gradients import IS_CUT_OFF, show_gradients, show_meaning
from mipkd_plugin.commands.check.schema import schema_text
from mipkd_plugin.commands.shared import add_option_file, import_plugins, read
from mipkd_plugin.utils.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from mipkd_plugin.compare import Comparison
    from mipkd_plugin.config import Distillation, Options, Report
    from mipkd_plugin.config.built import TeacherRun

HELP = 'check an option file and show its networks, losses and data'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mipkd check``."""
    add_option_file(parser, required=False)
    mode = parser.add_mutually_exclusive_group()
    for name in ('train', 'test'):
        mode.add_argument(f'--{name}', dest='mode', action='store_const', const=name,
                          help=f'check for basicsr {name} (default: guess from the file)')
    parser.add_argument('--decode', action='store_true',
                        help='also decode all pixels of all images, in parallel: finds files that are damaged')
    parser.add_argument('--no-gradients', dest='gradients', action='store_false',
                        help='do not measure how strongly each loss term pulls at the student (takes some seconds)')
    parser.add_argument('--schema', action='store_true',
                        help='check nothing; print a JSON schema of the option file, for editors: with all classes '
                        'that are registered here, and those of --import and of the imports of -opt')


def run(args: argparse.Namespace) -> int:
    """Run ``mipkd check``."""
    if args.schema:
        print(schema_text(import_plugins(args)), end='')
        return 0
    if args.opt is None:
        raise UsageError('-opt FILE.yml is missing: give the option file to check, or --schema')
    if args.mode is None:
        opt = read(args)
        if 'compare' in opt:
            return _check_comparison(opt, args)
    from mipkd_plugin import config

    opt = read(args)
    is_train = config.is_training(opt) if args.mode is None else args.mode == 'train'
    report = config.check_options(opt, is_train=is_train, probe='full')
    if args.gradients and _is_cut_off(report):
        _show_gradients(opt, report.built.bound, report)
    config.require_clean(report.problems, opt)
    if args.decode:
        _decode(opt, report)
    _show_report(opt, 'train' if is_train else 'test', report)
    if args.gradients and report.built.distillation is not None:
        _show_gradients(opt, report.built.distillation, report)
    return 0


def _show_gradients(opt: Options, distillation: Distillation | None, report: Report) -> None:
    if show_gradients(opt, distillation, report.images.get('datasets.train', 0)):
        show_meaning()


def _is_cut_off(report: Report) -> bool:
    """Whether nothing but a term without gradient is wrong: the table shows it beside the others."""
    return report.built.bound is not None and bool(report.problems) and all(
        IS_CUT_OFF in problem.what for problem in report.problems)


def _show_report(opt: Options, command: str, report: Report) -> None:
    """Show networks, losses and data of a checked option file; ``command`` is ``train`` or ``test``."""
    from mipkd_plugin.config import start_in_words, starts_from_slice

    print(f'ok: {opt.source} can be used by basicsr {command}')
    _show_networks(report)
    if report.built.teachers and starts_from_slice(opt):
        print(f'  start    {start_in_words(opt)}')
    for where, loss in report.built.losses.items():
        name = report.built.chosen.get(where)
        print(f'  loss     {type(loss).__name__}{f" from teacher {name}" * bool(name)}, {_count(loss, True):,d} '
              'parameters (training only)')
        if loss.note:
            print(f'           note: {loss.note}')
        for pair in report.built.pairs.get(where, []):
            s, t = pair.student, pair.teacher
            print(f'           {s.path} {s.channels}×{s.height}×{s.width} <- '
                  f'{t.path} {t.channels}×{t.height}×{t.width}')
    if report.built.losses and opt['train'].get('distill'):
        from mipkd_plugin.config import read_schedule

        print(f'  distill  {read_schedule(opt)}')
    if report.built.eco is not None:
        cached = any(run.cache is not None for run in report.built.runs.values())
        print(f'  eco      {report.built.eco}')
        if report.built.eco.last:
            print(f'           {report.built.eco.cost(bool(report.built.losses), cached)}')
    for name, run in report.built.runs.items():
        if run.cache is not None:
            print(f'  cache    {f"of teacher {name}: " * bool(name)}{run.cache}')
    _show_images(opt, report)


def _check_comparison(opt: Options, args: argparse.Namespace) -> int:
    """Check an option file with a block ``compare`` for all of its methods, and show its content."""
    from mipkd_plugin import config
    from mipkd_plugin.compare import ablated_method, read_comparison

    with config.rehearsed_once():
        comparison = read_comparison(opt, probe='full')
        variants = []
        if ablated_method(opt) is not None:
            variants = read_comparison(opt, ablate=(None, {}), probe='full').methods[2:]
        each = comparison.trials[len(comparison.methods) - 1::-1]  # the last, or one with more teachers
        shown = max(each, key=lambda trial: len(trial.options.get('teachers') or ()))
        report = config.check_options(shown.options, is_train=True, probe='full')
    if args.decode:
        _decode(opt, report)
    print(f'ok: {opt.source} can be used by mipkd {"compare and mipkd ablate" if variants else "compare"}')
    _show_networks(report)
    print(f'  methods  {", ".join(comparison.methods)}')
    print(f'  seeds    {", ".join(str(seed) for seed in dict.fromkeys(trial.seed for trial in comparison.trials))}')
    if variants:
        print(f'  ablation {", ".join(variants)}')
    print(f'  runs     {len(comparison.trials)} of {comparison.iterations:,d} iterations{_equal_time(comparison)}')
    _show_images(opt, report)
    if args.gradients:
        _show_gradients_of_methods(opt, comparison, report)
    return 0


def _show_gradients_of_methods(opt: Options, comparison: Comparison, report: Report) -> None:
    """A table for each method; places are those in the option file of the comparison."""
    from mipkd_plugin.compare import place_of

    shown, start = False, comparison.start
    for trial in comparison.trials[:len(comparison.methods)]:
        if trial.options['train'].get('distill_opt'):
            shown |= show_gradients(trial.options, None, report.images.get('datasets.train', 0), f' ({trial.method})',
                                    functools.partial(place_of, opt=opt, method=trial.method),
                                    start.state if start is not None and start.is_in(trial.options) else None)
    if shown:
        show_meaning()


def _equal_time(comparison: Comparison) -> str:
    """The runs of the control of equal time, in words."""
    from mipkd_plugin.compare import EQUAL_TIME, expected_length

    if comparison.equal_time is False:
        return ''
    length = expected_length(comparison)
    other = 'the costliest method' if comparison.equal_time is True else repr(comparison.equal_time)
    return (f'; {len({trial.seed for trial in comparison.trials})} of {EQUAL_TIME!r}, '
            + (f'of {length:,d}' if length else f'as long as {other} takes: --times measures it'))


def _show_networks(report: Report) -> None:
    from mipkd_plugin.config import recognition_in_words

    teachers = report.built.teachers
    if report.built.student is not None:
        _show_network('student' if teachers else 'network', '', report.built.student)
    for name, net in teachers.items():
        _show_network('teacher', name, net)
    for number, line in enumerate(recognition_in_words(report.opt)):
        print(f'           {line}' if number else f'  {"teacher":8} {line}')
    for name, run in report.built.runs.items():
        _show_run(f'{name}: ' * bool(name), run)


def _show_network(label: str, name: str, net: nn.Module) -> None:
    print(f'  {label:8} {f"{name}: " * bool(name)}{type(net).__name__}, {_count(net):,d} parameters')


def _show_run(name: str, run: TeacherRun) -> None:
    """Show how a teacher runs, if it does so in another way than usual."""
    execution, gap = run.execution, run.difference
    if gap is not None:
        largest = f', features by up to {100 * max(gap.features.values()):.2g} %' if gap.features else ''
        print(f'  teacher  {name}{execution}: output differs from float32 by up to {gap.output_max:.2g} (mean '
              f'{gap.output_mean:.2g}){largest}; measured uncompiled on one patch of random noise')
    elif execution.compile:
        print(f'  teacher  {name}{execution}: the training compiles it in its first iterations; not measured here')


def _show_images(opt: Options, report: Report) -> None:
    for where, count in report.images.items():
        phase = where.removeprefix('datasets.')
        data = opt['datasets'][phase]
        kind = 'pairs of images' if {'dataroot_gt', 'dataroot_lq'} <= {*data} else 'images'
        print(f'  {phase:8} {data["name"]}, {count} {kind}')
    for note in report.notes:
        print(f'  note     {note}')


def _decode(opt: Options, report: Report) -> None:
    """Decode all images; refuse the options if one cannot be decoded."""
    from mipkd_plugin.config.decoding import decode_images

    report.notes.append(f'all {decode_images(opt):,d} images were decoded')


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
