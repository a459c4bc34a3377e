"""From what the user gave to a checked option file: teacher, student, images, settings. Nothing is written here."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import psutil
import torch
from torch import nn

from mipkd_plugin import config
from mipkd_plugin.networks.padding import needed_multiple
from mipkd_plugin.networks.slice_rules import SliceError
from mipkd_plugin.networks.slicing import sliced
from mipkd_plugin.recipes import defaults
from mipkd_plugin.recipes.data import Data
from mipkd_plugin.recipes.images import DataError
from mipkd_plugin.recipes.networks import attends, layers_of, trunk_size
from mipkd_plugin.recipes.option_file import options_of, render, with_changes
from mipkd_plugin.recipes.pairs import cut
from mipkd_plugin.recipes.settings import GIVEN, Facts, Settings
from mipkd_plugin.recipes.speed import step_seconds
from mipkd_plugin.recipes.students import Choice
from mipkd_plugin.recipes.students_work import channels_of, image_word
from mipkd_plugin.recognition import Recognized
from mipkd_plugin.recognition.recognized import build
from mipkd_plugin.utils.cores import cores
from mipkd_plugin.utils.words import counted, some

LEAST_PATCH = 16
_PROVISIONAL = 5000


@dataclass(frozen=True)
class Recipe:
    """A run before it begins.

    Attributes:
        options: Its options.
        text: The option file.
        settings: What was chosen, with the reasons.
        data: Its images.
        notes: What else was decided.
    """

    options: dict[str, Any]
    text: str
    settings: Settings
    data: Data
    notes: tuple[str, ...]


def make(name: str, teacher: Recognized, student: Choice, data: Data, given: Mapping[str, Any], head: list[str],
         say: Callable[[str], None]) -> Recipe:
    """Choose the settings and make the option file. Writes nothing.

    Args:
        name: Name of the run.
        teacher: The teacher.
        student: The student.
        data: The images.
        given: What the user gave, by name of the option.
        head: Lines for the top of the file.
        say: Takes a line on what is being done.

    Returns:
        The recipe.

    Raises:
        DataError: An image is smaller than the patch.
        OptionError: The options have problems; the message lists all of them.
        UsageError: An entry of ``--set`` cannot be read.
    """
    nets = build(student.network), teacher.build()
    notes: list[str] = []
    facts = facts_of(nets, teacher.scale, data, given)
    imports = list(dict.fromkeys([*student.imports, *(given.get('import') or ())]))
    entries = teacher_entries(teacher, str(given['teacher']))

    def options_for(settings: Settings, images: Data) -> dict[str, Any]:
        return with_changes(options_of(name, student.network, imports, entries, images, settings,
                                       teacher.scale), given.get('set') or ())

    def measure(settings: Settings) -> float:
        options = options_for(_provisional(settings, given), data)
        say('Trying a training step …')
        _require_clean(options, 'full')
        say('Measuring how long an iteration takes here …')
        return step_seconds(options, settings['threads'])

    try:
        settings = defaults.resolve(facts, given, measure)
    except config.OptionError as error:
        if (any(given.get(name) is not None for name in ('loss', 'taps', 'chain', 'encoders', 'set'))
                or not any(problem.where.startswith('train.distill_opt') for problem in error.problems)):
            raise
        notes.append('loss: MiPKD does not fit this pair of networks, so the teacher\'s images alone are matched ('
                     f'{error.problems[0].where}: {error.problems[0].what})')
        settings = defaults.resolve(facts, {**given, 'loss': 'logits'}, measure)
        settings.reasons['loss'] = 'MiPKD does not fit this pair of networks'
    training = cut(data.train, settings['patch'] * teacher.scale, bool(settings['crops']), teacher.scale)
    data = replace(data, train=training)
    options = options_for(settings, data)
    _require_clean(options, 'none')
    return Recipe(options, render(options, head, comments(settings)), settings, data, (*data.notes, *notes))


def _require_clean(options: dict[str, Any], probe: str) -> None:
    """Check options before they are written; problems name the option that was typed."""
    found = config.check_options(options, is_train=True, files=False, probe=probe).problems
    if found:
        raise config.OptionError([replace(problem, place=flag_of(problem.where)) for problem in found])


def require_color(teacher: Recognized) -> None:
    """Refuse a teacher that does not take RGB images.

    Raises:
        DataError: It does not.
    """
    channels = channels_of(teacher.network)
    if channels != 3:
        raise DataError(f'--teacher {teacher.path}: takes {image_word(channels)}, and mipkd distill trains on color '
                        'images.\n   -> Give a teacher for RGB images, or write an option file with color: y by hand')


def facts_of(nets: tuple[nn.Module, nn.Module], scale: int, data: Data, given: Mapping[str, Any]) -> Facts:
    """What the rules look at.

    Args:
        nets: Student and teacher.
        scale: Scale factor.
        data: The images.
        given: What the user gave.

    Returns:
        The facts.

    Raises:
        DataError: An image is smaller than the patch.
    """
    unit = math.lcm(*(needed_multiple(net, 3, scale) for net in nets))
    smallest, _ = data.train.smallest(scale)
    least = given.get('patch') or max(LEAST_PATCH, unit)
    small = [path for path, header in data.train.headers.items() if min(header.height, header.width) // scale < least]
    if small:
        what = f'--patch {given["patch"]}' if given.get('patch') else f'the smallest patch, {least}'
        away = ('Name a folder of larger images' if len(small) == len(data.train.headers) else
                f'Remove {"it" if len(small) == 1 else "them"} from the folder')
        fitting = f' or write --patch {smallest // unit * unit}' if smallest >= unit and given.get('patch') else ''
        raise DataError(f'{counted(len(small), "image")} of --hr {"is" if len(small) == 1 else "are"} smaller than '
                        f'{what} LR pixels ({least * scale} HR pixels at x{scale}): {some(small)}.\n   -> {away}'
                        f'{fitting}')
    (blocks, width), (teacher_blocks, teacher_width) = (trunk_size(net, unit) for net in nets)
    return Facts(scale, (blocks, teacher_blocks), width, teacher_width, layers_of(nets[0]),
                 attends(nets[0]), unit, smallest, data.train.count(), torch.cuda.is_available(), cores(),
                 psutil.virtual_memory().available,
                 int(threads) if (threads := os.environ.get('OMP_NUM_THREADS', '')).isdigit() else 0,
                 _why_uncut(*nets, given.get('set') or ()))


def _why_uncut(student: nn.Module, teacher: nn.Module, changes: Sequence[str]) -> str:
    """Why a student cannot start from a slice of its teacher; '' if it can."""
    if any(change.startswith('path:pretrain_network_g=') for change in changes):
        return 'weights, or the file that --set names'
    try:
        sliced(student, teacher)
    except SliceError as error:
        return error.what
    return ''


def _provisional(settings: Settings, given: Mapping[str, Any]) -> Settings:
    """Settings that are complete enough to build a model."""
    total = given.get('iterations') or _PROVISIONAL
    crops = given.get('crops')
    if crops is None:
        crops = 0 if total >= defaults.LONG or not given.get('iterations') and torch.cuda.is_available() else max(
            min(total * settings['batch'] // 8, 4096), 1)
    known = {'iterations': total, 'crops': crops, 'ema': 0.99, 'val_freq': total, 'workers': 0, 'seed': 0}
    typed = {name: given[name] for name in known if given.get(name) is not None}
    return Settings({**known, **typed, **settings.values}, dict(settings.reasons))


def teacher_entries(teacher: Recognized, path: str) -> dict[str, Any]:
    """The block ``teacher`` of the option file: the network too where the file has its names."""
    if teacher.source == 'BasicSR':
        return {'network': teacher.network, 'weights': path, 'param_key': teacher.param_key}
    return {'weights': path}


_PLACES = {'crops': 'datasets.train.crops', 'patch': 'datasets.train.gt_size',
           'batch': 'datasets.train.batch_size_per_gpu', 'workers': 'datasets.train.num_worker_per_gpu',
           'iterations': 'train.total_iter', 'ema': 'train.ema_decay', 'learning_rate': 'train.optim_g',
           'val_freq': 'val.val_freq', 'until': 'train.distill', 'loss': 'train.distill_opt',
           'taps': 'train.distill_opt.taps', 'init': 'train.init', 'seed': 'manual_seed'}
"""Where a setting stands in the option file."""


def flag_of(where: str) -> str:
    """The option of ``mipkd distill`` behind an entry of the option file, for messages; '' if there is none."""
    fitting = [name for name, place in _PLACES.items() if f'{where}.'.startswith(f'{place}.')]
    return f'--{max(fitting, key=lambda name: len(_PLACES[name])).replace("_", "-")}' if fitting else ''


def comments(settings: Settings) -> dict[str, str]:
    """The reasons of the settings by YAML path."""
    found = {_PLACES[name]: reason for name, reason in settings.reasons.items()
             if name in _PLACES and not reason.startswith(GIVEN)}
    found['datasets.train.gt_size'] = f'HR; LR patch {settings["patch"]}, {settings.reasons["patch"]}'
    return {**found, 'num_gpu': 'one GPU; the CPU if there is none',
            'train.exact_resume': 'a stopped run ends as one that was not stopped'}
