"""The whole check of an option file, before anything is built, trained or written."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from basicsr.utils.logger import initialized_logger
from basicsr.utils.registry import ARCH_REGISTRY
from torch import nn

from mipkd_plugin.config.components import (
    check_component,
    check_components,
    check_distillation_losses,
    check_teacher_network,
    find_model,
)
from mipkd_plugin.config.datasets import check_datasets
from mipkd_plugin.config.distillation import Built, build_and_fit, load_teacher, probe_shape
from mipkd_plugin.config.keys import TEACHER
from mipkd_plugin.config.problems import Context, OptionError, Options, Problem, block, located
from mipkd_plugin.config.resume import check_exact_resume, check_resume, find_resume_state
from mipkd_plugin.config.sections import check_gpus, check_keys, check_numbers, check_sections
from mipkd_plugin.config.training import check_training
from mipkd_plugin.config.weights import check_pretrained


@dataclass
class Report:
    """What a check found.

    Attributes:
        problems: All problems, in the order of the file.
        images: YAML path of a data set → number of images.
        built: The networks and losses.
    """

    problems: list[Problem]
    images: dict[str, int] = field(default_factory=dict)
    built: Built = field(default_factory=Built)


def check_options(opt: Mapping[str, Any], *, is_train: bool, launcher: str = 'none',
                  auto_resume: bool = False, root: Path | None = None, files: bool = True,
                  probe: str = 'small') -> list[Problem]:
    """Find everything that is wrong with an option file. Nothing is written, and ``opt`` is left as it is.

    Args:
        opt: Options as :func:`load_options` returns them, or a plain mapping.
        is_train: Whether they are for ``basicsr train``, or for ``basicsr test``.
        launcher: ``none``, ``pytorch`` or ``slurm``.
        auto_resume: Whether ``--auto_resume`` is given.
        root: What relative paths start from; the working directory by default.
        files: Whether to look at data, weights and checkpoints on disk.
        probe: Run the networks, which finds taps and scales that do not fit, on a ``small`` patch, on one of
            ``full`` training size, or not at all: ``none``.

    Returns:
        All problems, in the order of the file.
    """
    return run_checks(opt, is_train=is_train, launcher=launcher, auto_resume=auto_resume, root=root,
                      files=files, probe=probe).problems


def run_checks(opt: Mapping[str, Any], *, is_train: bool, launcher: str = 'none', auto_resume: bool = False,
               root: Path | None = None, files: bool = True, probe: str = 'small') -> Report:
    """As :func:`check_options`, but also returns what was found on the way."""
    ctx = Context(opt, is_train, launcher, auto_resume, root or Path.cwd(), files)
    ctx.problems += opt.problems if isinstance(opt, Options) else []
    with _logger_left_alone():
        images, built = _run(ctx, probe)
    return Report(located(ctx.problems, opt), images, built)


def _run(ctx: Context, probe: str) -> tuple[dict[str, int], Built]:
    find_model(ctx)
    check_numbers(ctx)
    check_sections(ctx)
    check_gpus(ctx)
    check_components(ctx)
    if ctx.is_train:
        check_training(ctx)
        check_exact_resume(ctx)
    images = check_datasets(ctx)
    built = build_and_fit(ctx, probe)
    if ctx.files:
        state_path = find_resume_state(ctx)
        if state_path is not None:
            check_resume(ctx, state_path, built)
        else:
            check_pretrained(ctx, built.student)
    return images, built


@contextmanager
def _logger_left_alone() -> Iterator[None]:
    """Building a network starts the toolbox's logger, which would then never write the run's log file."""
    name, log = 'basicsr', logging.getLogger('basicsr')
    started, handlers, propagate = name in initialized_logger, list(log.handlers), log.propagate
    try:
        yield
    finally:
        if not started:
            initialized_logger.pop(name, None)
            log.handlers[:] = handlers
            log.propagate = propagate


def check_distillation(opt: Mapping[str, Any]) -> list[Problem]:
    """Check ``teacher`` and ``train.distill_opt`` alone, for a model that one's own training script builds.

    The taps are left to :func:`mipkd_plugin.losses.bind`, which the model calls next.
    """
    ctx = Context(opt, is_train=True)
    for where, section in (('teacher', opt), ('train.distill_opt', ctx.section('train'))):
        if not isinstance(section.get(where.rpartition('.')[2]), (Mapping, list)):
            ctx.add(where, 'is missing', 'see options/train_MiPKD_*.yml')
    if isinstance(opt.get('teacher'), Mapping):
        check_numbers(ctx, opt['teacher'], 'teacher')
        check_keys(ctx, 'teacher', opt['teacher'], TEACHER, strict=True)
        check_teacher_network(ctx)
        if ctx.clean('teacher.network'):
            load_teacher(ctx)
    check_numbers(ctx, ctx.section('train').get('distill_opt'), 'train.distill_opt')
    check_distillation_losses(ctx)
    return located(ctx.problems, opt)


def require_valid_distillation(opt: Mapping[str, Any]) -> None:
    """Raise what :func:`check_distillation` finds.

    Raises:
        OptionError: With all problems.
    """
    problems = check_distillation(opt)
    if problems:
        raise OptionError(problems, getattr(opt, 'source', None))


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for ``basicsr train``."""
    return 'train' in opt


def build_for_taps(opt: Mapping[str, Any]) -> tuple[nn.Module, nn.Module | None, tuple[int, int, int]]:
    """Student, teacher (without its weights) and shape of a training patch, whatever else is wrong.

    Raises:
        OptionError: One of the networks cannot be built.
    """
    ctx = Context({key: opt[key] for key in ('network_g', 'teacher', 'datasets', 'scale') if key in opt},
                  is_train='gt_size' in block(opt, 'datasets', 'train'), files=False)
    check_component(ctx, 'network_g', opt.get('network_g'), ARCH_REGISTRY)
    check_teacher_network(ctx)
    built = build_and_fit(ctx, probe='none')
    teacher = load_teacher(ctx) if ctx.clean('teacher.network') else None
    if built.student is None or ctx.problems:
        raise OptionError(located(ctx.problems, opt), getattr(opt, 'source', None))
    return built.student, teacher, probe_shape(opt)
