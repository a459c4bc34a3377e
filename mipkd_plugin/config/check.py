"""The whole check of an option file, before anything is trained or written."""

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

from mipkd_plugin.config.builder import Built, Distillation, build, take_prepared
from mipkd_plugin.config.components import check_component, check_components, check_teacher_network, find_model
from mipkd_plugin.config.datasets import check_datasets
from mipkd_plugin.config.keys import written_by_user
from mipkd_plugin.config.problems import Context, OptionError, Options, Problem, located
from mipkd_plugin.config.resume import check_exact_resume, check_resume, find_resume_state
from mipkd_plugin.config.sections import check_gpus, check_numbers, check_sections
from mipkd_plugin.config.training import check_training
from mipkd_plugin.config.weights import check_pretrained


@dataclass
class Report:
    """What a check found.

    Attributes:
        opt: The options.
        problems: All problems, in the order of the file.
        images: YAML path of a data set → number of images.
        built: The networks and losses.
    """

    opt: Mapping[str, Any]
    problems: list[Problem]
    images: dict[str, int] = field(default_factory=dict)
    built: Built = field(default_factory=Built)

    def require_clean(self) -> Report:
        """The report itself, if there are no problems.

        Raises:
            OptionError: With all problems.
        """
        if self.problems:
            raise OptionError(self.problems, getattr(self.opt, 'source', None))
        return self


def check_options(opt: Mapping[str, Any], *, is_train: bool, launcher: str = 'none', auto_resume: bool = False,
                  root: Path | None = None, files: bool = True, probe: str = 'small') -> Report:
    """Find everything that is wrong with an option file. Nothing is written, and ``opt`` is left as it is.

    Args:
        opt: Options as :func:`read_options` returns them, or a plain mapping.
        is_train: Whether they are for ``basicsr train``, or for ``basicsr test``.
        launcher: ``none``, ``pytorch`` or ``slurm``.
        auto_resume: Whether ``--auto_resume`` is given.
        root: The folder that relative paths start from; the working directory by default.
        files: Whether to look at data, weights and checkpoints on disk.
        probe: Run the networks, which finds taps and scales that do not fit, on a ``small`` patch, on one of
            ``full`` training size, or not at all: ``none``. After a ``full`` one the losses can train.

    Returns:
        All problems, and what was built on the way.
    """
    ctx = Context(opt, is_train, launcher, auto_resume, root or Path.cwd(), files)
    ctx.problems += opt.problems if isinstance(opt, Options) else []
    with _logger_left_alone():
        images, built = _run(ctx, probe)
    return Report(opt, located(ctx.problems, opt), images, built)


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
    built = build(ctx, probe)
    if ctx.files:
        state_path = find_resume_state(ctx)
        if state_path is not None:
            check_resume(ctx, state_path, built)
        else:
            check_pretrained(ctx, built.student)
    return images, built


@contextmanager
def _logger_left_alone() -> Iterator[None]:
    """Building a network starts BasicSR's logger, and then it would never write the log file of the run."""
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
    """Teacher and losses of a training, checked. Where a check in this process has just built them, these.

    Args:
        opt: The options, as written or as BasicSR has parsed them.
        student: The student; None: one is built from ``network_g`` for the probe run.

    Raises:
        OptionError: With everything that is wrong with the keys, the teacher and the losses.
    """
    found = take_prepared(opt)
    if found is not None:
        return found
    own = written_by_user(opt)
    ctx = Context(own, is_train=True, always_distills=True)
    find_model(ctx)
    check_numbers(ctx)
    check_sections(ctx)
    check_components(ctx)
    built = build(ctx, 'full', student)
    if ctx.problems or built.distillation is None:
        raise OptionError(located(ctx.problems, own), getattr(opt, 'source', None))
    return built.distillation


def is_training(opt: Mapping[str, Any]) -> bool:
    """Whether an option file is for ``basicsr train``."""
    return 'train' in opt


def build_for_taps(opt: Mapping[str, Any]) -> Built:
    """Student and teacher (without its weights), whatever else is wrong.

    Raises:
        OptionError: One of the networks cannot be built.
    """
    ctx = Context({key: opt[key] for key in ('network_g', 'teacher', 'datasets', 'scale') if key in opt},
                  is_train=True, files=False, always_distills=True)
    check_component(ctx, 'network_g', opt.get('network_g'), ARCH_REGISTRY)
    check_teacher_network(ctx)
    built = build(ctx, probe='none')
    if built.student is None or ctx.problems:
        raise OptionError(located(ctx.problems, opt), getattr(opt, 'source', None))
    return built
