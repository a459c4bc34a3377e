"""What ``mipkd check`` and ``mipkd taps`` show of an option file."""

from __future__ import annotations

import argparse
from typing import Any

import torch

from mipkd_plugin import config
from mipkd_plugin.taps import list_taps
from mipkd_plugin.trunk import TapError, find_trunk


class UsageError(ValueError):
    """There is nothing of what was asked for."""


def show_report(opt: config.Options, command: str, report: config.Report) -> int:
    """Show what a checked option file describes.

    Args:
        opt: The options.
        command: ``train`` or ``test``.
        report: Of their check, without problems.
    """
    print(f'ok: {opt.source} can be used by basicsr {command}')
    _show_networks(report)
    for where, loss in report.built.losses.items():
        print(f'  loss     {type(loss).__name__}, {_count(loss):,d} parameters (training only)')
        for pair in report.built.pairs.get(where, []):
            s, t = pair.student, pair.teacher
            print(f'           {s.path} {s.channels}×{s.height}×{s.width} <- '
                  f'{t.path} {t.channels}×{t.height}×{t.width}')
    _show_images(opt, report)
    return 0


def check_comparison(opt: config.Options) -> int:
    """Check an option file with a block ``compare``, for all of its methods, and show what it describes.

    Raises:
        OptionError: With all problems.
    """
    comparison = config.read_comparison(opt, probe='full')
    variants = []
    if config.ablated_method(opt) is not None:
        variants = config.read_comparison(opt, ablate=(None, {}), probe='full').methods[2:]
    report = config.run_checks(comparison.trials[len(comparison.methods) - 1].options, is_train=True, probe='full')
    print(f'ok: {opt.source} can be used by mipkd {"compare and mipkd ablate" if variants else "compare"}')
    _show_networks(report)
    print(f'  methods  {", ".join(comparison.methods)}')
    print(f'  seeds    {", ".join(str(seed) for seed in dict.fromkeys(trial.seed for trial in comparison.trials))}')
    if variants:
        print(f'  ablation {", ".join(variants)}')
    print(f'  runs     {len(comparison.trials)} of {comparison.iterations:,d} iterations')
    _show_images(opt, report)
    return 0


def show_taps(opt: config.Options, args: argparse.Namespace) -> int:
    """List the modules of student and teacher that can be tapped."""
    student, teacher, shape = config.build_for_taps(opt)
    if args.teacher and teacher is None:
        raise UsageError(f'{args.opt} has no teacher; leave out --teacher')
    for role, net in (('student', student), ('teacher', teacher)):
        if net is None or (args.teacher and role == 'student'):
            continue
        try:
            trunk, blocks = find_trunk(net)
        except TapError:
            trunk, blocks = '', []
        print(f'{role} {type(net).__name__}, {_count(net):,d} parameters, on a patch of '
              f'{shape[0]}×{shape[1]}×{shape[2]}; trunk: {trunk or "none found"}, {len(blocks)} blocks')
        for info in list_taps(net, torch.rand(1, *shape)):
            if args.all or info.path in blocks or '.' not in info.path:
                size = '' if info.problem else f'{info.channels}×{info.height}×{info.width}'
                mark = '*' if info.path in blocks else ' '
                print(f' {mark} {info.path:32} {size:>14}  {info.problem or "ok"}')
    print(' * block of the trunk: here features can also re-enter the network')
    return 0


def _show_networks(report: config.Report) -> None:
    for role, net in (('student', report.built.student), ('teacher', report.built.teacher)):
        if net is not None:
            label = role if report.built.teacher is not None else 'network'
            print(f'  {label:8} {type(net).__name__}, {_count(net):,d} parameters')


def _show_images(opt: config.Options, report: config.Report) -> None:
    for where, count in report.images.items():
        phase = where.removeprefix('datasets.')
        print(f'  {phase:8} {opt["datasets"][phase]["name"]}, {count} pairs of images')


def _count(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
