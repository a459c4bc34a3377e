"""The runs of a comparison: the option file of each, and the control of equal time."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from basicsr.utils.registry import MODEL_REGISTRY

from mipkd_plugin.compare.checks import CONTROL, EQUAL_TIME, EQUAL_TIME_SLUG
from mipkd_plugin.compare.methods import apply, is_plain
from mipkd_plugin.config.plugins import absolute_imports
from mipkd_plugin.config.problems import Options
from mipkd_plugin.config.registered import lookup

if TYPE_CHECKING:
    from mipkd_plugin.compare.starts import Start

# periods: rounded up, because they must reach the last iteration
_SCHEDULE: dict[str, Callable[[float], int]] = {'milestones': round, 'restarts': round, 'periods': math.ceil}


@dataclass(frozen=True)
class Trial:
    """One run of a comparison.

    Attributes:
        method: Name of the method in the table.
        seed: ``manual_seed``.
        options: The full options of the run.
        losses: The losses with all their options, and further settings of the method, as JSON.
    """

    method: str
    seed: int
    options: dict[str, Any]
    losses: str

    @property
    def name(self) -> str:
        """Name of the run and its folder."""
        return str(self.options['name'])

    @property
    def iterations(self) -> int:
        """Number of iterations of the run."""
        return int(self.options['train']['total_iter'])


@dataclass(frozen=True)
class Comparison:
    """A checked comparison.

    Attributes:
        name: Name of the comparison and its folder.
        trials: All runs, seed by seed; without the control of equal time until :func:`with_equal_time` adds it.
        methods: Chosen methods, the control first.
        losses: The same text by method. Holds all methods of the option file, in table order.
        testsets: Names of the test sets, in the order of the option file.
        metrics: Names of PSNR and SSIM in ``val.metrics``.
        iterations: Number of iterations of each run but the control of equal time.
        protocol_hash: Digest of everything that the runs share.
        equal_time: Whether the control of equal time takes part, or the method whose time it matches; ``True`` stands
            for the costliest method.
        one_each: One run of each method of the option file, chosen or not, to measure its step time.
        start: What students start from that start from a slice of the teacher; None if none does.
    """

    name: str
    trials: list[Trial]
    methods: list[str]
    losses: dict[str, str]
    testsets: list[str]
    metrics: tuple[str, str]
    iterations: int
    protocol_hash: str
    equal_time: bool | str = False
    one_each: list[Trial] = field(default_factory=list)
    start: Start | None = None

    def iterations_of(self, method: str) -> int | None:
        """Number of iterations of a method; None for a control of equal time whose length is not known yet."""
        found = next((trial.iterations for trial in self.trials if trial.method == method), None)
        return self.iterations if found is None and method != EQUAL_TIME else found


def derive(opt: Options, name: str, method: Any, seed: int) -> dict[str, Any]:
    """Make the options of one run.

    Args:
        opt: The options of the comparison.
        name: Name of the method.
        method: The method, as under ``compare.methods``; empty for the control.
        seed: ``manual_seed``.

    Returns:
        The options, without the block ``compare``.
    """
    own = copy.deepcopy({key: value for key, value in opt.items() if key != 'compare'})
    slug = re.sub(r'[^A-Za-z0-9._+]+', '-', name)
    own.update(name=f'{opt.get("name")}_{slug}_seed{seed}', manual_seed=seed)
    imports = absolute_imports(opt)
    if imports:
        own['imports'] = imports
    own['train']['exact_resume'] = True
    for key in ('distill_opt', 'eco', 'init'):  # each method has its own
        own['train'].pop(key, None)
    apply(own, method)
    if is_plain(method):
        for key in ('distill', 'eco'):
            own['train'].pop(key, None)
        own['model_type'] = plain_model(str(opt.get('model_type')))
        asks = opt.get('output') is not None or (opt.get('logger') or {}).get('val_pictures')
        if asks and own['model_type'] in ('SRModel', 'SwinIRModel'):  # which would ignore both
            own['model_type'] = 'AnySRModel'
        elif not _draws_pictures(own['model_type']) and isinstance(own.get('logger'), dict):
            own['logger'].pop('val_pictures', None)
        for key in ('teacher', 'teachers'):
            own.pop(key, None)
    return own


def _draws_pictures(model_type: str) -> bool:
    """Whether a model class reads ``logger.val_pictures``: BasicSR's own do not."""
    return 'StudentMixin' in [base.__name__ for base in getattr(lookup(MODEL_REGISTRY, model_type), '__mro__', ())]


def plain_model(model_type: str) -> str:
    """The model class that ``DistillMixin`` extends in a class that distills."""
    bases = getattr(lookup(MODEL_REGISTRY, model_type), '__mro__', ())
    names = [base.__name__ for base in bases]
    behind = names[names.index('DistillMixin') + 1:] if 'DistillMixin' in names else []
    return next((name for name in behind if lookup(MODEL_REGISTRY, name) is not None), model_type)


def stretch(options: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Make a training longer, and its schedule, validations and checkpoints with it.

    Args:
        options: The options of a run.
        factor: The factor, 1 or more.

    Returns:
        The options of the longer run. It has as many validations, and as many lines of the log before each.
    """
    own: dict[str, Any] = copy.deepcopy(dict(options))
    train, logger, data = own['train'], own['logger'], own['datasets']['train']
    train['total_iter'] = _longer(train['total_iter'], factor)
    if train.get('warmup_iter', -1) > 0:
        train['warmup_iter'] = round(factor * train['warmup_iter'])
    for key, whole in _SCHEDULE.items():
        if key in train['scheduler']:
            train['scheduler'][key] = [whole(round(factor * at, 6)) for at in train['scheduler'][key]]
    lines = max(round(own['val']['val_freq'] / logger['print_freq']), 1)
    logger['print_freq'] = _longer(own['val']['val_freq'] / lines, factor)
    own['val']['val_freq'] = lines * logger['print_freq']
    logger['save_checkpoint_freq'] = round(factor * logger['save_checkpoint_freq'])
    data['dataset_enlarge_ratio'] = math.ceil(factor) * data.get('dataset_enlarge_ratio', 1)  # to reach the end
    return own


def _longer(number: float, factor: float) -> int:
    return math.ceil(factor * number - 1e-6)


def with_equal_time(comparison: Comparison, factor: float) -> Comparison:
    """Add the runs of the control of equal time.

    Args:
        comparison: The comparison.
        factor: How many times as many iterations these runs have as the control.

    Returns:
        The comparison with one more run for each seed, right after the control's.
    """
    trials = []
    for trial in comparison.trials:
        trials.append(trial)
        if trial.method == CONTROL:
            name = trial.name.removesuffix(f'{CONTROL}_seed{trial.seed}') + f'{EQUAL_TIME_SLUG}_seed{trial.seed}'
            trials.append(replace(trial, method=EQUAL_TIME, options={**stretch(trial.options, factor), 'name': name}))
    return replace(comparison, trials=trials, methods=[CONTROL, EQUAL_TIME, *comparison.methods[1:]])
