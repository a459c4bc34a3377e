"""The networks that a page compares: load them, and name them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mipkd_plugin.inference.images import Picture, enlarge
from mipkd_plugin.inference.pictures import BICUBIC, HR, LR, TEACHER, Pixels, as_picture
from mipkd_plugin.inference.tiles import Enlarger
from mipkd_plugin.pages.curves import Run, find_run
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
        run: The network, on an image of any size.
        teaches: Whether it is a teacher.
    """

    label: str
    weights: Path
    run: Enlarger
    teaches: bool = False

    @property
    def kind(self) -> str:
        """Its architecture."""
        return type(self.run.net).__name__

    @property
    def parameters(self) -> int:
        """Number of its parameters."""
        return sum(parameter.numel() for parameter in self.run.net.parameters())

    def __call__(self, picture: Picture) -> Pixels:
        """Enlarge an image."""
        return as_picture(enlarge(picture, self.run, self.run.channels).color)


def require_files(weights: Sequence[Path]) -> None:
    """Check that weights files exist.

    Args:
        weights: The files.

    Raises:
        PageError: One does not.
    """
    for path in weights:
        if not os.path.isfile(path):
            folder = path if os.path.isdir(path) else path.parent
            found = sorted(file.name for file in folder.glob('*.pth')) if os.path.isdir(folder) else []
            raise PageError(f'--weights {path}: {"is a folder" if os.path.isdir(path) else "there is no such file"}; '
                            + (f'{folder} holds {some(found)}' if found else 'fix the path'))


def scale_of(methods: Sequence[Method]) -> int:
    """The scale factor of all networks.

    Args:
        methods: The networks.

    Returns:
        The factor.

    Raises:
        PageError: They have different ones.
    """
    if len({method.run.scale for method in methods}) > 1:
        listed = '; '.join(f'{method.weights} is x{method.run.scale}' for method in methods)
        raise PageError(f'--weights: the networks enlarge by different factors: {listed}; show files of one factor')
    return methods[0].run.scale


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
    split = {label: label.split('_') for label in labels if len(label) > _LONG}
    first = len(os.path.commonprefix(list(split.values())))  # it takes lists too
    last = len(os.path.commonprefix([words[::-1] for words in split.values()]))
    short = {label: '_'.join(words[first:len(words) - last]) for label, words in split.items()}
    found = [short.get(label, label) for label in labels]
    good = len(split) > 1 and all(any(map(str.isalpha, label)) for label in short.values())
    return found if good and len(set(found)) == len(found) and not set(found) & set(TAKEN) else labels


def runs_of(methods: Sequence[Method]) -> list[Run]:
    """The trainings that the weights files come from; a teacher's is left out."""
    return [find_run(method.label, method.weights) for method in methods if not method.teaches]
