"""Check a whole option file before anything is trained or written."""

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

from mipkd_plugin.config.aggregation import check_start
from mipkd_plugin.config.builder import build
from mipkd_plugin.config.built import Built
from mipkd_plugin.config.checkpoints import Checkpoint, find_checkpoint
from mipkd_plugin.config.components import check_component, check_components, check_teacher_network, find_model
from mipkd_plugin.config.datasets import check_datasets
from mipkd_plugin.config.devices import check_gpus
from mipkd_plugin.config.distillation import Distillation, take_prepared
from mipkd_plugin.config.keys import SECTIONS, written_by_user
from mipkd_plugin.config.names import check_names
from mipkd_plugin.config.output_folders import check_output_folders
from mipkd_plugin.config.problems import Context, OptionError, Options, Problem, located
from mipkd_plugin.config.rehearsal import check_test_settings, rehearse
from mipkd_plugin.config.resume import check_exact_resume, check_resume
from mipkd_plugin.config.sections import check_numbers, check_sections
from mipkd_plugin.config.teacher_file import with_teacher
from mipkd_plugin.config.training import check_training
from mipkd_plugin.config.weights import check_all_pretrained
from mipkd_plugin.config.which_model import check_foreign_model


@dataclass
class Report:
    """The result of a check.

    Attributes:
        opt: The options.
        problems: All problems, in the order of the file.
        images: Number of images by YAML path of the data set.
        built: The networks and losses that could be built.
        notes: What the user should know and need not fix.
        checkpoint: The checkpoint that a training resumes from, if it does.
    """

    opt: Mapping[str, Any]
    problems: list[Problem]
    images: dict[str, int] = field(default_factory=dict)
    built: Built = field(default_factory=Built)
    notes: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None


def check_options(opt: Mapping[str, Any], *, is_train: bool, launcher: str = 'none', auto_resume: bool = False,
                  root: Path | None = None, files: bool = True, probe: str = 'small') -> Report:
    """Find all problems of an option file. Writes nothing and leaves ``opt`` unchanged.

    Args:
        opt: Options from :func:`read_options`, or a plain mapping.
        is_train: Whether the options are for ``basicsr train``; if not, they are for ``basicsr test``.
        launcher: ``none``, ``pytorch`` or ``slurm``.
        auto_resume: Whether ``--auto_resume`` is given.
        root: Folder that relative paths start from; default: the working directory.
        files: Whether to look at data, weights and checkpoints on disk.
        probe: Run the networks on a ``small`` patch or on a ``full`` training patch to find taps and scales that do
            not fit; ``none`` skips this. Only a ``full`` probe makes losses that can train.

    Returns:
        All problems, and the networks and losses that could be built.
    """
    opt = with_teacher(opt, root, always=False)
    ctx = Context(opt, is_train, launcher, auto_resume, root or Path.cwd(), files)
    ctx.problems += opt.problems if isinstance(opt, Options) else []
    with _logger_left_alone():
        images, built, checkpoint = _run(ctx, probe)
    return Report(opt, located(ctx.problems, opt), images, built, list(dict.fromkeys(ctx.notes)), checkpoint)


def _run(ctx: Context, probe: str) -> tuple[dict[str, int], Built, Checkpoint | None]:
    find_model(ctx)
    check_numbers(ctx)
    check_sections(ctx)
    checkpoint = find_checkpoint(ctx) if ctx.files and ctx.clean('name') else None
    check_names(ctx, resumes=checkpoint is not None)
    check_gpus(ctx)
    check_components(ctx)
    check_foreign_model(ctx)
    if ctx.is_train:
        check_training(ctx)
        check_exact_resume(ctx)
    images = check_datasets(ctx)
    built = build(ctx, probe)
    if ctx.files:
        if checkpoint is not None:
            checkpoint = check_resume(ctx, checkpoint, built)
        check_all_pretrained(ctx, built.student, resumes=checkpoint is not None)
        if checkpoint is None:
            check_test_settings(ctx, built.student)
        check_output_folders(ctx, built.student, checkpoint is not None)
    if built.aggregation is not None and ctx.files:
        check_start(ctx, built.aggregation, None if checkpoint is None else checkpoint.state)
    rehearse(ctx, None if probe == 'none' else built.whole, images)
    return images, built, checkpoint


@contextmanager
def _logger_left_alone() -> Iterator[None]:
    """Reset BasicSR's logger: a network that starts it too early would leave the run without a log file."""
    name, log = 'basicsr', logging.getLogger('basicsr')
    started, handlers, propagate = name in initialized_logger, list(log.handlers), log.propagate
    try:
        yield
    finally:
        if not started:
            initialized_logger.pop(name, None)
            log.handlers[:] = handlers
            log.propagate = propagate


def build_distillation(opt: Mapping[str, Any], student: nn.Module | None = None) -> Distillation:
    """Build and check the teacher and the losses of a training run.

    Args:
        opt: The options, as written or as BasicSR has parsed them.
        student: The student; None builds one from ``network_g`` for the probe run.

    Returns:
        Teacher and losses. If a check in this process has just built them, these are reused.

    Raises:
        OptionError: Keys, teacher or losses have problems; the message lists all of them.
    """
    found = take_prepared(opt)
    if found is not None:
        return found if student is None else found.with_seed(opt.get('manual_seed') or 0, student)
    own = with_teacher(written_by_user(opt))
    ctx = Context(own, is_train=True, always_distills=True, own_script=student is not None)
    if student is None:
        find_model(ctx)
    for key in ('teacher', 'teachers'):
        check_numbers(ctx, own.get(key), key)
    for key in SECTIONS['train']:  # strings at the keys of others are their own business
        check_numbers(ctx, ctx.section('train').get(key), f'train.{key}')
    check_sections(ctx)
    check_components(ctx)
    built = build(ctx, 'full', student)
    if ctx.problems or built.distillation is None:
        raise OptionError(ctx.problems, own)
    return built.distillation


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for ``basicsr train``."""
    return 'train' in opt


def build_for_taps(opt: Mapping[str, Any]) -> Built:
    """Build student and teacher without loading weights; problems elsewhere in the file do not matter.

    Args:
        opt: The options.

    Returns:
        The two networks.

    Raises:
        OptionError: One of the networks cannot be built.
    """
    opt = with_teacher(opt)
    ctx = Context({key: opt[key] for key in ('network_g', 'output', 'teacher', 'teachers', 'datasets', 'scale')
                   if key in opt},
                  is_train=True, files=False, always_distills=True)
    check_component(ctx, 'network_g', opt.get('network_g'), ARCH_REGISTRY)
    check_teacher_network(ctx)
    built = build(ctx, probe='none')
    if built.student is None or ctx.problems:
        raise OptionError(ctx.problems, opt)
    whole = Context(opt, is_train=True)
    find_model(whole)
    built.aggregates = whole.inherits('AggregateModel')
    return built
