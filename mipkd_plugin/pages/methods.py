"""The networks that a page compares: load them, and name them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mipkd_plugin import config
from mipkd_plugin.config.trained import load_trained
from mipkd_plugin.inference.images import Picture, enlarge
from mipkd_plugin.inference.pictures import BICUBIC, HR, LR, TEACHER, Pixels, as_picture
from mipkd_plugin.inference.tiles import Enlarger
from mipkd_plugin.networks.outputs import select_output
from mipkd_plugin.pages.curves import Run, find_run
from mipkd_plugin.recognition import recognize
from mipkd_plugin.utils.errors import MipkdError
from mipkd_plugin.utils.words import some

TAKEN = (LR, BICUBIC, TEACHER, HR)
"""Labels that no weights file may have."""
_LONG = 24


class PageError(MipkdError):
    """The page cannot be made; the message says what is wrong, where, and how to fix it."""


@dataclass(frozen=True)
class Method:
    """A network of the page.

    Attributes:
        label: Its name there.
        weights: Its file.
        kind: Its architecture.
        parameters: Number of its parameters.
        run: The network, on an image of any size.
    """

    label: str
    weights: Path
    kind: str
    parameters: int
    run: Enlarger

    def __call__(self, picture: Picture) -> Pixels:
        """Enlarge an image."""
        return as_picture(enlarge(picture, self.run, self.run.channels).color)


def load_methods(opt: config.Options | None, weights: Sequence[Path], labels: Sequence[str],
                 tile: int | None, with_teacher: bool = True) -> tuple[list[Method], int]:
    """Load all networks.

    Args:
        opt: The option file that describes them; None recognizes each from its file.
        weights: The weights files.
        labels: Their labels.
        tile: Side of a tile in LR pixels; None runs images whole.
        with_teacher: Whether to load the teacher of the option file too.

    Returns:
        The networks, the teacher last; and their scale factor.

    Raises:
        PageError: The networks are of different scale factors, or a file cannot be used.
        OptionError: A network of the option file cannot be built, or a file does not fit it.
        RecognitionError: Nobody knows the network of a file.
    """
    for path in weights:
        if not os.path.isfile(path):
            raise PageError(f'--weights {path}: {"is a folder" if os.path.isdir(path) else "there is no such file"}'
                            f'{_candidates(path)}')
    loaded = [_of_options(opt, path) if opt is not None else _recognized(path) for path in weights]
    labels = list(labels)
    if opt is not None and with_teacher and isinstance(opt.get('teacher'), Mapping):
        loaded.append(_teacher(opt))
        labels.append(TEACHER)
    scales = {str(path): scale for path, (_, _, scale) in zip(weights, loaded)}
    if len(set(scales.values())) > 1:
        listed = '; '.join(f'{path} is x{scale}' for path, scale in scales.items())
        raise PageError(f'--weights: the networks enlarge by different factors: {listed}; show files of one factor')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    methods = [Method(label, path, kind, sum(p.numel() for p in net.parameters()),
                      Enlarger(net.to(device), scale, tile))
               for label, (path, (net, kind, scale)) in zip(labels, zip([*weights, _teacher_path(opt)], loaded))]
    return methods, loaded[0][2]


def _candidates(path: Path) -> str:
    """What lies where a weights file does not."""
    folder = path if os.path.isdir(path) else path.parent
    found = sorted(file.name for file in folder.glob('*.pth')) if os.path.isdir(folder) else []
    return f'; {folder} holds {some(found)}' if found else '; fix the path'


def _of_options(opt: config.Options, path: Path) -> tuple[nn.Module, str, int]:
    try:
        net = load_trained(opt, path)
    except config.OptionError as error:
        problems = [replace(problem, remedy=f'{problem.remedy}; or leave out -opt: then the network is recognized from '
                            'its file') if problem.where == '--weights' else problem for problem in error.problems]
        raise config.OptionError(problems, opt) from error
    select_output(net, opt.get('output'))
    return net, str(opt['network_g']['type']), _scale(opt)


def _scale(opt: config.Options) -> int:
    scale = opt.get('scale')
    if not isinstance(scale, int) or isinstance(scale, bool) or scale < 1:
        raise config.OptionError([config.Problem('scale', f'must be a whole number, 1 or more, not {scale!r}',
                                                 'write the scale factor of the run')], opt)
    return scale


def _recognized(path: Path) -> tuple[nn.Module, str, int]:
    found = recognize(path)
    return found.build(), str(found.network['type']), found.scale


def _teacher_path(opt: config.Options | None) -> Path:
    teacher: Any = {} if opt is None else opt.get('teacher')
    return Path(str(teacher.get('weights', ''))).expanduser() if isinstance(teacher, Mapping) else Path()


def _teacher(opt: config.Options) -> tuple[nn.Module, str, int]:
    """The teacher of an option file."""
    teacher, path = opt['teacher'], _teacher_path(opt)
    if not os.path.isfile(path):
        raise PageError(f'{opt.source}, teacher.weights: there is no {path}; put it there, or leave the teacher out '
                        'with --no-teacher')
    if 'network' not in teacher:
        net, kind, _ = _recognized(path)
    else:
        key = teacher.get('param_key', 'params')
        net, kind = load_trained(opt, path, 'teacher', key), str(teacher['network']['type'])
    select_output(net, teacher.get('output'))
    return net, kind, _scale(opt)


def label_files(weights: Sequence[Path], names: Sequence[str] | None) -> list[str]:
    """Name the weights files in the page: as asked for, or by run, file and folder, as far as they differ.

    Args:
        weights: The files.
        names: Names from the command line.

    Returns:
        The labels, all different.

    Raises:
        PageError: The names do not fit.
    """
    if names is not None:
        if len(names) != len(weights):
            raise PageError(f'--names: {len(names)} for {len(weights)} weights files; give one name each')
        double = [name for name, count in Counter(names).items() if count > 1 or name in TAKEN or not name.strip()]
        if double:
            raise PageError(f'--names {double[0]!r}: every name must differ from the others, and from '
                            f'{", ".join(TAKEN)}; choose another')
        return list(names)
    paths = [path.resolve() for path in weights]
    double = [str(path) for path, count in Counter(paths).items() if count > 1]
    if double:
        raise PageError(f'--weights {double[0]}: is given twice; give each file once')
    runs = [path.parent.parent.name if path.parent.name == 'models' else '' for path in paths]
    for labels in ([run or path.stem for run, path in zip(runs, paths)],
                   [path.stem for path in paths],
                   [f'{run or path.parent.name} {path.stem.removeprefix("net_g_")}' for run, path in zip(runs, paths)]):
        if len(set(labels)) == len(labels) and not set(labels) & set(TAKEN):
            return _shortened(labels)
    return [f'{number} {path.stem}' for number, path in enumerate(paths, 1)]


def _shortened(labels: list[str]) -> list[str]:
    """Long labels without the words that all of them begin and end with, where something is left of each."""
    if max(map(len, labels)) <= _LONG:
        return labels
    split = [label.split('_') for label in labels]
    first = len(os.path.commonprefix(split))  # it takes lists too
    last = len(os.path.commonprefix([words[::-1] for words in split]))
    short = ['_'.join(words[first:len(words) - last]) for words in split]
    good = all(any(map(str.isalpha, label)) for label in short)
    return short if good and len(set(short)) == len(short) and not set(short) & set(TAKEN) else labels


def runs_of(methods: Sequence[Method]) -> list[Run]:
    """The trainings that the weights files come from; a teacher's is left out."""
    return [find_run(method.label, method.weights) for method in methods if method.label != TEACHER]
